"""Folders of runs that somebody else made, and what commands write: no other file is touched."""

import os
import pathlib

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")
from click.testing import CliRunner

import sda
from sda.datasets import writing
from sda.datasets.amat import read_amat
from sda.datasets.idx import read_idx
from sda.runs import Phase
from sda_cli.app import app

pytestmark = pytest.mark.skipif(os.name != "posix", reason="makes links and FIFOs")
SMALL = ["--units", "4", "--epochs", "1", "--quiet"]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def fails(words, *arguments):
    result = run(*arguments)
    assert result.exit_code, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def pretrain(out, seed=1):
    arguments = ("--data", "rows.npz::x", "--labels", "y", "--out", out, "--seed", seed, *SMALL)
    result = run("pretrain", *arguments)
    assert result.exit_code == 0, result.output
    return Phase(out, "pretrain")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of the user's, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(1).random((40, 16)).astype("float32")
    np.savez("rows.npz", x=x, y=np.arange(40) % 2)
    path = tmp_path / "authorized_keys"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


def test_a_report_replaces_nothing_but_a_report(mine):
    model = pretrain("run").path / "stack.keras"
    content = model.read_bytes()
    fails("to end in .html", "report", "run", "--out", model)
    assert model.read_bytes() == content
    page = pathlib.Path("run/report.html")
    page.symlink_to(mine)
    fails("to be new, or a report", "report", "run")
    page.unlink()
    page.write_text("<p>mine</p>")
    fails("to be new, or a report", "report", "run")
    page.unlink()
    for _ in range(2):
        assert run("report", "run").exit_code == 0


def test_a_report_quotes_no_other_file(mine):
    phase = pretrain("run")
    settings = phase.path / "settings.toml"
    pathlib.Path("other.txt").write_text("hunter2 is secret\n")
    text = settings.read_text().replace(str(mine.parent / "rows.npz::x"), "other.txt")
    settings.write_text(text.replace('labels = "y"\n', ""))
    assert phase.settings["data"] == "other.txt"
    assert run("report", "run").exit_code == 0
    assert "could not be read" in pathlib.Path("run/report.html").read_text()
    assert "hunter2" not in pathlib.Path("run/report.html").read_text()
    assert "hunter2" not in run("evaluate", "run").stderr


@pytest.mark.parametrize("name", ["log.txt", "run.json", "settings.toml", "classifier.keras"])
def test_links_in_a_run_are_not_followed(mine, name):
    pretrain("run")
    link = pathlib.Path("run/finetune") / name
    link.parent.mkdir()
    link.symlink_to(mine)
    run("finetune", "run", "--epochs", 1, "--quiet")
    run("evaluate", "run")


def test_a_linked_model_is_not_read(mine):
    model = pretrain("run").path / "stack.keras"
    model.rename("elsewhere.keras")
    model.symlink_to(pathlib.Path("elsewhere.keras").resolve())
    fails("a link", "encode", "run", "--out", "codes.npy")


def test_a_copy_of_a_pretraining_is_of_its_own_files_and_of_one_training(mine):
    phase = pretrain("run")
    (phase.path / "a").symlink_to(".")
    (phase.path / "private.txt").symlink_to(mine)
    again = ("--out", "copy", "--epochs", 1, "--quiet")
    assert run("finetune", "run", *again).exit_code == 0
    names = {path.name for path in phase.path.iterdir()} - {"a", "private.txt"}
    assert {path.name for path in pathlib.Path("copy/pretrain").iterdir()} == names
    assert run("finetune", "run", *again, "--overwrite").exit_code == 0
    before = pathlib.Path("copy/finetune/classifier.keras").read_bytes()
    pretrain("other", seed=2)
    fails("of another training", "finetune", "other", *again, "--overwrite")
    assert pathlib.Path("copy/finetune/classifier.keras").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["rows.npy", "rows.npz", "rows.h5", "rows.txt", "rows.csv", "rows.parquet"]
)
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(mine, name, kind):
    path = mine.parent / kind / name
    path.parent.mkdir()
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        {"fifo": os.mkfifo, "folder": os.mkdir}[kind](path)
    with pytest.raises(ValueError, match="to be a regular file"):
        sda.datasets.read(path)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_settings_that_are_no_regular_file_are_refused_at_once(mine, kind):
    path = mine.parent / "settings.toml"
    {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "device": lambda path: path.symlink_to("/dev/zero"),
    }[kind](path)
    assert run("pretrain", "--out", "run", "--config", path).exit_code
    (mine.parent / "run/pretrain").mkdir(parents=True)
    path.rename(mine.parent / "run/pretrain/settings.toml")
    assert run("pretrain", "--out", "run", "--resume").exit_code


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_files_of_datasets_that_are_no_regular_files_are_refused_at_once(mine, kind):
    path = mine.parent / "file"
    {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "device": lambda path: path.symlink_to("/dev/zero"),
    }[kind](path)
    for reader in (lambda: read_idx(path, (2, 2)), lambda: read_amat(path, 2, 2, 2)):
        with pytest.raises(ValueError, match="Expected `path` to"):
            reader()


def test_a_live_run_is_left_alone(mine):
    phase = pretrain("run")
    with phase.begin({}, seed=1, overwrite=True):
        before = {path: path.read_bytes() for path in phase.path.iterdir()}
        for how in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(ValueError, match="another process is using"):  # noqa: SIM117
                with Phase("run", "pretrain").begin({"other": 1}, seed=2, **how):
                    pass
        assert {path: path.read_bytes() for path in phase.path.iterdir()} == before


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_a_file_is_there_when_it_is_whole(tmp_path, suffix):
    path = tmp_path / f"codes{suffix}"
    path.write_text("what was there")

    def stops(piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writing.write(path, np.zeros((5, 2)), stops, 2, "code")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there"
