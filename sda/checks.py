"""Checks of settings: what was expected, which argument, what was received."""

import keras
import numpy as np

# The largest float.
MOST = float(np.finfo("float64").max)


def check_count(value, name, least=1):
    """Return `value` as an int; raise `ValueError` unless it is an integer of at least `least`."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise ValueError(
            f"Expected `{name}` to be an integer, at least {least}. Received: {name}={value!r}"
        )
    return int(value)


def check_number(value, name, expectation, holds):
    """Return `value` as a float; raise `ValueError` unless it is a number and `holds(value)`."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    # Python's integers know no bounds.
    too_large = isinstance(value, int) and abs(value) > MOST
    if not is_number or isinstance(value, bool) or too_large or not holds(float(value)):
        raise ValueError(
            f"Expected `{name}` to be a number, {expectation}. Received: {name}={value!r}"
        )
    return float(value)


def check_flag(value, name):
    """Return `value` as a bool; raise `ValueError` unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"Expected `{name}` to be True or False. Received: {name}={value!r}")
    return bool(value)


def look_up(get, value, name, expectation):
    """Return `get(value)`, what Keras has under a name or config; raise `ValueError` if nothing."""
    try:
        found = get(value)
    # Keras's readers of configs raise whatever comes of them.
    except Exception as error:
        said = f"Expected `{name}` to be {expectation}. Received: {name}={value!r}"
        if _is_unknown(value):
            said += "; a class of your own: register it, and name it in `custom_objects`"
        raise ValueError(said) from error
    return found


def _is_unknown(value):
    """Return whether a config holds one of a class that Keras neither has nor knows."""
    if isinstance(value, (list, tuple)):
        return any(_is_unknown(item) for item in value)
    if not isinstance(value, dict):
        return False
    registered = value.get("registered_name")
    own = registered is not None and value.get("class_name") != "function"
    if own and keras.saving.get_registered_object(registered) is None:
        return True
    return any(_is_unknown(item) for item in value.values())


def per_layer(value, depth, name):
    """Return `value` as a list with one entry a layer."""
    if not isinstance(value, (list, tuple)):
        return [value] * depth
    if len(value) != depth:
        raise ValueError(
            f"Expected `{name}` to be one value or a list of {depth}. "
            f"Received: {name}={value!r}, a list of {len(value)}"
        )
    return list(value)
