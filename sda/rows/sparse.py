"""Rows of a sparse matrix of SciPy, made dense a few at a time."""

import hashlib

import numpy as np

from sda.rows.base import Rows, are_not_finite, check_numbers, in_words, not_finite

# Stored values that are looked at together.
VALUES = 2**22


class SparseRows(Rows):
    """Rows of a matrix or array of `scipy.sparse`, dense when they are read.

    They are read from a CSR matrix of one form: indices increase along a row, none is there twice,
    and no zero is stored. Where the given matrix is of that form it is not copied; it is never
    changed.

    Args:
        matrix: The matrix, of any format.
        name: What to call it in errors.

    Raises:
        ValueError: If it is no matrix of numbers, or its indices are no places in it.
    """

    # The whole is never made dense.
    resident = False

    def __init__(self, matrix, name="x"):
        if len(matrix.shape) != 2:
            raise ValueError(
                f"Expected `{name}` to be a matrix where it is sparse. "
                f"Received: shape {tuple(matrix.shape)}"
            )
        check_numbers(matrix.dtype, name)
        super().__init__(matrix.shape, matrix.dtype)
        self.matrix = _canonical(matrix, name)

    @classmethod
    def takes(cls, x):
        return is_sparse(x)

    @classmethod
    def of(cls, x, name):
        return cls(x, name)

    def __getitem__(self, rows):
        return self.matrix[rows].toarray()

    def part(self, start, stop):
        """Return the rows from `start` to before `stop`, which share what is stored."""
        pointers = self.matrix.indptr[start : stop + 1]
        stored = slice(pointers[0], pointers[-1])
        return SparseRows(
            _csr(
                (self.matrix.data[stored], self.matrix.indices[stored], pointers - pointers[0]),
                (stop - start, self.shape[1]),
            )
        )

    def take(self, indices, axis=0):
        return SparseRows(self.matrix[indices])

    def values(self):
        """Yield the values that are stored, and a zero where there is one."""
        yield from _pieces_of(self.matrix.data)
        if self.matrix.nnz < self.shape[0] * self.shape[1]:
            yield np.zeros(1, self.dtype)

    def check_finite(self, name, start=0, missing=False):
        if self.dtype.kind != "f":
            return
        done = 0
        for values in _pieces_of(self.matrix.data):
            wrong = are_not_finite(values, missing)
            if wrong.any():
                first = int(np.argmax(wrong))
                row = int(np.searchsorted(self.matrix.indptr, done + first, side="right")) - 1
                raise not_finite(name, values[first], start + row)
            done += len(values)

    def digest(self):
        """Return in words the type and the shape, and the SHA-256 of what is stored, and where."""
        found = hashlib.sha256()
        for array, dtype in (
            (self.matrix.indptr, "int64"),
            # SciPy has 32 or 64 bits for them, as they are needed or came.
            (self.matrix.indices, "int64"),
            (self.matrix.data, self.dtype),
        ):
            for piece in _pieces_of(array):
                found.update(memoryview(np.ascontiguousarray(piece, dtype)).cast("B"))
        return f"sparse {in_words(self, found)}"


def is_sparse(x):
    """Return whether `x` is a matrix or array of `scipy.sparse`, without importing SciPy."""
    return any(f"{kind.__module__}.".startswith("scipy.sparse.") for kind in type(x).__mro__)


def _canonical(matrix, name):
    """Return a CSR matrix of the same values in the one form of `SparseRows`."""
    converted = matrix.tocsr()
    try:
        # One of its own: SciPy notes on a matrix what it found out about it.
        csr = _csr((converted.data, converted.indices, converted.indptr), matrix.shape)
        csr.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(
            f"Expected `{name}` to be a whole sparse matrix. Received: {error}"
        ) from error
    if csr.has_canonical_format and csr.data.all():
        return csr
    csr = csr.copy() if converted is matrix else csr
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def _csr(parts, shape):
    from scipy.sparse import csr_matrix

    return csr_matrix(parts, shape=shape, copy=False)


def _pieces_of(array):
    """Yield pieces of a flat array."""
    for start in range(0, len(array), VALUES):
        yield array[start : start + VALUES]
