"""Many fits in one process, several at a time, and a long one in little memory: do they hold?

Run as `python -m experiments.endurance --minutes 60` on Linux; it takes a little more than twice
the minutes, since the long run is done again in RAM. Each part runs in a process of its own:

- `finetunings` and `pretrainings`: 200 fits in a row, with checkpoints; memory, open files, traces.
- `threads`: four fits at a time, against the same ones in turn.
- `forks`: workers forked before and after the backend was used.
- `long`: pretraining from an HDF5 file larger than the memory that the process may have, against
  the same in RAM.

Leaves `endurance.json` and `endurance.md` in the folder `--out`.

With `--kills` it does something else: small runs of the backend at hand are cut off by SIGKILL and
SIGINT at random moments, 300 times unless told otherwise, and resumed. What came of them goes to
`results.json` and `kills.md` in the same folder, after every few; another call does what is left.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time

import h5py
import keras
import numpy as np

import sda
from experiments import kills
from experiments.record import circumstances, write_json

RESULTS = pathlib.Path(__file__).parent / "results" / "endurance"
# The memory that the long run may take beside what Python and the backend have when it begins.
BUDGET = 2**30
FEATURES = 784


def digits(rows, seed=1):
    generator = np.random.default_rng(seed)
    return generator.random((rows, 20), "float32"), generator.integers(3, size=rows)


def digest(model):
    """Return the SHA-256 of a model's weights."""
    sha = hashlib.sha256()
    for weight in model.get_weights():
        sha.update(np.ascontiguousarray(weight))
    return sha.hexdigest()


def memory(name):
    """Return an entry of /proc/self/status in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"Expected `name` to be an entry of /proc/self/status. Received: {name!r}")


class Traces:
    """Counts how often the Python code of a step runs: on TensorFlow and JAX, when it is traced."""

    def __init__(self):
        self.count = 0

    def of(self, model):
        compute_loss = model.compute_loss

        def counted(*args, **kwargs):
            self.count += 1
            return compute_loss(*args, **kwargs)

        model.compute_loss = counted
        return model


# Many fits


def in_a_row(fit, count):
    """Call `fit(traces, folder)` `count` times; return memory, open files and traces of each."""
    traces, seen = Traces(), []
    for _ in range(count):
        before = traces.count
        with tempfile.TemporaryDirectory(prefix="sda-endurance-") as folder:
            fit(traces, folder)
        gc.collect()
        seen.append((memory("VmRSS"), len(os.listdir("/proc/self/fd")), traces.count - before))
    rss, files, traced = map(np.array, zip(*seen, strict=True))
    # The first fits fill caches.
    settled = len(rss) // 4
    fits = np.arange(settled, len(rss))
    slope = np.polyfit(fits, rss[settled:], 1)[0] if len(fits) > 1 else 0.0
    return {
        "fits": count,
        "megabytes": {"first": mb(rss[0]), "settled": mb(rss[settled]), "last": mb(rss[-1])},
        "kilobytes_a_fit": round(float(slope) / 1024, 1),
        "open_files": sorted({int(n) for n in files[1:]}),
        "traces": {"first": int(traced[0]), "later": sorted({int(n) for n in traced[1:]})},
    }


def mb(size):
    return round(float(size) / 2**20, 1)


def finetunings(count):
    """Fine-tune one model again and again: it is compiled once."""
    x, y = digits(200)
    model = keras.Sequential(
        [keras.Input((20,)), keras.layers.Dense(50, "tanh"), keras.layers.Dense(3, "softmax")]
    )
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")

    def fit(traces, folder):
        if "compute_loss" not in vars(model):
            traces.of(model)
        sda.fit(model, x, y, 20, 2, verbose=0, validation_data=(x, y), checkpoint_dir=folder)

    return in_a_row(fit, count)


def pretrainings(count):
    """Pretrain one stack after the other: each layer is a model of its own, compiled once."""
    x, _ = digits(200)

    class Count(keras.callbacks.Callback):
        def __init__(self, traces):
            super().__init__()
            self.traces = traces

        def on_train_begin(self, logs=None):
            self.traces.of(self.model)

    def fit(traces, folder):
        stack = sda.StackedDenoisingAutoencoder([30, 20], seed=1)
        sda.GreedyPretrainer(
            stack, epochs=3, seed=1, checkpoint_dir=folder, callbacks=lambda k: [Count(traces)]
        ).fit(x, verbose=0)

    return in_a_row(fit, count)


# Several at a time


def small_fit(seed):
    """Pretrain and fine-tune a small network; return the digest of its weights."""
    x, y = digits(200, seed)
    stack = sda.StackedDenoisingAutoencoder([30, 20], seed=seed)
    sda.GreedyPretrainer(stack, epochs=3, seed=seed).fit(x, verbose=0)
    model = stack.classifier(3, dropout=0.2)
    model.compile("adam", "sparse_categorical_crossentropy")
    sda.fit(model, x, y, 20, 3, verbose=0, seed=seed)
    return digest(model)


def threads(count=4):
    """Run fits in threads; return how many end with the weights of the same fit alone."""
    seeds = range(count)
    alone = {seed: small_fit(seed) for seed in seeds}
    results = {}

    def work(seed):
        results[seed] = small_fit(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"threads": count, "equal": sum(results.get(s) == alone[s] for s in seeds)}


def forked(seed, results):
    try:
        results.put(small_fit(seed))
    except RuntimeError as error:
        results.put(str(error))


def forks():
    """Fork a worker before the backend was used, and one after it; return what came of them."""
    context = multiprocessing.get_context("fork")

    def worker():
        # Of its own: a worker that is killed while it still holds a queue's lock keeps it forever.
        results = context.Queue()
        process = context.Process(target=forked, args=(1, results))
        process.start()
        try:
            return results.get(timeout=120)
        finally:
            process.kill()
            process.join()

    before = worker()
    expected = small_fit(1)
    return {"before": "equal" if before == expected else before, "after": worker()}


# A long one


class StopAfter(keras.callbacks.Callback):
    """Stops at the end of the epoch in which the time is up."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def on_train_begin(self, logs=None):
        self.end = time.monotonic() + self.seconds

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() >= self.end:
            self.model.stop_training = True


