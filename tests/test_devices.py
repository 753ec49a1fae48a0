"""The devices that a run says it computed on, and what a dispatch holds on them."""

import types

import keras
import numpy as np
import pytest

import sda
from sda import runs
from sda.distribution import devices

BACKEND = keras.backend.backend()


@pytest.fixture
def gpu(monkeypatch):
    """Let the backend find a GPU beside the processor."""
    if BACKEND == "jax":
        import jax

        found = [
            types.SimpleNamespace(platform="cpu", device_kind="cpu"),
            types.SimpleNamespace(platform="gpu", device_kind="Card 1"),
        ]
        monkeypatch.setattr(jax, "local_devices", lambda: found)
    elif BACKEND == "torch":
        import torch

        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {i + 1}")
    else:
        import tensorflow as tf

        card = types.SimpleNamespace(name="/physical_device:GPU:0")
        monkeypatch.setattr(
            tf.config, "get_visible_devices", lambda kind=None: [card] * (kind == "GPU")
        )
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda d: {"device_name": "Card 1"}
        )


class Enough(Exception):
    """Ends a training after a dispatch, which is when the callbacks for batches fire."""


def end(batch, logs):
    raise Enough(batch + 1)


def steps_per_dispatch(weights):
    """The first dispatch of 2000 steps of one row, by a network of so many weights and 2 more."""
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            keras.layers.Embedding(weights, 1, "zeros", trainable=False),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x, y = np.zeros((2000, 1), "int32"), np.zeros((2000, 1), "float32")
    callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=end)]
    with pytest.raises(Enough) as ended:
        sda.fit(model, x, y, batch_size=1, callbacks=callbacks, verbose=0)
    return ended.value.args[0]


def test_a_record_names_the_gpu(gpu):
    assert devices.accelerators() == ["Card 1"]
    machine = runs.circumstances(1)["machine"]
    assert machine["accelerators"] == ["Card 1"]
    assert runs.machine_name(machine).endswith(" cores, Card 1")


def test_a_dispatch_on_a_gpu_is_longer(monkeypatch):
    monkeypatch.setattr("sda.training.pace.accelerators", lambda: ["Card 1"])
    # 160 · 6e10 FLOPs, at 6 · weights a row, and of 500 rows at least.
    assert steps_per_dispatch(19_000_000) == 168


@pytest.mark.skipif(bool(devices.accelerators()), reason="there is a GPU")
def test_without_a_gpu_a_record_names_none_and_dispatches_are_short():
    assert "accelerators" not in runs.circumstances(1)["machine"]
    # 6e10 FLOPs, of 16 rows at least.
    assert steps_per_dispatch(1_100_000) == 568
    # 1/32 of an epoch at least.
    assert steps_per_dispatch(19_000_000) == 63
    assert runs.machine_name({"processor": "One", "cores": 2}) == "One, 2 cores"
