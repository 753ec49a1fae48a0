"""Rows found for what was given, and read in pieces."""

import os

import keras
import numpy as np
from keras import ops

from sda.files.h5 import check_dataset
from sda.rows.arrays import in_place
from sda.rows.base import check_numbers, native, size_of
from sda.rows.h5 import H5Rows, is_h5
from sda.rows.iterated import is_iterated, read_once
from sda.rows.mapped import MappedRows
from sda.rows.read_ahead import ahead

# What is read of a source at a time, at most.
PIECE_ROWS = 4096
PIECE_BYTES = 2**26


def as_rows(x, name="x", scratch=None):
    """Return `x` as an array-like with `shape`, `dtype` and row indexing.

    Args:
        x: NumPy array or memory map, `h5py.Dataset`, tensor, nested list, or anything with `shape`,
            `dtype`, `__len__` and `__getitem__` for index arrays; these stay where they are. A
            DataFrame or Series becomes an array: its rows count by their position, whatever the
            index says. What yields batches, see `is_iterated`, is read once, into `scratch`; of
            `(x, y)` batches, x is kept.
        name: What to call it in errors.
        scratch: A `sda.rows.scratch.Scratch`, or None for one that keeps all in memory.

    Raises:
        ValueError: If it is empty, endless, masked or sparse, or holds no numbers, or if reading an
            `h5py.Dataset` would read other files or never end.
    """
    if isinstance(x, (str, os.PathLike)):
        raise ValueError(
            f"Expected `{name}` to be rows. Received: {name}={str(x)!r}; for the rows of a file, "
            "checked before they are read, use sda.datasets.read(path, name)"
        )
    if is_h5(x):
        check_dataset(x, name)
        x = H5Rows(x)
    elif is_iterated(x):
        x = read_once(x, name, scratch, first=True)
    else:
        x = in_place(x, name)
    if isinstance(x, np.memmap) and x.ndim and x.mode is not None:
        x = MappedRows(x)
    if len(x.shape) == 0 or x.shape[0] == 0:
        raise ValueError(
            f"Expected `{name}` to hold at least one example. Received: shape {x.shape}"
        )
    check_numbers(x.dtype, name)
    return x


def in_any_order(rows, scratch, order):
    """Return `rows`, or a copy in `scratch` where the source is slow in an order.

    Args:
        rows: Source of rows.
        scratch: A `sda.rows.scratch.Scratch`.
        order: A `sda.rows.orders.Order`.
    """
    if getattr(rows, "mapped", True) or size_of(rows) <= scratch.memory:
        return rows
    # A chunk that is larger than a block would be unpacked again for each block in it, and one of a
    # window that is larger than a piece for each piece of that.
    window = order.window * size_of(rows) // len(rows)
    chunk = (rows.dataset.chunks or (1,))[0]
    if chunk <= order.together and window <= scratch.memory:
        return rows
    (copy,) = scratch.keep(([piece] for piece in pieces(rows)), rows.dataset.name)
    return as_rows(copy)


def pieces(rows, size=None):
    """Yield consecutive NumPy pieces of `rows`: of `size` rows, or of what reads well."""
    if size is None:
        size = max(1, min(PIECE_ROWS, PIECE_BYTES // (size_of(rows) // len(rows) + 1)))

    def read(start):
        return native(rows[start : start + size])

    starts = range(0, len(rows), size)
    if isinstance(rows, (H5Rows, MappedRows)) and len(starts) > 1:
        yield from ahead(read, starts)
    else:
        yield from map(read, starts)


def check_finite(rows, name="x", start=0, missing=False):
    """Raise `ValueError` if there are NaN or infinite values, or some beyond Keras's floatx.

    `start` is the number of the first row, for the message. With `missing`, NaN is allowed: a value
    that is missing.
    """
    if np.dtype(rows.dtype).kind != "f":
        return
    for piece in pieces(rows):
        with np.errstate(over="ignore"):
            finite = np.isfinite(piece.astype(keras.config.floatx(), copy=False))
        if missing:
            finite |= np.isnan(piece)
        if not finite.all():
            first = tuple(int(j) for j in np.argwhere(~finite)[0])
            raise ValueError(
                f"Expected `{name}` to hold finite values. Received: {piece[first]} in row "
                f"{start + first[0]}"
            )
        start += len(piece)


def on_arrays(function):
    """Return the function of tensors as one of NumPy arrays, of which floats get Keras's floatx."""

    def wrapped(x):
        x = native(in_place(x, "x"))
        check_numbers(x.dtype, "x")
        x = x.astype(keras.config.floatx(), copy=False) if x.dtype.kind == "f" else x
        return ops.convert_to_numpy(function(ops.convert_to_tensor(x)))

    return wrapped
