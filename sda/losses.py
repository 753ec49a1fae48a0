"""Reconstruction losses: summed over features, averaged over the batch, computed in float32."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_number, look_up


class ReconstructionLoss(keras.losses.Loss):
    """Base of the reconstruction losses, with Vincent's emphasis on corrupted features.

    L(x, z) = α · Σ ℓ(x_j, z_j) over the corrupted features + β · Σ ℓ(x_j, z_j) over the others,
    averaged over the batch (Vincent et al., JMLR 11 (2010), section 3.3). "Corrupted" means
    selected by the noise, also where the new value equals the old one. A subclass gives ℓ in
    `per_feature`.

    Sums, not means: learning rates published for denoising autoencoders work as printed. On a mean
    over 784 pixels they would have to be 784 times as large.
    """

    from_logits = False
    """Whether the loss wants the decoder's pre-activations instead of its outputs."""

    def __init__(self, alpha=1.0, beta=1.0, name=None, reduction="sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype or "float32")

        def is_weight(value):
            return 0 <= value < np.inf

        self.alpha = check_number(alpha, "alpha", "finite and at least 0", is_weight)
        self.beta = check_number(beta, "beta", "finite and at least 0", is_weight)
        if alpha == beta == 0:
            raise ValueError(
                "Expected `alpha` or `beta` above 0. Received: alpha=0 and beta=0, which leaves "
                "no gradient"
            )

    @property
    def emphasised(self):
        """Whether the loss has to know which features were corrupted."""
        return self.alpha != self.beta

    def per_feature(self, x, z):
        raise NotImplementedError

    def call(self, y_true, y_pred, selected=None):
        """Return the loss of each example.

        Args:
            y_true: The clean input, shape `(batch, ...)`.
            y_pred: Its reconstruction, or the pre-activations if `from_logits`; same shape.
            selected: Boolean tensor, true where the noise acted. None weighs every feature with 1.

        Returns:
            Tensor of shape `(batch,)`.
        """
        values = self.per_feature(ops.cast(y_true, "float32"), ops.cast(y_pred, "float32"))
        if selected is not None and (self.emphasised or self.alpha != 1):
            values = values * ops.where(selected, self.alpha, self.beta)
        return ops.sum(values, axis=tuple(range(1, len(values.shape))))

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "beta": self.beta}


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

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or both are 0.

    Example:

    >>> loss = sda.losses.CrossEntropy()
    >>> round(float(loss([[1.0, 0.0]], [[0.0, 0.0]])), 4)  # 2 log 2
    1.3863
    """

    from_logits = True

    def per_feature(self, x, z):
        return _cross_entropy(x, z)


@ops.custom_gradient
def _cross_entropy(x, z):
    """Return softplus(z) - x·z, whose gradient takes one pass, σ(z) - x, in place of four."""

    def gradient(*args, upstream=None):
        g = args[0] if upstream is None else upstream
        return -z * g, (ops.sigmoid(z) - x) * g

    return ops.softplus(z) - x * z, gradient


@keras.saving.register_keras_serializable(package="sda")
class SquaredError(ReconstructionLoss):
    """Squared error, summed over features and averaged over the batch: ℓ(x, z) = (x - z)².

    The loss for real-valued inputs under a linear decoder (Vincent et al., JMLR 11 (2010), section
    2.2; without their factor 1/2).

    Args:
        alpha: Float, weight of the corrupted features.
        beta: Float, weight of the others.

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or both are 0.

    Example:

    >>> float(sda.losses.SquaredError()([[1.0, 3.0]], [[0.0, 1.0]]))
    5.0
    """

    def per_feature(self, x, z):
        return ops.square(x - z)


def get(identifier):
    """Return the loss meant by "cross_entropy", "squared_error" or anything Keras knows."""
    ours = {"cross_entropy": CrossEntropy, "squared_error": SquaredError}
    if isinstance(identifier, str) and identifier in ours:
        return ours[identifier]()
    expectation = f"one of {sorted(ours)}, a Keras loss or None"
    loss = look_up(keras.losses.get, identifier, "loss", expectation)
    if not callable(loss):
        raise ValueError(f"Expected `loss` to be {expectation}. Received: loss={identifier!r}")
    return loss
