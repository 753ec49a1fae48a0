"""Models in files: loaded, exported, and in the tutorial's form."""

from sda.saving import tutorial_params
from sda.saving.export import export
from sda.saving.load import load_model, load_weights

__all__ = ["export", "load_model", "load_weights", "tutorial_params"]
