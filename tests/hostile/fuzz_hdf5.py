"""Reads rows from mutated HDF5 files: python tests/hostile/fuzz_hdf5.py --mutations 5000

Each file is read by `sda.datasets.read`, all of its rows and some, and has to be accepted or
refused in the house's words. `--out tests/hostile/fuzz_hdf5.json` writes the counts.
"""

import functools
import io
import sys

import fuzzing
import h5py
import numpy as np

from sda.datasets import read

NAMES = ("plain", "packed", "fast", "a/b/deep", "whole", "scalar_like", "bfloat16")
# The default groups, those of the newer kind, and those that keep the order of their members.
KINDS = ({}, {"libver": "latest"}, {"track_order": True})


@functools.cache
def honest(kind):
    content = io.BytesIO()
    rows = np.random.default_rng(0).random((50, 8), "float32")
    with h5py.File(content, "w", **KINDS[kind]) as file:
        file["plain"] = rows
        filters = {"compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("packed", data=rows, chunks=(7, 4), **filters)
        file.create_dataset("fast", data=rows, chunks=(7, 4), compression="lzf")
        file["a/b/deep"] = rows[:3].astype(">f8")
        file["a"].attrs["unit"] = "mm"
        file["whole"] = np.arange(20, dtype="int16")
        file.create_dataset("scalar_like", data=rows[:, :1] > 0.5, maxshape=(None, 1))
        bfloat16 = h5py.h5t.IEEE_F32LE.copy()
        bfloat16.set_fields(15, 7, 8, 0, 7)
        bfloat16.set_size(2)
        bfloat16.set_ebias(127)
        space = h5py.h5s.create_simple((50, 8))
        dataset = h5py.h5d.create(file.id, b"bfloat16", bfloat16, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, rows)
    return content.getvalue()


def mutate(draw):
    return fuzzing.mutated(honest(draw.randrange(len(KINDS))), draw)


def read_all(path):
    """Read each dataset; one that is refused does not keep the others from being read."""
    refusals = []
    for name in NAMES:
        try:
            rows = read(path, name)
            rows[: min(len(rows), 1000)]
            rows[np.array([1, 0, 2]) % len(rows)]
        except ValueError as error:
            if not str(error).startswith("Expected "):
                raise
            refusals.append(error)
    if refusals:
        raise refusals[0]


def main():
    versions = {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}
    return fuzzing.run("rows of HDF5 files", ".h5", mutate, read_all, versions)


if __name__ == "__main__":
    sys.exit(main())
