"""Rows of a file that is mapped into memory, copied in any order."""

import concurrent.futures
import mmap

import numpy as np

from sda.rows.base import Rows

# A disk serves many reads at a time; one thread waits for each of its own.
THREADS = 16
ROWS_A_THREAD = 256
# Rows that are no further apart are read faster with what lies between them.
GAP = 16


class MappedRows(Rows):
    """Rows of an `np.memmap`, read by index; what has been read takes no memory afterwards.

    A row that is not in the system's cache costs a wait for the disk, so the rows are copied by
    several threads: in random order, 16 of them read six times the rows of one.

    A process that reads a map beyond the end of its file is killed, so a file that was cut short is
    noticed before each reading.

    Args:
        array: The `np.memmap`.
    """

    on_disk = True

    def __init__(self, array):
        super().__init__(array.shape, array.dtype)
        self.array = array

    @classmethod
    def takes(cls, x):
        return isinstance(x, np.memmap) and x.ndim > 0 and x.mode is not None

    def __getitem__(self, rows):
        """Return a copy of what `rows` names: by several threads for a slice or many indices.

        Raises:
            ValueError: If the file is no longer as long as it was.
        """
        self._check_whole()
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        elif not (isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu"):
            return np.array(self.array[rows])
        copy = np.empty((len(rows), *self.shape[1:]), self.dtype)
        places = np.argsort(rows, kind="stable")
        rows = rows[places]
        scattered = GAP * np.count_nonzero(np.diff(rows) > GAP) > len(rows)

        def fill(start):
            part = slice(start, start + ROWS_A_THREAD)
            copy[places[part]] = self.array[_as_slice(rows[part], len(self))]
            if scattered:
                self._forget()

        if scattered:
            self._advise("MADV_RANDOM")  # without their neighbours
        starts = range(0, len(rows), ROWS_A_THREAD)
        if len(starts) <= 1:
            list(map(fill, starts))
        else:
            with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(fill, starts))
        self._forget()
        self._advise("MADV_NORMAL")
        return copy

    def _check_whole(self):
        array = self.array
        # A map begins where a page does.
        start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
        length, left = start + len(array._mmap), array._mmap.size()
        if left < length:
            raise ValueError(
                "Expected the file of the rows to stay as it is while they are read. Received: "
                f"{array.filename}, of whose {length} bytes {left} are left"
            )

    def _forget(self):
        """Let pages that were read stay in the system's cache, but be no longer this process's."""
        # Those of a private map ("c") may hold what was written to it, and nowhere else.
        if self.array.mode != "c":
            self._advise("MADV_DONTNEED")

    def _advise(self, advice):
        mapping = self.array._mmap
        if hasattr(mmap, advice):
            mapping.madvise(getattr(mmap, advice))


def _as_slice(rows, length):
    """Return increasing indices as a slice where they are one, which makes no copy."""
    first, last = rows[0], rows[-1]
    if first >= 0 and last < length and np.all(np.diff(rows) == 1):
        return slice(first, last + 1)
    return rows
