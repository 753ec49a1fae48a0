"""Training loops written by hand, one module a framework, each as an expert would write it.

Every module has `contestants(work)`: the classes by name. `loop` leaves the gradient to the
framework, `by_hand` writes it out, `products` and `products_joined` are the limit.
"""

import numpy as np


class Loop:
    """What the loops share: epochs over a resident data set, in the order of an index matrix.

    Args:
        work: A `Work`.
        x: Array of shape `(rows, visible)`.
        y: Labels of shape `(rows,)`.
        weights: Initial weights, as `Work.initial_weights` returns them.
    """

    def __init__(self, work, x, y, weights):
        self.work = work
        self.rows = len(x)
        self.generator = np.random.default_rng(0)

    def run(self, passes, shuffle=True):
        """Train for some passes over the data; return the mean loss over the last."""
        for _ in range(passes):
            order = self.generator.permutation(self.rows) if shuffle else np.arange(self.rows)
            loss = self.epoch(order.astype("int32").reshape(-1, self.work.batch))
        return float(loss)

    def epoch(self, batches):
        """Train on each row of indices; return the mean loss, on the device."""
        raise NotImplementedError
