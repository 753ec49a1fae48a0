"""The pages in docs/: examples run, names and links exist, numbers are those a command wrote."""

import doctest
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from doctests import Runner, session

import sda

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "experiments/README.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")),
]
# In the tutorial's scripts `sda` is an object of its class.
THEIRS = {"sda.dA_layers", "sda.logLayer", "sda.params", "sda.sigmoid_layers"}
SCRIPTS = sorted(ROOT.glob("notebooks/*.py"))
SCRIPTS = [script for script in SCRIPTS if script.stem not in ("__init__", "generate")]
SESSIONS = [page for page in PAGES if session((ROOT / page).read_text())]


@pytest.mark.parametrize("page", SESSIONS)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"sda": sda, "keras": keras, "np": np}
    text = session((ROOT / page).read_text())
    runner = Runner()
    runner.run(doctest.DocTestParser().get_doctest(text, names, page, page, 0))
    if runner.missing:
        pytest.skip(f"{page} needs {runner.missing}")
    assert not runner.failures, "".join(runner.output)
    assert runner.tries > 0


@pytest.mark.parametrize("page", PAGES)
def test_the_names_on_a_page_exist(page):
    names = re.findall(r"(?<![\w./-])(?:sda|keras)(?:\.\w+)+", (ROOT / page).read_text())
    missing = [name for name in sorted(set(names) - THEIRS) if not exists(name)]
    assert not missing


def exists(name):
    """Whether `name` is a module, or something in one."""
    found = importlib.import_module(name.split(".")[0])
    for i, part in enumerate(name.split(".")[1:], start=2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(name.split(".")[:i]))
            except ModuleNotFoundError as error:
                if error.name.split(".")[0] not in ("sda", "keras"):
                    pytest.skip(f"{name} needs {error.name}")
                return False
        found = getattr(found, part)
    return True


def test_our_side_of_the_tables_of_old_names_exists():
    stack = sda.StackedDenoisingAutoencoder([4], tied=False)
    stack.build((None, 6))
    things = {"stack": stack, "dA": stack.autoencoders[0], "classifier": stack.classifier(3)}
    takers = [sda.dA, type(stack), sda.GreedyPretrainer, sda.GreedyPretrainer.fit, sda.fit]
    takers.append(sda.sweep.Sweep)
    arguments = {name for taker in takers for name in inspect.signature(taker).parameters}
    lines = (ROOT / "docs" / "coming_from.md").read_text().splitlines()
    ours = [line.split("|")[-2] for line in lines if line.startswith("| ") and "Here" not in line]
    assert len(ours) > 50
    for cell in ours:
        for thing, path in re.findall(r"`(stack|dA|classifier)((?:\.\w+)+)", cell):
            found = things[thing]
            for part in path.split(".")[1:]:
                assert hasattr(found, part), f"{thing}{path}"
                found = getattr(found, part)
        assert set(re.findall(r"`(\w+)=", cell)) <= arguments, cell


def test_every_page_is_in_the_index():
    links = re.findall(r"\]\(([\w./]+)\)", (ROOT / "docs" / "index.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    notebooks = {f"../notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert not (pages | notebooks) - set(links)


def public_names():
    """Everything in `sda.__all__`, and what the modules there hold for users."""
    for name in sda.__all__:
        item = getattr(sda, name)
        if not inspect.ismodule(item):
            yield f"sda.{name}"
            continue
        names = getattr(item, "__all__", None) or [
            n
            for n, value in vars(item).items()
            if n[0] != "_" and getattr(value, "__module__", None) == item.__name__ and value.__doc__
        ]
        yield from (f"{item.__name__}.{n}" for n in names if callable(getattr(item, n)))


def test_every_public_name_is_in_the_reference(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = {path.name: path.read_text() for path in (tmp_path / "reference").glob("*.html")}
    anchors = set(re.findall(r'id="(sda[\w.]+)"', "".join(pages.values())))
    listed = set(re.findall(r"<code>(sda[\w.]+)</code>", pages["index.html"]))
    names = set(public_names()) - {"sda.__version__"}
    assert len(names) > 30
    assert not names - anchors
    assert not names - listed
    for page in [*(tmp_path / "docs").glob("*.html"), *(tmp_path / "notebooks").glob("*.html")]:
        assert "$$" not in page.read_text(), f"{page.name} has a formula that is not MathML"
    assert {path.stem for path in (tmp_path / "notebooks").glob("*.html")} == {
        script.stem for script in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_a_notebook_is_that_of_its_script(script):
    jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    cells = jupytext.read(script).cells
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in cells]
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def rows(path, start):
    """The rows of a page's tables that begin with `start`, without the spaces that align them."""
    lines = (re.sub(r" +", " ", line) for line in path.read_text().splitlines())
    return [line for line in lines if line.startswith(f"| {start}")]


@pytest.mark.parametrize("page", ["README.md", "docs/speed.md"])
@pytest.mark.parametrize("start", ["sda on", "share of the limit"])
def test_speeds_are_those_of_the_benchmark(page, start):
    measured = [*rows(RESULTS / "benchmark" / "results.md", start)]
    measured += rows(RESULTS / "benchmark" / "one_core" / "results.md", start)
    quoted = rows(ROOT / page, start)
    assert quoted or page == "README.md"
    assert set(quoted) <= set(measured)


def test_precision_is_as_measured():
    measured = (RESULTS / "precision" / "results.md").read_text()
    quoted = [
        line for b in ("tensorflow", "jax", "torch") for line in rows(ROOT / "docs/speed.md", b)
    ]
    assert len(quoted) == 6
    assert all(line in measured for line in quoted)


def test_errors_are_those_of_the_tables_that_are_linked():
    page = ROOT / "docs" / "did_pretraining_pay.md"
    links = set(re.findall(r"\]\(([^)#]+results\.md)\)", page.read_text()))
    assert len(links) > 3
    measured = "".join((page.parent / link).read_text() for link in links)
    errors = set(re.findall(r"\d+\.\d\d\b", page.read_text()))
    assert len(errors) > 40
    assert not errors - set(re.findall(r"\d+\.\d\d\b", measured))


def test_steps_of_two_processes_are_as_measured():
    measured = (RESULTS / "scaling" / "results.md").read_text()
    _, section = (ROOT / "docs" / "scaling.md").read_text().split("## What was measured")
    quoted = set(re.findall(r"\d+\.\d\d\b", section.split("\n## ")[0]))
    assert len(quoted) > 30
    assert not quoted - set(re.findall(r"\d+\.\d\d\b", measured))


def test_what_one_gpu_does_is_as_measured():
    measured = (RESULTS / "one_gpu" / "results.md").read_text()
    steps = re.findall(r"\| ([\d,]+) \| (\d+) \| (\d+) \|", measured)
    _, section = (ROOT / "docs" / "scaling.md").read_text().split("## What it predicts")
    table = section.split("\n\n")[2]
    assert re.findall(r"\| ([\d,]+) \| (\d+) \| (\d+) \|", table) == steps
    assert len(steps) == 8
    for page, count in (("sweeps", 4), ("speed", 4)):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        (paragraph,) = [part for part in text.split("\n\n") if "one_gpu" in part]
        numbers = re.findall(r"\d+\.\d\d\b", paragraph)
        assert len(numbers) == count
        assert all(f"| {number} |" in measured for number in numbers)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_project_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing
