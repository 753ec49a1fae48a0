"""Reconstruction losses, penalties, and the activations that belong to them."""

from sda.losses.base import ReconstructionLoss
from sda.losses.columns import ColumnActivation, ColumnLoss
from sda.losses.cross_entropy import CrossEntropy
from sda.losses.names import get
from sda.losses.squared_error import SquaredError

__all__ = [
    "ColumnActivation",
    "ColumnLoss",
    "CrossEntropy",
    "ReconstructionLoss",
    "SquaredError",
    "get",
]
