"""Small runs that are killed at random moments and resumed, until they end.

Each run is a fork of a process that has imported the backend, and has not used it yet: thousands of
them take minutes, and to the files a fork that is killed is a process like any other.
"""

import concurrent.futures
import hashlib
import multiprocessing
import os
import pathlib
import signal
import tempfile
import time
import traceback
import zlib

import keras
import numpy as np

import sda
from experiments.parts import complete, read, table
from sda.training import pace

# Of the signals of a part. Ctrl-C is answered by Python, and by fewer lines of code.
KILLS, SHARE_OF_SIGKILL = 5, 0.7
# A run is killed as often as this before it is left to end.
MOST = 3
LIMIT = 600
EPOCHS = 3


def examples():
    generator = np.random.default_rng(0)
    x = generator.random((30, 12), "float32")
    noisy = (x + 0.2 * generator.normal(size=x.shape)).astype("float32")
    return x, noisy, generator.integers(3, size=30)


def stack(**settings):
    settings = {"corruption": [0.1, 0.3], **settings}
    return sda.StackedDenoisingAutoencoder([8, 6], seed=1, **settings)


def pretrain(model, folder, optimizer=None, x=None, fit=None, **settings):
    """Pretrain a stack with a checkpoint a dispatch; return it."""
    pretrainer = sda.GreedyPretrainer(
        model, optimizer or keras.optimizers.Adam(0.01), epochs=EPOCHS, batch_size=10, seed=1,
        checkpoint_dir=folder / "pretraining", checkpoint_every=0, **settings,
    )  # fmt: skip
    x = examples()[0] if x is None else x
    pretrainer.fit(x, verbose=0, **{"validation_data": x[:9], **(fit or {})})
    return model


def finetune(model, folder, optimizer, callbacks=(), **settings):
    """Train a classifier with a checkpoint a dispatch; return it."""
    x, _, y = examples()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    sda.fit(
        model, x, y, 7, 2 * EPOCHS, callbacks=list(callbacks), validation_data=(x[:9], y[:9]),
        seed=1, steps_per_execution=1, verbose=0, checkpoint_dir=folder / "finetuning",
        checkpoint_every=0, **settings,
    )  # fmt: skip
    return model


def network(*hidden):
    return keras.Sequential([keras.Input((12,)), *hidden, keras.layers.Dense(3, "softmax")])


# The runs


def patient(folder):
    """Callbacks with state, one of which puts back the best weights."""

    def callbacks(k):
        return [
            keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=1, min_delta=1e9),
            keras.callbacks.EarlyStopping(patience=EPOCHS, restore_best_weights=True),
        ]

    return pretrain(stack(), folder, callbacks=callbacks)


def pairs(folder):
    """Noisy rows and clean ones, codes on disk, an emphasised loss, momentum."""
    x, noisy, _ = examples()
    fit = {"targets": x, "validation_data": (noisy[:9], x[:9])}
    loss, optimizer = sda.losses.CrossEntropy(1, 0.5), keras.optimizers.SGD(0.05, 0.9)
    return pretrain(stack(), folder, optimizer, noisy, fit, loss=loss, codes_storage="disk")


def gaps(folder):
    """Missing values, penalties, codes that are computed again, an order of blocks."""
    x = examples()[0].copy()
    x[np.random.default_rng(2).random(x.shape) < 0.2] = np.nan
    model = stack(fill_value=0.5, contraction=0.1, sparsity=keras.regularizers.L1(0.01))
    return pretrain(model, folder, x=x, fit={"shuffle": "blocks"}, codes_storage="recompute")


def schedules(folder):
    """A level that changes by epoch, and a rate that falls by step."""
    decay = keras.optimizers.schedules.ExponentialDecay(0.2, 5, 0.8)
    model = stack()

    def callbacks(k):
        layer = model.autoencoders[k]
        return [sda.callbacks.CorruptionSchedule(layer, lambda epoch: 0.1 + 0.1 * epoch)]

    return pretrain(model, folder, keras.optimizers.SGD(decay), callbacks=callbacks)


