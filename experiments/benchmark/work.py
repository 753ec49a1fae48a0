"""What the contestants train: a dA or a classifier, on which rows and from which weights."""

import dataclasses

import numpy as np

# What one pass of a contestant may hold in memory, in examples.
MOST_ROWS = 16384


@dataclasses.dataclass(frozen=True)
class Work:
    """Steps of plain SGD on batches of one size.

    A dA is tied, sigmoid, with cross-entropy summed over features and masking noise; fine-tuning is
    that of three sigmoid layers under a softmax. Losses are averaged over the batch.
    """

    kind: str  # "dA" or "fine-tuning"
    width: int
    batch: int
    visible: int = 784
    corruption: float = 0.3
    rate: float = 0.02

    @property
    def sizes(self):
        hidden = [self.width] if self.kind == "dA" else [*[self.width] * 3, 10]
        return [self.visible, *hidden]

    @property
    def title(self):
        return f"{self.kind} {'-'.join(map(str, self.sizes))}"

    @property
    def flops(self):
        """The floating-point operations of one step's matrix products."""
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        products = 5 * self.visible * self.width
        if self.kind != "dA":
            products = 3 * sum(m * n for m, n in pairs) - self.visible * self.width
        return 2 * self.batch * products

    def initial_weights(self, seed):
        """Return kernels and biases as float32 arrays; the last bias of a dA is the visible one.

        The output layer of a classifier starts small, so that no example is wrong with certainty:
        Keras's `fit` cuts off the gradient below p = 1e-7 on JAX and PyTorch.
        """
        generator = np.random.default_rng([seed, self.visible, self.width])
        weights = []
        for m, n in zip(self.sizes, self.sizes[1:], strict=False):
            limit = (0.1 if n == 10 and self.kind != "dA" else 4) * np.sqrt(6 / (m + n))
            weights += [generator.uniform(-limit, limit, (m, n)), np.zeros(n)]
        if self.kind == "dA":
            weights.append(np.zeros(self.visible))
        return [w.astype("float32") for w in weights]

    def data(self, x, y, steps):
        """Return the examples and labels of `steps` steps, from the start again where they end."""
        rows = np.arange(steps * self.batch) % len(x)
        if x.shape[1] != self.visible:
            x = np.resize(x, (len(x), self.visible))
        return x[rows], y[rows]


def plan(batches, widths, full):
    """Return the list of works: the whole matrix, or the widths only at batches 20 and 128."""
    scanned = batches if full else [b for b in batches if b in (20, 128)]
    usual = {"dA": 500, "fine-tuning": 1000}
    return [
        Work(kind, width, batch)
        for kind in usual
        for width in widths
        for batch in (batches if width == usual[kind] else scanned)
    ]
