"""Two replicas on one training, on TensorFlow."""

import subprocess
import sys

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("MirroredStrategy is TensorFlow's", allow_module_level=True)

import mirrored

import sda


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored")
    subprocess.run([sys.executable, mirrored.__file__, str(folder)], check=True, timeout=400)
    arrays = {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}
    return {**arrays, "refusal": (folder / "refusal.txt").read_text()}


def test_two_replicas_learn_what_one_device_learns(found):
    alone = mirrored.train()
    assert set(found["without_noise"]) == set(alone)
    for name in alone:
        # A few digits are as near to one class as to another.
        np.testing.assert_allclose(found["without_noise"][name], alone[name], rtol=1e-5, atol=1e-6)


def test_every_replica_has_a_mask_of_its_own(found):
    masks = found["masks"]["arr_0"]
    assert masks.shape == (2, 2, 50, 40)
    first = sda.MaskingNoise(0.5, seed=1)
    for call in range(2):
        # The first replica's is that of a single device; the other's is independent of it.
        np.testing.assert_array_equal(masks[call, 0], first(np.ones((50, 40)), training=True))
        assert abs(np.mean(masks[call, 0] == masks[call, 1]) - 0.5) < 0.06
    assert np.all(np.abs(masks.mean(axis=(2, 3)) - 0.5) < 0.06)
    assert abs(np.mean(masks[0, 1] == masks[1, 1]) - 0.5) < 0.06


def test_replicas_go_on_where_they_were_cut_off(found):
    for name, values in found["with_noise"].items():
        assert np.all(np.isfinite(values))
        np.testing.assert_allclose(found["resumed"][name], values, rtol=1e-5, atol=1e-6)


def test_a_batch_that_replicas_cannot_divide_is_refused(found):
    assert "a multiple of the 2 devices" in found["refusal"]
    assert found["refusal"].endswith("Received: batch_size=5")
