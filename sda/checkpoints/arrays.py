"""Arrays, tensors and other values of NumPy and the backend, by what they hold."""

import hashlib

import keras
import numpy as np
from keras import ops

from sda.checkpoints.installed import COMPARED


def digest(array):
    """Return the SHA-256 of the values of an array."""
    found = hashlib.sha256()
    # Piece by piece: an array may be a mapped file.
    for start in range(0, len(array), 2**14) if array.ndim else ():
        found.update(np.ascontiguousarray(array[start : start + 2**14]).tobytes())
    if not array.ndim:
        found.update(array.tobytes())
    return found.hexdigest()


def short(value):
    text = repr(value)
    if len(text) <= 200:
        return text
    return f"{type(value).__name__}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


def array_of(value):
    """Return an array or a tensor as NumPy's, or None if it is neither."""
    if type(value) in (np.ndarray, np.memmap):
        return value
    if isinstance(value, (keras.KerasTensor, type)):
        return None
    try:
        if isinstance(value, keras.Variable) or ops.is_tensor(value):
            value = ops.stop_gradient(ops.convert_to_tensor(value))
            return np.asarray(ops.convert_to_numpy(ops.cast(value, _plain_dtype(value.dtype))))
    except Exception:  # one that is traced, or was deleted
        return None
    return None


def _plain_dtype(dtype):
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name.startswith(("bfloat", "float8")) else name


def is_word_of_a_backend(value):
    """Return whether it is a dtype, a shape or a device of the backend."""
    kind = type(value)
    root = str(kind.__module__).split(".")[0]
    words = ("DType", "Device", "Size", "TensorShape", "device", "dtype")
    return root in COMPARED and kind.__name__ in words


def values(variables):
    """Return the values of Keras variables, as NumPy arrays of their own."""
    # Through a tensor: on TensorFlow a variable of several replicas is no array.
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v.value))) for v in variables]


def kept_values(variables):
    """Return the values of variables as arrays whose digests a checkpoint keeps."""
    found = values(variables)
    # A checkpoint has no bfloat16: in float32 its values are the same.
    return [value.astype("float32") if value.dtype.kind == "V" else value for value in found]
