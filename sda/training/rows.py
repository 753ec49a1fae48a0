"""Examples read by row: arrays, memory maps, HDF5 datasets, and what iterates over batches."""

import keras
import numpy as np
from keras import ops

from sda.safe_files import NUMBERS, check_dataset


class H5Rows:
    """Rows of an `h5py.Dataset`, read by index.

    HDF5 reads a list of rows slowly and in increasing order only. Where the dataset lies in the
    file in one piece, uncompressed, its rows are read through a memory map instead.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.shape = dataset.shape
        self.dtype = dataset.dtype
        self._map = None
        offset = dataset.id.get_offset()
        if offset is not None and dataset.dtype.isnative and dataset.file.driver == "sec2":
            # What is still in HDF5's buffers is not in the file yet.
            dataset.file.flush()
            self._map = np.memmap(
                dataset.file.filename, self.dtype, "r", offset=offset, shape=self.shape
            )

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if self._map is not None:
            return self._map[rows]
        try:
            if isinstance(rows, slice):
                return self.dataset[rows]
            unique, inverse = np.unique(rows, return_inverse=True)
            return self.dataset[unique][inverse]
        except OSError as error:
            raise ValueError(
                f"Expected the rows of {self.dataset.name} in {self.dataset.file.filename} to be "
                f"whole. Received: {error}"
            ) from error


def as_rows(x, name="x"):
    """Return `x` as an array-like with `shape`, `dtype` and row indexing.

    Args:
        x: NumPy array or memory map, `h5py.Dataset`, tensor, nested list, or anything with `shape`,
            `dtype`, `__len__` and `__getitem__` for index arrays; these stay where they are. A
            `tf.data.Dataset` or `keras.utils.PyDataset` is read once into memory; of `(x, y)`
            batches, x is kept.
        name: What to call it in errors.

    Raises:
        ValueError: If it is empty, endless, or holds no numbers, or if reading an `h5py.Dataset`
            would read other files or never end.
    """
    if is_h5(x):
        check_dataset(x, name)
        x = H5Rows(x)
    elif is_iterated(x):
        x = read_once(x, name)[0]
    elif keras.ops.is_tensor(x):
        x = keras.ops.convert_to_numpy(x)
    elif not all(hasattr(x, a) for a in ("shape", "dtype", "__len__", "__getitem__")):
        x = as_array(x, name)
    if len(x.shape) == 0 or x.shape[0] == 0:
        raise ValueError(
            f"Expected `{name}` to hold at least one example. Received: shape {x.shape}"
        )
    check_numbers(x.dtype, name)
    return x


def as_array(x, name):
    """Return a nested list or the like as a NumPy array; raise `ValueError` if it is ragged."""
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(
            f"Expected `{name}` to be an array, or rows of one length. Received: {error}"
        ) from error


def check_numbers(dtype, name):
    """Raise `ValueError` unless the NumPy dtype is one of real numbers or booleans."""
    if np.dtype(dtype).kind not in NUMBERS:
        raise ValueError(f"Expected `{name}` to hold numbers. Received: dtype {dtype}")


def is_h5(x):
    """Return whether `x` is something of h5py's: a dataset, or what was mistaken for one."""
    return f"{type(x).__module__}.".startswith("h5py.")


def pieces(rows, size=4096):
    """Yield consecutive NumPy pieces of `rows`."""
    for start in range(0, len(rows), size):
        yield np.asarray(rows[start : start + size])


def check_finite(rows, name="x", missing=False):
    """Raise `ValueError` if there are NaN or infinite values, or some beyond Keras's floatx.

    With `missing`, NaN is allowed: a value that is missing.
    """
    if np.dtype(rows.dtype).kind != "f":
        return
    for i, piece in enumerate(pieces(rows)):
        with np.errstate(over="ignore"):
            finite = np.isfinite(piece.astype(keras.config.floatx(), copy=False))
        if missing:
            finite |= np.isnan(piece)
        if not finite.all():
            first = tuple(int(j) for j in np.argwhere(~finite)[0])
            raise ValueError(
                f"Expected `{name}` to hold finite values. Received: {piece[first]} in row "
                f"{i * 4096 + first[0]}"
            )


def scale_pixels(x):
    """Return uint8 pixels as floats in [0, 1], and any other tensor as it is."""
    if keras.backend.standardize_dtype(x.dtype) != "uint8":
        return x
    return ops.cast(x, keras.config.floatx()) / 255.0


def batch(data):
    """Return gathered rows `(x, ...)` as a step takes them, with uint8 inputs scaled."""
    x, *rest = data
    return (keras.tree.map_structure(scale_pixels, x), *rest)


def is_iterated(x):
    """Return whether `x` yields batches: a `tf.data.Dataset` or a `keras.utils.PyDataset`."""
    return isinstance(x, keras.utils.PyDataset) or hasattr(x, "as_numpy_iterator")


def read_once(dataset, name):
    """Return the arrays `[x]`, `[x, y]` or `[x, y, sample_weight]` that a dataset yields."""
    is_py = isinstance(dataset, keras.utils.PyDataset)
    # tf.data says -1 where a dataset has no end.
    if dataset.num_batches is None if is_py else int(dataset.cardinality()) == -1:
        raise ValueError(
            f"Expected `{name}` to end: give a dataset of known length, without `repeat()`. "
            f"Received: {dataset!r}"
        )
    batches = _all(dataset, name) if is_py else dataset.as_numpy_iterator()
    batches = [batch if isinstance(batch, (tuple, list)) else (batch,) for batch in batches]
    if not batches or np.ndim(batches[0][0]) < 2:
        raise ValueError(
            f"Expected `{name}` to yield batches of shape (batch, features). "
            f"Received: {[np.shape(b[0]) for b in batches[:1]]}"
        )
    try:
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    except ValueError as error:
        raise ValueError(
            f"Expected `{name}` to yield batches of one shape but for their length. "
            f"Received: {error}"
        ) from error


def _all(dataset, name):
    batches = []
    for i in range(dataset.num_batches):
        try:
            batches.append(dataset[i])
        except (IndexError, StopIteration) as error:
            raise ValueError(
                f"Expected `{name}` to yield {dataset.num_batches} batches, as it says. "
                f"Received: {len(batches)}"
            ) from error
    return batches
