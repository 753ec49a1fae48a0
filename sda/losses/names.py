"""Losses by their names."""

import keras

from sda.checks import look_up
from sda.losses.cross_entropy import CrossEntropy
from sda.losses.squared_error import SquaredError


def get(identifier):
    """Return the loss meant by "cross_entropy", "squared_error" or anything Keras knows."""
    ours = {"cross_entropy": CrossEntropy, "squared_error": SquaredError}
    if isinstance(identifier, str) and identifier in ours:
        return ours[identifier]()
    expectation = f"one of {sorted(ours)}, a Keras loss or None"
    loss = look_up(keras.losses.get, identifier, "loss", expectation)
    if not callable(loss):
        raise ValueError(f"Expected `loss` to be {expectation}. Received: loss={identifier!r}")
    return loss