def write_examples(path, rows):
    """Write examples of low rank, in [0, 1], to an HDF5 file, piece by piece."""
    generator = np.random.default_rng(1)
    patterns = generator.normal(size=(30, FEATURES)).astype("float32")
    with h5py.File(path, "w") as file:
        examples = file.create_dataset("examples", (rows, FEATURES), "float32")
        for start in range(0, rows, 10_000):
            codes = generator.normal(size=(min(10_000, rows - start), 30)).astype("float32")
            examples[start : start + len(codes)] = 1 / (1 + np.exp(-codes @ patterns / 3))


def long_run(path, in_ram, seconds=None, epochs=None):
    """Pretrain two layers on the file: within a memory limit, or on an array in RAM.

    Args:
        path: Path of the HDF5 file.
        in_ram: Whether to read all of it first. Otherwise the process may not take more than
            `BUDGET` beside what it has at the begin, which must be less than the file.
        seconds: How long the layers may take together; or
        epochs: List of the epochs of each layer.
    """
    small_fit(1)  # what the backend takes for itself
    file = h5py.File(path, "r")
    x = file["examples"]
    result = {"data_mb": mb(x.nbytes)}
    if in_ram:
        x = x[:]
    else:
        limit = memory("VmData") + BUDGET
        if limit >= x.nbytes:
            raise ValueError(
                f"Expected more rows: {mb(x.nbytes)} MB of data do not exceed the limit. "
                f"Received: a limit of {mb(limit)} MB"
            )
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        result["limit_mb"] = mb(limit)
        try:
            np.ones(x.shape, x.dtype)
        except MemoryError:
            result["limit_holds"] = True
    stack = sda.StackedDenoisingAutoencoder([256, 128], corruption=0.2, seed=1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sda-endurance-") as folder:
        histories = sda.GreedyPretrainer(
            stack,
            keras.optimizers.SGD(0.1),
            epochs=epochs or 10**6,
            batch_size=128,
            codes_storage="ram" if in_ram else "disk",
            seed=1,
            callbacks=(lambda k: [StopAfter(seconds * (0.7, 0.3)[k])]) if seconds else None,
            checkpoint_dir=None if in_ram else folder,
            checkpoint_every=60,
        ).fit(x, verbose=2)
    return {
        **result,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "epochs": [len(history.epoch) for history in histories],
        "loss": [round(history.history["loss"][-1], 4) for history in histories],
        "peak_resident_mb": mb(memory("VmHWM")),
        "weights": digest(stack),
    }


def long(minutes, rows, scratch):
    """Run from HDF5 within the limit, and again in RAM, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="sda-endurance-", dir=scratch) as folder:
        path = pathlib.Path(folder) / "examples.h5"
        write_examples(path, rows)
        limited = alone("long_run", path=str(path), in_ram=False, seconds=60 * minutes)
        in_ram = alone("long_run", path=str(path), in_ram=True, epochs=limited["epochs"])
    return {
        "rows": rows,
        "hdf5": limited,
        "ram": in_ram,
        "equal": limited["weights"] == in_ram["weights"],
    }


# All of it

PARTS = {f.__name__: f for f in (finetunings, pretrainings, threads, forks, long_run)}


def alone(part, **arguments):
    """Run a part in a new process; return its result."""
    with tempfile.TemporaryDirectory(prefix="sda-endurance-") as folder:
        out = pathlib.Path(folder) / "result.json"
        command = [sys.executable, "-m", "experiments.endurance", "--part", part]
        subprocess.run([*command, json.dumps(arguments), str(out)], check=True)
        return json.loads(out.read_text())


def run(out=RESULTS, minutes=60.0, fits=200, rows=800_000, scratch=None):
    """Run all parts; return the results that it wrote to `out`."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results = {
        **circumstances(1),
        "finetunings": alone("finetunings", count=fits),
        "pretrainings": alone("pretrainings", count=fits),
        "threads": alone("threads"),
        "forks": alone("forks"),
    }
    if minutes:
        results["long"] = long(minutes, rows, scratch)
    write_json(out / "endurance.json", results)
    (out / "endurance.md").write_text(report(results))
    return results


