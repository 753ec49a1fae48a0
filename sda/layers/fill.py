"""Missing values: what the network sees in their place, where noise leaves it alone."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_number


@keras.saving.register_keras_serializable(package="sda")
class FillMissing(keras.layers.Layer):
    """Puts a value in place of NaN, which stands for missing values in the data.

    Args:
        value: Float, or a list with one a feature.
    """

    def __init__(self, value, **kwargs):
        # In place of NaN everything else stays as it is, the precision too.
        super().__init__(autocast=False, **kwargs)
        self.value = _checked(value)
        self.supports_masking = True

    def build(self, input_shape):
        if isinstance(self.value, list) and len(self.value) != input_shape[-1]:
            raise ValueError(
                f"Expected `fill_value` to be a number or a list of {input_shape[-1]}, one a "
                f"feature of the input. Received: a list of {len(self.value)}"
            )

    def call(self, x):
        if not keras.backend.is_float_dtype(x.dtype):
            x = ops.cast(x, self.compute_dtype)
        return ops.where(ops.isnan(x), ops.cast(self.value, x.dtype), x)

    def spare(self, x, noisy, selected=None):
        """Return noise without what it did to missing values: there it would show a value.

        Args:
            x: Tensor with NaN where a value is missing.
            noisy: What the noise made of `x` with its gaps filled.
            selected: Boolean tensor, true where the noise acted, or None.

        Returns:
            `(noisy, selected)`.
        """
        missing = ops.isnan(x)
        if selected is not None:
            selected = ops.logical_and(selected, ops.logical_not(missing))
        return ops.where(missing, ops.cast(self.value, noisy.dtype), noisy), selected

    def stock(self, input_shape):
        """Return a list of what does the same and loads where there is no `sda`.

        It is a small functional model of Keras's own operations, for examples of a shape.
        """
        x, value = keras.Input(input_shape), self.value
        if isinstance(value, list):
            # An operation keeps no list as an argument; this layer does, and 0 · x + m is m.
            value = keras.layers.Rescaling(0.0, value)(ops.nan_to_num(x))
        return [keras.Model(x, ops.where(ops.isnan(x), value, x), name="fill_missing")]

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "value": self.value}


class NothingMissing:
    """What stands in for a `FillMissing` where all values are known."""

    value = None

    def build(self, input_shape):
        pass

    def __call__(self, x):
        return x

    def spare(self, x, noisy, selected=None):
        return noisy, selected

    def stock(self, input_shape):
        return []


def filler(value, dtype):
    """Return what fills in missing values with a number, a list of numbers, or None: nothing."""
    return NothingMissing() if value is None else FillMissing(value, dtype=dtype)


def _checked(value):
    """Return a fill as a float or a list of floats."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [check_number(one, "fill_value", "finite", np.isfinite) for one in value]
    return check_number(value, "fill_value", "finite, or a list with one a feature", np.isfinite)
