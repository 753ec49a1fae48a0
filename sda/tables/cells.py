"""The cells of tables: of a DataFrame's columns, or of an array's."""

import datetime

import numpy as np

# Words of which there are more than this, and more than one for two rows, are no categories.
MANY = 20
# Points in time and spans of it: neither numbers nor categories.
TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)


def names(table):
    """Return the names of a DataFrame's columns, or the positions of an array's."""
    if hasattr(table, "columns"):
        return list(table.columns)
    if not isinstance(table, np.ndarray) or table.ndim != 2:
        raise ValueError(
            "Expected `table` to be a pandas.DataFrame or an array of shape (n, columns). "
            f"Received: {type(table).__name__}"
        )
    return list(range(table.shape[1]))


def values(table, column):
    """Return the values of a column in order, without those that are missing."""
    there = names(table)
    if column not in there:
        raise ValueError(f"Expected columns among {there}. Received: {column!r}")
    if there.count(column) > 1:
        raise ValueError(
            f"Expected the columns of `table` to have names that differ. Received: {column!r} twice"
        )
    if hasattr(table, "columns"):
        series = table[column]
        # Of a categorical dtype, also the values that no row has.
        declared = _has_categories(table, column)
        found = series.dtype.categories if declared else series.dropna().unique()
    else:
        cells = table[:, column]
        # Of nanoseconds `tolist` would make integers.
        cells = cells if cells.dtype.kind in "mM" else cells.tolist()
        found = {v for v in cells if v is not None and v == v}
    # (A Period of pandas is none of datetime's.)
    if any(isinstance(value, TIMES) or hasattr(value, "to_timestamp") for value in found):
        raise ValueError(
            "Expected columns of numbers, of two values or of categories. Received: times in "
            f"{column!r}; turn them into numbers, such as days or the day of the week"
        )
    try:
        return sorted(found)
    except TypeError as error:
        raise ValueError(
            f"Expected the values of a column to be of one type. Received: {column!r}: {error}"
        ) from error


def _has_categories(table, column):
    return hasattr(table, "columns") and hasattr(table[column].dtype, "categories")


def known(table, column):
    """Return where a column is not missing."""
    if hasattr(table, "columns"):
        return table[column].notna().to_numpy()
    return np.array([v is not None and v == v for v in table[:, column].tolist()], bool)


def kept(table, column, values):
    """Return the cells of a column that are known in `table`, and `values` for the others."""
    cells = table[column].to_numpy(object) if hasattr(table, "columns") else table[:, column]
    return np.where(known(table, column), cells, values.astype(object))


def guessed_kind(table, column):
    """Return the kind of a column by its values; raise `ValueError` if they may name the rows."""
    found = values(table, column)
    is_number = all(isinstance(v, (int, float, np.number)) for v in found)
    declared = _has_categories(table, column)
    most = max(MANY, known(table, column).sum() / 2)
    if not is_number and not declared and len(found) > most:
        raise ValueError(
            "Expected a column that is guessed to be categorical to have few values. "
            f"Received: {column!r} with {len(found)} in {len(table)} rows; leave it "
            "out, or name it in `categorical`"
        )
    if len(found) == 2:
        return "binary"
    return "numeric" if is_number and not declared else "categorical"


def typed(values, dtype):
    """Return `values` as a pandas Series, of the column's own dtype where it can hold them."""
    import pandas

    series = pandas.Series(values).infer_objects()
    there = series.notna()
    # NumPy's integers and booleans know no missing values.
    if isinstance(dtype, np.dtype) and not there.all():
        return series
    try:
        converted = series.astype(dtype)
    except (TypeError, ValueError):
        return series
    return converted if (converted[there] == series[there]).all() else series
