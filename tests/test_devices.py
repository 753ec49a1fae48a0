"""The devices that a run says it computed on, and what a dispatch holds on them."""

import types

import keras
import pytest

from sda import devices, runs
from sda.training import fit as training

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


def steps_per_dispatch(units, batch):
    """The steps a dispatch of a network of 1000 x `units` weights on 100,000 rows."""
    layers = [keras.Input((1000,)), keras.layers.Dense(units, use_bias=False)]
    trainer = object.__new__(training.Trainer)
    trainer.model, trainer.batch_size = keras.Sequential(layers), batch
    trainer.steps = 100_000 // batch
    return trainer._usual_steps_per_dispatch()


def test_a_record_names_the_gpu(gpu):
    assert devices.accelerators() == ["Card 1"]
    machine = runs.circumstances(1)["machine"]
    assert machine["accelerators"] == ["Card 1"]
    assert runs.machine_name(machine).endswith(" cores, Card 1")


def test_a_dispatch_on_a_gpu_is_longer(monkeypatch):
    monkeypatch.setattr(training, "accelerators", lambda: ["Card 1"])
    # 160 · 6e10 FLOPs, at 6 · rows · 1000 · units a step, and of 500 rows at least.
    assert steps_per_dispatch(10, 1000) == 160_000
    assert steps_per_dispatch(10, 20) == steps_per_dispatch(10, 500) == 320_000


@pytest.mark.skipif(bool(devices.accelerators()), reason="there is a GPU")
def test_without_a_gpu_a_record_names_none_and_dispatches_are_short():
    assert "accelerators" not in runs.circumstances(1)["machine"]
    assert steps_per_dispatch(10, 1000) == 1000
    # 1/32 of an epoch at least.
    assert steps_per_dispatch(1000, 20) == 500
    assert steps_per_dispatch(1000, 1) == 3125
    assert runs.machine_name({"processor": "One", "cores": 2}) == "One, 2 cores"
