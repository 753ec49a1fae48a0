"""The orders in which the rows of an epoch are read.

An order is an object: a rule, and the seed of its draws. A model that is to see its rows in one of
its own, such as some of them more often than others, says so by a method
`training_order(shuffle, seed)`, which is given what `fit` was and returns an `Order`.
"""

import math

import numpy as np

# Of the order "blocks": the consecutive rows of a block, and the blocks of a window.
BLOCK = 512
WINDOW = 16


class Order:
    """Base of the orders: a function of the seed, the epoch and the number of rows.

    A subclass implements `indices`, and `length` where an epoch has not each row once. Where it has
    settings, it adds them to `get_config`: they are part of what a run is.

    Args:
        seed: Integer, or None where nothing is drawn.
    """

    together = 1
    """How many consecutive rows stay together, until a window of them is shuffled."""

    window = math.inf
    """How many rows are shuffled among themselves."""

    def __init__(self, seed=None):
        self.seed = seed

    def indices(self, epoch, rows):
        """Return the numbers of the rows of an epoch, as an int32 array of shape `(length,)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `indices(epoch, rows)`.")

    def length(self, rows):
        """Return how many rows an epoch has, of a source of `rows`."""
        return rows

    def get_config(self):
        return {"seed": self.seed}

    def _generator(self, epoch):
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))


class InOrder(Order):
    """The rows as they come."""

    together = math.inf
    window = 1

    def indices(self, epoch, rows):
        return np.arange(rows, dtype="int32")


class Permutation(Order):
    """All rows in a new random order in each epoch."""

    def indices(self, epoch, rows):
        return self._generator(epoch).permutation(rows).astype("int32")


class Blocks(Order):
    """An order that a disk can follow, another one in each epoch.

    Blocks of consecutive rows come in random order; then the rows of a few blocks, a window, are
    shuffled among themselves. Up to one window of rows this is a permutation like any other.
    """

    @property
    def together(self):
        return BLOCK

    @property
    def window(self):
        return BLOCK * WINDOW

    def indices(self, epoch, rows):
        generator = self._generator(epoch)
        firsts = generator.permutation(np.arange(0, rows, BLOCK, dtype="int32"))
        order, done = np.empty(rows, "int32"), 0
        for start in range(0, len(firsts), WINDOW):
            window = firsts[start : start + WINDOW, None] + np.arange(BLOCK, dtype="int32")
            window = generator.permutation(window[window < rows])
            order[done : done + len(window)] = window
            done += len(window)
        return order


# The kinds by their names, which are the values of the argument `shuffle`.
KINDS = {True: Permutation, False: InOrder, "blocks": Blocks}


def check_shuffle(shuffle):
    """Return `shuffle` as True, False or "blocks"; raise `ValueError` for anything else."""
    if isinstance(shuffle, (bool, np.bool_)):
        return bool(shuffle)
    if not isinstance(shuffle, str) or shuffle not in KINDS:
        raise ValueError(
            f'Expected `shuffle` to be True, False or "blocks". Received: shuffle={shuffle!r}'
        )
    return shuffle


def order_of(shuffle, seed, model=None):
    """Return the `Order` of a training: the model's own, or else the one that `shuffle` names.

    Args:
        shuffle: True, False or "blocks".
        seed: Integer, or None where it is not drawn yet.
        model: The model that is trained, or None for one that brings no order.

    Raises:
        ValueError: If the model brings something else.
    """
    if not brings_order(model):
        return KINDS[shuffle](seed)
    order = model.training_order(shuffle, seed)
    if not isinstance(order, Order):
        raise ValueError(
            "Expected `training_order` to return an sda.rows.orders.Order. Received: "
            f"{order!r}, from model {model.name!r}"
        )
    return order


def brings_order(model):
    """Return whether a model has an order of its own."""
    return getattr(model, "training_order", None) is not None


def checked_length(order, rows):
    """Return how many rows an epoch has; raise `ValueError` unless it has one."""
    length = order.length(rows)
    if not isinstance(length, (int, np.integer)) or length < 1:
        raise ValueError(
            "Expected `length` to return the number of rows of an epoch, at least one. "
            f"Received: {length!r}, from {type(order).__name__}"
        )
    return length


def checked_indices(order, epoch, rows):
    """Return the indices of an epoch; raise `ValueError` unless they are those of rows."""
    length, indices = checked_length(order, rows), np.asarray(order.indices(epoch, rows))
    whole = indices.shape == (length,) and indices.dtype.kind in "iu"
    # A backend would take another row for one that is not there, and say nothing.
    if not whole or indices.min() < 0 or indices.max() >= rows:
        between = f" from {indices.min()} to {indices.max()}" if whole else ""
        raise ValueError(
            f"Expected `indices` to return {length} integers from 0 to {rows - 1}. Received: "
            f"{indices.dtype} of shape {indices.shape}{between}, from {type(order).__name__}"
        )
    return indices.astype("int32", copy=False)
