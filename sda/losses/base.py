"""What reconstruction losses have in common."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_flag, check_number


class ReconstructionLoss(keras.losses.Loss):
    """Base of the reconstruction losses, with Vincent's emphasis on corrupted features.

    L(x, z) = α · Σ ℓ(x_j, z_j) over the corrupted features + β · Σ ℓ(x_j, z_j) over the others,
    averaged over the batch (Vincent et al., JMLR 11 (2010), section 3.3). "Corrupted" means
    selected by the noise, also where the new value equals the old one. Where nothing is selected,
    since the noise acts on every feature or the loss is called without a noise, all count as
    corrupted: α weighs them all. A subclass gives ℓ in `per_feature`.

    Sums, not means: learning rates published for denoising autoencoders work as printed. On a mean
    over 784 pixels they would have to be 784 times as large.

    It is computed in `dtype`, float32 unless given. The batch is summed in place of averaged where
    `reduction` is "sum". Training needs one value a batch, and refuses None.

    With `missing_values`, features whose x is NaN are left out of the sum.
    """

    from_logits = False
    """Whether the loss wants the decoder's pre-activations instead of its outputs."""

    in_unit_interval = False
    """Which features have to lie in [0, 1]: True for all, or a list with a boolean for each."""

    def __init__(
        self,
        alpha=1.0,
        beta=1.0,
        name=None,
        reduction="sum_over_batch_size",
        dtype=None,
        missing_values=False,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype or "float32")
        self.missing_values = check_flag(missing_values, "missing_values")

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
            y_true: The clean input, shape `(batch, ...)`; with `missing_values`, NaN where it is
                not known.
            y_pred: Its reconstruction, or the pre-activations if `from_logits`; same shape.
            selected: Boolean tensor, true where the noise acted. None: everywhere, so that `alpha`
                weighs every feature.

        Returns:
            Tensor of shape `(batch,)`.
        """
        x = ops.cast(y_true, self.dtype)
        if self.missing_values:
            missing = ops.isnan(x)
            # Here too, not in the values alone: 0 times the gradient of a NaN would be NaN.
            x = ops.where(missing, 0.0, x)
        values = self.per_feature(x, ops.cast(y_pred, self.dtype))
        if self.missing_values:
            values = ops.where(missing, 0.0, values)
        if selected is not None and self.emphasised:
            weights = ops.where(selected, self.alpha, self.beta)
            values = values * ops.cast(weights, values.dtype)
        elif self.alpha != 1:
            values = values * self.alpha
        return ops.sum(values, axis=tuple(range(1, len(values.shape))))

    def errors(self, x, z):
        """Return ℓ of each feature of x, NaN where x is, whatever the settings of the loss.

        Args:
            x: Tensor of shape `(batch, ...)`, NaN where it is not known.
            z: Its reconstruction, or the pre-activations if `from_logits`; same shape.
        """
        missing = ops.isnan(x)
        return ops.where(missing, np.nan, self.per_feature(ops.where(missing, 0.0, x), z))

    def reduced(self, x, z, selected=None):
        """Return the loss of a batch, as `reduction` says; arguments as for `call`."""
        values = self.call(x, z, selected)
        return ops.sum(values) if self.reduction == "sum" else ops.mean(values)

    def with_missing_values(self):
        """Return this loss over observed features only."""
        return type(self).from_config({**self.get_config(), "missing_values": True})

    def get_config(self):
        config = {"alpha": self.alpha, "beta": self.beta, "missing_values": self.missing_values}
        if self.dtype != "float32":
            config["dtype"] = self.dtype
        return {**super().get_config(), **config}
