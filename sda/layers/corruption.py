"""What noises have in common."""

import keras
from keras import ops

from sda.distribution import replicas
from sda.streams import check_seed, spawn


@keras.saving.register_keras_serializable(package="sda")
class Corruption(keras.layers.Layer):
    """Base of the corruption layers: draws x̃ ~ q(x̃ | x) in training, passes x through otherwise.

    A subclass implements `corrupt`. Every call in training draws anew for each entry from the
    layer's own `keras.random.SeedGenerator`; the input is never changed in place, and what is not
    corrupted keeps its value (survivors are not rescaled, unlike in `keras.layers.Dropout`).

    Reference: Vincent et al., "Stacked denoising autoencoders", JMLR 11 (2010), section 3.

    Args:
        seed: Integer, or None for a random one.

    Raises:
        ValueError: If `seed` is not a non-negative integer or None.

    Example:

    >>> class CauchyNoise(sda.Corruption):
    ...     def corrupt(self, x):
    ...         u = keras.random.uniform(keras.ops.shape(x), seed=self.seed_generator)
    ...         return x + 0.1 * keras.ops.tan(3.1415927 * (u - 0.5)), None
    >>> CauchyNoise(seed=1)(keras.ops.zeros((2, 3)), training=True).shape
    (2, 3)
    """

    selects = False
    """Whether `corrupt` tells which entries it selected."""

    keeps_integers = True
    """Whether integers stay integers; if not, they become floats, lest the noise be cut off."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = check_seed(seed)
        # PyTorch takes no seeds from 2³¹ up: those are hashed.
        fits = self.seed is None or self.seed < 2**31
        self.seed_generator = replicas.SeedGenerator(self.seed if fits else spawn(self.seed))
        self.supports_masking = True

    def corrupt(self, x):
        """Draw a corrupted version of `x`.

        Args:
            x: Tensor of shape `(batch, ...)`.

        Returns:
            `(corrupted, selected)`: a tensor like `x`, and a boolean tensor of the same shape that
            is true where the noise acted (also where the new value equals the old one), or None
            where the noise acts on every entry.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `corrupt(x)`.")

    @property
    def level(self):
        """How strong the noise is: its rate or standard deviation; None for a noise without one.

        A new level, of the form of the old one, acts from the next epoch of `sda.fit` and
        `sda.GreedyPretrainer` on. `Model.fit` compiles the old one into its steps.
        """
        return None

    @level.setter
    def level(self, level):
        raise ValueError(
            f"Expected a noise that has a level. Received: {type(self).__name__}, for the "
            f"level {level!r}"
        )

    def call(self, x, training=None):
        if not self.keeps_integers and not keras.backend.is_float_dtype(x.dtype):
            x = ops.cast(x, self.compute_dtype)
        return self.corrupt(x)[0] if training else x

    def compute_output_shape(self, input_shape):
        return input_shape

    def restart(self):
        """Begin the noise again: what was drawn first comes next."""
        state = self.seed_generator.state  # a seed, and the number of draws
        state.assign(state.value * ops.convert_to_tensor([1, 0], state.dtype))

    def copy(self, seed):
        """Return a new layer with the same settings and another seed."""
        return type(self).from_config({**self.get_config(), "seed": seed})

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def is_zero(level):
    # Where several models are traced as one, a level is a tensor.
    return isinstance(level, (int, float)) and level == 0
