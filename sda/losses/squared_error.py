"""The squared error of real-valued features."""

import keras
from keras import ops

from sda.losses.base import ReconstructionLoss


@keras.saving.register_keras_serializable(package="sda")
class SquaredError(ReconstructionLoss):
    """Squared error, summed over features and averaged over the batch: ℓ(x, z) = (x - z)².

    The loss for real-valued inputs under a linear decoder (Vincent et al., JMLR 11 (2010), section
    2.2; without their factor 1/2).

    Args:
        alpha: Float, weight of the corrupted features.
        beta: Float, weight of the others.
        missing_values: Whether inputs may be NaN, and are then not counted.

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or both are 0.

    Example:

    >>> float(sda.losses.SquaredError()([[1.0, 3.0]], [[0.0, 1.0]]))
    5.0
    """

    def per_feature(self, x, z):
        return ops.square(x - z)
