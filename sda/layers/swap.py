"""Swap noise: features that are selected take the value of another example."""

import keras
from keras import ops

from sda.layers.selective import SelectiveNoise


@keras.saving.register_keras_serializable(package="sda")
class SwapNoise(SelectiveNoise):
    """Replace each entry, with probability `rate`, by the same column's of another row.

    The noise for tables: every corrupted value is one that the column really takes. The other row
    is uniform among the rest of the batch, and drawn anew for each entry; in a batch of one row
    there is nothing to swap with, and the row stays as it is.

    Args:
        rate: Float in [0, 1], the corruption level, or a list with one a column.
        seed: Integer, or None for a random one.
        groups: List of integers, the features of each column where columns take several, as in
            `sda.SelectiveNoise`.

    Raises:
        ValueError: If `rate` or `groups` is out of its range, or does not fit the input.

    Example:

    >>> sda.SwapNoise(0.15)(keras.ops.ones((4, 2)), training=True).shape
    (4, 2)
    >>> table = sda.SwapNoise([0.1, 0.3], groups=[1, 3])  # a number, and a category of three
    >>> table(keras.ops.ones((5, 4)), training=True).shape
    (5, 4)
    """

    def replacement(self, x, v):
        rows = ops.shape(x)[0]
        others = ops.cast(rows - 1, "float32")
        # v is below 1, except where it was not selected: the modulus keeps those in range too.
        # Under a floatx of float64 the maximum is an int64.
        least = ops.cast(ops.maximum(rows - 1, 1), "int32")
        offset = 1 + ops.cast(ops.floor(v * others), "int32") % least
        row = ops.reshape(ops.arange(rows, dtype="int32"), (-1,) + (1,) * (len(x.shape) - 1))
        return ops.take_along_axis(x, (row + offset) % rows, axis=0)
