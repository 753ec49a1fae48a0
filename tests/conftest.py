import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX compiles the small program of every new model anew, for three quarters of the time. What one
# test, worker or run has compiled the next one reads; a program and JAX's release are the key.
CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import pytest

# What these test is the same on every backend: files, arrays, tables, pages, pictures, options.
# It runs once: on TensorFlow, and what is slow on PyTorch, which runs all that is slow.
ONCE = {
    "hostile",
    "test_architecture.py",
    "test_benchmark.py",
    "test_command_line.py",
    "test_datasets.py",
    "test_demo.py",
    "test_docs.py",
    "test_larger_than_memory.py",
    "test_larochelle2007.py",
    "test_larochelle2007_experiment.py",
    "test_noise_types.py",
    "test_plotting.py",
    "test_reading.py",
    "test_readme.py",
    "test_report.py",
    "test_runs.py",
    "test_seeding.py",
    "test_selection.py",
    "test_semisupervised.py",
    "test_sources.py",
    "test_sweep_workers.py",
    "test_tables.py",
    "test_tables_experiment.py",
    "test_tutorial_params.py",
}
# Whole programs around the trainings that other tests compare by backend. Each fit is of another
# model, which JAX would compile.
NOT_ON_JAX = {
    "test_cli.py",
    "test_cli_sweep.py",
    "test_estimators.py",
    "test_estimators_in_scikit_learn.py",
    "test_prefixes.py",
    "test_sweep.py",
}
BACKEND = keras.backend.backend()
collect_ignore = sorted(ONCE | NOT_ON_JAX) if BACKEND == "jax" else []


def pytest_collection_modifyitems(config, items):
    """Leave to TensorFlow what is the same on every backend, but for what is slow."""
    if BACKEND != "torch":
        return
    tests = Path(__file__).parent
    once = [
        item
        for item in items
        if item.path.relative_to(tests).parts[0] in ONCE and not item.get_closest_marker("slow")
    ]
    config.hook.pytest_deselected(items=once)
    items[:] = [item for item in items if item not in once]


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same global random state."""
    keras.utils.set_random_seed(1)
