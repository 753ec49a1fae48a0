"""Evaluation of a compiled model on rows or batches."""

import collections.abc
import functools

import numpy as np

from sda.distribution.devices import accelerators
from sda.rows.arrays import ArrayRows
from sda.training import feed
from sda.training.batches import Batches
from sda.training.drivers import driver_for, feed_for
from sda.training.feed import leaves, map_leaves

# A dispatch should take long enough to hide its own cost, and short enough for a live progress bar:
# a quarter of a second to half a second on two cores.
DISPATCH_FLOPS = 6e10
# On a GPU a dispatch costs some 2 ms, in which it could do as many times the arithmetic.
FASTER = 160
# With fewer rows a step waits: on a processor for memory, on a GPU for launches.
LEAST_ROWS, LEAST_ROWS_OF_GPU = 16, 500
# Of batches that come one by one a dispatch waits for no more than so many.
MOST_BATCHES = 32


class Evaluator:
    """Evaluates a compiled model on one set of data; called, it returns the logs.

    Args:
        model: A compiled `keras.Model`.
        data: Nested structure of `Rows`, as the model's `test_step` takes it.
        batch_size: Integer, the examples a step.
        driver: The driver to share, or None for a new one.
        frequency: After which epochs it is called, as `sda.fit`'s `validation_freq`.
    """

    def __init__(self, model, data, batch_size, driver=None, frequency=1):
        self.model = model
        self.frequency = frequency
        self.batches = data if isinstance(data, Batches) else None
        self.driver = driver or driver_for(model, data)
        if self.batches is not None:
            return
        self.feed = feed_for(self.driver, data)
        rows = len(leaves(data)[0])
        batch_size = min(batch_size, rows)
        whole = rows // batch_size
        order = np.arange(rows, dtype="int32")
        self.steps = whole
        self.dispatches = [
            m
            for m in (
                order[: whole * batch_size].reshape(whole, batch_size),
                order[None, whole * batch_size :],
            )
            if m.size
        ]

    def __call__(self):
        self.model.reset_metrics()
        if self.batches is not None:
            for data, steps, most in self._batches():
                run_joined(self.driver, data, steps, most, self.driver.test)
            return metric_logs(self.model)
        with self.feed.reading(self.dispatches, self.steps) as run:
            for batches in self.dispatches:
                run(self.driver.test, batches)
        return metric_logs(self.model)

    def go_through(self):
        """Ask a source of batches for those of one evaluation, and do nothing with them."""
        if self.batches is not None:
            collections.deque(self._batches(), maxlen=0)

    def _batches(self):
        self.batches.restart()
        return self.batches.dispatches(functools.partial(steps_of, self.model, None))


def steps_of(model, given, batch):
    """Return how many batches like this one share a dispatch."""
    if given is not None:
        return given
    size = sum(a.nbytes for a in leaves(batch))
    usual = min(MOST_BATCHES, usual_steps(model, len(leaves(batch)[0])))
    return max(1, min(usual, feed.RESIDENT_BYTES // feed.PIECES // size))


def usual_steps(model, batch_size):
    """Return how many steps make a dispatch of a good length."""
    least, faster = (LEAST_ROWS_OF_GPU, FASTER) if accelerators() else (LEAST_ROWS, 1)
    flops = 6 * max(batch_size, least) * max(model.count_params(), 1)
    return max(int(faster * DISPATCH_FLOPS / flops), 1)


def run_joined(driver, data, steps, most, function):
    """Let the driver run on the rows of `steps` batches, of at most as many a dispatch."""
    rows = len(leaves(data)[0])
    batches = np.arange(rows, dtype="int32").reshape(steps, -1)
    if 1 < steps < most:
        # Of one shape, so that a backend compiles once.
        last = batches[-1]
        data = map_leaves(
            lambda a: ArrayRows(np.concatenate([a[:], *[a[last]] * (most - steps)])), data
        )
    with feed_for(driver, data).reading([batches], most) as run:
        run(function, batches)


def metric_logs(model):
    return {name: float(value) for name, value in model.get_metrics_result().items()}
