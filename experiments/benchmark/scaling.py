"""How the time of training, and the memory of pretraining, grow with the problem."""

import dataclasses
import pathlib

import numpy as np

from experiments.benchmark.team import WorkerProcess
from experiments.benchmark.work import Work


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is varied; times are those of a dA at one batch size."""

    batch: int = 128
    examples: tuple = (1024, 2048, 4096, 8192, 16384)
    widths: tuple = ((196, 250), (392, 500), (784, 1000), (1568, 2000))
    pretraining_examples: tuple = (10_000, 20_000, 40_000)
    pretraining_units: tuple = (500, 500)
    rounds: int = 5


QUICK = Sizes(16, (128, 256), ((49, 16), (98, 32)), (256, 512), (16, 16), 2)


def times(worker, sizes):
    """Return the seconds of `sda` for an epoch, by examples and by widths, with their exponents."""
    usual = Work("dA", 500, sizes.batch)
    by_examples = [(n, usual, n // sizes.batch) for n in sizes.examples]
    steps = sizes.examples[-2] // sizes.batch
    by_widths = [
        (visible * width, dataclasses.replace(usual, visible=visible, width=width), steps)
        for visible, width in sizes.widths
    ]
    return {
        "examples": _fitted(worker, by_examples, sizes.rounds),
        "product_of_widths": _fitted(worker, by_widths, sizes.rounds),
    }


def _fitted(worker, points, rounds):
    seconds = [
        worker.call(
            "epoch_seconds", name="sda", work=dataclasses.asdict(work), steps=steps, rounds=rounds
        )
        for _, work, steps in points
    ]
    sizes = [size for size, _, _ in points]
    return {"sizes": sizes, "seconds": seconds, "exponent": exponent(sizes, seconds)}


def exponent(sizes, values):
    """Return p of values ≈ c · sizes^p, by least squares on the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def memory(backend, data, folder, seed, sizes, visible=784):
    """Return the peak memory of pretraining by examples, each in a process of its own."""
    peaks = []
    for examples in sizes.pretraining_examples:
        worker = WorkerProcess(backend, data, pathlib.Path(folder) / "pretraining.log", seed)
        try:
            peaks.append(
                worker.call(
                    "pretrain",
                    examples=examples,
                    visible=visible,
                    units=list(sizes.pretraining_units),
                )
            )
        finally:
            worker.close()
    slope, constant = np.polyfit(sizes.pretraining_examples, peaks, 1)
    return {
        "examples": list(sizes.pretraining_examples),
        "peak_bytes": peaks,
        "bytes_per_example": float(slope),
        "constant_bytes": float(constant),
        # float32 data, and the codes of the layer below and of the layer that is encoded.
        "bytes_per_example_of_data": 4 * visible,
        "bytes_per_example_of_codes": 4 * max(sizes.pretraining_units),
    }
