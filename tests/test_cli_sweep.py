"""`sda sweep`: the options become a `sda.sweep.Sweep`."""

import csv

import keras
import numpy as np
import pytest

click = pytest.importorskip("click")
pytest.importorskip("optuna")
from click.testing import CliRunner  # noqa: E402

import sda  # noqa: E402
from sda.recipe import recipe  # noqa: E402
from sda_cli.app import app  # noqa: E402
from sda_cli.sweep import RUN, Vary  # noqa: E402

SMALL = ["--units", "6,4", "--epochs", "1", "--finetune-epochs", "2"]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(1)
    x, y = generator.random((40, 16)).astype("float32"), np.array(["a", "b"] * 20)
    np.savez("rows.npz", x=x)
    np.savez("labels.npz", y=np.unique(y, return_inverse=True)[1] + 5)


def run(*arguments, status=0):
    result = CliRunner().invoke(
        app,
        ["sweep", "--data", "rows.npz::x", "--labels", "labels.npz::y", "--out", "out", *arguments],
    )
    assert result.exit_code == status, result.output
    return result.output if status == 0 else result.stderr


def table():
    with open("out/results.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_from_the_shell_and_on(monkeypatch):
    text = run(*SMALL, "--vary", "corruption_2=0.1 0.4", "--vary", "seed=1 2", "--limit", "1")
    assert "1 of 1 runs" in text
    first = table()
    text = run(*SMALL, "--vary", "corruption_2=0.1 0.4", "--vary", "seed=1 2")
    assert "[4/4] corruption_2 0.4, seed 2: " in text
    assert "4 of 4 runs" in text
    assert table()[:1] == first
    assert [(r["corruption_2"], r["seed"], r["layers_trained"]) for r in table()] == [
        ("0.1", "1", "2"),
        ("0.1", "2", "2"),
        ("0.4", "1", "1"),
        ("0.4", "2", "1"),
    ]
    best = sda.load_model("out/best.keras")
    assert [a.units for a in best.autoencoders] == [6, 4]
    assert text.strip().endswith("out/best.keras")
    # Labels are counted from 0, whatever they are in the file.
    assert sda.load_model("out/best_classifier.keras").output_shape == (None, 2)


def test_options_are_the_settings_of_a_run():
    assert set(RUN) == set(recipe.NAMES) - {"preprocessing"}
    command = app.get_command(None, "sweep")
    defaults = {p.name: p.get_default(click.Context(command)) for p in command.params}
    usual = sda.Recipe.from_dict({})
    given = {n: command.params for n in RUN}
    assert set(given) <= set(defaults)
    context = command.make_context("sweep", ["--vary", "seed=1", "--out", "out"])
    found = sda.Recipe.from_dict(
        {n: v for n, v in context.params.items() if n in RUN and v is not None}
    )
    assert found == usual


def test_what_varies_is_read_as_what_it_looks_like():
    def read(text):
        return Vary().convert(text, None, None)

    assert read("corruption=0.1 0.2") == ("corruption", [0.1, 0.2])
    assert read("units=500,500 9") == ("units", [[500, 500], 9])
    assert read("noise=masking masking,swap") == ("noise", ["masking", ["masking", "swap"]])
    assert read("loss=none squared_error") == ("loss", [None, "squared_error"])
    assert read("tied=true false") == ("tied", [True, False])
    assert read("learning-rate=1..2 log") == ("learning_rate", (1.0, 2.0, True))
    name, ends = read("units_2=10..20")
    assert (name, ends) == ("units_2", (10, 20, False))
    assert all(type(end) is int for end in ends[:2])
    for text in ("corruption", "corruption=", "corruption=a..b", "corruption=1..2 linear"):
        with pytest.raises(click.BadParameter):
            read(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "level=1 2"], "Expected settings to be among"),
        (["--vary", "corruption=0.1..0.5"], "Expected lists of values"),
        (["--vary", "seed=1 2", "--validation-split", "0"], "Expected `validation_split`"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    text = run(*arguments, status=1)
    assert message in text
    assert text.count("\n") == 1


def test_one_width_for_any_depth():
    arguments = ["--units", "5", "--vary", "depth=1 2", "--objective", "denoising"]
    run("--epochs", "1", *arguments)
    assert [row["layers_trained"] for row in table()] == ["1", "1"]
    assert [row["layers_shared"] for row in table()] == ["0", "1"]
    assert keras.__version__
