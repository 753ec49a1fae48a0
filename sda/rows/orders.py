"""The order in which the rows of an epoch are read."""

import numpy as np

# Of the order "blocks": the consecutive rows of a block, and the blocks of a window.
BLOCK = 512
WINDOW = 16


def permutation(seed, epoch, rows):
    """Return the order of the `rows` examples in `epoch`, as int32 indices."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    return generator.permutation(rows).astype("int32")


def blocks(seed, epoch, rows):
    """Return an order of the `rows` examples in `epoch` that a disk can follow, as int32 indices.

    Blocks of consecutive rows come in random order; then the rows of a few blocks, a window, are
    shuffled among themselves. Up to one window of rows this is a permutation like any other.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    firsts = generator.permutation(np.arange(0, rows, BLOCK, dtype="int32"))
    order, done = np.empty(rows, "int32"), 0
    for start in range(0, len(firsts), WINDOW):
        window = (firsts[start : start + WINDOW, None] + np.arange(BLOCK, dtype="int32")).ravel()
        window = generator.permutation(window[window < rows])
        order[done : done + len(window)] = window
        done += len(window)
    return order


def check_shuffle(shuffle):
    """Return `shuffle` as True, False or "blocks"; raise `ValueError` for anything else."""
    if isinstance(shuffle, (bool, np.bool_)):
        return bool(shuffle)
    if not isinstance(shuffle, str) or shuffle != "blocks":
        raise ValueError(
            f'Expected `shuffle` to be True, False or "blocks". Received: shuffle={shuffle!r}'
        )
    return shuffle


def epoch_order(shuffle, seed, epoch, rows):
    """Return the order of the `rows` examples in `epoch` under `shuffle`, as int32 indices."""
    if shuffle == "blocks":
        return blocks(seed, epoch, rows)
    return permutation(seed, epoch, rows) if shuffle else np.arange(rows, dtype="int32")
