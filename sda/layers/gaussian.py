"""Gaussian noise."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_number
from sda.layers.corruption import Corruption, is_zero


@keras.saving.register_keras_serializable(package="sda")
class GaussianNoise(Corruption):
    """Add isotropic Gaussian noise: x̃ = x + ε, ε ~ N(0, stddev²).

    Reference: Vincent et al., JMLR 11 (2010), section 3.3. `keras.layers.GaussianNoise` refuses a
    standard deviation above 1; this layer takes any.

    Args:
        stddev: Float ≥ 0, the standard deviation of the noise in the units of the data.
        seed: Integer, or None for a random one.

    Raises:
        ValueError: If `stddev` is not a finite number ≥ 0.

    Example:

    >>> sda.GaussianNoise(2.0)(keras.ops.ones((4, 2)), training=True).shape
    (4, 2)
    """

    keeps_integers = False

    def __init__(self, stddev, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.level = stddev

    @property
    def level(self):
        return self.stddev

    @level.setter
    def level(self, level):
        self.stddev = check_number(
            level, "stddev", "finite and at least 0", lambda s: np.isfinite(s) and s >= 0
        )

    def corrupt(self, x):
        if is_zero(self.stddev):
            return x, None
        noise = keras.random.normal(
            ops.shape(x), stddev=self.stddev, dtype="float32", seed=self.seed_generator
        )
        return x + ops.cast(noise, x.dtype), None

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev}
