"""Sweeps: many runs that differ in a few settings, by any number of workers, and what came out."""

from sda.sweep.search import Sweep
from sda.sweep.space import Range

__all__ = ["Range", "Sweep"]
