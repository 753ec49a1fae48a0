"""The `.amat` text format: a row of numbers an example, its label last."""

import io

import numpy as np

from sda.files.opening import open_plain


def read_amat(path, rows, features, classes):
    """Reads an `.amat` file of grey levels and labels whose size is known.

    Args:
        path: Path of the file.
        rows: Integer, the examples that the file must have.
        features: Integer, the grey levels an example.
        classes: Integer, the number of classes; labels count from 0.

    Returns:
        Pair `(x, y)`: float32 array of shape `(rows, features)` in [0, 1], and int64 array of
        shape `(rows,)`.

    Raises:
        ValueError: The file is not such a table.

    Example:

    >>> x, y = read_amat("convex_train.amat", rows=8000, features=784, classes=2)
    """
    try:
        with io.TextIOWrapper(open_plain(path)) as file:
            table = np.loadtxt(file, dtype="float32", ndmin=2)
    except ValueError as error:
        raise _malformed(path, rows, features, classes, error) from error
    if table.shape != (rows, features + 1):
        raise _malformed(path, rows, features, classes, f"a table of shape {table.shape}")
    x, y = table[:, :-1], table[:, -1]
    if not (x.min() >= 0 and x.max() <= 1):
        raise _malformed(path, rows, features, classes, f"values from {x.min()} to {x.max()}")
    if not np.isin(y, range(classes)).all():
        raise _malformed(path, rows, features, classes, f"labels from {y.min()} to {y.max()}")
    return np.ascontiguousarray(x), y.astype("int64")


def _malformed(path, rows, features, classes, received):
    return ValueError(
        f"Expected `path` to hold {rows} rows of {features} values in [0, 1] and a label from 0 to "
        f"{classes - 1}. Received: path={path} with {received}"
    )
