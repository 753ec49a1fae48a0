"""What every result carries: versions, machine, seed; and how long it took."""

import contextlib
import statistics
import time

import keras

from sda import runs
from sda.runs import write_json

__all__ = ["EpochClock", "circumstances", "matmul_precision", "timed", "write_json"]


def circumstances(seed):
    """Return the seed, the versions and the machine as a dictionary for JSON."""
    return {**runs.circumstances(seed), **matmul_precision()}


def matmul_precision():
    """Return {"matmul_precision": …}, if PyTorch was allowed less than float32 in its products."""
    if keras.backend.backend() != "torch":
        return {}
    import torch

    precision = torch.get_float32_matmul_precision()
    return {} if precision == "highest" else {"matmul_precision": precision}


@contextlib.contextmanager
def timed(seconds, phase, clock=time.perf_counter):
    """Add the seconds that the block takes to the dictionary `seconds`, under `phase`.

    With `time.process_time` as the clock they are those of all cores that worked for it together,
    whatever else the machine did in the meantime.
    """
    start = clock()
    yield
    seconds[phase] = round(clock() - start, 1)


class EpochClock(keras.callbacks.Callback):
    """Keeps the seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)

    def median(self):
        """Return the median, without the first epoch, which compiles."""
        return statistics.median(self.seconds[1:])
