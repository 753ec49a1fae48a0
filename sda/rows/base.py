"""What all rows have in common."""

import math

import numpy as np

from sda.files.opening import NUMBERS


def native(array):
    """Return an array in the byte order of this machine, and its rows one after the other."""
    array = np.asarray(array)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def check_numbers(dtype, name):
    """Raise `ValueError` unless the NumPy dtype is one of real numbers or booleans."""
    if np.dtype(dtype).kind not in NUMBERS:
        raise ValueError(f"Expected `{name}` to hold numbers. Received: dtype {dtype}")


def size_of(rows):
    """Return the bytes that all rows take."""
    return math.prod(rows.shape) * np.dtype(rows.dtype).itemsize
