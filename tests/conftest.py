import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

collect_ignore = []
# What these test is the same on every backend: files, arrays and tables. TensorFlow is enough.
if keras.backend.backend() != "tensorflow":
    collect_ignore += [
        "hostile",
        "test_datasets.py",
        "test_larger_than_memory.py",
        "test_larochelle2007.py",
        "test_larochelle2007_experiment.py",
        "test_noise_types.py",
        "test_reading.py",
        "test_readme.py",
        "test_report.py",
        "test_runs.py",
        "test_seeding.py",
        "test_selection.py",
        "test_semisupervised.py",
        "test_sources.py",
        "test_tutorial_params.py",
        "test_tables.py",
        "test_tables_experiment.py",
        "test_sweep_workers.py",
    ]
# Hundreds of fits, which the others would compile one by one.
if keras.backend.backend() != "torch":
    collect_ignore += ["test_cli.py", "test_cli_sweep.py", "test_estimators_in_scikit_learn.py"]


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same global random state."""
    keras.utils.set_random_seed(1)
