"""Rows into a file, a piece at a time where the format can."""

from pathlib import Path

import h5py
import numpy as np

from sda.datasets.tables import require
from sda.files.writing import replacing
from sda.rows.reading import pieces

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".csv", ".parquet")


def write(path, x, function, width, name):
    """Writes what a function makes of rows, in the format that the suffix of the path says.

    The file appears when it is whole. `.npy` and HDF5 files are written a piece at a time, for rows
    that do not fit in memory.

    Args:
        path: Path of the file; one that is there is replaced.
        x: Rows, anything with `__len__` and slices.
        function: Function of a piece of `x` to a float array of shape `(rows, width)`.
        width: Integer.
        name: String, what the array is called in `.npz` and HDF5 files, and with a number from 1
            on each column of a table.

    Raises:
        ValueError: The suffix is none of these.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    shape = (len(x), width)
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected `path` to end in {', '.join(SUFFIXES)}. Received: path={path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file that is there looks whole: so it has to be, also after a kill.
    with replacing(path) as temporary:
        _write(temporary, suffix, x, function, shape, name)


def _write(path, suffix, x, function, shape, name):
    if suffix == ".npy":
        _fill(np.lib.format.open_memmap(path, "w+", "float32", shape), x, function)
    elif suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            _fill(file.create_dataset(name, shape, "float32"), x, function)
    elif suffix == ".npz":
        np.savez(path, **{name: _fill(np.empty(shape, "float32"), x, function)})
    else:
        pandas = require("pandas")
        columns = [f"{name}{i}" for i in range(1, shape[1] + 1)]
        frame = pandas.DataFrame(_fill(np.empty(shape, "float32"), x, function), columns=columns)
        if suffix == ".csv":
            frame.to_csv(path, index=False)
        else:
            require("pyarrow")
            frame.to_parquet(path, engine="pyarrow", index=False)


def _fill(rows, x, function):
    start = 0
    for piece in pieces(x, 4096):
        rows[start : start + len(piece)] = function(piece)
        start += len(piece)
    return rows
