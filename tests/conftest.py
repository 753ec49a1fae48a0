import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same global random state."""
    keras.utils.set_random_seed(1)
