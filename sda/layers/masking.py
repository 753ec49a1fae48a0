"""Masking noise: features that are selected become 0."""

import keras
from keras import ops

from sda.layers.selective import SelectiveNoise


@keras.saving.register_keras_serializable(package="sda")
class MaskingNoise(SelectiveNoise):
    """Set each entry to zero with probability `rate`: x̃ = x · m, m ~ Bernoulli(1 - rate).

    The noise of the denoising autoencoder tutorial and of Vincent et al., "Extracting and composing
    robust features with denoising autoencoders", ICML 2008.

    Args:
        rate: Float in [0, 1], the corruption level, or a list with one a column.
        seed: Integer, or None for a random one.
        groups: List of integers, the features of each column where columns take several, as in
            `sda.SelectiveNoise`.

    Raises:
        ValueError: If `rate` or `groups` is out of its range, or does not fit the input.

    Example:

    >>> sda.MaskingNoise(1.0)(keras.ops.ones((1, 2)), training=True).shape
    (1, 2)
    """

    def replacement(self, x, v):
        return ops.zeros_like(x)
