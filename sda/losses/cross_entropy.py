"""The cross-entropy of features in [0, 1]."""

import keras
from keras import ops

from sda.losses.base import ReconstructionLoss


@keras.saving.register_keras_serializable(package="sda")
class CrossEntropy(ReconstructionLoss):
    """Cross-entropy between inputs in [0, 1] and Bernoulli means given by their logits.

    ℓ(x, a) = -x log σ(a) - (1 - x) log(1 - σ(a)) = softplus(a) - x·a, summed over features and
    averaged over the batch (Vincent et al., ICML 2008, eq. 3). From the logits a, its gradient
    σ(a) - x is right at any a; from σ(a) it would vanish where float32 rounds σ(a) to 0 or 1.

    Args:
        alpha: Float, weight of the corrupted features.
        beta: Float, weight of the others. Vincent's double emphasis: alpha=1, beta=0.5; full
            emphasis: alpha=1, beta=0.
        missing_values: Whether inputs may be NaN, and are then not counted.

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or both are 0.

    Example:

    >>> loss = sda.losses.CrossEntropy()
    >>> round(float(loss([[1.0, 0.0]], [[0.0, 0.0]])), 4)  # 2 log 2
    1.3863
    """

    from_logits = True
    in_unit_interval = True

    def per_feature(self, x, z):
        return cross_entropy(x, z)


@ops.custom_gradient
def cross_entropy(x, z):
    """Return softplus(z) - x·z, whose gradient takes one pass, σ(z) - x, in place of four."""

    def gradient(*args, upstream=None):
        g = args[0] if upstream is None else upstream
        return -z * g, (ops.sigmoid(z) - x) * g

    return ops.softplus(z) - x * z, gradient
