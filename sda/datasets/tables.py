"""Tables: .csv and .parquet files, through pandas."""

import importlib
from pathlib import Path

import numpy as np

SUFFIXES = (".csv", ".parquet")


def read_table(path):
    """Returns the `pandas.DataFrame` in a `.csv` file with a header line, or a `.parquet` file.

    Raises:
        ValueError: The file is not what its suffix says.
        ImportError: `pandas`, or for `.parquet` `pyarrow`, is not installed.
    """
    path = Path(path)
    pandas = require("pandas")
    is_csv = path.suffix.lower() == ".csv"
    if not is_csv:
        require("pyarrow")
    try:
        return pandas.read_csv(path) if is_csv else pandas.read_parquet(path, engine="pyarrow")
    except (ImportError, FileNotFoundError):
        raise
    # What a reader makes of a file of another kind may be anything: OSError, ValueError, KeyError.
    except Exception as error:
        raise ValueError(
            f"Expected `path` to be a {path.suffix} table. Received: path={path}: {error}"
        ) from error


def column(frame, name, path):
    """Returns one column of a table as a NumPy array.

    Raises:
        ValueError: There is no such column.
    """
    if name not in frame.columns:
        raise ValueError(
            f"Expected `name` to be a column of {path}: {sorted(map(str, frame.columns))}. "
            f"Received: name={name!r}"
        )
    return frame[name].to_numpy()


def numbers(frame, path):
    """Returns all columns of a table as a float array of shape `(rows, columns)`.

    Raises:
        ValueError: A column holds something other than numbers.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    words = [
        str(name)
        for name, dtype in frame.dtypes.items()
        if not (is_numeric_dtype(dtype) or is_bool_dtype(dtype))
    ]
    if words:
        raise ValueError(
            f"Expected the columns of {path} to hold numbers. Received: other values in "
            f"{words}; name a column of labels as such, and encode or drop the others"
        )
    return frame.to_numpy(dtype="float64", na_value=np.nan).astype("float32")


def require(package):
    """Returns the package that tables need, or raises an `ImportError` that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Expected the package `{package}`, which tables need, to be installed. "
            'Run `pip install "keras-sda[tables]"`.'
        ) from error
