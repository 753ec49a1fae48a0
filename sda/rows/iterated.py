"""Rows of what yields batches."""

import collections.abc
import itertools
import math
import warnings

import keras
import numpy as np
from keras import tree

from sda.rows.arrays import in_place
from sda.rows.base import check_numbers
from sda.rows.scratch import Scratch


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
        scratch: A `sda.rows.scratch.Scratch`, or None for one that keeps all in memory.
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


def read_pairs(dataset, name, scratch=None):
    """Return the rows of a dataset of (noisy, clean) batches, as `read_once` reads them.

    Raises:
        ValueError: If its batches are others.
    """
    found = read_once(dataset, name, scratch)
    if len(found) != 2 or not all(hasattr(part, "shape") for part in found):
        raise ValueError(
            f"Expected `{name}` to yield (noisy, clean) batches with `pairs=True`. "
            f"Received: batches of {len(found)}"
        )
    return found


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