def shared(folder):
    """Layers that a store keeps."""
    store = sda.LayerCache(folder / "layers")
    return pretrain(stack(tied=False), folder, keras.optimizers.SGD(0.1), cache=store)


def both(folder):
    """Pretraining, then the classifier of the stack, with dropout."""
    model = pretrain(stack(), folder).classifier(3, dropout=0.3)
    return finetune(model, folder, keras.optimizers.SGD(0.1, 0.9))


def averages(folder):
    """Averages of the weights, gradients of several steps, clipping; batch normalisation."""
    optimizer = keras.optimizers.Adam(
        0.01, use_ema=True, ema_overwrite_frequency=3, gradient_accumulation_steps=2, clipnorm=0.5
    )
    layers = [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()]
    return finetune(network(*layers), folder, optimizer)


def unseeded(folder):
    """Noise and dropout of Keras from the global generators; weights of classes."""
    layers = [
        keras.layers.GaussianNoise(0.2),
        keras.layers.Dense(8, "tanh"),
        keras.layers.Dropout(0.4),
    ]
    return finetune(
        network(*layers), folder, keras.optimizers.RMSprop(0.01), class_weight={0: 2.0, 1: 0.5}
    )


def falling(folder):
    """A rate that a function sets, and a stop that patience asks for."""
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True),
    ]
    layers = [sda.MaskingNoise(0.2, seed=1), keras.layers.Dense(8, "tanh")]
    return finetune(network(*layers), folder, keras.optimizers.SGD(0.2, 0.9), callbacks)


RUNS = {
    run.__name__: run
    for run in (patient, pairs, gaps, schedules, shared, both, averages, unseeded, falling)
}


# Killing them


