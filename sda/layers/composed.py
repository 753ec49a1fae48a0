"""Several noises, one after the other."""

import keras
from keras import ops

from sda.layers.corruption import Corruption
from sda.streams import spawn


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

    def restart(self):
        for noise in self.noises:
            noise.restart()

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
