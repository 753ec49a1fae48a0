import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

# What these test is the same on every backend: files, arrays and tables. TensorFlow is enough.
collect_ignore = []
if keras.backend.backend() != "tensorflow":
    collect_ignore += [
        "hostile",
        "test_datasets.py",
        "test_larochelle2007.py",
        "test_larochelle2007_experiment.py",
        "test_noise_types.py",
        "test_readme.py",
        "test_report.py",
        "test_runs.py",
        "test_selection.py",
        "test_semisupervised.py",
        "test_sources.py",
        "test_sweep_workers.py",
    ]
# What these test is the same on every backend too, but trains again and again: PyTorch alone need
# not compile for each.
if keras.backend.backend() != "torch":
    collect_ignore += ["test_cli.py", "test_cli_sweep.py"]


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same global random state."""
    keras.utils.set_random_seed(1)
