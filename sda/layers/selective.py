"""What noises that select features have in common."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_count, check_number
from sda.layers.corruption import Corruption, is_zero


class SelectiveNoise(Corruption):
    """Base of the noises that select each entry with probability `rate` and replace its value.

    With u ~ U(0, 1) an entry is selected where u < rate. Given that, u / rate is uniform again: a
    subclass's `replacement(x, v)` spends it as v, so that one draw an entry does for both.

    Args:
        rate: Float in [0, 1], the corruption level, or a list with one a column.
        seed: Integer, or None for a random one.
        groups: List of integers, the features that each column takes, one after another: with
            [1, 1, 3] the last three features, such as the one-hot code of a category, are selected
            all or none, and replaced from one draw. None: a column is a feature.

    Raises:
        ValueError: If `rate` is not a number in [0, 1], or a list of them of the right length, or
            `groups` are no positive integers, or do not add up to the last axis of the input.

    Example:

    >>> class UniformNoise(sda.SelectiveNoise):
    ...     def replacement(self, x, v):
    ...         return keras.ops.cast(v, x.dtype)
    >>> UniformNoise(0.1, seed=1)(keras.ops.zeros((2, 3)), training=True).shape
    (2, 3)
    """

    selects = True

    def __init__(self, rate, seed=None, groups=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.groups = _groups(groups)
        self.rate = _rates(rate, self.groups)

    @property
    def level(self):
        return self.rate

    @level.setter
    def level(self, level):
        rate = _rates(level, self.groups)
        if isinstance(rate, list) and isinstance(self.rate, list) and len(rate) != len(self.rate):
            raise ValueError(
                f"Expected `level` to be a number or a list of {len(self.rate)}. "
                f"Received: level={level!r}"
            )
        self.rate = rate

    def build(self, input_shape):
        self._check_width(input_shape)

    def replacement(self, x, v):
        raise NotImplementedError

    def corrupt(self, x):
        self._check_width(x.shape)
        if is_zero(self.rate):
            return x, ops.zeros_like(x, dtype="bool")
        shape = ops.shape(x)
        if self.groups:
            shape = (*shape[:-1], len(self.groups))
        # In float32 under every dtype policy: a bfloat16 draw has steps of 1/128, and would turn a
        # rate of 0.3 into 0.305.
        u = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        rate = divisor = self.rate
        if isinstance(rate, list):
            rate = ops.convert_to_tensor(rate, "float32")
            # Where the rate is 0 nothing is selected, whatever v is.
            divisor = ops.where(rate > 0, rate, 1.0)
        selected, v = u < rate, u / divisor
        if self.groups:
            column = np.repeat(np.arange(len(self.groups)), self.groups)
            selected, v = (ops.take(a, column, axis=-1) for a in (selected, v))
        return ops.where(selected, self.replacement(x, v), x), selected

    def _check_width(self, shape):
        """Raise `ValueError` unless `groups` and rates describe the last axis of `shape`."""
        if self.groups:
            if sum(self.groups) != shape[-1]:
                raise ValueError(
                    f"Expected `groups` to add up to the {shape[-1]} features of the input. "
                    f"Received: groups={self.groups!r}"
                )
        elif isinstance(self.rate, list) and len(self.rate) != shape[-1]:
            raise ValueError(
                f"Expected `rate` to be a number or a list of {shape[-1]}, one a feature of the "
                f"input. Received: rate={self.rate!r}, a list of {len(self.rate)}"
            )

    def get_config(self):
        config = {**super().get_config(), "rate": self.rate}
        return {**config, "groups": self.groups} if self.groups else config


def _groups(groups):
    """Return the sizes of the groups as a list of integers, or None."""
    if groups is None:
        return None
    if not isinstance(groups, (list, tuple, np.ndarray)) or len(groups) == 0:
        raise ValueError(
            "Expected `groups` to be a list with the number of features of each column. "
            f"Received: groups={groups!r}"
        )
    return [check_count(size, "groups") for size in groups]


def _rates(rate, groups):
    """Return `rate` as a float, or as a list of floats."""

    def check(value):
        return check_number(value, "rate", "between 0 and 1", lambda r: 0 <= r <= 1)

    if not isinstance(rate, (list, tuple)) and not (isinstance(rate, np.ndarray) and rate.ndim):
        return check(rate)
    if len(rate) == 0 or (groups and len(groups) != len(rate)):
        raise ValueError(
            "Expected `rate` to be a number, or a list with one a column"
            f"{f', {len(groups)} of them' if groups else ''}. Received: rate={rate!r}"
        )
    return [check(value) for value in rate]
