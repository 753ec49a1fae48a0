"""Choosing on validation rows and using the test rows once."""

import math

import pytest

from experiments import selection

ERRORS = {("a", "valid"): 5.0, ("b", "valid"): 3.0, ("a", "test"): 1.0, ("b", "test"): 4.0}
CANDIDATES = [{"name": name, "sizes": (1, 2), "seed": 1} for name in "ab"]


@pytest.fixture
def calls():
    return []


@pytest.fixture
def compute(calls):
    def compute(name, sizes, seed, scored_on):
        calls.append((name, scored_on))
        return {"error": ERRORS[name, scored_on]}

    return compute


def test_only_the_best_candidate_sees_the_test_rows(compute, calls, tmp_path):
    selection.select(CANDIDATES, compute, lambda found, out: None, tmp_path)
    assert calls == [("a", "valid"), ("b", "valid"), ("b", "test")]
    best, final, tried = selection.found(CANDIDATES, tmp_path)
    assert best["settings"]["name"] == "b"
    assert final["result"]["error"] == 4.0
    assert tried == 2


def test_nothing_is_computed_twice(compute, calls, tmp_path):
    for _ in range(2):
        selection.select(CANDIDATES, compute, lambda found, out: None, tmp_path)
    assert len(calls) == 3


def test_nothing_is_chosen_before_all_candidates_were_tried(compute, calls, tmp_path):
    selection.select(CANDIDATES[:1], compute, lambda found, out: None, tmp_path)
    assert selection.found(CANDIDATES, tmp_path) == (None, None, 1)
    assert selection.found([], tmp_path) == (None, None, 0)


def test_the_published_intervals():
    for error, width in ((3.03, 0.15), (22.61, 0.37), (55.18, 0.44), (1.99, 0.12)):
        assert selection.half_width(error, 50000) == pytest.approx(width, abs=0.006)
    assert selection.half_width(50, 100) == pytest.approx(100 * 1.96 * math.sqrt(0.25 / 100))
