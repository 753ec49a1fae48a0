import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX compiles the small program of every new model anew, for three quarters of the time. What one
# test, worker or run has compiled the next one reads; a program and JAX's release are the key.
TESTS = Path(__file__).resolve().parent
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# A process that a test starts imports the `sda` that is tested: a checkout's, or the installed one.
TESTED = str(Path(importlib.util.find_spec("sda").origin).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([TESTED, *filter(None, [os.environ.get("PYTHONPATH")])])

# What these test is the same on every backend: files, arrays, tables, pages, pictures, options.
# It runs once: on TensorFlow, and what is slow on PyTorch, which runs all that is slow.
ONCE = {
    "test_architecture.py",
    "test_datasets.py",
    "test_demo.py",
    "test_larochelle2007.py",
    "test_noise_types.py",
    "test_plotting.py",
    "test_reading.py",
    "test_readme.py",
    "test_report.py",
    "test_runs.py",
    "test_selection.py",
    "test_sources.py",
    "test_tables.py",
    "test_tutorial_params.py",
}
# So it is here; but these train many small models, which take ten times as long on TensorFlow:
# PyTorch need not compile.
ONCE_ON_PYTORCH = {
    "hostile",
    "test_benchmark.py",
    "test_command_line.py",
    "test_docs.py",
    "test_endurance.py",
    "test_larger_than_memory.py",
    "test_larochelle2007_experiment.py",
    "test_seeding.py",
    "test_semisupervised.py",
    "test_sweep_workers.py",
    "test_tables_experiment.py",
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
# Half a minute and more in one test or in what a file prepares: last, one process would wait.
FIRST = ("test_processes.py", "test_replicas.py", "test_parity.py", "test_checkpoint.py")


def backend():
    # Not where this file is read: pytest-xdist's first process has no need of Keras.
    import keras

    return keras.backend.backend()


def place(path):
    """The name of a test's file, or of its folder, beside this file."""
    return path.relative_to(TESTS).parts[0]


def pytest_ignore_collect(collection_path):
    if collection_path == TESTS or backend() == "torch":
        return None
    elsewhere = ONCE_ON_PYTORCH | (ONCE | NOT_ON_JAX if backend() == "jax" else set())
    return True if place(collection_path) in elsewhere else None


def pytest_collection_modifyitems(config, items):
    if backend() == "torch":
        once = [
            item
            for item in items
            if place(item.path) in ONCE and not item.get_closest_marker("slow")
        ]
        config.hook.pytest_deselected(items=once)
        items[:] = [item for item in items if item not in once]
    items.sort(key=lambda item: place(item.path) not in FIRST)


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test from the same global random state."""
    import keras

    keras.utils.set_random_seed(1)
