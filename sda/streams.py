"""Seeds, and the named streams of random numbers that are drawn from them."""

import random
import zlib

import numpy as np

# What is drawn, each from a stream of its own: the same seed gives no two of them the same integer.
STREAMS = ("initialiser", "order", "noise", "validation noise", "dropout")
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
