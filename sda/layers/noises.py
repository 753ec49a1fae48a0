"""Noises by their names."""

import keras
import numpy as np

from sda.checks import look_up
from sda.layers.corruption import Corruption
from sda.layers.gaussian import GaussianNoise
from sda.layers.masking import MaskingNoise
from sda.layers.salt_and_pepper import SaltAndPepperNoise
from sda.layers.swap import SwapNoise

# By the names that settings have for them: what a level is a level of.
NOISES = {
    "masking": MaskingNoise,
    "salt_and_pepper": SaltAndPepperNoise,
    "gaussian": GaussianNoise,
    "swap": SwapNoise,
}


def named(name, level):
    """Return the noise of a name at a level; a `Corruption` in place of the level is itself."""
    if not isinstance(name, str) or name not in NOISES:
        raise ValueError(
            f"Expected `noise` to be one of {', '.join(NOISES)}. Received: noise={name!r}"
        )
    if not isinstance(level, Corruption):
        return NOISES[name](level)
    if name != "masking":
        raise ValueError(
            "Expected `noise` to be left alone where `corruption` says itself what it is. "
            f"Received: noise={name!r} and corruption={level!r}"
        )
    return level


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
