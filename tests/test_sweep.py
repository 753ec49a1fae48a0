"""Sweeps end to end on a few rows, and what their settings mean."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest

import sda
from sda.recipe import recipe
from sda.sweep import Range, Sweep, trial

pytest.importorskip("optuna")

SETTINGS = {
    "units": [8, 6, 5],
    "corruption": [0.1, 0.2, 0.3],
    "epochs": 1,
    "learning_rate": 0.5,
    "finetune_epochs": 4,
    "finetune_learning_rate": 0.5,
}
VARY = {"corruption_3": [0.1, 0.5], "seed": [1, 2]}


def data():
    """Rows of two classes, and others held out."""
    generator = np.random.default_rng(0)
    y = np.arange(90) % 2
    x = (0.3 * generator.random((90, 12)) + 0.5 * y[:, None] * (np.arange(12) < 6)).astype(
        "float32"
    )
    return (x[:60], y[:60]), (x[60:], y[60:])


def run(path, vary=None, fixed=None, **settings):
    train, held_out = data()
    return Sweep(path, vary or VARY, fixed or SETTINGS, **settings).run(*train, held_out, verbose=0)


def test_functions_among_the_settings_are_known_by_their_code(tmp_path):
    def of(by):
        return lambda x, z: by * keras.ops.mean(keras.ops.square(x - z), -1)

    def denoise(by, path=tmp_path / "sweep", loss=of):
        (x, _), (held_out, _) = data()
        settings = {"units": [5], "epochs": 1, "loss": loss(by)}
        sweep = Sweep(path, {"seed": [1]}, settings, objective="denoising")
        return sweep.run(x, None, held_out, verbose=0)

    first = denoise(2.0)
    assert denoise(2.0) == first  # there is nothing left to do
    with pytest.raises(ValueError, match=r"sweep that is there.*fixed\.loss\.value\.closure\.by"):
        denoise(3.0)
    lock = threading.Lock()
    with pytest.raises(ValueError, match="Expected `loss` to be made of"):
        denoise(2.0, tmp_path / "other", lambda by: lambda x, z: lock.locked() + x - z)
    assert not (tmp_path / "other").exists()


def alone(corruption_3, seed):
    """What a run is, step by step and with nothing shared."""
    train, _ = data()
    stack = sda.StackedDenoisingAutoencoder([8, 6, 5], [0.1, 0.2, corruption_3], seed=seed)
    sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.5), epochs=1, batch_size=20, seed=seed).fit(
        train[0], verbose=0
    )
    return stack


def errors(stack, seed):
    """The error in percent after each epoch of fine-tuning."""
    train, held_out = data()
    model = stack.classifier(2, copy=True)
    model.compile(
        keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = sda.fit(model, *train, 20, 4, validation_data=held_out, seed=seed, verbose=0)
    return [100 * (1 - accuracy) for accuracy in history.history["val_accuracy"]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep: its folder and rows."""
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("sweep")
    return path, run(path)


@pytest.mark.slow
def test_each_run_is_what_it_is_alone(swept):
    _, rows = swept
    assert [(row["corruption_3"], row["seed"]) for row in rows] == [
        (0.1, 1), (0.1, 2), (0.5, 1), (0.5, 2),
    ]  # fmt: skip
    for row in rows:
        stack = alone(row["corruption_3"], row["seed"])
        assert row["digest"] == trial.digest(stack)
        assert row["error"] == pytest.approx(min(errors(stack, row["seed"])), abs=1e-4)


@pytest.mark.slow
def test_runs_share_the_layers_that_they_agree_on(swept):
    _, rows = swept
    assert [row["layers_trained"] for row in rows] == [3, 3, 1, 1]
    assert [row["layers_shared"] for row in rows] == [0, 0, 2, 2]


@pytest.mark.slow
def test_the_best_stack_and_its_classifier_are_saved(swept):
    path, rows = swept
    best = min(rows, key=lambda row: row["error"])
    stack = sda.load_model(path / "best.keras")
    expected = alone(best["corruption_3"], best["seed"])
    for a, b in zip(stack.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    classifier = sda.load_model(path / "best_classifier.keras")
    _, (x, y) = data()
    predicted = keras.ops.convert_to_numpy(classifier(x)).argmax(axis=1)
    assert 100 * np.mean(predicted != y) == pytest.approx(best["error"])


@pytest.mark.slow
def test_the_table_is_written_and_drawn(swept):
    path, rows = swept
    with open(path / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["error"]) for row in table] == [row["error"] for row in rows]
    assert [row["digest"] for row in table] == [row["digest"] for row in rows]
    text = (path / "results.md").read_text()
    best = min(rows, key=lambda row: row["error"])
    assert f"| **{best['run']}** | **{best['corruption_3']}** |" in text
    of_first = [row["error"] for row in rows if row["corruption_3"] == 0.1]
    assert f"| 0.1 | {np.mean(of_first):.4g} | {np.std(of_first, ddof=1):.4g} | 2 |" in text
    for name in ("comparison.png", "curves.png"):
        assert (path / name).read_bytes().startswith(b"\x89PNG")
        assert name in text
    assert not list(path.glob("*.tmp"))


