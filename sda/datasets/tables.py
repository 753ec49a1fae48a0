"""Tables: .csv and .parquet files, through pandas."""

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
    try:
        import pandas
    except ImportError as error:
        raise _missing("pandas") from error
    read = pandas.read_csv if path.suffix.lower() == ".csv" else _read_parquet
    try:
        return read(path)
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


def _read_parquet(path):
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise _missing("pyarrow") from error
    import pandas

    return pandas.read_parquet(path, engine="pyarrow")


def _missing(package):
    return ImportError(
        f"Expected the package `{package}`, which reads tables, to be installed. "
        'Run `pip install "keras-sda[tables]"`.'
    )
