import dataclasses
import json
import pathlib
import signal

import numpy as np
import pytest

from sda.rows import orders
from sda.training import feed

pytest.importorskip("resource")

from experiments import larger_than_memory as larger
from experiments import parts

pytestmark = pytest.mark.slow

SIZES = dataclasses.replace(
    larger.QUICK, rows=1500, rows_in_ram=300, rows_a_source=1200, units=5, legs=3,
    seconds_between_legs=-1, resident_bytes=2**20,
)  # fmt: skip


class Process:
    """Stands for a process that has done its work, and is seen at it three times."""

    def __init__(self, signals):
        self.looks, self.signals = 3, signals

    def poll(self):
        self.looks -= 1
        return None if self.looks >= 0 else 0

    def wait(self):
        return 0

    def kill(self):
        pass

    def send_signal(self, number):
        self.signals.append(number)


@pytest.fixture
def alone(monkeypatch):
    """Trains in this process; the lists have the limits and the signals that were not set."""
    limits, signals = [], []
    monkeypatch.setattr(larger.resource, "setrlimit", lambda _, limit: limits.append(limit))
    monkeypatch.setattr(larger.time, "sleep", lambda _: None)
    monkeypatch.setattr(orders, "BLOCK", 32)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", feed.RESIDENT_BYTES)  # is put back

    def started(folder, **settings):
        out = folder / f"{settings['source']}.json"
        larger.main(["--train", json.dumps(settings), str(out)])
        return Process(signals), out

    monkeypatch.setattr(larger, "started", started)
    return limits, signals


def test_the_experiment_from_end_to_end(tmp_path, alone):
    limits, signals = alone
    plan = larger.plan(SIZES, 1)
    found = parts.complete(plan, larger.compute(tmp_path), larger.report, tmp_path / "out")
    assert [part["settings"]["shuffle"] for part in found] == ["blocks", True] * 2
    for part in found[:2]:
        sources = part["result"]
        assert [name for name, r in sources.items() if r["equal"]] == ["ram", *larger.SOURCES]
    for part in found[2:]:
        assert part["result"]["equal"]
        # One before, one at each look until there are three, one at the end.
        assert len(part["result"]["examples_a_second"]["in_ram"]) == 4
    assert found[2]["result"]["loss"] != found[3]["result"]["loss"]
    assert signals == [signal.SIGSTOP, signal.SIGCONT] * 4
    # All but what is resident.
    assert limits == [(larger.LIMIT, larger.LIMIT)] * 2 * (len(larger.SOURCES) + 2)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    report = (tmp_path / "out" / "results.md").read_text()
    for line in (
        "shuffled in blocks, on",
        "shuffled, on",
        "| gzip |",
        "| in RAM |",
        "| streamed, with the checks before it |",
    ):
        assert line in report
    assert "different" not in report


def test_weights_that_differ_are_told(tmp_path):
    speeds = {
        "streamed": 80,
        "streamed_with_checks": 70,
        "in_ram": [100, 90, 110],
    }
    result = {
        "gigabytes": 20.07, "limit_gigabytes": 2.0, "limit_holds": True, "peak_resident_mb": 900.0,
        "examples_a_second": speeds, "equal": False,
        "cpu_microseconds_an_example": {"streamed": 50.5, "in_ram": 40.1},
    }  # fmt: skip
    part = {
        "settings": larger.plan(larger.Sizes(), 1)[2], "result": result, "backend": "torch",
        "seed": 1, "versions": {"torch": "2"}, "machine": {"processor": "P", "cores": 2},
    }  # fmt: skip
    larger.report([part], tmp_path)
    report = (tmp_path / "results.md").read_text()
    for text in (
        "6,400,000 rows, 20.07 GB, shuffled in blocks", "| streamed, the epoch | 80 | 0.80 |",
        "checks before it | 70 | 0.70", "weights are different", "did not fit", "median of 3",
        "50.5 µs an example streamed, 40.1 in RAM",
    ):  # fmt: skip
        assert text in report
    result["equal"] = None  # with --no-comparison
    larger.report([part], tmp_path)
    assert "weights" not in (tmp_path / "results.md").read_text()


def test_the_time_of_pauses_does_not_count():
    result = {"begin": 0.0, "epoch_begin": 10.0, "epoch_end": 30.0}
    pauses = [(5.0, 12.0), (20.0, 25.0), (29.0, 40.0)]
    assert larger.speed(100, result) == 5
    assert larger.speed(120, result, pauses) == 120 / (20 - 2 - 5 - 1)
    assert larger.speed(170, result, pauses, "begin") == 170 / (30 - 7 - 5 - 1)


def test_made_rows_are_the_same_in_any_order():
    rows = larger.MadeRows(12_000, seed=1)
    whole = rows[:]
    assert whole.dtype == "float32"
    assert 0 <= whole.min() < whole.max() <= 1
    order = np.random.default_rng(1).permutation(12_000)
    np.testing.assert_array_equal(rows[order], whole[order])
    assert len(np.unique(whole[:, 0])) > 11_000


def test_the_documentation_quotes_what_was_measured():
    root = pathlib.Path(larger.__file__).parents[1]
    measured = (root / "experiments/results/larger_than_memory/results.md").read_text()
    lines = (root / "docs/large_data.md").read_text().splitlines()
    quoted = [line for line in lines if line.startswith(("| in RAM", "| streamed"))]
    assert len(quoted) == 9
    assert all(line in measured for line in quoted)


def test_one_part_of_a_size_is_chosen_and_other_sizes_stay_in_the_report(tmp_path, monkeypatch):
    computed, reported = [], []
    monkeypatch.setattr(larger, "compute", lambda _: lambda **part: computed.append(part) or {})
    monkeypatch.setattr(larger, "report", lambda found, _: reported.append(len(found)))
    arguments = ["--out", str(tmp_path), "--part", "stream", "--rows", "640"]
    larger.main([*arguments, "--shuffle", "blocks", "--batch-size", "20"])
    larger.main([*arguments, "--shuffle", "all", "--no-comparison"])
    assert [(p["part"], p["shuffle"], p["batch_size"]) for p in computed] == [
        ("stream", "blocks", 20), ("stream", True, 128),
    ]  # fmt: skip
    assert [(p["rows"], p["compare"]) for p in computed] == [(640, True), (640, False)]
    assert reported == [1, 2]
