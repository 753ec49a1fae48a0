"""What a driver trains on: all data at once, or piece by piece, each read while one is used."""

import contextlib
import math

import numpy as np
from keras import tree

from sda.rows.base import host, size_of
from sda.rows.read_ahead import ahead

# Larger data stay where they are and travel in pieces, of which some four exist at a time.
RESIDENT_BYTES = 2**30
PIECES = 16


class Feed:
    """Brings the rows of a dispatch to the driver: all data once, or piece by piece if large.

    Args:
        driver: The backend's driver.
        data: Nested structure of `Rows`.
    """

    def __init__(self, driver, data):
        self.driver = driver
        self.data = data
        size = sum(size_of(a) for a in leaves(data))
        self.resident = None
        if self._may_reside() and size <= RESIDENT_BYTES:
            self.resident = map_leaves(lambda a: driver.put(host(a[:])), data)
        else:
            row = size // len(leaves(data)[0]) + 1
            self.rows_a_piece = max(1, RESIDENT_BYTES // PIECES // row)

    def _may_reside(self):
        return all(a.resident for a in leaves(self.data))

    @contextlib.contextmanager
    def reading(self, dispatches, steps):
        """Give a function that lets the driver run on the rows of one dispatch after the other.

        Args:
            dispatches: Index matrices, of at most `steps` rows each.
            steps: Integer, the steps a dispatch.
        """
        if self.resident is not None:
            yield lambda function, batches: function(
                self.resident, _padded(batches, steps), len(batches)
            )
            return
        parts = (part for batches in dispatches for part in self._parts(batches, steps))
        with contextlib.closing(ahead(self._read, parts)) as pieces:

            def run(function, batches):
                for part, _ in self._parts(batches, steps):
                    function(*self._sent(next(pieces), part.shape[1]), len(part))

            yield run

    def _sent(self, arrays, width):
        """Return the rows of a piece on the device, and the matrix of their indices there."""
        data = map_leaves(self.driver.put, arrays)
        return data, np.arange(len(leaves(data)[0]), dtype="int32").reshape(-1, width)

    def _parts(self, batches, steps):
        """Yield the pieces of an index matrix, each with the steps that it is read for."""
        most = max(1, self.rows_a_piece // batches.shape[1])
        # Pieces of nearly one length.
        steps = math.ceil(steps / math.ceil(steps / most))
        for start in range(0, len(batches), steps):
            yield batches[start : start + steps], steps

    def _read(self, part):
        """Return the rows of a piece, as arrays on the host; a thread calls it."""
        batches, steps = part
        rows = batches.reshape(-1)
        # Pieces have one shape, or that of one step, so that a backend compiles once.
        missing = 0 if len(batches) == 1 else (steps - len(batches)) * batches.shape[1]
        rows = np.concatenate([rows, np.repeat(rows[-1:], missing)])
        # Rows that follow each other are read as such.
        if np.all(np.diff(rows) == 1):
            rows = slice(int(rows[0]), int(rows[-1]) + 1)
        return map_leaves(lambda a: host(a[rows]), self.data)


def leaves(data):
    """Return the arrays or sources of a nested structure in a list, without its Nones."""
    return [leaf for leaf in tree.flatten(data) if leaf is not None]


def map_leaves(function, data):
    """Return the structure with `function` of each leaf; None stays None."""
    return tree.map_structure(lambda a: None if a is None else function(a), data)


def _padded(batches, steps):
    """Repeat the last row of indices up to `steps` rows, that the driver will not run."""
    if len(batches) == steps or len(batches) == 1:
        return batches
    return np.concatenate([batches, np.repeat(batches[-1:], steps - len(batches), axis=0)])
