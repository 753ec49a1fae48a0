"""Folders of runs that somebody else made, and what commands write: no other file is touched."""

import json
import os
import pathlib
import re
import shutil
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click")
pytest.importorskip("jinja2")
from click.testing import CliRunner

import sda
from sda import runs
from sda.datasets import writing
from sda.datasets.amat import read_amat
from sda.datasets.idx import read_idx
from sda.files import cells
from sda.files.writing import replacing
from sda.report import charts
from sda.runs import Phase
from sda_cli import terminal
from sda_cli.app import app

pytestmark = pytest.mark.skipif(os.name != "posix", reason="makes links and FIFOs")
SMALL = ["--units", "4", "--epochs", "1", "--quiet"]

# What there may be in the place of a file, and what makes it there.
IRREGULAR = {
    "fifo": lambda path: os.mkfifo(path),  # which not every system has
    "folder": os.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


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
@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_regular_file_is_refused_at_once(mine, name, kind):
    path = mine.parent / kind / name
    path.parent.mkdir()
    IRREGULAR[kind](path)
    with pytest.raises(ValueError, match="to be a regular file"):
        sda.datasets.read(path)


@pytest.mark.parametrize("kind", IRREGULAR)
def test_settings_that_are_no_regular_file_are_refused_at_once(mine, kind):
    path = mine.parent / "settings.toml"
    IRREGULAR[kind](path)
    assert run("pretrain", "--out", "run", "--config", path).exit_code
    (mine.parent / "run/pretrain").mkdir(parents=True)
    path.rename(mine.parent / "run/pretrain/settings.toml")
    assert run("pretrain", "--out", "run", "--resume").exit_code


@pytest.mark.parametrize("kind", IRREGULAR)
def test_files_of_datasets_that_are_no_regular_files_are_refused_at_once(mine, kind):
    path = mine.parent / "file"
    IRREGULAR[kind](path)
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


def test_a_run_that_was_emptied_and_begun_anew_is_not_mixed_with_the_old_one(mine):
    def content():
        return {path: path.read_bytes() for path in pathlib.Path("run/pretrain").iterdir()}

    def begin():
        return Phase("run", "pretrain").begin({}, seed=1)

    def emptied():
        with begin():
            shutil.rmtree("run")
            with begin():
                pass
            found.update(content())

    found = {}
    with pytest.raises(ValueError, match="emptied or replaced"):
        emptied()
    assert content() == found


def test_what_a_killed_process_had_begun_to_write_is_deleted(mine):
    phase = Phase("run", "pretrain")
    with phase.begin({}, seed=1), replacing(phase.path / "stack.keras") as temporary:
        temporary.write_text("half")
        for name in (".pretrain.0123456789abcdef.tmp", ".mine.tmp"):
            (phase.run / name).mkdir()
        shutil.copytree("run", "killed")
    with Phase("killed", "pretrain").begin({}, seed=1):
        pass
    assert {path.name for path in pathlib.Path("killed").iterdir()} == {
        ".lock", ".mine.tmp", "pretrain",
    }  # fmt: skip
    assert {path.name for path in pathlib.Path("killed/pretrain").iterdir()} == {
        "settings.toml", "run.json", "log.txt",
    }  # fmt: skip


def test_a_picture_is_there_when_it_is_whole(tmp_path, monkeypatch):
    Image = pytest.importorskip("PIL.Image")
    path = tmp_path / "filters.png"
    path.write_text("what was there")

    def stops(image, file, format):
        pathlib.Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stops)
    with pytest.raises(KeyboardInterrupt):
        sda.plotting.save_png(np.zeros((4, 4), "uint8"), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there"


# What files say is shown, and does nothing.

COMMANDS = "\x1b]52;c;bWluZQ==\x07\x1b]0;title\x07\u202e\r"


def test_control_characters_do_not_reach_the_terminal(mine):
    phase = pretrain("run")
    settings = phase.path / "settings.toml"
    text = settings.read_text()
    name = json.dumps(COMMANDS)  # TOML's escapes are those of JSON
    settings.write_text(f"{text}\n{name} = {name}\n")
    record = json.loads((phase.path / "run.json").read_text())
    record["versions"][COMMANDS] = COMMANDS
    runs.write_json(phase.path / "run.json", record)
    shown = run("info", "run")
    assert "\\x1b]52;c;bWluZQ==" in shown.output
    runs.write_json(phase.path / "run.json", {**record, "status": COMMANDS})
    refused = run("encode", "run", "--out", "codes.npy")
    settings.write_text(text.replace('data = "', 'data = "\\u001b[2J'))
    runs.write_json(phase.path / "run.json", record)
    unread = run("--debug", "encode", "run", "--out", "codes.npy")
    for result in (shown, refused, unread):
        assert not set(COMMANDS) - set("\n") & set(
            filter(lambda c: not c.isprintable(), result.output)
        )


def test_warnings_are_shown_without_control_characters(mine, monkeypatch):
    pretrain("run")

    def warns(*args):
        warnings.warn(COMMANDS, stacklevel=2)
        raise ValueError(COMMANDS)

    monkeypatch.setattr("sda.runs.scoring.load_model", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("encode", "run", "--out", "codes.npy")
    assert result.stderr.count("\\x1b]0;title") == 2
    assert "\x1b" not in result.stderr


@given(st.text())
def test_the_escapes_of_the_command_are_those_of_the_library(text):
    assert terminal.printable(text) == cells.printable(text)
    assert all(c.isprintable() or c in "\n\t" for c in terminal.printable(text))


def test_cells_are_text_in_spreadsheets_and_in_markdown():
    for text in ("=HYPERLINK(1)", "+1", "-1", "@a", " =1"):
        assert cells.csv_cell(text) == f"'{text}"
    for value in (-1.5, None, "masking", "a=1", "\\n"):
        assert cells.csv_cell(value) == value
    assert cells.csv_cell("\n=1") == "\\n=1"
    assert cells.markdown_cell("<script>a|b</script>") == "&lt;script&gt;a\\|b&lt;/script&gt;"
    assert cells.markdown_cell("![a](b) `c`\n") == "!\\[a\\](b) \\`c\\`\\\\n"
    assert cells.markdown_cell("salt_and_pepper, 0.5") == "salt_and_pepper, 0.5"


# Files of runs with other things in them.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with both phases, and 1,000 rows of text that a damaged file may not quote."""
    folder = tmp_path_factory.mktemp("trained")
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        x = np.random.default_rng(1).random((40, 16)).astype("float32")
        np.savez("rows.npz", x=x, y=np.arange(40) % 2)
        pretrain("run")
        assert run("finetune", "run", "--epochs", 1, "--quiet").exit_code == 0
    finally:
        os.chdir(before)
    return folder


ODD = {
    "run.json": [
        {"seconds": 10**400}, {"seconds": "9"}, {"seconds": float("nan")}, {"seconds": -1},
        {"status": ["finished"]}, {"versions": 3}, {"versions": {"keras": {}}}, {"machine": [1]},
        {"machine": {"accelerators": [1]}}, {"seed": {}}, {"started": 4},
    ],
    "results.json": [
        {"classes": 4}, {"classes": [[]]}, {"validation": 1}, {"validation": {}},
        *({"validation": {"error": 0, "rows": 1, "interval": [0, 1], "confusion": [[1]], **odd}}
          for odd in (
              {"error": 1e308}, {"error": "high"}, {"rows": []}, {"interval": [0]},
              {"interval": [0, float("inf")]}, {"confusion": [[1, 2]]}, {"confusion": [["a"]]},
              {"confusion": [[-1]]}, {"confusion": [[1e308]]}, {"data": 3},
          )),
    ],
}  # fmt: skip
TEXTS = [
    ("run.json", '{"a": ' * 50_000),
    ("run.json", "[" * 100_000),
    ("run.json", "hunter2"),
    ("results.json", '{"a": hunter2}'),
    ("settings.toml", "a = " + "[" * 20_000),
    ("settings.toml", "hunter2"),
    ("settings.toml", "hunter2 = 1\nhunter2 = 2"),
    ("settings.toml", "[hunter2]\na = 1"),
    ("settings.toml", "data = 4"),
    ("settings.toml", 'image_shape = "4x"'),
    ("settings.toml", "validation_split = 1e308"),
    ("settings.toml", "loss = [1]"),
    ("settings.toml", "".join(f"a{i}=1\n" for i in range(20_000))),
    ("curves.csv", "layer,epoch,loss\n1,1,1e308\n1,2,-1e308\n"),
    ("curves.csv", "layer,epoch,loss\n1,inf,1\n"),
    ("curves.csv", "layer,epoch,loss\n,,1\n"),
    ("curves.csv", "layer,epoch,loss\n1,hunter2,1\n"),
    ("curves.csv", "layer,epoch,loss\n" + "".join(f"{i},1,1\n" for i in range(1, 20_000))),
]


def damage(folder, name, content):
    shutil.copytree(folder / "run", "run")
    path = pathlib.Path("run", "finetune" if name == "results.json" else "pretrain", name)
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content})
    path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content"), [*((name, odd) for name in ODD for odd in ODD[name]), *TEXTS]
)
def test_an_odd_file_of_a_run_is_one_line(mine, trained, name, content):
    damage(trained, name, content)
    result = run("report", "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("sda: Expected ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400
    assert "hunter2" not in result.stderr
    assert not pathlib.Path("run/report.html").exists()


@pytest.mark.parametrize(
    "line",
    [
        "units = 1e308",
        "units = true",
        "units = []",
        'noise = "a"',
        "noise = [1]",
        "seed = -1",
        "epochs = []",
    ],
)
def test_a_run_with_odd_settings_is_not_carried_on(mine, trained, line):
    text = pathlib.Path(trained, "run/pretrain/settings.toml").read_text()
    name = line.partition(" ")[0]
    damage(trained, "settings.toml", re.sub(rf"(?ms)^{name} = .*?$(?!\n    |\n\])", line, text))
    record = json.loads(pathlib.Path("run/pretrain/run.json").read_text())
    runs.write_json(pathlib.Path("run/pretrain/run.json"), {**record, "status": "stopped"})
    result = run("pretrain", "--out", "run", "--resume")
    assert result.exit_code == 2
    assert f"settings.toml to be as a run left it. Received: Invalid value for '--{name}'" in (
        result.stderr
    )
    assert result.stderr.count("\n") == 1


def test_a_report_is_not_much_larger_than_its_run(mine, trained):
    confusion = [[1] * 300] * 300
    scores = {"error": 0, "rows": 1, "interval": [0, 1], "confusion": confusion}
    damage(trained, "results.json", {"classes": list(range(300)), "validation": scores})
    assert run("report", "run").exit_code == 0
    page = pathlib.Path("run/report.html").read_text()
    assert len(page) < 1_000_000
    assert "Of more than 50 classes" in page


@pytest.mark.parametrize(("low", "high"), [(0, 5e-324), (1e100, 1e100), (-1e100, 1e100), (1, 1)])
def test_ticks_of_odd_curves(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9


def test_settings_files_are_regular_and_not_quoted(mine):
    pathlib.Path("settings.toml").write_text("hunter2 is secret")
    os.mkfifo("fifo.toml")
    pathlib.Path("zero.toml").symlink_to("/dev/zero")
    pathlib.Path("deep.toml").write_text("a = " + "[" * 20_000)
    for name in ("settings", "fifo", "zero", "deep"):
        result = run("pretrain", "--config", f"{name}.toml", "--out", "run")
        assert result.exit_code == 1
        assert f"{name}.toml is no TOML file" in result.stderr
        assert "hunter2" not in result.stderr


def test_a_model_that_is_no_stack_is_named(mine):
    phase = pretrain("run")
    keras.Sequential([keras.Input((16,)), keras.layers.Dense(2)]).save(phase.path / "stack.keras")
    for command in (["report", "run"], ["encode", "run", "--out", "codes.npy"]):
        result = run(*command)
        assert result.exit_code == 2
        assert "as a run left it. Received: a Sequential" in result.stderr


# Sweeps


def sweep():
    arguments = (
        "--data",
        "rows.npz::x",
        "--vary",
        "corruption=0.1 0.2",
        "--objective",
        "denoising",
    )
    return run("sweep", *arguments, "--units", "4", "--epochs", 1, "--quiet", "--out", "sweep")


@pytest.mark.parametrize(
    "name", ["sweep.db", "stacks", "layers", "best.lock", "study.lock", "best.keras", "best.tmp",
             "results.csv", "results.md", "stacks/0.keras", "comparison.png"],
)  # fmt: skip
def test_links_in_a_sweep_are_not_followed(mine, name):
    pytest.importorskip("optuna")
    folder = mine.parent / "elsewhere"
    folder.mkdir()
    link = pathlib.Path("sweep", name)
    link.parent.mkdir(parents=True)
    link.symlink_to(folder if name in ("stacks", "layers") else mine)
    result = sweep()
    refused = name in ("sweep.db", "stacks", "layers", "best.lock", "study.lock")
    assert bool(result.exit_code) == refused, result.output
    assert list(folder.iterdir()) == []
    if not refused:
        assert "mine" not in pathlib.Path("sweep/results.md").read_text()
        assert sda.load_model("sweep/best.keras").autoencoders[0].units == 4


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
