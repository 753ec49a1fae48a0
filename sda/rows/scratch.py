"""Rows that are given once, kept for as long as a run needs them."""

import contextlib
import shutil

import numpy as np

from sda.files.locks import scratch_folder

# The share of the free disk space that rows may take.
SHARE = 0.9


class Scratch:
    """Keeps rows: in memory while they are few, in files of its own beyond that.

    The files are plain arrays in a folder of the system's for temporary files (TMPDIR), which is
    deleted when the context ends.

    Args:
        memory: Integer, the bytes of rows to keep in memory; None for all.
    """

    def __init__(self, memory=None):
        self.memory = memory
        self._folder = None
        self._open = contextlib.ExitStack()
        self._files = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._open.close()

    def keep(self, batches, name):
        """Read batches once; return their rows, one array or `np.memmap` for each place.

        Args:
            batches: Iterable of lists of NumPy arrays.
            name: What to call their source in errors.

        Raises:
            ValueError: If the batches differ in more than their length, or the disk is too small.
        """
        held, size, columns = [], 0, None
        for batch in batches:
            # A copy: the source may use its buffer again.
            held.append([np.array(a) for a in batch])
            size += sum(a.nbytes for a in held[-1])
            if self.memory is not None and size > self.memory:
                columns = columns or self._columns(held[0], name)
                _move(held, columns, name)
                size = 0
        if columns is None:
            return [_joined(parts, name) for parts in _transposed(held, name)]
        _move(held, columns, name)
        return [column.rows() for column in columns]

    def _columns(self, arrays, name):
        if self._folder is None:
            self._folder = self._open.enter_context(scratch_folder("sda-rows-"))
            self._reserve = (1 - SHARE) * shutil.disk_usage(self._folder).free
        columns = []
        for array in arrays:
            path = self._folder / str(self._files)
            columns.append(_Column(path, array, self._reserve, name))
            self._files += 1
        return columns


class _Column:
    """A file of rows that grows.

    Args:
        path: Path of the file.
        like: An array with rows of its shape and dtype.
        reserve: The bytes that it leaves free on the disk.
        name: What to call its source in errors.
    """

    def __init__(self, path, like, reserve, name):
        self.path, self.reserve, self.name = path, reserve, name
        self.shape, self.dtype = like.shape[1:], like.dtype
        self.length = 0

    def append(self, array):
        folder = self.path.parent
        if array.nbytes > shutil.disk_usage(folder).free - self.reserve:
            raise ValueError(
                f"Expected `{self.name}` to end, and to fit {SHARE:.0%} of the free disk space in "
                f"{folder.parent} (set TMPDIR for another place). Received: more than "
                f"{self.length} examples"
            )
        with open(self.path, "ab") as file:
            np.ascontiguousarray(array, self.dtype).tofile(file)
        self.length += len(array)

    def rows(self):
        return np.memmap(self.path, self.dtype, "r", shape=(self.length, *self.shape))


def _transposed(batches, name, columns=None):
    counts = {len(batch) for batch in batches}
    if len(counts) > 1 or (columns and counts != {len(columns)}):
        raise _unequal(name, f"one of {len(batches[-1])} arrays after others")
    return zip(*batches, strict=True)


def _joined(arrays, name):
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        raise _unequal(name, error) from error


def _move(batches, columns, name):
    """Append the batches to the files, and empty the list."""
    if not batches:
        return
    for parts, column in zip(_transposed(batches, name, columns), columns, strict=True):
        array = _joined(parts, name)
        if array.shape[1:] != column.shape or not np.can_cast(array.dtype, column.dtype):
            raise _unequal(
                name,
                f"rows of {column.dtype} {column.shape} and of {array.dtype} {array.shape[1:]}",
            )
        column.append(array)
    batches.clear()


def _unequal(name, received):
    return ValueError(
        f"Expected `{name}` to yield batches of one shape but for their length. "
        f"Received: {received}"
    )
