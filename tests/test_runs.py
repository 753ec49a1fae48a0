"""The folder of a run: what is written is read, and nothing is lost without being asked for."""

import json
import math
import os
import pathlib
import shutil
import time

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sda
from sda import runs
from sda.runs import Phase

pytest.importorskip("tomli_w")


@pytest.fixture
def phase(tmp_path):
    return Phase(tmp_path / "run", "pretrain")


def finish(phase, **arguments):
    with phase.begin({"units": [5]}, seed=1, **arguments) as log:
        log.info("hello")


def history(epochs, **values):
    made = keras.callbacks.History()
    made.epoch, made.history = list(range(epochs)), values
    return made


values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@given(st.dictionaries(st.text("abc_", min_size=1), values | st.lists(values)))
@settings(max_examples=50, deadline=None)
def test_settings_are_read_as_they_were(tmp_path_factory, given_settings):
    phase = Phase(tmp_path_factory.mktemp("run"), "pretrain")
    with phase.begin(given_settings, seed=1):
        pass
    assert phase.settings == given_settings


def test_what_is_none_is_left_out(phase):
    with phase.begin({"labels": None, "units": [3]}, seed=1):
        pass
    assert phase.settings == {"units": [3]}


def test_the_record_says_what_happened(phase):
    finish(phase)
    record = json.loads((phase.path / "run.json").read_text())
    assert record == phase.record
    assert record["seed"] == 1
    assert record["status"] == "finished"
    assert record["versions"]["keras"] == keras.__version__
    assert record["versions"]["keras-sda"] == sda.__version__
    assert record["backend"] == keras.backend.backend()
    log = (phase.path / "log.txt").read_text()
    assert "hello" in log
    assert "finished" in log


def test_a_failure_is_recorded_and_passed_on(phase):
    with pytest.raises(ZeroDivisionError), phase.begin({}, seed=1):
        raise ZeroDivisionError("oh")
    assert phase.record["status"] == "stopped"
    assert "stopped by ZeroDivisionError: oh" in (phase.path / "log.txt").read_text()
    assert not phase.is_finished


def test_curves_are_read_as_they_were(phase):
    finish(phase)
    losses = [1 / 3, math.pi * 1e-30, float("nan")]
    phase.write_curves([history(3, loss=losses), history(1, loss=[2.0], val_loss=[1.5])])
    rows = phase.curves
    assert [(row["layer"], row["epoch"]) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1)]
    np.testing.assert_array_equal([row["loss"] for row in rows], [*losses, 2.0])
    assert [row.get("val_loss") for row in rows] == [None, None, None, 1.5]


def test_results_are_added_to(phase):
    finish(phase)
    assert phase.results == {}
    phase.write_results(a=1)
    phase.write_results(b=[2])
    assert phase.results == {"a": 1, "b": [2]}


def cut_off(phase, seconds=0):
    """Leave the phase as a kill does just after a checkpoint, so many seconds after it began."""
    kept = phase.run.with_name("kept")
    with phase.begin({}, seed=1):
        phase.checkpoints.mkdir()
        (phase.checkpoints / "00000001.checkpoint").touch()
        then = time.time() - seconds
        os.utime(phase.path / "run.json", (then, then))
        shutil.copytree(phase.run, kept)
    shutil.rmtree(phase.run)
    kept.rename(phase.run)


def test_the_time_before_a_kill_counts(phase):
    cut_off(phase, seconds=100)
    assert phase.record["seconds"] == 0
    finish(phase, resume=True)
    assert 100 <= phase.record["seconds"] < 110


class Killed(BaseException):
    """In place of a signal that ends the process."""


def test_a_run_that_is_killed_while_it_tidies_up_has_finished(phase, monkeypatch):
    cut_off(phase)
    unlink = pathlib.Path.unlink

    def killed(path, *args, **settings):
        if path.suffix == ".checkpoint":
            raise Killed
        unlink(path, *args, **settings)

    monkeypatch.setattr(pathlib.Path, "unlink", killed)
    monkeypatch.setattr(
        shutil, "rmtree", lambda *args, **settings: killed(phase.checkpoints / "1.checkpoint")
    )
    with pytest.raises(Killed):
        finish(phase, resume=True)
    assert phase.is_finished


