"""Some of the rows of a source."""

import numpy as np


class Part:
    """Consecutive rows of a source that stays where it is, such as those of an HDF5 file.

    Args:
        rows: The source.
        start: Integer, the number of the first row.
        stop: Integer, the number after that of the last one.
    """

    def __init__(self, rows, start, stop):
        self.rows = rows
        self.start, self.stop = start, stop
        self.shape = (stop - start, *rows.shape[1:])
        self.dtype = rows.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            return self.rows[self.start + first : self.start + last : step]
        return self.rows[self.start + np.asarray(rows)]


def part(rows, start, stop):
    """Return consecutive rows: a view of an array, or a `Part` of any other source."""
    return rows[start:stop] if isinstance(rows, np.ndarray) else Part(rows, start, stop)
