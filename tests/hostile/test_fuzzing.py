"""The fuzzers run, and find nothing in a few mutations; thousands are for a shell."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import fuzzing
import pytest

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")


@pytest.mark.slow
@pytest.mark.parametrize(("script", "count"), [("fuzz_hdf5", 100), ("fuzz_models", 30)])
def test_a_few_mutations_are_accepted_or_refused(tmp_path, script, count):
    out = tmp_path / "counts.json"
    command = [sys.executable, HERE / f"{script}.py", "--mutations", str(count), "--out", out]
    paths = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--seed", "3"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(out.read_text())["counts"]
    assert counts["accepted"] + counts["refused"] == count
    assert counts["accepted"] > 0
    assert counts["refused"] > 0


def read(path):
    """What a reader may do wrong."""
    kind = path.read_text()
    if kind == "refused":
        raise ValueError("Expected `path` to be another. Received: this")
    if kind == "unclear":
        raise KeyError("what")
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        b"a" * 2**27
    while kind == "hang":
        pass
    if kind == "wait":
        time.sleep(60)


def test_each_kind_of_end_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    monkeypatch.setattr(fuzzing, "PATIENCE", 8)
    monkeypatch.setattr(fuzzing, "MUCH", 2**26)
    kinds = ["accepted", "refused", "crash", "unclear", "hang", "memory", "wait", "accepted"]
    path = tmp_path / "file"
    ends = fuzzing.tried(range(8), lambda number: path.write_text(kinds[number]), read, path)
    found = [(number, outcome) for number, outcome, *_ in ends]
    assert found == list(enumerate(kind.replace("wait", "hang") for kind in kinds))


def test_a_mutation_is_the_same_each_time():
    content = bytes(range(256))
    first, again = (fuzzing.mutated(content, random.Random("0/7")) for _ in range(2))
    assert first == again != content
