"""Checks of settings: what was expected, which argument, what was received."""

import numpy as np


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
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not holds(value):
        raise ValueError(
            f"Expected `{name}` to be a number, {expectation}. Received: {name}={value!r}"
        )
    return float(value)
