"""The rows of what was given: which adapter reads it is chosen here, and nowhere else."""

import os

import keras
from keras import ops

from sda.rows.arrays import ArrayRows, in_place
from sda.rows.base import Rows, check_numbers, native, size_of
from sda.rows.given import GivenRows
from sda.rows.h5 import H5Rows
from sda.rows.iterated import is_iterated, read_once
from sda.rows.mapped import MappedRows
from sda.rows.sparse import SparseRows

# What may be given, each with the adapter that reads it; the first one that takes it does.
KINDS = (H5Rows, SparseRows, MappedRows, ArrayRows, GivenRows)


def as_rows(x, name="x", scratch=None):
    """Return `x` as `Rows`, at least one, of numbers.

    Args:
        x: `Rows`, or what `rows_of` takes. Or what yields batches, see `is_iterated`, which is read
            once, into `scratch`; of `(x, y)` batches, x is kept.
        name: What to call it in errors.
        scratch: A `sda.rows.scratch.Scratch`, or None for one that keeps all in memory.

    Raises:
        ValueError: If it is empty, endless or masked, or holds no numbers, or if reading an
            `h5py.Dataset` would read other files or never end.
    """
    if isinstance(x, (str, os.PathLike)):
        raise ValueError(
            f"Expected `{name}` to be rows. Received: {name}={str(x)!r}; for the rows of a file, "
            "checked before they are read, use sda.datasets.read(path, name)"
        )
    if is_iterated(x):
        x = read_once(x, name, scratch, first=True)
    rows = rows_of(x, name)
    if len(rows.shape) == 0 or rows.shape[0] == 0:
        raise ValueError(
            f"Expected `{name}` to hold at least one example. Received: shape {rows.shape}"
        )
    check_numbers(rows.dtype, name)
    return rows


def rows_of(x, name="x"):
    """Return the `Rows` of what is there to be read by position; they may be none.

    Args:
        x: NumPy array or memory map, `h5py.Dataset`, matrix or array of `scipy.sparse`, or anything
            with `shape`, `dtype`, `__len__` and `__getitem__` for index arrays; these stay where
            they are. A tensor, nested list, DataFrame or Series becomes an array: its rows count by
            their position, whatever an index says.
        name: What to call it in errors.

    Raises:
        ValueError: If it is masked or symbolic, or reading it would read other files or never end.
    """
    if isinstance(x, Rows):
        return x
    kind = next(kind for kind in KINDS if kind.takes(x))
    return kind.of(x, name)


def in_any_order(rows, scratch, order):
    """Return `rows`, or a copy in `scratch` where the source is slow in an order.

    Args:
        rows: `Rows`.
        scratch: A `sda.rows.scratch.Scratch`.
        order: A `sda.rows.orders.Order`.
    """
    if rows.any_order or size_of(rows) <= scratch.memory:
        return rows
    # A chunk that is larger than a block would be unpacked again for each block in it, and one of a
    # window that is larger than a piece for each piece of that.
    window = order.window * size_of(rows) // len(rows)
    if rows.chunk <= order.together and window <= scratch.memory:
        return rows
    (copy,) = scratch.keep(([piece] for piece in rows.pieces()), rows.name)
    return as_rows(copy)


def pieces(x, size=None):
    """Yield consecutive NumPy pieces of anything that is rows, see `Rows.pieces`."""
    return as_rows(x).pieces(size)


def check_finite(x, name="x", start=0, missing=False):
    """Check the values of anything that is rows, see `Rows.check_finite`."""
    as_rows(x, name).check_finite(name, start, missing)


def on_arrays(function):
    """Return the function of tensors as one of NumPy arrays, of which floats get Keras's floatx."""

    def wrapped(x):
        x = native(in_place(x, "x"))
        check_numbers(x.dtype, "x")
        x = x.astype(keras.config.floatx(), copy=False) if x.dtype.kind == "f" else x
        return ops.convert_to_numpy(function(ops.convert_to_tensor(x)))

    return wrapped
