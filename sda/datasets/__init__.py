"""Datasets of the field as float32 rows in [0, 1] with integer labels."""

from sda.datasets import larochelle2007
from sda.datasets.catalogue import load
from sda.datasets.files import DatasetUnavailableError
from sda.datasets.reading import read
from sda.datasets.sources import open_source

__all__ = ["DatasetUnavailableError", "larochelle2007", "load", "open_source", "read"]
