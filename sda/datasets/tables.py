"""Tables: .csv and .parquet files, through pandas."""

import csv
import importlib
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np

from sda.files.opening import NUMBERS, is_bomb, open_plain

SUFFIXES = (".csv", ".parquet")
# pandas takes kilobytes for each, of which the file may have two.
MOST_COLUMNS = 2**16


def read_table(path):
    """Returns the `pandas.DataFrame` in a `.csv` file with a header line, or a `.parquet` file.

    An index of pandas that has a name is a column like others; one without is left out.

    Raises:
        ValueError: The file is not what its suffix says, has columns without a name or two of one
            name, a line of a `.csv` file has more or fewer values than the header, or a `.parquet`
            file would become 1000 times its size and more than 64 MiB.
        ImportError: `pandas`, or for `.parquet` `pyarrow`, is not installed.
    """
    path = Path(path)
    pandas = require("pandas")
    is_csv = path.suffix.lower() == ".csv"
    parquet = None if is_csv else require("pyarrow.parquet")
    file = open_plain(path)
    try:
        if is_csv:
            _check_lines(file)
            file.seek(0)
            frame = pandas.read_csv(file, index_col=False)
        else:
            frame = _read_parquet(parquet, file)
            named = [name for name in frame.index.names if name is not None]
            frame = frame.reset_index(level=named) if named else frame
            _check_names([str(name) for name in frame.columns])
        return frame
    except ImportError:
        raise
    # What a reader makes of a file of another kind may be anything: OSError, ValueError, KeyError.
    except Exception as error:
        raise ValueError(
            f"Expected `path` to be a {path.suffix} table. Received: path={path}: {error}"
        ) from error
    finally:
        file.close()


def _read_parquet(parquet, file):
    """Returns the `pandas.DataFrame` in an open file, of which the size is known before.

    Words stay numbers of a dictionary: a long one that is repeated takes no memory.
    """
    there = parquet.ParquetFile(file)
    columns = [there.schema.column(i) for i in range(there.metadata.num_columns)]
    for column in columns:
        if column.path != column.name or column.max_repetition_level:
            raise ValueError(f"column {column.path!r} has several values a row")
    _check_count(len(columns))
    groups = [there.metadata.row_group(i) for i in range(there.metadata.num_row_groups)]
    made = max(
        sum(group.total_byte_size for group in groups), 8 * there.metadata.num_rows * len(columns)
    )
    stored = os.fstat(file.fileno()).st_size
    if is_bomb(made, stored):
        raise ValueError(f"{made} bytes out of {stored}")
    words = [column.name for column in columns if column.physical_type == "BYTE_ARRAY"]
    table = parquet.ParquetFile(file, read_dictionary=words).read(use_pandas_metadata=True)
    return table.to_pandas()


def _check_count(columns):
    if columns > MOST_COLUMNS:
        raise ValueError(f"{columns} columns, more than {MOST_COLUMNS}")


def _check_lines(file):
    """Raises `ValueError` unless each line has as many values as the header has names.

    pandas would take the first column of longer lines for an index, and fill up shorter ones.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    lines = csv.reader(text)
    header = next((line for line in lines if not _is_blank(line)), [])
    _check_count(len(header))
    _check_names(header)
    gap = None
    for line in lines:
        if _is_blank(line):
            gap = lines.line_num
        elif len(line) != len(header):
            raise ValueError(
                f"line {lines.line_num} has {len(line)} values, the header {len(header)} names"
            )
        elif gap is not None and len(header) == 1:
            # pandas leaves blank lines out: here that would be a row.
            raise ValueError(f"line {gap} has no value")
    text.detach()


def _is_blank(line):
    return not line or (len(line) == 1 and line[0].isspace())


def _check_names(names):
    if not all(names):
        raise ValueError(
            f"column {names.index('') + 1} has no name (an index? pandas leaves it out by "
            "`to_csv(index=False)`)"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"more than one column of the name {twice[0]!r}")


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
    values = frame[name]
    if values.dtype == "category" and values.cat.categories.dtype.kind not in NUMBERS:
        # Each word once; pandas would copy it for each row.
        words = np.array([*values.cat.categories, np.nan], dtype=object)
        return words[values.cat.codes.to_numpy()]
    return values.to_numpy()


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
