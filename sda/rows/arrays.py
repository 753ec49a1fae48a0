"""Rows of what NumPy makes arrays of."""

import keras
import numpy as np
from keras import ops, tree

from sda.rows.base import Rows
from sda.rows.frames import from_pandas
from sda.rows.sparse import is_sparse


class ArrayRows(Rows):
    """Rows of a NumPy array.

    Args:
        array: The array.
    """

    def __init__(self, array):
        super().__init__(array.shape, array.dtype)
        self.array = array

    def __getitem__(self, rows):
        return self.array[rows]


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
    if isinstance(x, np.memmap):
        return x
    if isinstance(x, np.ndarray):
        array = np.asarray(x)
    elif is_sparse(x):
        array = x.toarray()
    elif type(x).__module__.partition(".")[0] == "pandas":
        array = from_pandas(x, name)
    elif keras.ops.is_tensor(x) or isinstance(x, keras.Variable):
        array = ops.convert_to_numpy(x)
    elif hasattr(x, "to_numpy"):  # a DataFrame or Series of another library
        array = x.to_numpy()
    elif hasattr(x, "detach"):  # PyTorch's, under another backend
        x = x.detach().cpu()
        # NumPy knows no bfloat16.
        array = (x.float() if x.is_floating_point() and x.itemsize < 4 else x).numpy()
    elif hasattr(x, "numpy"):  # TensorFlow's
        array = np.asarray(x.numpy())
    elif type(x).__module__.partition(".")[0] in ("jax", "jaxlib"):
        array = np.asarray(x)
    elif all(hasattr(x, a) for a in ("shape", "dtype", "__len__", "__getitem__")):
        return x
    else:
        array = as_array(x, name)
    # 16 and 8 bits of kinds that NumPy has only by name.
    if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return array.astype("float32")
    return array


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
