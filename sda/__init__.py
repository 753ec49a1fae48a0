"""Stacked denoising autoencoders for Keras 3: pretrain layer by layer, then fine-tune."""

from sda import callbacks, datasets, diagnostics, losses, plotting, semisupervised, sweep, tables
from sda.checkpoints.layer_cache import LayerCache
from sda.layers.autoencoder import DenoisingAutoencoder, dA
from sda.layers.composed import ComposedNoise
from sda.layers.corruption import Corruption
from sda.layers.gaussian import GaussianNoise
from sda.layers.masking import MaskingNoise
from sda.layers.salt_and_pepper import SaltAndPepperNoise
from sda.layers.selective import SelectiveNoise
from sda.layers.swap import SwapNoise
from sda.losses import penalties
from sda.models.stack import StackedDenoisingAutoencoder
from sda.pretraining import population
from sda.pretraining.pretrainer import GreedyPretrainer
from sda.saving import tutorial_params
from sda.saving.export import export
from sda.saving.load import load_model, load_weights
from sda.training.fit import fit
from sda.training.loop import TrainingDivergedError
from sda.version import __version__

__all__ = [
    "ComposedNoise",
    "Corruption",
    "DenoisingAutoencoder",
    "GaussianNoise",
    "GreedyPretrainer",
    "LayerCache",
    "MaskingNoise",
    "SaltAndPepperNoise",
    "SelectiveNoise",
    "StackedDenoisingAutoencoder",
    "SwapNoise",
    "TrainingDivergedError",
    "__version__",
    "callbacks",
    "dA",
    "datasets",
    "diagnostics",
    "export",
    "fit",
    "load_model",
    "load_weights",
    "losses",
    "penalties",
    "plotting",
    "population",
    "semisupervised",
    "sweep",
    "tables",
    "tutorial_params",
]
