"""Seeds and orders as functions of (seed, position), so that a run can be repeated and resumed."""

import random
import zlib

import numpy as np

# What is drawn, each from a stream of its own: the same seed gives no two of them the same integer.
STREAMS = ("initialiser", "order", "noise", "validation noise", "dropout")
# Of the order "blocks": the consecutive rows of a block, and the blocks of a window.
BLOCK = 512
WINDOW = 16
# Keeps named streams apart from seeds that are derived by numbers alone.
_STREAM = 2**31


def check_seed(seed):
    """Return `seed` as an int, or None; raise `ValueError` for anything else."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(
            f"Expected `seed` to be a non-negative integer or None. Received: seed={seed!r}"
        )
    return int(seed)


def fresh_seed():
    """Draw a seed; `keras.utils.set_random_seed` makes the draw repeatable."""
    return random.randrange(2**31)


def spawn(seed, *position):
    """Derive the 31-bit seed at `position` (integers) below `seed`; None stays None.

    Neighbouring integers are not independent seeds on every backend (on PyTorch, draw k+1 of seed s
    is draw k of seed s+1), so seeds are hashed by `numpy.random.SeedSequence`, never counted up.
    """
    if seed is None:
        return None
    state = np.random.SeedSequence(seed, spawn_key=position).generate_state(1)
    return int(state[0] >> 1)


def stream(seed, name, *position):
    """Derive the 31-bit seed at `position` (integers, names) of a named stream; None stays None.

    A layer's number is a position, as is the place of a dropout layer in a model: with one seed for
    stack, pretrainer and fine-tuning, no two of their draws begin with the same integer.
    """
    position = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in position]
    return spawn(seed, _STREAM, STREAMS.index(name), *position)


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
