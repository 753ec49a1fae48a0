"""Data ten times larger than memory: the same weights as in RAM, at which share of the speed?

A dA is pretrained for one epoch, in a process that may take 2 GB (`RLIMIT_DATA`), on an HDF5 file
of 20 GB, shuffled in blocks, or wholly. The file's pages are dropped from the system's cache every
second, so that it is the disk that is read. The process is stopped now and then for one that trains
on data in RAM. The weights are compared with those of the same rows made in RAM when they are asked
for, never read.
A smaller part does the same with each kind of source.

Linux only. The file is deleted at the end.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import keras
import numpy as np

import sda
from experiments import parts
from experiments.endurance import digest, mb, memory
from experiments.record import write_json
from sda.rows.base import Rows
from sda.training import feed

NAME = "larger_than_memory"
FEATURES = 784
LIMIT = 2 * 10**9
TARGET = 0.7
SOURCES = ("h5", "gzip", "memmap", "batches")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    rows: int = 6_400_000  # 20.07 GB
    rows_in_ram: int = 300_000
    rows_a_source: int = 350_000
    units: int = 500
    batch_size: int = 128
    legs: int = 3
    seconds_between_legs: int = 150
    compare: bool = True
    shuffles: tuple = ("blocks", True)
    resident_bytes: int = feed.RESIDENT_BYTES


QUICK = Sizes(
    rows=6000, rows_in_ram=1000, rows_a_source=3000, units=20, legs=1, seconds_between_legs=1,
    resident_bytes=2**20,
)  # fmt: skip


class MadeRows(Rows):
    """Rows in [0, 1] that are made when they are asked for: a few patterns in many strengths."""

    resident = False

    def __init__(self, rows, seed):
        super().__init__((rows, FEATURES), "float32")
        generator = np.random.default_rng(seed)
        codes = generator.normal(size=(5000, 30)) @ generator.normal(size=(30, FEATURES))
        self.patterns = (1 / (1 + np.exp(-codes / 3))).astype("float32")
        self.strengths = generator.uniform(0.5, 1, size=(rows, 1)).astype("float32")

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        return self.patterns[rows % len(self.patterns)] * self.strengths[rows]


class Batches(keras.utils.PyDataset):
    """Rows as batches of a dataset."""

    def __init__(self, rows, size=1000):
        super().__init__()
        self.rows, self.size = rows, size

    @property
    def num_batches(self):
        return -(-len(self.rows) // self.size)

    def __getitem__(self, i):
        return (self.rows[self.size * i : self.size * (i + 1)],)


def write(path, rows, **settings):
    """Write rows to the dataset x of an HDF5 file."""
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", rows.shape, "float32", **settings)
        for start in range(0, len(rows), 10_000):
            x[start : start + 10_000] = rows[start : start + 10_000]


# One training, in a process of its own


class Clock(keras.callbacks.Callback):
    """Keeps when the epoch began and ended, and the seconds of all cores in between."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begin, self.cpu = time.monotonic(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.end, self.cpu = time.monotonic(), time.process_time() - self.cpu


def opened(source, path, rows, seed):
    """Return the rows of a source, and its file where it must stay open."""
    if source == "made":
        return MadeRows(rows, seed)
    if source == "ram":
        return MadeRows(rows, seed)[:]
    if source == "batches":
        return Batches(MadeRows(rows, seed))
    if source == "memmap":
        return np.memmap(path, "float32", "r", shape=(rows, FEATURES))
    return sda.datasets.read(path)


def train(source, path, rows, units, batch_size, shuffle, resident_bytes, limit, seed):
    """Pretrain one epoch; return when it began and ended, and the digest of the weights."""
    feed.RESIDENT_BYTES = resident_bytes
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    x = opened(source, path, rows, seed)
    result = {}
    if limit is not None:
        try:
            np.ones((rows, FEATURES), "float32")
        except MemoryError:
            result["limit_holds"] = True
    stack = sda.StackedDenoisingAutoencoder([units], corruption=0.3, seed=seed)
    clock = Clock()
    begin = time.monotonic()
    (history,) = sda.GreedyPretrainer(
        stack,
        keras.optimizers.SGD(0.1),
        epochs=1,
        batch_size=batch_size,
        seed=seed,
        callbacks=lambda k: [clock],
    ).fit(x, shuffle=shuffle, verbose=0)
    return {
        **result,
        "begin": begin,
        "epoch_begin": clock.begin,
        "epoch_end": clock.end,
        "cpu_microseconds_an_example": round(1e6 * clock.cpu / rows, 1),
        "loss": round(history.history["loss"][-1], 4),
        "peak_resident_mb": mb(memory("VmHWM")),
        "weights": digest(stack),
    }


