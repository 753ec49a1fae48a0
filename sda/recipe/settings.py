"""Settings as values: one a layer, and in dictionaries that TOML and JSON can hold."""

import keras
import numpy as np

from sda.checks import check_count, look_up, per_layer

# How None is written: TOML has none.
NONE = "none"


def depth_of(units, depth):
    """Return the number of layers."""
    if isinstance(units, (list, tuple)) and not units:
        raise ValueError(f"Expected `units` to name at least one layer. Received: units={units!r}")
    if depth is None:
        return len(units) if isinstance(units, (list, tuple)) else 1
    return check_count(depth, "depth")


def listed(value, given, depth, name):
    """Return a setting as a list with one entry a layer; with a depth given, of the first ones."""
    if given is not None and isinstance(value, (list, tuple)):
        value = value[:depth]
    return per_layer(value, depth, name)


def plain(value):
    """Return a value as numbers, words and lists of them; objects of Keras as their configs."""
    if value is None:
        return NONE
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return plain(keras.saving.serialize_keras_object(value))


def read(value, name):
    """Return what a setting of `plain` says; values that are none of its kinds are themselves."""
    if isinstance(value, (list, tuple)):
        return [read(item, name) for item in value]
    if isinstance(value, dict):
        load = keras.saving.deserialize_keras_object
        return look_up(load, _with_none(value), name, "an object of Keras, or its config")
    return None if isinstance(value, str) and value == NONE else value


def _with_none(value):
    if isinstance(value, list):
        return [_with_none(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_none(item) for name, item in value.items()}
    return None if isinstance(value, str) and value == NONE else value
