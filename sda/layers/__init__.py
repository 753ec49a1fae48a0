"""Noises, the denoising autoencoder, and what stands before it."""

from sda.layers.autoencoder import DenoisingAutoencoder, dA
from sda.layers.composed import ComposedNoise
from sda.layers.corruption import Corruption
from sda.layers.gaussian import GaussianNoise
from sda.layers.masking import MaskingNoise
from sda.layers.salt_and_pepper import SaltAndPepperNoise
from sda.layers.selective import SelectiveNoise
from sda.layers.swap import SwapNoise

__all__ = [
    "ComposedNoise",
    "Corruption",
    "DenoisingAutoencoder",
    "GaussianNoise",
    "MaskingNoise",
    "SaltAndPepperNoise",
    "SelectiveNoise",
    "SwapNoise",
    "dA",
]
