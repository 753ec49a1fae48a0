"""Optimizers of settings: a name and a rate, or a template."""

import functools

import keras
import numpy as np

from sda.checks import check_number, look_up
from sda.training.optimizers import fresh


def make_optimizer(identifier, rate):
    """Return a new Keras optimizer: one of a name at a rate, or one like a template."""
    if not isinstance(identifier, str):
        return fresh(_looked_up(identifier))
    return _looked_up({"class_name": identifier, "config": {"learning_rate": _checked_rate(rate)}})


def check_optimizer(identifier, rate):
    if not isinstance(identifier, str):
        _looked_up(identifier)
        return
    _checked_rate(rate)
    _check_name(identifier)


@functools.cache
def _check_name(name):
    # An optimizer is made to know whether there is one: once a name, since that takes a while.
    make_optimizer(name, 0.0)


def _checked_rate(rate):
    return check_number(rate, "learning_rate", "finite and at least 0", lambda r: 0 <= r < np.inf)


def _looked_up(config):
    expectation = "the name of a Keras optimizer"
    if config is None:  # which Keras takes for none
        raise ValueError(f"Expected `optimizer` to be {expectation}. Received: optimizer=None")
    return look_up(keras.optimizers.get, config, "optimizer", expectation)
