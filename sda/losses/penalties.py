"""Penalties on the codes of a dA in training: few active units, and codes that hardly move."""

import keras
from keras import ops

from sda.checks import check_number
from sda.losses.derivatives import SLOPES

# Keeps the logarithm of a unit that never is active finite, and its gradient alive.
EPSILON = 1e-7


@keras.saving.register_keras_serializable(package="sda")
class KLSparsity(keras.regularizers.Regularizer):
    """Holds the mean activation of each hidden unit near a target.

    β Σ_j KL(ρ ‖ ρ̂_j) = β Σ_j [ρ log(ρ / ρ̂_j) + (1-ρ) log((1-ρ) / (1-ρ̂_j))], where ρ̂_j is the
    mean of unit j over the batch (Ng, "Sparse autoencoder", CS294A lecture notes, 2011; with a
    squared difference in place of the divergence Lee, Ekanadham and Ng, NIPS 2007). Batches should
    be large enough for a mean: 100 or more.

    It is a regularizer of Keras, for `sparsity=` of a dA, or `activity_regularizer=` of any layer
    with activations in (0, 1). As such it returns the sum over a batch; what is added to the loss
    is the formula above, since layers divide by the examples of the batch.

    Args:
        target: Float in (0, 1), ρ.
        weight: Float ≥ 0, β.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> penalty = sda.penalties.KLSparsity(target=0.1, weight=2.0)
    >>> float(penalty(keras.ops.full((4, 3), 0.1)))
    0.0
    >>> layer = sda.DenoisingAutoencoder(30, sparsity=penalty)
    """

    def __init__(self, target=0.05, weight=1.0):
        self.target = check_number(target, "target", "in (0, 1)", lambda t: 0 < t < 1)
        self.weight = check_number(weight, "weight", "finite and at least 0", _is_weight)

    def __call__(self, x):
        x = ops.cast(x, "float32")
        mean = ops.mean(x, axis=tuple(range(len(x.shape) - 1)))
        on, off = self.target, 1 - self.target
        divergence = on * ops.log((on + EPSILON) / (mean + EPSILON))
        divergence = divergence + off * ops.log((off + EPSILON) / (1 - mean + EPSILON))
        return self.weight * ops.sum(divergence) * _examples(x)

    def get_config(self):
        return {"target": self.target, "weight": self.weight}


def contraction(codes, activation, kernel):
    """Return ‖∂h/∂x‖², the squared Frobenius norm of the Jacobian of h = s(x W + b).

    Σ_j s'(a_j)² Σ_i W_ij², averaged over the batch (Rifai et al., "Contractive auto-encoders",
    ICML 2011, section 3).

    Args:
        codes: Tensor h of shape `(batch, ..., units)`; other axes are summed over.
        activation: s, one of `sda.losses.derivatives.SLOPES`.
        kernel: W, of shape `(visible, units)`.

    Returns:
        Scalar tensor, float32.
    """
    slopes = SLOPES[activation](ops.cast(codes, "float32"))
    norms = ops.sum(ops.square(ops.cast(kernel, "float32")), axis=0)
    return ops.sum(ops.square(slopes) * norms) / _examples(codes)


def _is_weight(value):
    return 0 <= value < float("inf")


def _examples(x):
    return ops.cast(ops.shape(x)[0], "float32")
