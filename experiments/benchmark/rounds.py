"""One work, measured: do all contestants learn the same, and how fast is each."""

import dataclasses
import statistics
import time

from experiments.benchmark.loops import numpy as reference

# Relative differences of the mean loss over the first steps. Without noise only rounding differs.
# With it every contestant draws masks of its own: about 0.3 % then, where no noise at all or twice
# the rate make 8 % and more.
EXACT = 1e-3
NOISY = 0.012


# The threads of OpenMP and OpenBLAS go on spinning for a while when their work is done, and would
# take that time from the worker whose turn is next. (Told to sleep at once, they are half as fast.)
SETTLING = {"torch": 0.2, "numpy": 0.2}


class LossesDiffer(AssertionError):
    """A contestant does not do the work that the others do."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to look.

    Args:
        rounds: Integer, the times that every contestant is measured.
        seconds: Float, what one measurement should take.
        check_examples: Integer, the examples over which the losses are compared.
    """

    rounds: int = 5
    seconds: float = 0.5
    check_examples: int = 1024

    def check_steps(self, batch):
        return max(8, min(256, self.check_examples // batch))


def measure(work, workers, digits, seed, effort, report=print):
    """Return the results of one work as a dictionary, contestants named "backend/name".

    Args:
        work: A `Work`.
        workers: Dictionary {backend: WorkerProcess}.
        digits: `(x, y)`, as the workers have it.
        seed: Integer, the seed of the initial weights, as the workers have it.
        effort: An `Effort`.
        report: Function that gets lines about the progress.

    Raises:
        LossesDiffer: If a contestant's loss is not that of the reference.
    """
    arguments = dataclasses.asdict(work)
    names = [
        (backend, name)
        for backend, worker in workers.items()
        for name in worker.call("contestants", work=arguments)
    ]
    steps = effort.check_steps(work.batch)
    contestants = {
        f"{backend}/{name}": workers[backend].call(
            "prepare", name=name, work=arguments, steps=steps, seconds=effort.seconds
        )
        for backend, name in names
    }
    losses = compare(work, workers, contestants, digits, seed, steps)
    report(f"  the same loss for all {len(without_products(contestants))}")
    for result in contestants.values():
        result["rounds"] = []
    for turn in range(effort.rounds):
        for backend, name in names[turn % len(names) :] + names[: turn % len(names)]:
            result = contestants[f"{backend}/{name}"]
            examples = result["steps"] * result["passes"] * work.batch
            result["rounds"].append(examples / workers[backend].call("time", name=name))
            time.sleep(SETTLING.get(backend, 0))
    for worker in workers.values():
        worker.call("clear")
    return {
        **arguments,
        "title": work.title,
        "losses": losses,
        "losses_agree": True,
        "contestants": summary(contestants),
        "ratios": ratios(contestants),
        "limit": limit(contestants),
        "limit_gflops": limit(contestants) / work.batch * work.flops / 1e9,
        "peak_memory_bytes": {b: worker.call("peak_memory") for b, worker in workers.items()},
    }


def compare(work, workers, contestants, digits, seed, steps):
    """Return the losses by contestant, and by NumPy in float64, of the same first steps.

    Those of the contestants as timed, and of a dA also without noise.
    """
    trained = without_products(contestants)
    losses = {name: result.pop("first_loss") for name, result in trained.items()}
    losses["reference"] = reference_loss(work, digits, seed, steps)
    if work.kind != "dA":
        check_losses(losses, EXACT)
        return {"as_timed": losses}
    check_losses(losses, NOISY)
    noiseless = dataclasses.replace(work, corruption=0.0)
    exact = {"reference": reference_loss(noiseless, digits, seed, steps)}
    for contestant in trained:
        backend, name = contestant.split("/")
        exact[contestant] = workers[backend].call(
            "first_loss", name=name, work=dataclasses.asdict(noiseless), steps=steps
        )
    check_losses(exact, EXACT)
    return {"as_timed": losses, "without_noise": exact}


def without_products(contestants):
    """Return the entries of the contestants that train."""
    return {name: value for name, value in contestants.items() if "/products" not in name}


def reference_loss(work, digits, seed, steps):
    """Return the mean loss over the first steps in float64, by NumPy."""
    classes = {"dA": reference.TiedAutoencoder, "fine-tuning": reference.Classifier}
    weights = work.initial_weights(seed)
    model = classes[work.kind](work, *work.data(*digits, steps), weights, dtype="float64")
    return model.run(1, shuffle=False)


def check_losses(losses, tolerance):
    """Raise `LossesDiffer` unless all losses are within `tolerance`, relative, of "reference"."""
    expected = losses["reference"]
    wrong = {
        name: loss
        for name, loss in losses.items()
        if not abs(loss - expected) <= tolerance * abs(expected)  # a NaN is wrong
    }
    if wrong:
        raise LossesDiffer(
            f"Expected every contestant to reach a loss of {expected:.6g}, within a factor of "
            f"{tolerance:g}. Received: {wrong}"
        )


def summary(contestants):
    """Return the contestants with medians, and their share of the limit."""
    return {
        name: {
            "examples_per_second": statistics.median(result["rounds"]),
            "share_of_limit": statistics.median(result["rounds"]) / limit(contestants),
            **result,
        }
        for name, result in contestants.items()
    }


def limit(contestants):
    """Return the examples a second of the products alone, on the fastest framework."""
    return max(
        statistics.median(result["rounds"])
        for name, result in contestants.items()
        if "/products" in name
    )


def ratios(contestants):
    """Return {"backend/sda": {other: ratio}}: medians of the ratios of speed in each round."""
    return {
        ours: {
            other: statistics.median(
                a / b for a, b in zip(result["rounds"], theirs["rounds"], strict=True)
            )
            for other, theirs in without_products(contestants).items()
            if other != ours
        }
        for ours, result in contestants.items()
        if ours.endswith("/sda")
    }
