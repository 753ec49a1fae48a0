"""Seeds and orders as functions of (seed, position), so that a run can be repeated and resumed."""

import random

import numpy as np


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


def permutation(seed, epoch, rows):
    """Return the order of the `rows` examples in `epoch`, as int32 indices."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    return generator.permutation(rows).astype("int32")