def test_what_others_put_among_the_checkpoints_stays(phase):
    cut_off(phase)
    (phase.checkpoints / "notes.txt").write_text("mine")
    finish(phase, resume=True)
    assert [path.name for path in phase.checkpoints.iterdir()] == ["notes.txt"]


# What is there stays


def test_a_run_is_not_overwritten_without_being_asked(phase):
    finish(phase)
    (phase.path / "stack.keras").write_text("precious")
    with pytest.raises(ValueError, match=r"of a run that ended; `--overwrite` deletes it"):
        finish(phase)
    assert (phase.path / "stack.keras").read_text() == "precious"
    finish(phase, overwrite=True)
    assert not (phase.path / "stack.keras").exists()


def test_a_run_that_was_cut_off_is_not_overwritten_either(phase):
    def save_and_stop():
        phase.checkpoints.mkdir()
        (phase.checkpoints / "00000001.checkpoint").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), phase.begin({}, seed=1):
        save_and_stop()
    with pytest.raises(ValueError, match="was cut off, and which `--resume` carries on"):
        finish(phase)
    before = phase.record["seconds"]
    finish(phase, resume=True)
    assert phase.is_finished
    assert phase.record["seconds"] >= before
    assert not phase.checkpoints.exists()


def test_an_attempt_that_came_to_nothing_is_nothing_to_lose(phase):
    with pytest.raises(ValueError, match="bad data"), phase.begin({}, seed=1):
        raise ValueError("bad data")
    finish(phase)
    assert phase.is_finished


def test_overwriting_deletes_what_was_made_of_it_and_nothing_else(phase):
    finish(phase)
    finish(Phase(phase.run, "finetune"))
    (phase.run / "notes.txt").write_text("mine")
    finish(phase, overwrite=True)
    assert list(runs.phases(phase.run)) == ["pretrain"]
    assert (phase.run / "notes.txt").read_text() == "mine"


def test_overwriting_leaves_a_folder_alone_that_is_no_run(phase):
    phase.path.mkdir(parents=True)
    (phase.path / "thesis.tex").write_text("mine")
    finish(phase, overwrite=True)
    assert (phase.path / "thesis.tex").read_text() == "mine"


def test_there_has_to_be_something_to_resume(phase):
    with pytest.raises(ValueError, match="where none has begun"):
        finish(phase, resume=True)
    with pytest.raises(ValueError, match="Received: both"):
        finish(phase, resume=True, overwrite=True)
    assert not phase.path.exists()


# Reading


def test_phases_of_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="Expected the folder of a run"):
        runs.phases(tmp_path)


def test_a_phase_has_to_have_ended(phase):
    with pytest.raises(ZeroDivisionError), phase.begin({}, seed=1):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="its status is 'stopped'"):
        runs.finished(phase.run, "pretrain")
    with pytest.raises(ValueError, match="there is none"):
        runs.finished(phase.run, "finetune")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("settings.toml", "a = "),
        ("results.json", "null"),
        ("curves.csv", "layer,loss\n1,high\n"),
    ],
)
def test_a_damaged_file_is_named(phase, file, content):
    finish(phase)
    (phase.path / file).write_text(content)
    attribute = {"run": "record", "settings": "settings", "results": "results", "curves": "curves"}
    with pytest.raises(ValueError, match=f"Expected .*{file} to be as a run left it"):
        getattr(phase, attribute[file.partition(".")[0]])


def test_rows_to_judge_by():
    pytest.importorskip("sklearn")
    settings = {"data": "digits", "validation_split": 0.1}
    train, held_out = runs.read_rows(settings)
    assert (len(train.x), len(held_out.x)) == (1293, 144)
    test, words = runs.read_test_rows(settings)
    assert (len(test.x), words) == (360, "the test rows of digits")
    rows, words = runs.read_test_rows({**settings, "data": "digits::test"})
    assert (len(rows.x), words) == (36, "the rows held out")
    rows, words = runs.read_test_rows({"data": "digits::test", "validation_split": 0})
    assert (len(rows.x), words) == (360, "the rows it was trained on")


def test_image_shapes_are_checked():
    pytest.importorskip("sklearn")
    assert runs.read_rows({"data": "digits", "image_shape": "4x16"})[0].image_shape == (4, 16)
    assert runs.read_rows({"data": "digits", "image_shape": "none"})[0].image_shape is None
    with pytest.raises(ValueError, match="hold the 64 values of a row"):
        runs.read_rows({"data": "digits", "image_shape": "9x9"})
