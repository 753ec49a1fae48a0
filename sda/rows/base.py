"""What all rows can do, whatever holds them; some of them are rows again."""

import abc
import hashlib
import math

import keras
import numpy as np

from sda.files.opening import NUMBERS
from sda.rows.read_ahead import ahead

# What is read of a source at a time, at most.
PIECE_ROWS = 4096
PIECE_BYTES = 2**26


class Rows(abc.ABC):
    """Rows of examples: what can be asked of them, whatever holds them.

    A subclass says how rows are read, and what is not as usual about that.

    Attributes:
        shape: Tuple, `(n, ...)`.
        dtype: NumPy dtype of the values.
        name: What to call them in errors.
        resident: Whether all of them may lie on the device together, where they are few.
        on_disk: Whether reading waits for a disk, so that a thread had better read ahead.
        any_order: Whether reading them in any order costs no more than one after the other.
        chunk: Integer, the consecutive rows that are read together even if one is wanted.
    """

    name = "x"
    resident = True
    on_disk = False
    any_order = True
    chunk = 1

    def __init__(self, shape, dtype):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @classmethod
    def takes(cls, x):
        """Return whether `x` is what these rows are read from."""
        return False

    @classmethod
    def of(cls, x, name):
        """Return the rows of `x`, which this class takes; `name` is what errors call it."""
        return cls(x)

    def __len__(self):
        return self.shape[0]

    @abc.abstractmethod
    def __getitem__(self, rows):
        """Return the rows that a slice or an array of indices names, as a NumPy array."""

    def part(self, start, stop):
        """Return the rows from `start` to before `stop`, which stay where they are."""
        return Part(self, start, stop)

    def take(self, indices, axis=0):
        """Return the rows at the indices, which stay where they are; `axis` is as in NumPy."""
        return Chosen(self, indices)

    def pieces(self, size=None):
        """Yield consecutive NumPy pieces: of `size` rows, or of what reads well."""
        if size is None:
            size = max(1, min(PIECE_ROWS, PIECE_BYTES // (size_of(self) // len(self) + 1)))

        def read(start):
            return native(self[start : start + size])

        starts = range(0, len(self), size)
        if self.on_disk and len(starts) > 1:
            yield from ahead(read, starts)
        else:
            yield from map(read, starts)

    def values(self):
        """Yield arrays, of any shape, that hold each value that there is in the rows."""
        return self.pieces()

    def check_finite(self, name, start=0, missing=False):
        """Raise `ValueError` if values are NaN or infinite, or beyond Keras's floatx.

        Args:
            name: What to call the rows in the message.
            start: Integer, the number that the first row has there.
            missing: Whether NaN is allowed: a value that is missing.
        """
        if self.dtype.kind != "f":
            return
        for piece in self.pieces():
            wrong = are_not_finite(piece, missing)
            if wrong.any():
                first = tuple(int(j) for j in np.argwhere(wrong)[0])
                raise not_finite(name, piece[first], start + first[0])
            start += len(piece)

    def digest(self):
        """Return in words the type and the shape of the rows, and the SHA-256 of their values."""
        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(memoryview(np.ascontiguousarray(piece)).cast("B"))
        return in_words(self, found)

    def discard(self):  # noqa: B027 (most are not ours to delete)
        """Free what was made to hold these rows, of which nobody will read one any more."""


class Part(Rows):
    """Consecutive rows of a source.

    Args:
        rows: The `Rows` of the source.
        start: Integer, the number of the first row.
        stop: Integer, the number after that of the last one.
    """

    def __init__(self, rows, start, stop):
        super().__init__((stop - start, *rows.shape[1:]), rows.dtype)
        self.rows, self.start = rows, start
        _read_alike(self, rows)

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            return self.rows[self.start + first : self.start + last : step]
        return self.rows[self.start + np.asarray(rows)]


class Chosen(Rows):
    """The rows of a source at some indices.

    Args:
        rows: The `Rows` of the source.
        indices: Array of integers.
    """

    def __init__(self, rows, indices):
        super().__init__((len(indices), *rows.shape[1:]), rows.dtype)
        self.rows, self.indices = rows, indices
        _read_alike(self, rows)

    def __getitem__(self, rows):
        return self.rows[self.indices[rows]]


def _read_alike(some, rows):
    for name in ("name", "resident", "on_disk", "any_order", "chunk"):
        setattr(some, name, getattr(rows, name))


def native(array):
    """Return an array in the byte order of this machine, and its rows one after the other."""
    array = np.asarray(array)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def host(array):
    """Return rows that were read in the precision that travels: floats in Keras's floatx."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return native(array)
    # A view is part of the source, which somebody may write to. What is too large becomes infinite,
    # which is refused by name.
    with np.errstate(over="ignore"):
        return array.astype(keras.config.floatx(), order="C", copy=not array.flags.owndata)


def check_numbers(dtype, name):
    """Raise `ValueError` unless the NumPy dtype is one of real numbers or booleans."""
    if np.dtype(dtype).kind not in NUMBERS:
        raise ValueError(f"Expected `{name}` to hold numbers. Received: dtype {dtype}")


def size_of(rows):
    """Return the bytes that all rows take."""
    return math.prod(rows.shape) * np.dtype(rows.dtype).itemsize


def are_not_finite(array, missing):
    """Return which values are not finite in Keras's floatx; NaN may be if values are `missing`."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(keras.config.floatx(), copy=False))
    if missing:
        finite |= np.isnan(array)
    return ~finite


def not_finite(name, value, row):
    """Return the error of a value that is not finite."""
    return ValueError(f"Expected `{name}` to hold finite values. Received: {value} in row {row}")


def in_words(rows, found):
    """Return a digest of rows, with their type and shape."""
    shape = tuple(int(n) for n in rows.shape)
    return f"{rows.dtype.name} {shape}, SHA-256 {found.hexdigest()}"