def started(folder, **settings):
    """Start a training in a new process; return it and the path of its result."""
    out = pathlib.Path(folder) / f"{settings['source']}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "experiments.larger_than_memory", "--train"]
    return subprocess.Popen([*command, json.dumps(settings), str(out)]), out


def ended(process, out):
    if process.wait():
        raise RuntimeError(f"A training ended with {process.returncode}")
    return json.loads(out.read_text())


def speed(rows, result, pauses=(), since="epoch_begin"):
    """Return examples a second from one moment to the end of the epoch, without the pauses."""
    paused = sum(
        max(0.0, min(end, result["epoch_end"]) - max(begin, result[since])) for begin, end in pauses
    )
    return rows / (result["epoch_end"] - result[since] - paused)


# The parts


def compare_sources(folder, seed, rows, **settings):
    """Pretrain on the rows of each source, streamed, and on the same rows resident in RAM."""
    made = MadeRows(rows, seed)
    paths = {source: folder / source for source in SOURCES}
    paths["h5"], paths["gzip"] = folder / "rows.h5", folder / "rows_gzip.h5"
    write(paths["h5"], made)
    write(paths["gzip"], made, chunks=(256, FEATURES), compression="gzip", compression_opts=1)
    made[:].tofile(paths["memmap"])
    resident = settings.pop("resident_bytes")
    found = {}
    for source in ("ram", *SOURCES):
        found[source] = ended(
            *started(
                folder, source=source, path=str(paths.get(source)), rows=rows, seed=seed,
                resident_bytes=2**62 if source == "ram" else resident,
                limit=None if source == "ram" else LIMIT, **settings,
            )
        )  # fmt: skip
    return {
        source: {
            "examples_a_second": round(speed(rows, result)),
            "cpu_microseconds_an_example": result["cpu_microseconds_an_example"],
            "peak_resident_mb": result["peak_resident_mb"],
            "equal": result["weights"] == found["ram"]["weights"],
        }
        for source, result in found.items()
    }


def stream(folder, seed, rows, rows_in_ram, legs, seconds_between_legs, compare, **settings):
    """Pretrain on the large file, interleaved with trainings in RAM; then on rows made in RAM."""
    path = folder / "rows.h5"
    begin = time.monotonic()
    write(path, MadeRows(rows, seed))
    written = time.monotonic() - begin
    in_ram = {
        **settings, "source": "ram", "path": None, "rows": rows_in_ram, "seed": seed, "limit": None,
    }  # fmt: skip
    speeds, cpu, pauses = [], [], []

    def leg():
        result = ended(*started(folder, **in_ram))
        speeds.append(speed(rows_in_ram, result))
        cpu.append(result["cpu_microseconds_an_example"])

    leg()
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    process, out = started(
        folder, source="h5", path=str(path), rows=rows, seed=seed, limit=LIMIT, **settings
    )
    last = time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(1)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            if time.monotonic() - last > seconds_between_legs and len(speeds) < legs:
                process.send_signal(signal.SIGSTOP)
                begin = time.monotonic()
                leg()
                last = time.monotonic()
                process.send_signal(signal.SIGCONT)
                pauses.append((begin, last))
    finally:
        os.close(file)
        process.kill()
    streamed = ended(process, out)
    leg()
    equal = None
    if compare:
        made = started(
            folder, source="made", path=None, rows=rows, seed=seed, limit=LIMIT, **settings
        )
        equal = streamed["weights"] == ended(*made)["weights"]
    return {
        "gigabytes": round(os.path.getsize(path) / 1e9, 2),
        "limit_gigabytes": LIMIT / 1e9,
        "limit_holds": streamed.get("limit_holds", False),
        "peak_resident_mb": streamed["peak_resident_mb"],
        "seconds_to_write": round(written, 1),
        "seconds_before_the_epoch": round(
            rows / speed(rows, streamed, pauses, "begin") - rows / speed(rows, streamed, pauses), 1
        ),
        "examples_a_second": {
            "streamed": round(speed(rows, streamed, pauses)),
            "streamed_with_checks": round(speed(rows, streamed, pauses, "begin")),
            "in_ram": [round(s) for s in speeds],
        },
        "cpu_microseconds_an_example": {
            "streamed": streamed["cpu_microseconds_an_example"],
            "in_ram": statistics.median(cpu),
        },
        "loss": streamed["loss"],
        "equal": equal,
    }


PARTS = {"sources": compare_sources, "stream": stream}


def plan(sizes, seed):
    shared = {
        "units": sizes.units,
        "batch_size": sizes.batch_size,
        "resident_bytes": sizes.resident_bytes,
        "seed": seed,
    }
    stream = {
        "rows": sizes.rows,
        "rows_in_ram": sizes.rows_in_ram,
        "legs": sizes.legs,
        "seconds_between_legs": sizes.seconds_between_legs,
        "compare": sizes.compare,
    }
    return [
        {"part": part, "shuffle": shuffle, **own, **shared}
        for part, own in (("sources", {"rows": sizes.rows_a_source}), ("stream", stream))
        for shuffle in sizes.shuffles
    ]