# A worker of its own that is killed in its third run.
WORKER = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[2])
import test_sweep
from sda.sweep import trial
folder, judged = pathlib.Path(sys.argv[1]), trial.OBJECTIVES["error"]
def objective(*args):
    if len(list(folder.glob("layers/*.layer"))) > 6:
        (folder / "third").touch()
        time.sleep(600)
    return judged(*args)
trial.OBJECTIVES["error"] = objective
test_sweep.run(folder)
"""


@pytest.mark.slow
def test_a_killed_worker_loses_no_finished_run_and_its_own_is_done_again(tmp_path, swept):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path), str(pathlib.Path(__file__).parent)],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "third").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with open(tmp_path / "results.csv", newline="") as file:
        finished = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    rows = run(tmp_path)
    assert len(finished) == 2
    for before, row in zip(finished, rows[:2], strict=True):
        assert before["cpu_seconds"] == str(row["cpu_seconds"])  # not done anew
    # The layers of the third were there already when it was done again.
    assert (rows[2]["layers_shared"], rows[2]["layers_trained"]) == (3, 0)
    assert [row["digest"] for row in rows] == [row["digest"] for row in swept[1]]
    assert [row["error"] for row in rows] == [row["error"] for row in swept[1]]


def test_a_rate_that_is_too_high_is_a_result(tmp_path):
    fixed = {
        **SETTINGS,
        "units": [5],
        "corruption": 0.2,
        "activation": "relu",
        "decoder_activation": "linear",
        "loss": "squared_error",
    }
    rows = run(
        tmp_path,
        {"learning_rate": [0.01, 1e30]},
        {k: v for k, v in fixed.items() if k != "learning_rate"},
        objective="denoising",
    )
    assert [row["state"] for row in rows] == ["complete", "fail"]
    assert "diverged" in rows[1]["note"]


# What a run comes to


def test_denoising_is_the_squared_error_of_repaired_rows():
    train, held_out = data()
    stack = alone(0.3, 1)
    found, classifier = trial.denoising(stack, None, train, held_out, None)
    assert classifier is None
    x = held_out[0].astype("float64")
    kept = np.random.default_rng(sda.streams.spawn(0, 1)).random(x.shape) >= 0.25
    assert 0.7 < kept.mean() < 0.8
    codes = x * kept
    for autoencoder in stack.autoencoders:
        kernel, bias = (w.astype("float64") for w in autoencoder.encoder.get_weights())
        codes = 1 / (1 + np.exp(-codes @ kernel - bias))
    for autoencoder in reversed(stack.autoencoders):
        kernel = autoencoder.encoder.get_weights()[0].astype("float64")
        visible = keras.ops.convert_to_numpy(autoencoder.visible_bias.value)
        codes = 1 / (1 + np.exp(-codes @ kernel.T - visible))
    assert found == pytest.approx(np.mean(np.sum((codes - x) ** 2, axis=1)), rel=1e-5)


def test_the_probe_is_a_linear_classifier_on_the_codes():
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, held_out = data()
    stack = alone(0.3, 1)
    found, _ = trial.probe(stack, None, train, held_out, None)
    model = linear_model.LogisticRegression(C=0.1, max_iter=1000)
    model.fit(stack.encode(train[0]), train[1])
    score = model.score(stack.encode(held_out[0]), held_out[1])
    assert found == pytest.approx(100 * (1 - score))


# What settings mean


def test_settings_are_resolved_to_one_value_a_layer():
    settings = {"units": 7, "depth": 3, "corruption": [0.1, 0.2, 0.3, 0.4], "corruption_2": 0.9}
    found = sda.Recipe.from_dict(settings)
    assert (found.units, found.depth) == ([7, 7, 7], 3)
    assert found.corruption == [0.1, 0.9, 0.3]
    assert found.noise == ["masking"] * 3
    assert sda.Recipe.from_dict({"units": [5, 4]}).units == [5, 4]
    assert sda.Recipe.from_dict({"units": 5}).units == [5]


def test_each_setting_reaches_what_it_is_for(monkeypatch):
    made = {}

    class Pretrainer(sda.GreedyPretrainer):
        def fit(self, x, verbose):
            made["pretrainer"] = self

    monkeypatch.setattr(recipe, "GreedyPretrainer", Pretrainer)
    stack = trial.pretrained(
        sda.Recipe.from_dict(
            {
                "units": [6, 5, 4, 3],
                "noise": ["masking", "salt_and_pepper", "gaussian", "swap"],
                "corruption": [0.1, 0.2, 0.3, 0.4],
                "activation": ["sigmoid", "tanh", "relu", "relu"],
                "decoder_activation": ["sigmoid", "linear", "tanh", "linear"],
                "tied": [True, False, True, True],
                "loss": ["cross_entropy", *["squared_error"] * 3],
                "optimizer": ["sgd", "adam", "sgd", "sgd"],
                "learning_rate": [0.25, 0.5, 0.75, 1.0],
                "epochs": [1, 2, 3, 4],
                "batch_size": [10, 20, 30, 40],
                "seed": 5,
            }
        ),
        data()[0][0],
    )
    layers = stack.autoencoders
    assert [a.units for a in layers] == [6, 5, 4, 3]
    assert [type(a.corruption) for a in layers] == [
        sda.MaskingNoise, sda.SaltAndPepperNoise, sda.GaussianNoise, sda.SwapNoise,
    ]  # fmt: skip
    levels = [getattr(a.corruption, "rate", getattr(a.corruption, "stddev", 0)) for a in layers]
    assert levels == [0.1, 0.2, 0.3, 0.4]
    assert [a.activation.__name__ for a in layers] == ["sigmoid", "tanh", "relu", "relu"]
    assert [a.decoder_activation.__name__ for a in layers] == [
        "sigmoid",
        "linear",
        "tanh",
        "linear",
    ]
    assert [a.tied for a in layers] == [True, False, True, True]
    assert stack.seed == 5
    pretrainer = made["pretrainer"]
    assert [type(loss).__name__ for loss in pretrainer.loss] == [
        "CrossEntropy",
        *["SquaredError"] * 3,
    ]
    assert [type(o).__name__ for o in pretrainer.optimizer] == ["SGD", "Adam", "SGD", "SGD"]
    rates = [float(keras.ops.convert_to_numpy(o.learning_rate)) for o in pretrainer.optimizer]
    assert rates == [0.25, 0.5, 0.75, 1.0]
    assert (pretrainer.epochs, pretrainer.batch_size) == ([1, 2, 3, 4], [10, 20, 30, 40])
    assert pretrainer.seed == 5


def test_each_setting_of_the_fine_tuning_reaches_it(monkeypatch):
    seen = {}

    def fit(model, x, y, **settings):
        seen.update(settings, model=model)
        settings["callbacks"][0].best = 0.5

    monkeypatch.setattr(recipe, "fit", fit)
    names = {"finetune_epochs": 7, "finetune_batch_size": 9, "finetune_optimizer": "adam"}
    names |= {"finetune_learning_rate": 0.25, "dropout": [0.1, 0.2], "patience": 3, "seed": 4}
    settings = sda.Recipe.from_dict({"units": [5], **names})
    stack = sda.StackedDenoisingAutoencoder([5], seed=1)
    stack.build((None, 12))
    value, model = trial.error(stack, settings, *data(), None)
    assert (value, model) == (50.0, seen["model"])
    assert (seen["epochs"], seen["batch_size"], seen["seed"]) == (7, 9, 4)
    assert seen["callbacks"][0].patience == 3
    assert type(model.optimizer).__name__ == "Adam"
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == 0.25
    assert [la.rate for la in model.layers if isinstance(la, keras.layers.Dropout)] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vary": {}}, "Expected `vary`"),
        ({"vary": {"levels": [1]}}, "Expected settings to be among .* Received: levels"),
        ({"vary": {"seed_2": [1]}}, "Expected settings to be among"),
        ({"vary": {"corruption": 0.3}}, "Expected `corruption` to vary over a list"),
        ({"vary": {"corruption": [0.3, 0.3]}}, "Expected `corruption` to vary over values that"),
        ({"vary": {"corruption": []}}, "Expected `corruption` to vary over values that"),
        ({"vary": {"corruption": [object()]}}, "Expected the values of `corruption`"),
        ({"vary": {"corruption_4": [0.3]}}, "Expected `corruption_4` to be of one of the 3"),
        ({"vary": {"noise": ["pink"]}}, "Expected `noise` to be one of"),
        ({"vary": {"units": [[4, 3]]}}, "Expected `fixed` to leave out what varies"),
        (
            {"fixed": {"units": [4, 3], "corruption": [0.1]}},
            "Expected `corruption` to be one value",
        ),
        ({"vary": {"corruption": Range(0.0, 1.0)}}, "Expected lists of values"),
        ({"trials": 3}, "Expected lists of values, and no `trials`"),
        ({"sampler": "random"}, "Expected `trials`"),
        ({"sampler": "best", "trials": 3}, "Expected `sampler` to be one of .*tpe"),
        ({"pruner": "sharp"}, "Expected `pruner` to be one of .*median"),
        ({"objective": "speed"}, "Expected `objective` to be one of"),
        ({"beat": 0}, "Expected `beat`"),
        ({"cache_bytes": -1}, "Expected `cache_bytes`"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, settings, message):
    settings = {"vary": {"corruption_2": [0.3]}, "fixed": {"units": [5, 4, 3]}, **settings}
    with pytest.raises(ValueError, match=message):
        Sweep(tmp_path / "sweep", **settings)
    assert not (tmp_path / "sweep").exists()


BAD_VALUES = {
    "units": (0, "`units`"),
    "corruption": (1.5, "`rate`"),
    "corruption_2": ("much", "`rate`"),
    "activation": ("wavy", "`activation`"),
    "decoder_activation_1": ("wavy", "`decoder_activation`"),
    "tied": ("maybe", "`tied`"),
    "loss": ("none at all", "`loss`"),
    "optimizer": ("sdg", "`optimizer`"),
    "learning_rate_2": (-0.1, "`learning_rate`"),
    "epochs": (-1, "`epochs`"),
    "batch_size": (0, "`batch_size`"),
    "dropout": (1.0, "`dropout`"),
    "finetune_optimizer": ("sdg", "`optimizer`"),
    "finetune_learning_rate": (None, "`learning_rate`"),
    "finetune_epochs": (0, "`finetune_epochs`"),
    "finetune_batch_size": (2.5, "`finetune_batch_size`"),
    "patience": (0.5, "`patience`"),
    "seed": (-1, "`seed`"),
}


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
@pytest.mark.parametrize("name", BAD_VALUES)
def test_every_value_is_checked_before_the_first_run(tmp_path, name, sampler):
    bad, said = BAD_VALUES[name]
    setting, layer = recipe.layer_of(name)
    good = sda.Recipe.from_dict({"units": [5, 4]})
    good = getattr(good, setting)
    good = good[layer or 0] if setting in recipe.PER_LAYER else good
    fixed = {"units": [5, 4], "seed": 1}
    fixed.pop(name, None)
    settings = {} if sampler == "grid" else {"sampler": sampler, "trials": 12}
    with pytest.raises(ValueError, match=rf"^Expected {said} .*Received: .*{bad}"):
        Sweep(tmp_path / "sweep", {name: [good, bad]}, fixed, **settings)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_ends_of_ranges_and_pairs_of_values_are_checked(tmp_path, sampler):
    fixed = {"units": [5, 4]}
    draws = {"sampler": sampler, "trials": 30}
    with pytest.raises(ValueError, match="Expected `rate`"):
        Sweep(tmp_path / "sweep", {"corruption": Range(0.1, 1.9)}, fixed, **draws)
    vary = {"corruption": [0.5, 2.0], "noise": ["gaussian", "masking"]}
    with pytest.raises(ValueError, match="Expected `rate`"):
        Sweep(tmp_path / "sweep", vary, fixed, **draws)
    Sweep(tmp_path / "sweep", {"corruption": Range(0.1, 0.9)}, fixed, **draws)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("low", "high", "log"), [(1, 1, False), (2, 1, False), (0.0, 1.0, True)])
def test_ranges_are_checked(low, high, log):
    with pytest.raises(ValueError, match="Expected `low` to be below `high`"):
        Range(low, high, log)


def test_data_are_checked_before_anything_is_written(tmp_path):
    (x, y), held_out = data()
    sweep = Sweep(tmp_path / "sweep", {"corruption": [0.1]}, {"units": [4]})
    for arguments, message in (
        ((x,), "Expected `y`, and `validation_data`"),
        ((x, y, held_out[0]), "Expected `y`, and `validation_data`"),
        ((x, y[:5], held_out), "Expected the labels of `x` to be 60 integers"),
        ((x, y / 2, held_out), "Expected the labels of `x` to be 60 integers"),
        ((x[:, :5], y, held_out), "Expected `validation_data` with rows like those"),
        ((x * np.nan, y, held_out), "Expected `x` to hold finite"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep.run(*arguments)
    assert not (tmp_path / "sweep").exists()


def test_two_workers_may_make_the_tables_of_a_database_at_once(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    from sqlalchemy.exc import ProgrammingError

    from sda.sweep import studies

    made, waited = optuna.storages.RDBStorage, []

    def refused(times):
        def make(*args, **kwargs):
            if len(waited) < times:
                raise ProgrammingError("CREATE TYPE", {}, Exception("already exists"))
            return made(*args, **kwargs)

        return make

    monkeypatch.setattr(studies.time, "sleep", waited.append)
    monkeypatch.setattr(optuna.storages, "RDBStorage", refused(2))
    assert isinstance(studies.open_storage(None, tmp_path), made)
    assert waited == [1, 2]
    monkeypatch.setattr(optuna.storages, "RDBStorage", refused(10))
    with pytest.raises(ProgrammingError, match="already exists"):
        studies.open_storage(None, tmp_path)
