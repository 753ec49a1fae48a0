import mmap
import os

import pytest

from experiments import endurance

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
