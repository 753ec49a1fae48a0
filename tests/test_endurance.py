import json
import mmap
import os
import subprocess
import sys

import pytest

from experiments import endurance, kills

linux = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")


@linux
def test_fits_in_a_row_are_counted_and_measured():
    calls = []

    def fit(traces, folder):
        assert os.path.isdir(folder)
        traces.count += 3 if not calls else 1
        leak = mmap.mmap(-1, 2**22)  # 4 MB that no freed memory can serve
        leak.write(b"x" * 2**22)
        calls.append(leak)

    result = endurance.in_a_row(fit, 8)
    assert result["traces"] == {"first": 3, "later": [1]}
    assert len(result["open_files"]) == 1
    assert 3000 < result["kilobytes_a_fit"] < 5000


@linux
def test_a_long_run_takes_no_more_data_than_its_limit_leaves(tmp_path):
    path = tmp_path / "examples.h5"
    endurance.write_examples(path, 300)
    with pytest.raises(ValueError, match="more rows"):
        endurance.long_run(str(path), in_ram=False, seconds=1)


def test_the_report_tells_what_was_found():
    row = {
        "fits": 3, "megabytes": {"first": 1.0, "settled": 2.0, "last": 2.5},
        "kilobytes_a_fit": 0.5, "open_files": [7], "traces": {"first": 2, "later": [0]},
    }  # fmt: skip
    run = {"minutes": 1, "epochs": [2, 1], "loss": [0.1, 0.2], "data_mb": 9, "peak_resident_mb": 5}
    results = {
        "backend": "jax", "versions": {"jax": "1"}, "finetunings": row, "pretrainings": row,
        "threads": {"threads": 4, "equal": 3}, "forks": {"before": "equal", "after": "refused"},
        "long": {"rows": 10, "hdf5": {**run, "limit_mb": 8}, "ram": run, "equal": False},
    }  # fmt: skip
    report = endurance.report(results)
    for part in (
        "# Endurance on jax 1",
        "| 3 finetunings | 1.0 | 2.0 | 2.5 | 0.5 | 7 | 2 | 0 |",
        "Of 4 fits in threads at a time, 3 ended",
        "used: equal. After it: refused.",
        "| hdf5 | 1 | [2, 1] | [0.1, 0.2] | 9 | 8 | 5 |",
        "The weights are different.",
    ):
        assert part in report


KILLS = """
import json, secrets, sys, time
import keras
import numpy as np
from experiments import kills

def forgetful(folder):
    time.sleep(0.5)
    keep = folder / "pretraining"
    keep.mkdir(parents=True, exist_ok=True)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    weight = 0.0 if folder.parent.name == "whole" else secrets.randbelow(9) + 1.0
    model.set_weights([np.full((1, 1), weight), np.zeros(1)])
    return model

kills.RUNS["forgetful"] = forgetful
print(json.dumps({run: kills.part(run, 1, 3) for run in ("unseeded", "forgetful")}))
"""


@linux
@pytest.mark.slow
def test_runs_are_killed_and_end_with_the_same_weights_unless_they_forget():
    script = subprocess.run(
        [sys.executable, "-c", KILLS], check=True, capture_output=True, text=True, timeout=300
    )
    found = json.loads(script.stdout.splitlines()[-1])
    for counts in found.values():
        assert counts["SIGKILL"] + counts["SIGINT"] >= 3
    assert found["unseeded"]["equal"] >= 1
    assert found["unseeded"]["failures"] == []
    assert found["forgetful"]["equal"] == 0
    assert all("has other weights" in failure for failure in found["forgetful"]["failures"])
    assert found["forgetful"]["failures"]


def test_the_plan_has_every_run_and_enough_kills():
    plan = kills.plan(300, "jax")
    assert len(plan) * kills.KILLS >= 300
    assert {settings["run"] for settings in plan} == set(kills.RUNS)
    assert len({json.dumps(settings) for settings in plan}) == len(plan)


def test_the_report_of_kills_adds_up_what_all_backends_did(tmp_path):
    def part(backend, run, equal, *failures):
        counts = {"SIGKILL": 3, "SIGINT": 2, "without a checkpoint": 1, "equal": equal}
        return {
            "settings": {"backend": backend, "run": run, "seed": 1},
            "result": {**counts, "failures": list(failures)},
        }

    parts = [
        part("torch", "pairs", 3), part("torch", "pairs", 2), part("jax", "both", 4, "it failed")
    ]  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(parts))
    kills.report(parts[:1], tmp_path)
    report = (tmp_path / "kills.md").read_text()
    for line in (
        "| torch | pairs | 6 | 4 | 2 | 5 | 5 |",
        "| jax | both | 3 | 2 | 1 | 5 | 4 |",
        "| **all** |  | 9 | 6 | 3 | 10 | 9 |",
        "it failed",
    ):
        assert line in report
