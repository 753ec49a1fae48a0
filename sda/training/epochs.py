"""The epochs of a training or an evaluation, cut into dispatches: of rows, or of batches.

Both kinds have one face, `Epochs`, and nobody asks which it is.
"""

import collections
import functools
import math

import numpy as np

from sda.rows.arrays import ArrayRows
from sda.rows.iterated import warn_of_end
from sda.rows.orders import checked_indices, checked_length
from sda.training.batches import Batches
from sda.training.drivers import feed_for
from sda.training.feed import leaves, map_leaves
from sda.training.pace import steps_of_batches, steps_of_rows


def epochs_of(run, driver, at_once=False):
    """Return the `Epochs` of a run, on rows or on `Batches`."""
    kind = EpochsOfBatches if isinstance(run.data, Batches) else EpochsOfRows
    return kind(run, driver, at_once)


class Epochs:
    """Base of the epochs of a run.

    Args:
        run: A `Run`.
        driver: The driver of its model, which brings the data to the device.
        at_once: Whether all steps of an epoch of rows that can be are one dispatch: no callback
            waits for a step.
    """

    repeatable = True
    """Whether what is left of an epoch can be had again, in another process."""

    steps = None
    """How many steps an epoch has, or None where that is not known."""

    def dispatches(self, epoch, step=0):
        """Yield (first step, number of steps, function) of what is left of an epoch from `step` on.

        The function lets a method of a driver run on the steps.
        """
        raise NotImplementedError

    def more(self):
        """Return whether there is another epoch."""
        return True

    def restart(self):
        """Let the next epoch begin with the data anew."""

    def skip(self, epoch):
        """Leave an epoch out, which another process had."""

    def close(self):
        """Let go of what serves the data."""


class EpochsOfRows(Epochs):
    def __init__(self, run, driver, at_once=False):
        self.order, self.first = run.order, run.initial_epoch
        self.rows = len(leaves(run.data)[0])
        self.length = checked_length(self.order, self.rows)
        self.batch_size = min(run.batch_size, self.length)
        self.feed = feed_for(driver, run.data)
        self.steps_of_all = math.ceil(self.length / self.batch_size)
        self.steps = run.steps_per_epoch or self.steps_of_all
        whole = self.length // self.batch_size
        usual = run.steps_per_dispatch() or steps_of_rows(run.model, self.batch_size, self.steps)
        self.steps_per_dispatch = whole if at_once else min(usual, self.steps, whole)

    def dispatches(self, epoch, step=0):
        # The epochs of a pass share its rows, in the order of the pass.
        epochs_a_pass = math.ceil(self.steps_of_all / self.steps)
        number, part = divmod(epoch - self.first, epochs_a_pass)
        order = checked_indices(self.order, self.first + number, self.rows)
        before = part * self.steps
        end = min(before + self.steps, self.steps_of_all)
        cut = list(self._cut(order, before + step, end))
        with self.feed.reading((batches for _, batches in cut), self.steps_per_dispatch) as run:
            for start, batches in cut:
                yield start - before, len(batches), functools.partial(run, batches=batches)
        if end - before < self.steps:
            warn_of_end("x", end - before, self.steps)

    def _cut(self, order, step, end):
        """Yield (first step, index matrix of the steps) for each dispatch from `step` to `end`."""
        whole = self.length // self.batch_size
        batches = order[: whole * self.batch_size].reshape(whole, self.batch_size)[:end]
        for start in range(step, len(batches), self.steps_per_dispatch):
            yield start, batches[start : start + self.steps_per_dispatch]
        if step <= whole < end:
            yield whole, order[None, whole * self.batch_size :]


class EpochsOfBatches(Epochs):
    # What a source yields next cannot be saved.
    repeatable = False

    def __init__(self, run, driver, at_once=False):
        self.batches, self.driver, self.order = run.data, driver, run.order
        self.steps = self.batches.length()
        given = run.steps_per_dispatch()
        self.steps_of = lambda batch: given or steps_of_batches(run.model, batch)

    def dispatches(self, epoch, step=0):
        start = 0
        for data, steps, most in self._asked(epoch):
            yield start, steps, functools.partial(self._run, data, steps, most)
            start += steps

    def _asked(self, epoch):
        return self.batches.dispatches(self.steps_of, functools.partial(self.order.indices, epoch))

    def _run(self, data, steps, most, function):
        """Let the driver run on the rows of `steps` batches, of at most as many a dispatch."""
        rows = len(leaves(data)[0])
        batches = np.arange(rows, dtype="int32").reshape(steps, -1)
        if 1 < steps < most:
            # Of one shape, so that a backend compiles once.
            last = batches[-1]
            data = map_leaves(
                lambda a: ArrayRows(np.concatenate([a[:], *[a[last]] * (most - steps)])), data
            )
        with feed_for(self.driver, data).reading([batches], most) as run:
            run(function, batches)

    def more(self):
        return self.batches.more()

    def restart(self):
        self.batches.restart()

    def skip(self, epoch):
        collections.deque(self._asked(epoch), maxlen=0)

    def close(self):
        self.batches.close()
