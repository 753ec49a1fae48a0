"""How many steps share a dispatch, by what a step costs."""

import math

from sda.distribution.devices import accelerators
from sda.training import feed
from sda.training.feed import leaves

# A dispatch should take long enough to hide its own cost, and short enough for a live progress bar:
# a quarter of a second to half a second on two cores.
DISPATCH_FLOPS = 6e10
# On a GPU a dispatch costs some 2 ms, in which it could do as many times the arithmetic.
FASTER = 160
# With fewer rows a step waits: on a processor for memory, on a GPU for launches.
LEAST_ROWS, LEAST_ROWS_OF_GPU = 16, 500
# An epoch has no more dispatches than these, however long they are.
DISPATCHES = 32
# Of batches that come one by one a dispatch waits for no more than so many.
MOST_BATCHES = 32


def steps_of_rows(model, batch_size, steps):
    """Return how many steps of rows share a dispatch, where an epoch has `steps`."""
    return max(math.ceil(steps / DISPATCHES), _usual_steps(model, batch_size))


def steps_of_batches(model, batch):
    """Return how many batches like this one share a dispatch."""
    size = sum(a.nbytes for a in leaves(batch))
    usual = min(MOST_BATCHES, _usual_steps(model, len(leaves(batch)[0])))
    return max(1, min(usual, feed.RESIDENT_BYTES // feed.PIECES // size))


def _usual_steps(model, batch_size):
    """Return how many steps make a dispatch of a good length."""
    least, faster = (LEAST_ROWS_OF_GPU, FASTER) if accelerators() else (LEAST_ROWS, 1)
    flops = 6 * max(batch_size, least) * max(model.count_params(), 1)
    return max(int(faster * DISPATCH_FLOPS / flops), 1)
