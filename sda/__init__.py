"""Stacked denoising autoencoders for Keras 3: pretrain layer by layer, then fine-tune."""

import importlib
from typing import TYPE_CHECKING

from sda import callbacks, losses
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
from sda.recipe.recipe import Recipe
from sda.saving import tutorial_params
from sda.saving.export import export
from sda.saving.load import load_model, load_weights
from sda.training.fit import fit
from sda.training.loop import TrainingDivergedError
from sda.version import __version__

if TYPE_CHECKING:
    from sda import (
        datasets,
        diagnostics,
        plotting,
        report,
        runs,
        semisupervised,
        sweep,
        tables,
    )
    from sda import estimators as estimators

# Loaded when they are first asked for: some need packages that others can do without, and none
# has anything that files name.
_ROOMS = (
    "datasets",
    "diagnostics",
    "estimators",
    "plotting",
    "report",
    "runs",
    "semisupervised",
    "sweep",
    "tables",
)

# Without `estimators`: `from sda import *` needs no scikit-learn.
__all__ = [
    "ComposedNoise",
    "Corruption",
    "DenoisingAutoencoder",
    "GaussianNoise",
    "GreedyPretrainer",
    "LayerCache",
    "MaskingNoise",
    "Recipe",
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
    "report",
    "runs",
    "semisupervised",
    "sweep",
    "tables",
    "tutorial_params",
]


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"sda.{name}")
    raise AttributeError(f"module 'sda' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_ROOMS})
