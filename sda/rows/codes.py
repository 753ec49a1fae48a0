"""Where the codes between two layers live: device, RAM, HDF5 scratch, or recomputed."""

import math
import pathlib
import shutil
import tempfile

import keras
import numpy as np

from sda.checks import check_count
from sda.rows.arrays import ArrayRows
from sda.rows.base import Rows
from sda.rows.h5 import H5Rows

PLACES = ("auto", "device", "ram", "disk", "recompute")
# What "auto" keeps on the device when no budget is given.
BUDGET = 2**30


class HostRows(ArrayRows):
    """Codes in RAM that are sent to the device piece by piece."""

    resident = False


class RecomputedRows(Rows):
    """Codes that are computed from the rows below whenever they are read."""

    resident = False

    def __init__(self, encode, below, shape):
        super().__init__(shape, _dtype())
        self.encode = encode
        self.below = below

    def __getitem__(self, rows):
        return self.encode(self.below[rows]).astype(self.dtype, copy=False)


class ScratchRows(H5Rows):
    """Codes in an HDF5 file of their own, sent to the device piece by piece."""

    resident = False

    def __init__(self, path):
        import h5py

        self.path = path
        super().__init__(h5py.File(path, "r")["codes"])

    def discard(self):
        """Delete the file: the layer above has codes of its own."""
        self.dataset.file.close()
        self._map = None
        self.path.unlink()


def check_place(storage, budget):
    """Raise `ValueError` unless `codes_storage` and `codes_budget` make sense."""
    if not isinstance(storage, str) or storage not in PLACES:
        raise ValueError(
            f"Expected `codes_storage` to be one of {PLACES}. Received: codes_storage={storage!r}"
        )
    if budget is not None:
        check_count(budget, "codes_budget", least=0)


def place_codes(storage, budget, shape):
    """Return the place for codes of `shape` under the byte budget.

    Raises:
        ValueError: If the codes are asked to be in memory, and are larger than the budget, or if
            the disk has no room for them.
    """
    size = np.dtype(_dtype()).itemsize * math.prod(shape)
    if storage == "auto":
        storage = "device" if size <= (BUDGET if budget is None else budget) else "disk"
    if storage == "disk":
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if size > free:
            raise ValueError(
                f"Expected the codes of a layer to fit the {free} bytes that are free in "
                f"{tempfile.gettempdir()} (set TMPDIR for another place), or `codes_storage` to be "
                f'"recompute". Received: {size} bytes of codes'
            )
        return storage
    if storage in ("device", "ram") and budget is not None and size > budget:
        raise ValueError(
            "Expected the codes of a layer to fit `codes_budget`, or `codes_storage` to be "
            f'"disk", "recompute" or "auto". Received: {size} bytes of codes, '
            f"codes_storage={storage!r}, codes_budget={budget}"
        )
    return storage


def encode_rows(encode, rows, shape, place, folder, name):
    """Return the codes of `rows`, living in `place`, as `Rows`.

    Args:
        encode: Function from a NumPy array of rows to a NumPy array of codes.
        rows: The `Rows` below.
        shape: Shape of the codes.
        place: One of `PLACES`, but not "auto".
        folder: Path of the folder for scratch files.
        name: Name of the scratch file.
    """
    if place == "recompute":
        return RecomputedRows(encode, rows, shape)
    if place != "disk":
        codes = np.empty(shape, _dtype())
        _fill(codes, encode, rows)
        return ArrayRows(codes) if place == "device" else HostRows(codes)
    import h5py

    path = pathlib.Path(folder) / f"{name}.h5"
    with h5py.File(path, "w") as file:
        _fill(file.create_dataset("codes", shape, _dtype()), encode, rows)
    return ScratchRows(path)


def _dtype():
    """Return the dtype that loses nothing of codes in Keras's floatx, or in less."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


def _fill(codes, encode, rows):
    start = 0
    for piece in rows.pieces():
        # HDF5 knows no bfloat16.
        codes[start : start + len(piece)] = encode(piece).astype(codes.dtype, copy=False)
        start += len(piece)
