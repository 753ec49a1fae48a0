"""Where rows and labels come from, named in one string: a dataset, a file, an array in a file."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from sda.datasets import tables
from sda.datasets.catalogue import LOADERS, load
from sda.datasets.reading import read

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".amat", ".txt", *tables.SUFFIXES)
# Narrower rows are more likely measurements than square images.
LEAST_SQUARE = 64


@dataclasses.dataclass
class Source:
    """Rows, with what is known about them.

    Attributes:
        x: Rows of shape `(n, features)`: a NumPy array, or those of a file.
        y: Labels of shape `(n,)`, of any type, or None.
        image_shape: `(height, width)` or `(height, width, 3)` where the rows are images, or None.
        columns: List of the columns' names, of a table, or None.
    """

    x: object
    y: np.ndarray | None = None
    image_shape: tuple | None = None
    columns: list | None = None

    def split(self, share):
        """Returns two `Source`s: the rows to train on, and the share that is held out, or None.

        Which rows these are depends on nothing but their number and the share: every run on the
        same data holds out the same.
        """
        held_out = round(share * len(self.x))
        if held_out == 0:
            return self, None
        order = np.random.default_rng(0).permutation(len(self.x))
        return self.take(np.sort(order[held_out:])), self.take(np.sort(order[:held_out]))

    def with_columns(self, names):
        """Returns a `Source` of the same rows with its columns in the order of `names`.

        Raises:
            ValueError: The columns of the table are others. Rows that have no names stay as they
                are.
        """
        if self.columns is None or names is None or self.columns == names:
            return self
        gone = [name for name in names if name not in self.columns]
        new = [name for name in self.columns if name not in names]
        if gone or new:
            raise ValueError(
                f"Expected a table with the columns that there were in training. Received: one "
                f"{'without' if gone else 'with'} {(gone or new)[0]!r}"
                f"{'' if gone else '; name a column of labels as such'}"
            )
        x = self.x[:, [self.columns.index(name) for name in names]]
        return dataclasses.replace(self, x=x, columns=list(names))

    def take(self, indices):
        """Returns a `Source` of the rows at the indices, increasing integers; files stay files."""
        x = self.x.take(indices, axis=0)
        y = None if self.y is None else self.y[indices]
        return dataclasses.replace(self, x=x, y=y)


def open_source(data, labels=None):
    """Reads the rows, and the labels if there are any, that two strings name.

    | `data` | Rows |
    |---|---|
    | `mnist`, `digits`, … (see `load`) | the training rows; `mnist::test` is the test rows |
    | `rows.npy`, `rows.amat` | the array |
    | `rows.npz::x`, `rows.h5::group/x` | one array; without `::` the only one |
    | `table.csv`, `table.parquet` | all columns but that of the labels |

    `labels` is another such file; or, without a suffix, an array of the same `.npz` or HDF5 file or
    a column of the same table. A dataset has its own.

    Images of shape `(n, height, width)` become rows; rows of `.npy`, `.npz` and HDF5 files whose
    width is a square of at least 64 are taken as square images.

    Args:
        data: String, as above.
        labels: String, as above, or None.

    Returns:
        A `Source`.

    Raises:
        ValueError: The name is unknown, the file is refused (see `read`), or rows and labels do not
            fit.
        OSError: There is no such file.
        ImportError: A package that reads the file is not installed.

    Example:

    >>> source = sda.datasets.open_source("mnist.npz::x_train", labels="y_train")
    >>> source.x.shape, source.image_shape
    ((60000, 784), (28, 28))
    """
    path, _, name = data.partition("::")
    if Path(path).suffix.lower() in SUFFIXES:
        source = _from_file(path, name or None, labels)
    else:
        source = _from_dataset(path, name or "train", data, labels)
    if source.y is not None and np.shape(source.y) != (len(source.x),):
        raise ValueError(
            f"Expected `labels` to hold one label for each of the {len(source.x)} rows. "
            f"Received: labels={labels!r} of shape {np.shape(source.y)}"
        )
    return source


def locate(name):
    """Returns `name` with the path in it made absolute, if there is one, for use elsewhere."""
    path, separator, inner = name.partition("::")
    if Path(path).suffix.lower() not in SUFFIXES:
        return name
    return f"{Path(path).expanduser().resolve()}{separator}{inner}"


def is_file(name):
    """Returns whether `name` is that of a file, and not of a dataset, an array or a column."""
    return Path(name.partition("::")[0]).suffix.lower() in SUFFIXES


def _from_dataset(name, part, data, labels):
    if name not in LOADERS or part not in ("train", "test"):
        raise ValueError(
            f"Expected `data` to be a file ending in {', '.join(SUFFIXES)}, or one of "
            f"{', '.join(LOADERS)}, with ::test for its test rows. Received: data={data!r}"
        )
    if labels is not None:
        raise ValueError(
            f"Expected `labels` to be None for {name}, which has its own. "
            f"Received: labels={labels!r}"
        )
    x, y = load(name)[part == "test"]
    side = math.isqrt(x.shape[1])
    return Source(x, y, (side, side))


def _from_file(path, name, labels):
    path = Path(path).expanduser()
    if path.suffix.lower() in tables.SUFFIXES:
        if name is not None:
            raise ValueError(
                f"Expected `data` to be the whole table {path}. Received: the column {name!r}"
            )
        frame = tables.read_table(path)
        y = None
        if labels is not None:
            y = _labels(labels, lambda column: tables.column(frame, column, path))
            frame = frame if is_file(labels) else frame.drop(columns=labels)
        return Source(tables.numbers(frame, path), y, None, [str(c) for c in frame.columns])
    x = read(path, name)
    y = None
    if labels is not None:
        y = _labels(labels, lambda array: read(path, array))
    shape = tuple(x.shape[1:])
    if len(shape) < 2:
        side = math.isqrt(math.prod(shape))
        square = len(shape) == 1 and side**2 == shape[0] >= LEAST_SQUARE
        return Source(x, y, (side, side) if square else None)
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[-1] == 3)
    return Source(np.asarray(x[:]).reshape(len(x), -1), y, shape if is_image else None)


def _labels(labels, inside):
    """Returns the labels in a file of their own, or those that are inside that of the rows."""
    if not is_file(labels):
        return np.asarray(inside(labels)[:])
    path, _, name = labels.partition("::")
    if Path(path).suffix.lower() not in tables.SUFFIXES:
        return np.asarray(read(path, name or None)[:])
    frame = tables.read_table(path)
    if not name and len(frame.columns) != 1:
        raise ValueError(
            f"Expected `labels` to name a column of {path}, as {path}::COLUMN. "
            f"Received: labels={labels!r}"
        )
    return tables.column(frame, name or frame.columns[0], path)