def compute(scratch):
    """Return the function of one part's settings; its files go to a folder in `scratch`."""

    def one(part, **settings):
        with tempfile.TemporaryDirectory(prefix="sda-larger-", dir=scratch) as folder:
            return PARTS[part](pathlib.Path(folder), **settings)

    return one


def report(found, out):
    """Write the tables to `out`/results.md."""
    lines = ["# Data larger than memory", ""]
    for part in found:
        settings, result = part["settings"], part["result"]
        network = f"dA {FEATURES}-{settings['units']}, batch {settings['batch_size']}"
        shuffled = "shuffled in blocks" if settings.get("shuffle") == "blocks" else "shuffled"
        if settings["part"] == "sources":
            lines += [
                f"{network}, one epoch on {settings['rows']:,} rows, {shuffled}, on "
                f"{part['backend']}: streamed, beside the array in RAM.",
                "",
                parts.table(
                    ["source", "examples a second", "CPU µs each", "MB resident, peak", "weights"],
                    [
                        [
                            source,
                            f"{r['examples_a_second']:,}",
                            r["cpu_microseconds_an_example"],
                            f"{r['peak_resident_mb']:,.0f}",
                            "equal" if r["equal"] else "different",
                        ]
                        for source, r in result.items()
                    ],
                ),
                "",
            ]
            continue
        speeds = result["examples_a_second"]
        in_ram = statistics.median(speeds["in_ram"])
        lines += [
            f"{network}, one epoch on {settings['rows']:,} rows, {result['gigabytes']} GB, "
            f"{shuffled}, on {part['backend']}, within {result['limit_gigabytes']} GB; in RAM: "
            f"{settings['rows_in_ram']:,} of the rows, the median of {len(speeds['in_ram'])} "
            "trainings in turns with the large one.",
            "",
            parts.table(
                ["", "examples a second", "share of the speed in RAM"],
                [
                    ["in RAM", f"{in_ram:,.0f}", "1.00"],
                    *(
                        [label, f"{speeds[name]:,}", f"{speeds[name] / in_ram:.2f}"]
                        for label, name in (
                            ("streamed, the epoch", "streamed"),
                            ("streamed, with the checks before it", "streamed_with_checks"),
                        )
                    ),
                ],
            ),
            "",
            f"Each leg in RAM: {', '.join(f'{s:,}' for s in speeds['in_ram'])} examples a second. "
            f"At its peak the process had {result['peak_resident_mb']:,.0f} MB resident; an array "
            f"of all rows {'did not fit' if result['limit_holds'] else 'would have fitted'} its "
            "limit.",
            "",
        ]
        cpu = result.get("cpu_microseconds_an_example")
        if cpu:
            lines += [
                f"All cores together took {cpu['streamed']:.1f} µs an example streamed, "
                f"{cpu['in_ram']:.1f} in RAM.",
                "",
            ]
        if result["equal"] is not None:
            lines += [
                f"The weights are {'equal' if result['equal'] else 'different'} to those of the "
                "same rows made in RAM when they were asked for.",
                "",
            ]
    (pathlib.Path(out) / "results.md").write_text("\n".join([*lines, parts.machines(found), ""]))


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    parser.add_argument("--scratch", help="folder for the rows; default: that of the system")
    parser.add_argument(
        "--no-comparison", action="store_true", help="without the second training on all rows"
    )
    parser.add_argument("--shuffle", choices=["blocks", "all"], help="only one of the two orders")
    parser.add_argument("--rows", type=int, help="rows of the large file; default: 20 GB of them")
    parser.add_argument("--rows-in-ram", type=int, help="rows of a training in RAM")
    parser.add_argument("--legs", type=int, help="trainings in RAM amid the large one, at most")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--part", choices=PARTS, help="only one of the two parts")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args(arguments)
    if a.train:
        settings, out = a.train
        write_json(out, train(**json.loads(settings)))
        return
    sizes = dataclasses.replace(QUICK if a.quick else Sizes(), compare=not a.no_comparison)
    given = {name: getattr(a, name) for name in ("rows", "rows_in_ram", "batch_size", "legs")}
    sizes = dataclasses.replace(sizes, **{k: v for k, v in given.items() if v is not None})
    if a.shuffle:
        sizes = dataclasses.replace(sizes, shuffles=(True if a.shuffle == "all" else a.shuffle,))
    chosen = [part for part in plan(sizes, a.seed) if a.part in (None, part["part"])]
    # Of other sizes too.
    parts.complete(chosen, compute(a.scratch), lambda _, out: report(parts.read(out), out), a.out)


if __name__ == "__main__":
    main()
