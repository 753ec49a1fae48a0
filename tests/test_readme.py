"""The example of the README, run as it stands on a few digits."""

import json
import pathlib
import re
import statistics

import keras
import numpy as np
import pytest

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


RESULTS = README.parent / "experiments" / "results"


def errors_of(folder, arm, **settings):
    """Return the test errors of an arm, from the file of an experiment."""
    return [
        part["result"]["test_error"]
        for part in json.loads((RESULTS / folder / "results.json").read_text())
        if part["settings"]["arm"] == arm
        and all(part["settings"][name] == value for name, value in settings.items())
    ]


@pytest.mark.parametrize(
    ("folder", "settings", "runs"),
    [
        ("sda_tutorial/tuned", {}, 5),
        ("few_labels", {"labels": 100}, 10),
        ("few_labels", {"labels": 3000}, 10),
    ],
)
def test_means_are_those_of_the_parts(folder, settings, runs):
    said = []
    for arm in ("pretrained", "random"):
        errors = errors_of(folder, arm, **settings)
        assert len(errors) == runs
        said.append(f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f} %")
    assert f"| {said[0]} | {said[1]} |" in README.read_text()


def test_minutes_are_those_of_the_parts():
    record = RESULTS / "sda_tutorial" / "tuned" / "results.json"
    results = [
        part["result"]
        for part in json.loads(record.read_text())
        if part["settings"]["arm"] == "pretrained"
    ]
    text = README.read_text()
    for phase, rest in (("pretraining", " minutes of one core"), ("finetuning", " for fine")):
        minutes = statistics.mean(r[f"{phase}_cpu_seconds"] for r in results) / 60
        assert f"{minutes:.1f}{rest}" in text
