"""Salt-and-pepper noise: features that are selected become the least or the greatest value."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_number
from sda.layers.selective import SelectiveNoise


@keras.saving.register_keras_serializable(package="sda")
class SaltAndPepperNoise(SelectiveNoise):
    """Set each entry, with probability `rate`, to its minimum or its maximum by a fair coin.

    Reference: Vincent et al., JMLR 11 (2010), section 3.3.

    Args:
        rate: Float in [0, 1], the corruption level, or a list with one a column.
        minimum: Float, the value of pepper, in the units of the data.
        maximum: Float, the value of salt.
        seed: Integer, or None for a random one.
        **kwargs: `groups`, as in `sda.SelectiveNoise`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `rate` or `groups` is out of its range, or does not fit the input, or
            `minimum` exceeds `maximum`.

    Example:

    >>> sda.SaltAndPepperNoise(0.2)(keras.ops.ones((1, 2)), training=False).shape
    (1, 2)
    """

    keeps_integers = False

    def __init__(self, rate, minimum=0.0, maximum=1.0, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)
        self.minimum = check_number(minimum, "minimum", "finite", np.isfinite)
        self.maximum = check_number(
            maximum, "maximum", f"finite and at least `minimum`={minimum}",
            lambda m: np.isfinite(m) and m >= self.minimum,
        )  # fmt: skip

    def replacement(self, x, v):
        return ops.cast(ops.where(v < 0.5, self.minimum, self.maximum), x.dtype)

    def get_config(self):
        return {**super().get_config(), "minimum": self.minimum, "maximum": self.maximum}
