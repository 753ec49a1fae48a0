"""The `sda` command, run in this process through click's runner, and twice as a real one."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

click = pytest.importorskip("click")
from click.testing import CliRunner  # noqa: E402

import sda  # noqa: E402
from sda.runs import Phase  # noqa: E402
from sda_cli.app import app  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ["--units", "6,4", "--epochs", "2", "--batch-size", "20", "--seed", "3", "--quiet"]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rows():
    """40 rows of 16 values with labels, in rows.npz."""
    generator = np.random.default_rng(1)
    x, y = generator.random((40, 16)).astype("float32"), np.arange(40) % 2
    np.savez("rows.npz", x=x, y=y)
    return x, y


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def ok(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fails(*arguments, status=1):
    """The one line that the command leaves on stderr."""
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("sda: ")
    return result.stderr


def process(*arguments, **settings):
    """Run Python as a process of its own, which knows this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        **settings,
    )


# pretrain


def test_pretraining_is_what_the_library_does(rows):
    x, _ = rows
    ok("pretrain", "--data", "rows.npz::x", "--validation-split", 0, "--out", "run", *SMALL)
    stack = sda.StackedDenoisingAutoencoder([6, 4], corruption=0.3, seed=3)
    optimizer = keras.optimizers.SGD(0.1)
    histories = sda.GreedyPretrainer(stack, optimizer, epochs=2, batch_size=20, seed=3).fit(
        x, verbose=0
    )
    made = sda.load("run/pretrain/stack.keras")
    for ours, theirs in zip(made.get_weights(), stack.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    losses = [loss for history in histories for loss in history.history["loss"]]
    assert [row["loss"] for row in Phase("run", "pretrain").curves] == losses


def test_settings_repeat_the_run(rows):
    ok("pretrain", "--data", "rows.npz::x", "--out", "first", *SMALL[:-3])
    ok("pretrain", "--config", "first/pretrain/settings.toml", "--out", "again")
    first, again = (sda.load(f"{run}/pretrain/stack.keras") for run in ("first", "again"))
    for one, other in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    settings = Phase("first", "pretrain").settings
    assert settings == Phase("again", "pretrain").settings
    assert settings["seed"] == Phase("first", "pretrain").record["seed"]


# Help is for those who do not know yet: it must not take the seconds that Keras takes.


def test_help_does_without_keras():
    code = (
        "import sys, sda_cli; sys.argv = ['sda', 'pretrain', '--help']\n"
        "try: sda_cli.main()\n"
        "finally: assert not {'keras', 'sda', 'numpy'} & set(sys.modules)"
    )
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    assert "[default: 500,500,500]" in done.stdout
