"""Rows of pandas' objects."""

import numpy as np

from sda.files.opening import NUMBERS


def from_pandas(x, name):
    """Return what pandas holds as a NumPy array, with NaN where something is missing."""
    import pandas

    if not isinstance(x, pandas.DataFrame):
        return _column(pandas.Series(x), name)
    columns = [
        _column(x.iloc[:, i], f"{name}[{label!r}]") for i, label in enumerate(x.columns.tolist())
    ]
    if all(isinstance(dtype, np.dtype) for dtype in x.dtypes) and x.to_numpy().dtype != "object":
        return x.to_numpy()  # which is no copy where all is of one dtype
    return np.stack(columns, axis=1) if columns else np.empty(x.shape)


def _column(series, name):
    dtype = series.dtype
    if dtype.kind not in NUMBERS:
        raise ValueError(
            f"Expected `{name}` to hold numbers. Received: dtype {dtype}; sda.tables.Columns makes "
            "numbers of categories and text"
        )
    if isinstance(dtype, np.dtype):
        return series.to_numpy()
    # Of pandas's own dtypes: numbers that may be missing, those of Arrow, sparse ones.
    plain = np.dtype(getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", "float64")))
    if not series.hasnans:
        return series.to_numpy(dtype=plain)
    return series.to_numpy(dtype=plain if plain.kind == "f" else "float64", na_value=np.nan)
