"""Rows of an HDF5 dataset."""

import os

import h5py
import numpy as np

from sda.files.h5 import BROKEN_H5, check_chunks, check_dataset
from sda.files.opening import NUMBERS
from sda.rows.base import Rows, size_of
from sda.rows.mapped import GAP, MappedRows


class H5Rows(Rows):
    """Rows of an `h5py.Dataset`, read by index.

    HDF5 reads a list of rows slowly and in increasing order only. Where the dataset lies in the
    file in one piece, uncompressed, and of a type that is one of NumPy's, its rows are read through
    a memory map instead, and read well in any order.
    """

    on_disk = True

    def __init__(self, dataset):
        super().__init__(dataset.shape, dataset.dtype)
        self.dataset = dataset
        self.name = dataset.name
        # Unpacked as a whole.
        self.chunk = (dataset.chunks or (1,))[0]
        self._map = None
        self._checked = set()
        offset = dataset.id.get_offset()
        if offset is not None and self.dtype.isnative and dataset.file.driver == "sec2":
            # What is still in HDF5's buffers is not in the file yet.
            dataset.file.flush()
            if self._is_plain() and self._is_there(offset + size_of(self)):
                array = np.memmap(
                    dataset.file.filename, self.dtype, "r", offset=offset, shape=self.shape
                )
                self._map = MappedRows(array)

    @classmethod
    def takes(cls, x):
        # Something of h5py's: a dataset, or what was mistaken for one.
        return f"{type(x).__module__}.".startswith("h5py.")

    @classmethod
    def of(cls, x, name):
        check_dataset(x, name)
        return cls(x)

    def _is_plain(self):
        """Return whether the file's type is NumPy's: not 12 bits of 16, or bfloat16 as float32.

        And one of numbers: what HDF5 calls objects are addresses in the file, not in memory.
        """
        is_number = self.dtype.kind in NUMBERS
        return is_number and self.dataset.id.get_type() == h5py.h5t.py_create(
            self.dtype, logical=True
        )

    def _is_there(self, size):
        """Return whether so much is under the name of the file, which may be another one's now."""
        file = self.dataset.file
        there = os.stat(file.filename)
        opened = os.fstat(file.id.get_vfd_handle())
        return os.path.samestat(there, opened) and size <= there.st_size

    @property
    def any_order(self):
        return self._map is not None

    def __getitem__(self, rows):
        if self._map is not None:
            return self._map[rows]
        try:
            if isinstance(rows, slice):
                there = range(*rows.indices(len(self)))
                if there:
                    self._check(np.array([min(there), max(there)]), between=True)
                return self.dataset[rows]
            return self._picked(*np.unique(rows, return_inverse=True))
        except BROKEN_H5 as error:
            raise ValueError(
                f"Expected the rows of {self.dataset.name} in {self.dataset.file.filename} to be "
                f"whole. Received: {error}"
            ) from error

    def _picked(self, rows, places):
        """Return the increasing `rows`, each where `places` has its number."""
        spans = np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1)
        if GAP * len(spans) > len(rows):
            self._check(rows)
            return self.dataset[rows][places]
        # Much faster than a list of rows, and what lies between them is little.
        picked, done = np.empty((len(rows), *self.shape[1:]), self.dtype), 0
        for span in spans:
            self._check(span[[0, -1]], between=True)
            read = self.dataset[span[0] : span[-1] + 1]
            picked[done : done + len(span)] = read[span - span[0]]
            done += len(span)
        return picked[places]

    def _check(self, rows, between=False):
        """Check the chunks that hold increasing `rows`, the first time that these are read."""
        if self.dataset.chunks and len(rows):
            bands = np.unique(rows // self.dataset.chunks[0]).tolist()
            bands = range(bands[0], bands[-1] + 1) if between else bands
            for band in set(bands) - self._checked:
                check_chunks(self.dataset, band, "x")
                self._checked.add(band)
