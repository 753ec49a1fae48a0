"""Rows of one's own from a file, whoever made it."""

from pathlib import Path

import h5py

from sda.datasets import tables
from sda.files.h5 import BROKEN_H5, check_dataset, find
from sda.files.opening import open_plain, read_text, refusal
from sda.files.zips import read_npy, read_npz
from sda.rows.h5 import H5Rows


def read(path, name=None):
    """Reads rows of numbers from a file, and nothing but numbers, and from no other file.

    | File | What is read |
    |---|---|
    | `.npz` | the array `name` |
    | `.npy` | the array |
    | `.h5`, `.hdf5` | the dataset at the path `name`; its rows stay in the file |
    | `.amat`, `.txt` | numbers between blanks, one row a line |
    | `.csv`, `.parquet` | all columns of the table, or the column `name`; by pandas |

    Files with Python objects (pickles), links, external storage, virtual datasets, filters that are
    plugins, or shapes that they do not fill are refused.

    Args:
        path: Path of the file.
        name: String, which array of an `.npz` or HDF5 file; None where it holds only one. Or which
            column of a table, None for all.

    Returns:
        NumPy array; of an HDF5 file, its rows, for `sda.GreedyPretrainer.fit` and `sda.fit`.

    Raises:
        ValueError: The file is not what its suffix says, holds no such array, or is refused.
        ImportError: `pandas` is not installed, or for `.parquet` `pyarrow`.

    Example:

    >>> rows = sda.datasets.read("measurements.h5", "train/x")
    >>> histories = sda.GreedyPretrainer(stack).fit(rows)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays = read_npz(path, None if name is None else [name])
        return arrays[_only(arrays, path) if name is None else name]
    if suffix in (".h5", ".hdf5"):
        return _read_h5(path, name)
    if suffix in tables.SUFFIXES:
        frame = tables.read_table(path)
        if name is None:
            return tables.numbers(frame, path)
        tables.column(frame, name, path)
        return tables.numbers(frame[[name]], path)[:, 0]
    if name is not None:
        raise refusal("name", f"None for a {suffix} file, which holds one array", f"name={name!r}")
    if suffix == ".npy":
        return read_npy(path)
    if suffix in (".amat", ".txt"):
        return read_text(path)
    raise refusal(
        "path", "an .npz, .npy, .h5, .hdf5, .amat, .txt, .csv or .parquet file", f"path={path}"
    )


def _read_h5(path, name):
    open_plain(path).close()  # HDF5 would wait for ever for a FIFO.
    try:
        file = h5py.File(path, "r")
        dataset = find(file, _only(file, path) if name is None else name, "name")
        check_dataset(dataset, "name")
        rows = H5Rows(dataset)
    except FileNotFoundError:
        raise
    except BROKEN_H5 as error:
        raise refusal("path", "an HDF5 file", f"path={path}: {error}") from error
    rows.file = file  # Open for as long as its rows are used.
    return rows


def _only(arrays, path):
    if len(arrays) != 1:
        raise refusal("name", f"one of {sorted(arrays)}, as {path} holds", "name=None")
    return next(iter(arrays))
