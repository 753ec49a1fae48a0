"""Corruption: the noise that a denoising autoencoder learns to undo."""

import keras
import numpy as np
from keras import ops

from sda import replicas
from sda.checks import check_count, check_number, look_up
from sda.seeding import check_seed, spawn


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

    def copy(self, seed):
        """Return a new layer with the same settings and another seed."""
        return type(self).from_config({**self.get_config(), "seed": seed})

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


class SelectiveNoise(Corruption):
    """Base of the noises that select each entry with probability `rate` and replace its value.

    With u ~ U(0, 1) an entry is selected where u < rate. Given that, u / rate is uniform again: a
    subclass's `replacement(x, v)` spends it as v, so that one draw an entry does for both.

    Args:
        rate: Float in [0, 1], the corruption level, or a list with one a column.
        seed: Integer, or None for a random one.
        groups: List of integers, the features that each column takes, one after another: with
            [1, 1, 3] the last three features, such as the one-hot code of a category, are selected
            all or none, and replaced from one draw. None: a column is a feature.

    Raises:
        ValueError: If `rate` is not a number in [0, 1], or a list of them of the right length, or
            `groups` are no positive integers, or do not add up to the last axis of the input.

    Example:

    >>> class UniformNoise(sda.SelectiveNoise):
    ...     def replacement(self, x, v):
    ...         return keras.ops.cast(v, x.dtype)
    >>> UniformNoise(0.1, seed=1)(keras.ops.zeros((2, 3)), training=True).shape
    (2, 3)
    """

    selects = True

    def __init__(self, rate, seed=None, groups=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.groups = _groups(groups)
        self.rate = _rates(rate, self.groups)

    @property
    def level(self):
        return self.rate

    @level.setter
    def level(self, level):
        rate = _rates(level, self.groups)
        if isinstance(rate, list) and isinstance(self.rate, list) and len(rate) != len(self.rate):
            raise ValueError(
                f"Expected `level` to be a number or a list of {len(self.rate)}. "
                f"Received: level={level!r}"
            )
        self.rate = rate

    def build(self, input_shape):
        self._check_width(input_shape)

    def replacement(self, x, v):
        raise NotImplementedError

    def corrupt(self, x):
        self._check_width(x.shape)
        if _is_zero(self.rate):
            return x, ops.zeros_like(x, dtype="bool")
        shape = ops.shape(x)
        if self.groups:
            shape = (*shape[:-1], len(self.groups))
        # In float32 under every dtype policy: a bfloat16 draw has steps of 1/128, and would turn a
        # rate of 0.3 into 0.305.
        u = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        rate = divisor = self.rate
        if isinstance(rate, list):
            rate = ops.convert_to_tensor(rate, "float32")
            # Where the rate is 0 nothing is selected, whatever v is.
            divisor = ops.where(rate > 0, rate, 1.0)
        selected, v = u < rate, u / divisor
        if self.groups:
            column = np.repeat(np.arange(len(self.groups)), self.groups)
            selected, v = (ops.take(a, column, axis=-1) for a in (selected, v))
        return ops.where(selected, self.replacement(x, v), x), selected

    def _check_width(self, shape):
        """Raise `ValueError` unless `groups` and rates describe the last axis of `shape`."""
        if self.groups:
            if sum(self.groups) != shape[-1]:
                raise ValueError(
                    f"Expected `groups` to add up to the {shape[-1]} features of the input. "
                    f"Received: groups={self.groups!r}"
                )
        elif isinstance(self.rate, list) and len(self.rate) != shape[-1]:
            raise ValueError(
                f"Expected `rate` to be a number or a list of {shape[-1]}, one a feature of the "
                f"input. Received: rate={self.rate!r}, a list of {len(self.rate)}"
            )

    def get_config(self):
        config = {**super().get_config(), "rate": self.rate}
        return {**config, "groups": self.groups} if self.groups else config


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


@keras.saving.register_keras_serializable(package="sda")
class SwapNoise(SelectiveNoise):
    """Replace each entry, with probability `rate`, by the same column's of another row.

    The noise for tables: every corrupted value is one that the column really takes. The other row
    is uniform among the rest of the batch, and drawn anew for each entry; in a batch of one row
    there is nothing to swap with, and the row stays as it is.

    Args:
        rate: Float in [0, 1], the corruption level, or a list with one a column.
        seed: Integer, or None for a random one.
        groups: List of integers, the features of each column where columns take several, as in
            `sda.SelectiveNoise`.

    Raises:
        ValueError: If `rate` or `groups` is out of its range, or does not fit the input.

    Example:

    >>> sda.SwapNoise(0.15)(keras.ops.ones((4, 2)), training=True).shape
    (4, 2)
    >>> table = sda.SwapNoise([0.1, 0.3], groups=[1, 3])  # a number, and a category of three
    >>> table(keras.ops.ones((5, 4)), training=True).shape
    (5, 4)
    """

    def replacement(self, x, v):
        rows = ops.shape(x)[0]
        others = ops.cast(rows - 1, "float32")
        # v is below 1, except where it was not selected: the modulus keeps those in range too.
        # Under a floatx of float64 the maximum is an int64.
        least = ops.cast(ops.maximum(rows - 1, 1), "int32")
        offset = 1 + ops.cast(ops.floor(v * others), "int32") % least
        row = ops.reshape(ops.arange(rows, dtype="int32"), (-1,) + (1,) * (len(x.shape) - 1))
        return ops.take_along_axis(x, (row + offset) % rows, axis=0)


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
        if _is_zero(self.stddev):
            return x, None
        noise = keras.random.normal(
            ops.shape(x), stddev=self.stddev, dtype="float32", seed=self.seed_generator
        )
        return x + ops.cast(noise, x.dtype), None

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev}


