"""The experiment on tables, in small."""

import json

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn, which ships the tables")
pytest.importorskip("mlxtend", reason="needs mlxtend, which ships a table")

from experiments import parts, tables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    tables.main(["--quick", "--out", str(out), "--seed", "2"])
    return out, json.loads((out / "results.json").read_text()), (out / "results.md").read_text()


def test_every_method_fills_in_and_finds(outcome):
    out, found, text = outcome
    assert {part["seed"] for part in found} == {2}
    filled, watched = (tables.of_task(found, task) for task in ("imputation", "anomalies"))
    assert len(filled) == len(watched) == 1
    for part in filled:
        assert list(part["result"]) == list(tables.IMPUTERS)
        assert {kind for errors in part["result"].values() for kind in errors} == {
            "numbers",
            "others",
        }
    for method in tables.IMPUTERS:
        errors = [part["result"][method]["numbers"] for part in filled]
        assert parts.mean(errors, "{:.3f}") in text
    for method in tables.DETECTORS:
        assert parts.mean([p["result"][method] for p in watched], "{:.3f}") in text
    for name in ("imputation", "anomalies"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_mean_is_wrong_by_one_deviation(outcome):
    _, found, _ = outcome
    errors = [p["result"]["mean or mode"]["numbers"] for p in tables.of_task(found, "imputation")]
    np.testing.assert_allclose(errors, 1, atol=0.15)
    better = [p["result"]["nearest neighbours"]["numbers"] for p in found[:1]]
    assert max(better) < min(errors)


def test_errors_are_counted_at_hidden_cells_only():
    table, kinds, _ = tables.load_table("auto_mpg")
    columns = tables.described(kinds).fit(table)
    hidden = np.zeros(table.shape, bool)
    hidden[:4, 1] = hidden[:4, 6] = True
    filled = table.copy()
    filled[:4, 1] += [3, -3, 3, -3]
    filled[0, 6] += 1
    filled[9:] = 0  # where nothing was hidden
    errors = tables.imputation_errors(filled, table, hidden, columns)
    assert errors["numbers"] == pytest.approx(3 / table[:, 1].std())
    assert errors["others"] == 0.25


def test_no_row_is_hidden_whole():
    hidden = tables.hidden_cells((5000, 3), 0.5, seed=1)
    assert not hidden.all(axis=1).any()
    assert hidden.mean() == pytest.approx(0.5 - 0.125 / 3, abs=0.02)


def test_what_is_judged_was_not_learned_from():
    normal = np.arange(20) < 12
    known, new = tables.split(normal, seed=1)
    assert len(known) == 6
    assert normal[known].all()
    assert sorted([*known, *new]) == list(range(20))
    assert sorted(tables.split(normal, seed=2)[0]) != sorted(known)


def test_all_components_rebuild_everything():
    x = np.random.default_rng(1).normal(size=(30, 4))
    error, count = tables.components_error(x, x, 4)
    np.testing.assert_allclose(error, 0, atol=1e-12)
    assert count == 4
    few, _ = tables.components_error(x, x, 1)
    # What one component leaves is the rest of the spectrum.
    spectrum = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    assert few.sum() == pytest.approx(spectrum[1:].sum())