def plan(kills, backend, seed=1):
    """Return the settings of as many parts as `kills` signals need, one run after the other."""
    names = list(RUNS)
    return [
        {"backend": backend, "run": names[i % len(names)], "seed": seed + i // len(names)}
        for i in range(-(-kills // KILLS))
    ]


def kill(count, out, seed=1):
    """Cut runs of this backend off, `count` times with those that `out` has already."""
    context = multiprocessing.get_context("fork")
    # The parts in a process that never uses the backend itself, so that its forks can.
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:

        def compute(**settings):
            return process.submit(part, **settings).result()

        return complete(plan(count, keras.backend.backend(), seed), compute, report, out)


def part(run, seed, kills=KILLS, **_):
    """Cut off a run by `kills` signals or a few more; return what became of it."""
    # It imports what the forks would import one by one.
    keras.utils.set_random_seed(seed)
    draws = np.random.default_rng([seed, zlib.crc32(run.encode())])
    counts = {"SIGKILL": 0, "SIGINT": 0, "without a checkpoint": 0, "equal": 0, "failures": []}
    with tempfile.TemporaryDirectory(prefix="sda-kills-") as folder:
        folder = pathlib.Path(folder)
        begin = time.monotonic()
        if _started(run, folder / "whole").wait(LIMIT) is None:
            raise RuntimeError(f"The run {run!r} did not end. {_log(folder / 'whole')}")
        seconds, expected = time.monotonic() - begin, _result(folder / "whole")
        if expected is None:
            raise RuntimeError(f"The run {run!r} failed. {_log(folder / 'whole')}")
        number = 0
        while counts["SIGKILL"] + counts["SIGINT"] < kills:
            number += 1
            _killed_and_resumed(run, folder / str(number), seconds, expected, draws, counts)
    return counts


def _killed_and_resumed(run, folder, seconds, expected, draws, counts):
    """Cut one run off, one to `MOST` times, let it end, and add to the counts."""
    sent = []
    for _ in range(draws.integers(MOST) + 1):
        name = "SIGKILL" if draws.random() < SHARE_OF_SIGKILL else "SIGINT"
        child, moment = _started(run, folder), draws.random() * seconds
        if child.wait(moment) is None:
            os.kill(child.pid, getattr(signal, name))
            if child.wait(LIMIT) is None:
                child.kill()
                counts["failures"].append(f"{sent} {name}: it did not stop. {_log(folder)}")
        if _result(folder) is not None:
            break  # it was quicker
        counts[name] += 1
        counts["without a checkpoint"] += not list(folder.glob("run/*/*.checkpoint"))
        sent.append(f"{name} at {moment / seconds:.3f}")
    if not sent:
        return
    child = _started(run, folder)
    if child.wait(LIMIT) is None:
        child.kill()
    found = _result(folder)
    if found == expected:
        counts["equal"] += 1
    else:
        what = "did not end" if found is None else "has other weights"
        counts["failures"].append(f"{', '.join(sent)}: it {what}. {_log(folder)}")


class _Child:
    """A process that is a fork of this one, and runs a run."""

    def __init__(self, run, folder):
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_run, args=(run, folder))
        self._process.start()
        self.pid = self._process.pid

    def wait(self, seconds):
        """Return the exit code, or None if it is still at work after that time."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self):
        self._process.kill()
        self._process.join()


def _started(run, folder):
    folder.mkdir(exist_ok=True)
    return _Child(run, folder)


def _run(name, folder):
    """Do the run, or what is left of it, and write down the digest of its weights."""
    # A shell lets its background processes ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(folder / "log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            tempfile.tempdir = str(folder / "temporary")
            os.makedirs(tempfile.tempdir, exist_ok=True)
            pace.DISPATCH_FLOPS = 0  # one step a dispatch
            keras.utils.set_random_seed(1)
            model = RUNS[name](folder / "run")
            sha = hashlib.sha256()
            for variable in model.variables:
                sha.update(keras.ops.convert_to_numpy(variable.value).tobytes())
            (folder / "result.tmp").write_text(sha.hexdigest())
            os.replace(folder / "result.tmp", folder / "result")
        except BaseException:
            log.write(traceback.format_exc().encode())
            log.flush()
            os._exit(1)
        os._exit(0)


def _result(folder):
    path = folder / "result"
    return path.read_text() if path.exists() else None


def _log(folder):
    """Return the end of what a run has said."""
    text = (folder / "log").read_text(errors="replace") if (folder / "log").exists() else ""
    return " | ".join(text.strip().splitlines()[-12:])


def report(_, out):
    """Write `kills.md`: what came of all parts in the folder."""
    parts = read(out)
    rows = []
    for backend in sorted({part["settings"]["backend"] for part in parts}):
        for run in RUNS:
            found = [
                p["result"] for p in parts
                if (p["settings"]["backend"], p["settings"]["run"]) == (backend, run)
            ]  # fmt: skip
            if found:
                rows.append([backend, run, *_counts(found)])
    rows.append(["**all**", "", *_counts([part["result"] for part in parts])])
    header = [
        "backend", "run", "SIGKILL", "SIGINT", "of them before a checkpoint", "runs",
        "ended with the weights of the run that was not cut off",
    ]  # fmt: skip
    failures = [
        f"- {part['settings']}: {failure}"
        for part in parts
        for failure in part["result"]["failures"]
    ]
    text = [
        "# Runs that are killed at random moments, and resumed",
        "",
        table(header, rows),
        "",
        f"A run is cut off up to {MOST} times before it is left to end. The runs are those of "
        "`experiments/kills.py`.",
        *(["", "Failures:", "", *failures] if failures else []),
    ]
    (pathlib.Path(out) / "kills.md").write_text("\n".join([*text, ""]))


def _counts(results):
    names = ("SIGKILL", "SIGINT", "without a checkpoint", "equal")
    kill, interrupt, early, equal = (sum(r[name] for r in results) for name in names)
    runs = equal + sum(len(r["failures"]) for r in results)
    return kill, interrupt, early, runs, equal