@keras.saving.register_keras_serializable(package="sda")
class ComposedNoise(Corruption):
    """Apply several corruptions one after another.

    An entry counts as selected where any of them selected it.

    Args:
        noises: List of `Corruption` layers. A noise without a seed gets one from `seed`.
        seed: Integer, or None to leave the noises their own seeds.

    Raises:
        ValueError: If `noises` is empty or holds anything but `Corruption` layers.

    Example:

    >>> noise = sda.ComposedNoise([sda.MaskingNoise(0.2), sda.GaussianNoise(0.1)], seed=3)
    >>> noise(keras.ops.ones((4, 2)), training=True).shape
    (4, 2)
    """

    def __init__(self, noises, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        is_list = isinstance(noises, (list, tuple)) and len(noises) > 0
        if not is_list or not all(isinstance(noise, Corruption) for noise in noises):
            raise ValueError(
                "Expected `noises` to be a non-empty list of sda.Corruption layers. "
                f"Received: noises={noises!r}"
            )
        self.noises = [
            noise.copy(spawn(self.seed, i)) if noise.seed is None and seed is not None else noise
            for i, noise in enumerate(noises)
        ]

    @property
    def selects(self):
        return any(noise.selects for noise in self.noises)

    @property
    def keeps_integers(self):
        return all(noise.keeps_integers for noise in self.noises)

    @property
    def level(self):
        return [noise.level for noise in self.noises]

    @level.setter
    def level(self, level):
        if not isinstance(level, (list, tuple)) or len(level) != len(self.noises):
            raise ValueError(
                f"Expected `level` to be a list of {len(self.noises)}, one per noise. "
                f"Received: level={level!r}"
            )
        before = self.level
        try:
            for noise, of_noise in zip(self.noises, level, strict=True):
                # What has no level keeps none.
                if not (noise.level is None and of_noise is None):
                    noise.level = of_noise
        except ValueError:
            for noise, of_noise in zip(self.noises, before, strict=True):
                if of_noise is not None:
                    noise.level = of_noise
            raise

    def build(self, input_shape):
        for noise in self.noises:
            noise.build(input_shape)

    def corrupt(self, x):
        selected = None
        for noise in self.noises:
            x, chosen = noise.corrupt(x)
            if chosen is not None:
                selected = chosen if selected is None else ops.logical_or(selected, chosen)
        return x, selected

    def copy(self, seed):
        noises = [noise.copy(spawn(seed, i)) for i, noise in enumerate(self.noises)]
        return type(self)(noises, seed=seed, name=self.name, dtype=self.dtype_policy)

    def get_config(self):
        noises = [keras.saving.serialize_keras_object(noise) for noise in self.noises]
        return {**super().get_config(), "noises": noises}

    @classmethod
    def from_config(cls, config):
        noises = [keras.saving.deserialize_keras_object(noise) for noise in config["noises"]]
        return cls(**{**config, "noises": noises})


# By the names that settings have for them: what a level is a level of.
NOISES = {
    "masking": MaskingNoise,
    "salt_and_pepper": SaltAndPepperNoise,
    "gaussian": GaussianNoise,
    "swap": SwapNoise,
}


def _groups(groups):
    """Return the sizes of the groups as a list of integers, or None."""
    if groups is None:
        return None
    if not isinstance(groups, (list, tuple, np.ndarray)) or len(groups) == 0:
        raise ValueError(
            "Expected `groups` to be a list with the number of features of each column. "
            f"Received: groups={groups!r}"
        )
    return [check_count(size, "groups") for size in groups]


def _rates(rate, groups):
    """Return `rate` as a float, or as a list of floats."""

    def check(value):
        return check_number(value, "rate", "between 0 and 1", lambda r: 0 <= r <= 1)

    if not isinstance(rate, (list, tuple)) and not (isinstance(rate, np.ndarray) and rate.ndim):
        return check(rate)
    if len(rate) == 0 or (groups and len(groups) != len(rate)):
        raise ValueError(
            "Expected `rate` to be a number, or a list with one a column"
            f"{f', {len(groups)} of them' if groups else ''}. Received: rate={rate!r}"
        )
    return [check(value) for value in rate]


def _is_zero(level):
    # Where several models are traced as one, a level is a tensor.
    return isinstance(level, (int, float)) and level == 0


def get(identifier):
    """Return the corruption meant by a level (masking noise), a `Corruption`, or its config."""
    expectation = "a corruption level in [0, 1] or an sda.Corruption layer"
    if isinstance(identifier, dict):
        load = keras.saving.deserialize_keras_object
        identifier = look_up(load, identifier, "corruption", expectation)
    if isinstance(identifier, Corruption):
        return identifier
    if isinstance(identifier, (int, float, np.number)) and not isinstance(identifier, bool):
        return MaskingNoise(identifier)
    raise ValueError(
        f"Expected `corruption` to be {expectation}. Received: corruption={identifier!r}"
    )
