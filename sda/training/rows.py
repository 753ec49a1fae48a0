"""Examples read by row: arrays, memory maps, HDF5 datasets, and what iterates over batches."""

import collections.abc
import itertools
import math
import os
import warnings

import h5py
import keras
import numpy as np
from keras import ops, tree

from sda import seeding
from sda.safe_files import BROKEN_H5, NUMBERS, check_chunks, check_dataset
from sda.training.ahead import ahead
from sda.training.mapped import GAP, MappedRows
from sda.training.scratch import Scratch

# What is read of a source at a time, at most.
PIECE_ROWS = 4096
PIECE_BYTES = 2**26


class H5Rows:
    """Rows of an `h5py.Dataset`, read by index.

    HDF5 reads a list of rows slowly and in increasing order only. Where the dataset lies in the
    file in one piece, uncompressed, and of a type that is one of NumPy's, its rows are read through
    a memory map instead; `mapped` says so.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.shape = dataset.shape
        self.dtype = dataset.dtype
        self._map = None
        self._checked = set()
        offset = dataset.id.get_offset()
        if offset is not None and self.dtype.isnative and dataset.file.driver == "sec2":
            # What is still in HDF5's buffers is not in the file yet.
            dataset.file.flush()
            if self._is_plain() and self._is_there(offset + size_of(self)):
                array = np.memmap(
                    dataset.file.filename, self.dtype, "r", offset=offset, shape=self.shape
                )
                self._map = MappedRows(array)

    def _is_plain(self):
        """Return whether the file's type is NumPy's: not 12 bits of 16, or bfloat16 as float32."""
        return self.dataset.id.get_type() == h5py.h5t.py_create(self.dtype, logical=True)

    def _is_there(self, size):
        """Return whether so much is under the name of the file, which may be another one's now."""
        file = self.dataset.file
        there = os.stat(file.filename)
        opened = os.fstat(file.id.get_vfd_handle())
        return os.path.samestat(there, opened) and size <= there.st_size

    @property
    def mapped(self):
        return self._map is not None

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if self._map is not None:
            return self._map[rows]
        try:
            if isinstance(rows, slice):
                there = range(*rows.indices(len(self)))
                if there:
                    self._check(np.array([min(there), max(there)]), between=True)
                return self.dataset[rows]
            return self._picked(*np.unique(rows, return_inverse=True))
        except BROKEN_H5 as error:
            raise ValueError(
                f"Expected the rows of {self.dataset.name} in {self.dataset.file.filename} to be "
                f"whole. Received: {error}"
            ) from error

    def _picked(self, rows, places):
        """Return the increasing `rows`, each where `places` has its number."""
        spans = np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1)
        if GAP * len(spans) > len(rows):
            self._check(rows)
            return self.dataset[rows][places]
        # Much faster than a list of rows, and what lies between them is little.
        picked, done = np.empty((len(rows), *self.shape[1:]), self.dtype), 0
        for span in spans:
            self._check(span[[0, -1]], between=True)
            read = self.dataset[span[0] : span[-1] + 1]
            picked[done : done + len(span)] = read[span - span[0]]
            done += len(span)
        return picked[places]

    def _check(self, rows, between=False):
        """Check the chunks that hold increasing `rows`, the first time that these are read."""
        if self.dataset.chunks and len(rows):
            bands = np.unique(rows // self.dataset.chunks[0]).tolist()
            bands = range(bands[0], bands[-1] + 1) if between else bands
            for band in set(bands) - self._checked:
                check_chunks(self.dataset, band, "x")
                self._checked.add(band)


def as_rows(x, name="x", scratch=None):
    """Return `x` as an array-like with `shape`, `dtype` and row indexing.

    Args:
        x: NumPy array or memory map, `h5py.Dataset`, tensor, nested list, or anything with `shape`,
            `dtype`, `__len__` and `__getitem__` for index arrays; these stay where they are. A
            DataFrame or Series becomes an array: its rows count by their position, whatever the
            index says. What yields batches, see `is_iterated`, is read once, into `scratch`; of
            `(x, y)` batches, x is kept.
        name: What to call it in errors.
        scratch: A `sda.training.scratch.Scratch`, or None for one that keeps all in memory.

    Raises:
        ValueError: If it is empty, endless, masked or sparse, or holds no numbers, or if reading an
            `h5py.Dataset` would read other files or never end.
    """
    if isinstance(x, (str, os.PathLike)):
        raise ValueError(
            f"Expected `{name}` to be rows. Received: {name}={str(x)!r}; for the rows of a file, "
            "checked before they are read, use sda.datasets.read(path, name)"
        )
    if is_h5(x):
        check_dataset(x, name)
        x = H5Rows(x)
    elif is_iterated(x):
        x = read_once(x, name, scratch, first=True)
    else:
        x = in_place(x, name)
    if isinstance(x, np.memmap) and x.ndim and x.mode is not None:
        x = MappedRows(x)
    if len(x.shape) == 0 or x.shape[0] == 0:
        raise ValueError(
            f"Expected `{name}` to hold at least one example. Received: shape {x.shape}"
        )
    check_numbers(x.dtype, name)
    return x


def in_place(x, name):
    """Return `x` as a NumPy array, or as it is where it gives rows by position and has a dtype.

    Raises:
        ValueError: If it is masked, sparse or symbolic, or a DataFrame with a column of no numbers.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(
            f"Expected `{name}` to be an array without a mask, which training would not see. "
            f"Received: a numpy.ma.MaskedArray; `{name}.filled(np.nan)` has NaN where values are "
            "missing"
        )
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise ValueError(
            f"Expected `{name}` to be dense. Received: a {type(x).__name__}; use `{name}.toarray()`"
        )
    if isinstance(x, keras.KerasTensor):
        raise ValueError(f"Expected `{name}` to hold values. Received: the symbolic {x}")
    if isinstance(x, np.memmap):
        return x
    if isinstance(x, np.ndarray):
        array = np.asarray(x)
    elif type(x).__module__.partition(".")[0] == "pandas":
        array = _from_pandas(x, name)
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


def _from_pandas(x, name):
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


def native(array):
    """Return an array in the byte order of this machine, and its rows one after the other."""
    array = np.asarray(array)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


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


def check_numbers(dtype, name):
    """Raise `ValueError` unless the NumPy dtype is one of real numbers or booleans."""
    if np.dtype(dtype).kind not in NUMBERS:
        raise ValueError(f"Expected `{name}` to hold numbers. Received: dtype {dtype}")


def is_h5(x):
    """Return whether `x` is something of h5py's: a dataset, or what was mistaken for one."""
    return f"{type(x).__module__}.".startswith("h5py.")


def in_any_order(rows, scratch, shuffle=True):
    """Return `rows`, or a copy in `scratch` where the source is slow in an order of `shuffle`."""
    if getattr(rows, "mapped", True) or size_of(rows) <= scratch.memory:
        return rows
    # A chunk that is larger than a block would be unpacked again for each block in it, and one of a
    # window that is larger than a piece for each piece of that.
    window = seeding.BLOCK * seeding.WINDOW * size_of(rows) // len(rows)
    chunk = (rows.dataset.chunks or (1,))[0]
    if shuffle == "blocks" and chunk <= seeding.BLOCK and window <= scratch.memory:
        return rows
    (copy,) = scratch.keep(([piece] for piece in pieces(rows)), rows.dataset.name)
    return as_rows(copy)


def pieces(rows, size=None):
    """Yield consecutive NumPy pieces of `rows`: of `size` rows, or of what reads well."""
    if size is None:
        size = max(1, min(PIECE_ROWS, PIECE_BYTES // (size_of(rows) // len(rows) + 1)))

    def read(start):
        return native(rows[start : start + size])

    starts = range(0, len(rows), size)
    if isinstance(rows, (H5Rows, MappedRows)) and len(starts) > 1:
        yield from ahead(read, starts)
    else:
        yield from map(read, starts)


def size_of(rows):
    """Return the bytes that all rows take."""
    return math.prod(rows.shape) * np.dtype(rows.dtype).itemsize


def check_finite(rows, name="x", start=0, missing=False):
    """Raise `ValueError` if there are NaN or infinite values, or some beyond Keras's floatx.

    `start` is the number of the first row, for the message. With `missing`, NaN is allowed: a value
    that is missing.
    """
    if np.dtype(rows.dtype).kind != "f":
        return
    for piece in pieces(rows):
        with np.errstate(over="ignore"):
            finite = np.isfinite(piece.astype(keras.config.floatx(), copy=False))
        if missing:
            finite |= np.isnan(piece)
        if not finite.all():
            first = tuple(int(j) for j in np.argwhere(~finite)[0])
            raise ValueError(
                f"Expected `{name}` to hold finite values. Received: {piece[first]} in row "
                f"{start + first[0]}"
            )
        start += len(piece)


def is_iterated(x):
    """Return whether `x` yields batches.

    That is a `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch `DataLoader`, a generator or
    any other iterator.
    """
    return (
        isinstance(x, (keras.utils.PyDataset, collections.abc.Iterator)) or is_tf(x) or is_loader(x)
    )


def is_tf(x):
    """Return whether `x` is a `tf.data.Dataset`, without importing TensorFlow."""
    return hasattr(x, "as_numpy_iterator")


def is_loader(x):
    """Return whether `x` is a PyTorch `DataLoader`, without importing PyTorch."""
    names = [(kind.__name__, kind.__module__) for kind in type(x).__mro__]
    return any(n == "DataLoader" and m.startswith("torch.utils.data") for n, m in names)


def length(x):
    """Return how many batches `x` yields: infinity for no end, None where it does not say."""
    if isinstance(x, keras.utils.PyDataset):
        return math.inf if x.num_batches is None else x.num_batches
    if is_tf(x):
        count = int(x.cardinality())
        # What tf.data says of a dataset that has no end, and of one that does not know.
        return {-1: math.inf, -2: None}.get(count, count)
    return len(x) if is_loader(x) and hasattr(x.dataset, "__len__") else None


def first_batches(x, steps, name):
    """Yield the first `steps` batches of `x`; warn where there are fewer."""
    if isinstance(x, keras.utils.PyDataset):
        count = itertools.count() if x.num_batches is None else range(x.num_batches)
        batches = map(x.__getitem__, count)
    else:
        batches = iter(x)
    done = 0
    for batch in itertools.islice(batches, steps):
        yield batch
        done += 1
    if done < steps:
        warn_of_end(name, done, steps)


def warn_of_end(name, done, steps):
    """Warn that a source has yielded fewer batches than it was to."""
    warnings.warn(
        f"`{name}` ran out of data: {steps} batches were wanted, and {done} came. Let it yield "
        "as many, or for ever, or ask for fewer.",
        stacklevel=2,
    )


def read_once(dataset, name, scratch=None, first=False):
    """Return what a dataset yields, read into `scratch` from its begin to its end.

    Args:
        dataset: What yields batches, see `is_iterated`.
        name: What to call it in errors.
        scratch: A `sda.training.scratch.Scratch`, or None for one that keeps all in memory.
        first: Whether to keep x alone.

    Returns:
        The rows of x, or of all in the structure of a batch: a tuple `(x,)`, `(x, y)` or
        `(x, y, sample_weight)`.

    Raises:
        ValueError: If the dataset is endless, or its batches are not alike.
    """
    structure = []

    def leaves():
        for batch in _batches(dataset, name):
            parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            parts = parts[0] if first else parts
            arrays = [np.asarray(in_place(a, name)) for a in tree.flatten(parts)]
            if not structure:
                if not arrays or arrays[0].ndim < 2:
                    raise _no_batches(name, [a.shape for a in arrays[:1]])
                structure.append(parts)
            for array in arrays:
                check_numbers(array.dtype, name)
            yield arrays

    columns = (scratch or Scratch()).keep(leaves(), name)
    if not structure:
        raise _no_batches(name, [])
    return tree.pack_sequence_as(structure[0], columns)


def _no_batches(name, shapes):
    return ValueError(
        f"Expected `{name}` to yield batches of shape (batch, features). Received: {shapes}"
    )


def _batches(dataset, name):
    if length(dataset) == math.inf:
        raise ValueError(
            f"Expected `{name}` to end: give a dataset of known length, without `repeat()`. "
            f"Received: {dataset!r}"
        )
    if not isinstance(dataset, keras.utils.PyDataset):
        yield from dataset.as_numpy_iterator() if is_tf(dataset) else dataset
        return
    for i in range(dataset.num_batches):
        yield batch_at(dataset, i, name)


def batch_at(dataset, i, name):
    """Return a batch of a `keras.utils.PyDataset`; raise `ValueError` where there is none."""
    try:
        return dataset[i]
    except (IndexError, StopIteration) as error:
        raise ValueError(
            f"Expected `{name}` to yield {dataset.num_batches} batches, as it says. Received: {i}"
        ) from error
