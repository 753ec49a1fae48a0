"""The examples that all contestants learn."""

import numpy as np

import sda
from experiments.benchmark.work import MOST_ROWS


def load_digits(quick, seed):
    """Return (name, x, y): MNIST where it can be had, or else random numbers that look alike."""
    if not quick:
        try:
            (x, y), _ = sda.datasets.load("mnist")
            return "MNIST", x[:MOST_ROWS], y[:MOST_ROWS].astype("int32")
        except sda.datasets.DatasetUnavailableError as reason:
            print(f"All of MNIST is not available here:\n{reason}\n")
    rows = 512 if quick else MOST_ROWS
    generator = np.random.default_rng(seed)
    x = generator.random((rows, 784), "float32")
    x *= generator.random((rows, 784), "float32") < 0.2
    y = generator.integers(10, size=rows, dtype="int32")
    return "random, uniform in [0, 1], four in five zero", x, y
