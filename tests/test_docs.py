"""The pages in docs/: their numbers are those that a command wrote."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


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


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "experiments/README.md",
        *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")),
    ],
)
def test_links_within_the_project_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing
