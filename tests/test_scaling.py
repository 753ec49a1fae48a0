"""The cost model of docs/scaling.md against counts of others, and the experiment that checks it."""

import dataclasses
import math

import keras
import numpy as np
import pytest

import sda
from experiments import cost_model, scaling
from experiments.cost_model import Machine, Network

MACHINE = Machine(1e12, 1e11, 1e-5, 1e9, 1e-6, a_host=8, network=1e8)


def counted(model, x, y=None):
    """Return the FLOPs of a training step, as XLA counts those of the compiled program."""
    import jax

    sda.fit(model, x, y, batch_size=len(x), verbose=0)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in group] for group in groups)
    data = (x,) if y is None else (x, y)
    compiled = jax.jit(model.train_step).lower(state, data).compile()
    return compiled.cost_analysis()["flops"]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA counts them")
def test_flops_are_those_that_the_compiler_counts():
    x = np.random.default_rng(0).random((200, 300), "float32")
    stack = sda.StackedDenoisingAutoencoder([400], seed=1)
    stack.build((None, 300))
    pretrainer = sda.GreedyPretrainer(stack)
    dA, network = pretrainer.layer_model(0), Network.dA(300, 400)
    dA.optimizer.build(dA.trainable_variables)
    assert counted(dA, x, x) == pytest.approx(10 * 300 * 400 * 200, rel=0.05)
    assert network.flops_a_weight * network.weights * 200 == 10 * 300 * 400 * 200
    assert sum(network.arrays) == dA.count_params() + 1

    stack = sda.StackedDenoisingAutoencoder([400, 350], seed=1)
    stack.build((None, 300))
    model = stack.classifier(10)
    model.compile("sgd", "sparse_categorical_crossentropy")
    network = Network.classifier((300, 400, 350, 10))
    assert network.weights == 300 * 400 + 400 * 350 + 350 * 10
    assert sum(network.arrays) == model.count_params() + 1  # and the loss
    expected = network.flops_a_weight * network.weights * 200
    assert counted(model, x, np.arange(200) % 10) == pytest.approx(expected, rel=0.05)


def test_a_sum_takes_the_messages_and_bytes_of_a_ring_or_tree():
    arrays = (200_000, 50_000)  # 1 MB
    assert cost_model.allreduce_seconds(arrays, 1, MACHINE) == 0
    # Two devices: each sends one half, and gets the sum of the other.
    assert cost_model.messages(2) == 2
    assert cost_model.allreduce_seconds(arrays, 2, MACHINE) == pytest.approx(2e-6 + 1e6 / 1e9)
    # A ring of three; a tree of 64, over the network between hosts.
    assert cost_model.messages(3) == 4
    assert cost_model.messages(64) == 12
    sent = 2 * 63 / 64 * 1e6 / 1e8
    assert cost_model.allreduce_seconds(arrays, 64, MACHINE) == pytest.approx(12e-6 + sent)
    each = dataclasses.replace(MACHINE, together=False)
    assert cost_model.allreduce_seconds(arrays, 64, each) == pytest.approx(2 * 12e-6 + sent)


def test_a_step_is_bound_by_memory_or_by_products():
    network = Network.dA(100, 50)
    weights = 7 * 4 * 5000 / 1e11
    assert cost_model.compute_seconds(network, 1, MACHINE) == pytest.approx(1e-5 + weights)
    products = 10 * 5000 * 1e4 / 1e12
    assert cost_model.compute_seconds(network, 1e4, MACHINE) == pytest.approx(1e-5 + products)


def test_more_devices_help_large_batches_only():
    network = Network.dA(784, 1000)
    assert cost_model.speedup(network, 20, 8, cost_model.H100) < 1
    assert cost_model.most_useful(network, 20, cost_model.H100) == 1
    assert 1 < cost_model.speedup(network, 10**7, 8, cost_model.H100) < 8
    batches = [10**k for k in range(2, 8)]
    useful = [cost_model.most_useful(network, b, cost_model.H100) for b in batches]
    assert useful == sorted(useful)
    # An average every step costs what a shared step does.
    machine = cost_model.H100
    often = cost_model.local_seconds(network, 100, 8, machine, every=1)
    assert often == pytest.approx(cost_model.step_seconds(network, 800, 8, machine))
    assert cost_model.local_seconds(network, 100, 8, machine, every=100) < often


def test_the_machine_is_found_again_from_the_times_that_it_makes():
    machine = Machine(2e11, math.inf, 3e-4, 5e8, 2e-5)
    network = Network.dA(scaling.VISIBLE, scaling.HIDDEN)
    alone = {"dA": {b: cost_model.compute_seconds(network, b, machine) for b in (10, 100, 900)}}
    sums = {n: cost_model.allreduce_seconds((n,), 2, machine) for n in (10, 10**6)}
    fitted = scaling.fitted(alone, {"sum": sums})
    assert fitted.flops == pytest.approx(machine.flops)
    assert fitted.overhead == pytest.approx(machine.overhead)
    assert fitted.link == pytest.approx(machine.link)
    assert fitted.latency == pytest.approx(machine.latency, rel=0.01)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="JAX would compile for minutes")
def test_the_experiment_measures_and_reports(tmp_path):
    scaling.main(["--quick", "--out", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    for heading in ("## Measured", "## Larger batches", "## Local steps", "## Predicted"):
        assert heading in text
    assert "| dA 784-1000 | 8 |" in text
    assert (tmp_path / "speedup.png").exists()
