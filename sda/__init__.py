"""Stacked denoising autoencoders for Keras 3: pretrain layer by layer, then fine-tune."""

from sda import (
    callbacks,
    datasets,
    diagnostics,
    losses,
    penalties,
    plotting,
    population,
    semisupervised,
    sweep,
    tables,
    tutorial_params,
)
from sda.autoencoder import DenoisingAutoencoder, dA
from sda.corruption import (
    ComposedNoise,
    Corruption,
    GaussianNoise,
    MaskingNoise,
    SaltAndPepperNoise,
    SelectiveNoise,
    SwapNoise,
)
from sda.exporting import export
from sda.loading import load, load_weights
from sda.prefixes import PrefixStore
from sda.pretraining import GreedyPretrainer
from sda.stack import StackedDenoisingAutoencoder
from sda.training.fit import TrainingDiverged, fit

__version__ = "0.1.0"

__all__ = [
    "ComposedNoise",
    "Corruption",
    "DenoisingAutoencoder",
    "GaussianNoise",
    "GreedyPretrainer",
    "MaskingNoise",
    "PrefixStore",
    "SaltAndPepperNoise",
    "SelectiveNoise",
    "StackedDenoisingAutoencoder",
    "SwapNoise",
    "TrainingDiverged",
    "__version__",
    "callbacks",
    "dA",
    "datasets",
    "diagnostics",
    "export",
    "fit",
    "load",
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
