"""Rows of what NumPy makes arrays of."""

import keras
import numpy as np
from keras import ops, tree

from sda.rows.frames import from_pandas
from sda.rows.given import GivenRows
from sda.rows.sparse import is_sparse


class ArrayRows(GivenRows):
    """Rows of a NumPy array, or of what becomes one."""

    @classmethod
    def takes(cls, x):
        return not gives_rows(x)

    @classmethod
    def of(cls, x, name):
        return cls(in_place(x, name))


def in_place(x, name):
    """Return `x` as a NumPy array, or as it is where it gives rows by position and has a dtype.

    A sparse matrix becomes dense: batches and labels are small. `sda.rows.sparse` has the rows of
    large ones.

    Raises:
        ValueError: If it is masked or symbolic, or a DataFrame with a column of no numbers.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(
            f"Expected `{name}` to be an array without a mask, which training would not see. "
            f"Received: a numpy.ma.MaskedArray; `{name}.filled(np.nan)` has NaN where values are "
            "missing"
        )
    if isinstance(x, keras.KerasTensor):
        raise ValueError(f"Expected `{name}` to hold values. Received: the symbolic {x}")
    if gives_rows(x):
        return x
    convert = _converter(x)
    array = as_array(x, name) if convert is None else convert(x, name)
    # 16 and 8 bits of kinds that NumPy has only by name.
    if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return array.astype("float32")
    return array


def gives_rows(x):
    """Return whether `x` gives rows by position, has a dtype, and is better left where it is."""
    if isinstance(x, np.memmap):
        return True
    known = isinstance(x, keras.KerasTensor) or _converter(x) is not None
    return not known and all(hasattr(x, a) for a in ("shape", "dtype", "__len__", "__getitem__"))


def _converter(x):
    """Return the function of `x` and its name that makes an array of it, or None for no known one.

    The libraries that are not there need not be imported to know what is not theirs.
    """
    library = type(x).__module__.partition(".")[0]
    if isinstance(x, np.ndarray):
        return lambda x, name: np.asarray(x)
    if is_sparse(x):
        return lambda x, name: x.toarray()
    if library == "pandas":
        return from_pandas
    if ops.is_tensor(x) or isinstance(x, keras.Variable):
        return lambda x, name: ops.convert_to_numpy(x)
    if hasattr(x, "to_numpy"):  # a DataFrame or Series of another library
        return lambda x, name: x.to_numpy()
    if hasattr(x, "detach"):  # PyTorch's, under another backend
        return _from_torch
    if hasattr(x, "numpy"):  # TensorFlow's
        return lambda x, name: np.asarray(x.numpy())
    return (lambda x, name: np.asarray(x)) if library in ("jax", "jaxlib") else None


def _from_torch(x, name):
    x = x.detach().cpu()
    # NumPy knows no bfloat16.
    return (x.float() if x.is_floating_point() and x.itemsize < 4 else x).numpy()


def as_array(x, name):
    """Return a nested list or the like as a NumPy array; raise `ValueError` if it is ragged."""
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(
            f"Expected `{name}` to be an array, or rows of one length. Received: {error}"
        ) from error


def arrays_of_lists(structure, name):
    """Return a nested structure with an array in place of each list of numbers, or of such."""

    def array(part):
        listed = isinstance(part, (list, tuple))
        if listed and part and all(np.isscalar(leaf) for leaf in tree.flatten(part)):
            return as_array(part, name)
        return None

    return tree.traverse(array, structure)
