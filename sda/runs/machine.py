"""What every result carries: seed, versions and machine."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform

import keras

from sda.distribution.devices import accelerators
from sda.version import __version__


def circumstances(seed):
    """Return the seed, the versions and the machine as a dictionary for JSON."""
    versions = {"python": platform.python_version(), "keras-sda": __version__}
    for package in ("keras", "numpy", keras.backend.backend()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    machine = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    if "OMP_NUM_THREADS" in os.environ:
        machine["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    if found := accelerators():
        machine["accelerators"] = found
    return {
        "seed": seed,
        "backend": keras.backend.backend(),
        "versions": versions,
        "machine": machine,
    }


def _processor():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine_name(machine):
    """Return the machine of `circumstances` in words."""
    words = [machine.get("processor"), f"{machine.get('cores')} cores"]
    return ", ".join([*map(str, words), *machine.get("accelerators", [])])
