import dataclasses
import json

import keras
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import rounds, scaling
from experiments.benchmark.digits import load_digits
from experiments.benchmark.loops import numpy as loops
from experiments.benchmark.team import WorkerError, WorkerProcess
from experiments.benchmark.work import Work, plan

BACKEND = keras.backend.backend()
TRAINED = {"sda", "fit", "loop"}
SMALL = {"dA": Work("dA", 12, 4, visible=20), "fine-tuning": Work("fine-tuning", 9, 4, visible=20)}


@pytest.fixture
def digits():
    return load_digits(quick=True, seed=1)[1:]


@pytest.mark.slow
def test_a_quick_run_measures_every_contestant(tmp_path):
    benchmark.main(["--quick", "--backends", BACKEND, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"numpy", "keras", BACKEND} <= set(results["versions"])
    assert [work["kind"] for work in results["works"]] == ["dA", "fine-tuning"]
    for work in results["works"]:
        contestants = work["contestants"]
        kinds = {name.removeprefix(f"{BACKEND}/") for name in contestants}
        assert kinds >= TRAINED | {"products"}
        assert work["losses_agree"]
        assert all(len(c["rounds"]) == 2 and min(c["rounds"]) > 0 for c in contestants.values())
        assert set(work["losses"]["as_timed"]) >= {f"{BACKEND}/{kind}" for kind in TRAINED}
        assert all(ratio > 0 for ratio in work["ratios"][f"{BACKEND}/sda"].values())
        assert work["limit"] > 0
        assert work["peak_memory_bytes"][BACKEND] > 0
    found = results["scaling"][BACKEND]
    assert all(np.isfinite(found[key]["exponent"]) for key in ("examples", "product_of_widths"))
    assert all(peak > 0 for peak in found["memory"]["peak_bytes"])
    for name in ("results.md", "speed.png", "scaling.png"):
        assert (tmp_path / name).stat().st_size > 0


# The check of the losses


def numpy_loss(work, digits, steps=64):
    """The mean loss of the float32 loop on NumPy, which starts from the seed 1."""
    classes = {"dA": loops.TiedAutoencoder, "fine-tuning": loops.Classifier}
    loop = classes[work.kind](work, *work.data(*digits, steps), work.initial_weights(1))
    return loop.run(1, shuffle=False)


@pytest.mark.parametrize("kind", SMALL)
def test_the_losses_of_the_same_work_agree(kind, digits):
    work = dataclasses.replace(SMALL[kind], corruption=0.0)
    expected = rounds.reference_loss(work, digits, 1, 64)
    rounds.check_losses({"reference": expected, "a": numpy_loss(work, digits)}, rounds.EXACT)


@pytest.mark.parametrize("kind", SMALL)
def test_another_rate_is_found_out(kind, digits):
    work = dataclasses.replace(SMALL[kind], corruption=0.0, rate=0.2)
    expected = rounds.reference_loss(work, digits, 1, 256)
    loss = numpy_loss(dataclasses.replace(work, rate=1.3 * work.rate), digits, 256)
    with pytest.raises(rounds.LossesDiffer, match="a/loop"):
        rounds.check_losses({"reference": expected, "a/loop": loss}, rounds.EXACT)


def test_forgotten_noise_is_found_out(digits):
    work = Work("dA", 200, 4)
    expected = rounds.reference_loss(work, digits, 1, 128)
    losses = {"reference": expected, "noisy": numpy_loss(work, digits, 128)}
    rounds.check_losses(losses, rounds.NOISY)
    losses["clean"] = numpy_loss(dataclasses.replace(work, corruption=0.0), digits, 128)
    with pytest.raises(rounds.LossesDiffer, match="clean"):
        rounds.check_losses(losses, rounds.NOISY)


def test_a_loss_that_is_not_a_number_is_found_out():
    with pytest.raises(rounds.LossesDiffer):
        rounds.check_losses({"reference": 1.0, "a": float("nan")}, rounds.NOISY)


# The loop that is the reference


@pytest.mark.parametrize("kind", SMALL)
def test_the_reference_follows_the_gradient(kind, digits):
    """One step of the loop is the rate times the slope of the loss by finite differences."""
    work = dataclasses.replace(SMALL[kind], corruption=0.0, rate=1e-3)
    data = work.data(*digits, 1)
    start = [w.astype("float64") for w in work.initial_weights(1)]

    def stepped(weights):
        classes = {"dA": loops.TiedAutoencoder, "fine-tuning": loops.Classifier}
        loop = classes[kind](work, *data, weights, dtype="float64")
        loss = loop.run(1, shuffle=False)
        if kind == "dA":
            return loss, loop.weights
        return loss, [w for pair in zip(loop.kernels, loop.biases, strict=True) for w in pair]

    after = stepped(start)[1]
    for k, weight in enumerate(start):
        position = tuple(n // 2 for n in weight.shape)
        losses = []
        for shift in (1e-5, -1e-5):
            shifted = [w.copy() for w in start]
            shifted[k][position] += shift
            losses.append(stepped(shifted)[0])
        slope = (losses[0] - losses[1]) / 2e-5
        taken = (weight - after[k])[position] / work.rate
        np.testing.assert_allclose(taken, slope, rtol=1e-5, atol=1e-8)


# What is planned, and what is made of the times


def test_the_plan_is_the_matrix_or_a_cross():
    matrix = plan((1, 20, 128, 1024), (500, 1000, 2000), full=True)
    cross = plan((1, 20, 128, 1024), (500, 1000, 2000), full=False)
    assert len(set(matrix)) == 24
    assert set(cross) < set(matrix)
    assert {w.batch for w in cross if (w.kind, w.width) == ("dA", 500)} == {1, 20, 128, 1024}
    assert {w.batch for w in cross if (w.kind, w.width) == ("dA", 2000)} == {20, 128}


def test_flops_count_the_products():
    assert Work("dA", 500, 20).flops == 2 * 20 * 5 * 784 * 500
    layers = (784 * 30, 30 * 30, 30 * 30, 30 * 10)
    assert Work("fine-tuning", 30, 1).flops == 2 * (3 * sum(layers) - layers[0])


def test_the_exponent_is_that_of_the_power():
    sizes = np.array([1, 2, 5, 9])
    assert scaling.exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)


def test_ratios_are_medians_of_the_rounds():
    contestants = {
        "jax/sda": {"rounds": [2.0, 8.0, 30.0]},
        "jax/loop": {"rounds": [1.0, 2.0, 10.0]},
        "jax/products": {"rounds": [50.0, 60.0, 70.0]},
    }
    assert rounds.ratios(contestants) == {"jax/sda": {"jax/loop": 3.0}}
    assert rounds.limit(contestants) == 60


# Workers


@pytest.fixture
def worker(tmp_path, digits):
    data = tmp_path / "digits.npz"
    np.savez(data, x=digits[0], y=digits[1])
    worker = WorkerProcess("numpy", data, tmp_path / "numpy.log", 1)
    yield worker
    worker.close()
    assert worker.process.poll() is not None


def test_a_worker_tells_what_went_wrong(worker):
    with pytest.raises(WorkerError, match="KeyError"):
        worker.call("time", name="nobody")
    assert worker.call("peak_memory") > 0


def test_a_worker_that_has_died_is_reported(worker):
    worker.process.kill()
    worker.process.wait(timeout=10)
    with pytest.raises(WorkerError, match="has ended"):
        worker.call("peak_memory")
