"""The example of the README, run as it stands on a few digits."""

import json
import pathlib
import re
import statistics

import keras
import numpy as np

import sda

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_example_runs(monkeypatch, tmp_path):
    generator = np.random.default_rng(1)

    def few(rows):
        return generator.random((rows, 784)).astype("float32"), generator.integers(10, size=rows)

    monkeypatch.setattr(sda.datasets, "load", lambda name: (few(40), few(20)))
    monkeypatch.chdir(tmp_path)
    names = {}
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(example, names)
    assert names["classifier"].layers[0] is names["stack"].autoencoders[0].encoder
    assert keras.models.load_model("classifier.keras").output_shape == (None, 10)


def test_the_errors_are_those_of_the_recorded_run():
    record = README.parent / "experiments" / "results" / "demo" / "metrics.json"
    metrics = json.loads(record.read_text())
    for name in ("pretrained", "random_init"):
        errors = metrics[name]
        row = f"| {errors['validation_error']:.2f} % | {errors['test_error']:.2f} % |"
        assert row in README.read_text()


def test_the_mean_of_the_tuned_tutorial_is_that_of_its_parts():
    record = README.parent / "experiments" / "results" / "sda_tutorial" / "tuned" / "results.json"
    results = {"pretrained": [], "random": []}
    for part in json.loads(record.read_text()):
        results[part["settings"]["arm"]].append(part["result"])
    errors = {arm: [r["test_error"] for r in of_arm] for arm, of_arm in results.items()}
    mean = {arm: statistics.mean(of_arm) for arm, of_arm in errors.items()}
    deviation = {arm: statistics.stdev(of_arm) for arm, of_arm in errors.items()}
    assert [len(of_arm) for of_arm in errors.values()] == [5, 5]
    said = {arm: f"{mean[arm]:.2f} ± {deviation[arm]:.2f} %" for arm in errors}
    text = " ".join(README.read_text().split())
    assert f"{said['pretrained']} over five seeds" in text
    assert f"from random weights {said['random']}" in text
    for phase in ("pretraining", "finetuning"):
        minutes = statistics.mean(r[f"{phase}_cpu_seconds"] for r in results["pretrained"]) / 60
        assert f"{minutes:.1f} " in text