def report(results):
    """Return the results as Markdown."""
    backend = results["backend"]
    lines = [
        f"# Endurance on {backend} {results['versions'].get(backend, '')}",
        "",
        "| fits in a row | MB, first | MB, settled | MB, last | KB a fit | open files "
        "| traces, first | traces, later |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("finetunings", "pretrainings"):
        part = results[name]
        row = [f"{part['fits']} {name}", *part["megabytes"].values(), part["kilobytes_a_fit"]]
        row += [", ".join(map(str, part["open_files"])), part["traces"]["first"]]
        row += [", ".join(map(str, part["traces"]["later"]))]
        lines.append(f"| {' | '.join(map(str, row))} |")
    t, f = results["threads"], results["forks"]
    lines += [
        "",
        f"Of {t['threads']} fits in threads at a time, {t['equal']} ended with the weights of the "
        "same fit alone.",
        "",
        f"A worker forked before the backend was used: {f['before']}. After it: {f['after']}.",
    ]
    if "long" in results:
        part = results["long"]
        lines += [
            "",
            "| long run | minutes | epochs | last loss | data MB | limit MB | resident MB, peak |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in ("hdf5", "ram"):
            p = part[name]
            row = [name, p["minutes"], p["epochs"], p["loss"], p["data_mb"]]
            row += [p.get("limit_mb", "none"), p["peak_resident_mb"]]
            lines.append(f"| {' | '.join(map(str, row))} |")
        lines += ["", f"The weights are {'equal' if part['equal'] else 'different'}."]
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=RESULTS, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the long run; 0: leave out")
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--rows", type=int, default=800_000, help="examples of the long run")
    parser.add_argument("--scratch", help="folder for the HDF5 file; default: that of the system")
    parser.add_argument(
        "--kills", type=int, nargs="?", const=300, help="kill and resume runs, this often"
    )
    parser.add_argument("--seed", type=int, default=1, help="the first one of the kills")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, settings, out = arguments.part
        write_json(out, PARTS[name](**json.loads(settings)))
        return
    if arguments.kills:
        kills.kill(arguments.kills, arguments.out, arguments.seed)
        return
    results = run(
        arguments.out, arguments.minutes, arguments.fits, arguments.rows, arguments.scratch
    )
    print(report(results))


if __name__ == "__main__":
    main()
