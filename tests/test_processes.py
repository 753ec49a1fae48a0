"""Several processes on one training, on JAX: two of them on the loopback address."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import trained_together

import sda
from sda.checkpoints import codec

if keras.backend.backend() != "jax":
    pytest.skip("JAX alone has several processes", allow_module_level=True)

SECONDS = 400


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Let two processes run the program; the second one dies in its second training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folders = [tmp_path_factory.mktemp(f"rank_{rank}") for rank in range(2)]
    with contextlib.ExitStack() as stack:
        running = []
        for rank, folder in enumerate(folders):
            command = [trained_together.__file__, str(folder), address, "2", str(rank)]
            log = stack.enter_context(open(folder / "log.txt", "w"))
            running.append(
                subprocess.Popen([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT)
            )
            stack.callback(running[-1].kill)
        codes = [process.wait(SECONDS) for process in running]
    log = (folders[0] / "log.txt").read_text()
    assert codes == [0, -signal.SIGKILL], log[-3000:]
    return folders


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained_together.train(tmp_path_factory.mktemp("alone"))


def test_what_is_tested_is_what_the_processes_import(folders):
    for folder in folders:
        assert (folder / "imported.txt").read_text() == sda.__file__


def test_two_processes_learn_what_one_learns(folders, alone):
    for folder in folders:
        found = np.load(folder / "found.npz")
        assert set(found) == set(alone)
        for name in alone:
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-6, atol=1e-6)


def test_a_step_sends_one_sum_of_the_gradients_and_no_more(folders):
    ((what, kind),) = json.loads((folders[0] / "collectives.json").read_text())
    assert kind == "all-reduce"
    shapes = re.findall(r"f32\[([\d,]*)\]", what)
    # Kernel, bias, visible bias and the loss.
    assert sorted(shapes) == sorted(["12,8", "8", "12", ""])


def test_the_first_process_alone_writes_files(folders):
    of_first, of_second = ({p.name for p in folder.iterdir()} for folder in folders)
    assert of_first - of_second == {"pretraining", "finetuning", "cut_off", "error.txt"}
    assert not of_second - of_first


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("batch size", r"multiple of the 2 devices that share a batch. Received: batch_size=5"),
        ("seeds", r"process 0: .*seed=0; process 1: .*seed=1"),
        ("rows", r"process 0: .*rows=105.*; process 1: .*rows=104"),
        ("cache", r"`cache` to be None where several processes train together"),
        ("folder", r"Not a directory"),
        ("no distribution", r"set_distribution.*Received: 2 processes, each of which would train"),
        ("made before", r"set_distribution before the model was made.*Received: '.*kernel' on"),
    ],
)
def test_all_processes_refuse_what_one_would(folders, what, said):
    for folder in folders:
        refusals = json.loads((folder / "refusals.json").read_text())
        assert re.search(said, refusals[what], re.S), refusals[what]


def test_a_process_that_dies_ends_the_run_with_a_clear_error(folders):
    said = (folders[0] / "error.txt").read_text()
    assert said.startswith("Expected all 2 processes to train together. Received: one of them")
    assert "checkpoint_dir" in said


def test_one_process_goes_on_where_two_were_cut_off(folders, alone):
    folder = folders[0] / "cut_off"
    newest = max((folder / "pretraining").glob("*.checkpoint"))
    saved = codec.read(newest)
    assert (
        len(saved["context"]["histories"]),
        saved["progress"]["position"]["epoch"],
    ) == (1, 2)
    assert not (folder / "finetuning").exists()
    found = trained_together.train(folder)
    for name in alone:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-6, atol=1e-6)
