"""What every result carries: versions, machine, seed; and files that are whole or absent."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import time

import keras

import sda


def circumstances(seed):
    """Return the seed, the versions and the machine as a dictionary for JSON."""
    versions = {"python": platform.python_version(), "keras-sda": sda.__version__}
    for package in ("keras", "numpy", keras.backend.backend()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    machine = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    if "OMP_NUM_THREADS" in os.environ:
        machine["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    return {
        "seed": seed,
        "backend": keras.backend.backend(),
        "versions": versions,
        "machine": machine,
    }


def write_json(path, content):
    """Write `content` to `path`, through a temporary file, so that no reader sees half of it."""
    path = pathlib.Path(path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    temporary.replace(path)


@contextlib.contextmanager
def timed(seconds, phase, clock=time.perf_counter):
    """Add the seconds that the block takes to the dictionary `seconds`, under `phase`.

    With `time.process_time` as the clock they are those of all cores that worked for it together,
    whatever else the machine did in the meantime.
    """
    start = clock()
    yield
    seconds[phase] = round(clock() - start, 1)


def _processor():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
