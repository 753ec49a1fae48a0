"""Rows of a file that is mapped into memory, copied in any order."""

import concurrent.futures
import mmap

import numpy as np

# A disk serves many reads at a time; one thread waits for each of its own.
THREADS = 16
ROWS_A_THREAD = 256


class MappedRows:
    """Rows of an `np.memmap`, read by index; what has been read takes no memory afterwards.

    A row that is not in the system's cache costs a wait for the disk, so the rows are copied by
    several threads: in random order, 16 of them read six times the rows of one.

    Args:
        array: The `np.memmap`.
    """

    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Return a copy of what `rows` names: by several threads for a slice or many indices."""
        if isinstance(rows, slice):
            view, count = self.array[rows], len(range(*rows.indices(len(self))))
        elif isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu":
            view, count = None, len(rows)
        else:
            return np.array(self.array[rows])
        copy = np.empty((count, *self.shape[1:]), self.dtype)

        def fill(start):
            part = slice(start, start + ROWS_A_THREAD)
            copy[part] = view[part] if view is not None else self.array[rows[part]]
            # Pages that were read stay in the system's cache, and are no longer this process's.
            # Those of a private map ("c") may hold what was written to it, and nowhere else.
            if self.array.mode != "c":
                self._advise("MADV_DONTNEED")

        if view is None:
            self._advise("MADV_RANDOM")  # without their neighbours
        starts = range(0, count, ROWS_A_THREAD)
        if len(starts) <= 1:
            list(map(fill, starts))
        else:
            with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(fill, starts))
        self._advise("MADV_NORMAL")
        return copy

    def _advise(self, advice):
        mapping = self.array._mmap
        if hasattr(mmap, advice):
            mapping.madvise(getattr(mmap, advice))
