"""Runs that were cut off at any write go on, and end as if nothing had happened."""

import collections
import functools
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import sda
from sda.checkpoints import arrays, bytecode, codec
from sda.checkpoints import folder as folders
from sda.files import locks

BACKEND = keras.backend.backend()


class Stopped(BaseException):
    """Ends a run as a kill does: nobody catches it."""


@pytest.fixture
def stop_after(monkeypatch):
    """A function that lets a run end after its n-th write; returns what a call returned, if any."""
    real = codec.write

    def run(n, function):
        writes = []

        def write(path, saved):
            real(path, saved)
            writes.append(path)
            if len(writes) == n:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(folders, "write", write)
            patch.setattr(codec, "write", write)  # the cache of layers
            try:
                return function()
            except Stopped:
                return None

    return run


def rows():
    generator = np.random.default_rng(0)
    return generator.random((20, 6), "float32"), generator.integers(3, size=20)


def values(model):
    optimizer = getattr(model, "optimizer", None)
    return arrays.values([*model.variables, *(optimizer.variables if optimizer else [])])


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def classifier(*more):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, "tanh", kernel_initializer=keras.initializers.GlorotUniform(1)),
            *more,
            layers.Dense(3, "softmax", kernel_initializer=keras.initializers.GlorotUniform(2)),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    return model


def finetune(model, folder=None, callbacks=(), **settings):
    settings = {"epochs": 2, "steps_per_execution": 1, "checkpoint_every": 0, **settings}
    x, y = rows()
    return sda.fit(
        model, x, y, 10, verbose=0, seed=1, validation_data=(x, y), callbacks=list(callbacks),
        checkpoint_dir=folder, **settings,
    )  # fmt: skip


def plain(histories):
    return [(h.epoch, h.history, h.params) for h in histories]


# At every write


@pytest.mark.slow
def test_a_fit_that_ends_after_any_write_goes_on(tmp_path, stop_after):
    def run(folder):
        model = classifier()
        callbacks = [
            sda.callbacks.GeometricPatience("val_loss", patience=5),
            keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        ]
        history = finetune(model, folder, callbacks)
        state = [callbacks[0].best, callbacks[0].best_epoch, callbacks[1].best]
        return values(model), plain([history]), state

    weights, histories, state = run(None)
    for n in range(1, 100):
        whole = stop_after(n, lambda n=n: run(tmp_path / str(n)))
        for _ in range(2):  # what goes on, and what has finished
            again = run(tmp_path / str(n))
            assert_same(again[0], weights)
            assert again[1:] == (histories, state)
        if whole:
            break
    assert n - 1 == 8  # the begin, two dispatches and the end of two epochs, and the run's end


@pytest.mark.slow
@pytest.mark.parametrize("store", [False, True])
def test_a_schedule_that_ends_after_any_write_goes_on(tmp_path, stop_after, store):
    def run(folder):
        stack = sda.StackedDenoisingAutoencoder([5, 4], corruption=0.2, seed=1)
        pretrainer = sda.GreedyPretrainer(
            stack, "adam", epochs=2, batch_size=10, seed=1, checkpoint_dir=folder,
            callbacks=lambda k: [sda.callbacks.GeometricPatience("loss", patience=5)],
            cache=sda.LayerCache(folder / "store") if store and folder else None,
        )  # fmt: skip
        histories = pretrainer.fit(rows()[0], verbose=0)
        return values(stack), plain(histories)

    weights, histories = run(None)
    for n in range(1, 100):
        whole = stop_after(n, lambda n=n: run(tmp_path / str(n)))
        for _ in range(2):
            again = run(tmp_path / str(n))
            assert_same(again[0], weights)
            assert again[1] == histories
        if whole:
            break
    # In each of two layers: its begin, two epochs, its training's end, its own; and in the store.
    assert n - 1 == (12 if store else 10)


# Random numbers of no model's own


class GlobalNoise(layers.Layer):
    """Draws from a generator that belongs to the whole process."""

    def call(self, x, training=None):
        if not training:
            return x
        if BACKEND == "torch":
            import torch

            x = x + 0.1 * torch.randn_like(x)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            x = x + 0.1 * tf.random.get_global_generator().normal(tf.shape(x))
        return keras.random.dropout(x, 0.3)


class Draws(keras.callbacks.Callback):
    """Changes the learning rate by what Python and NumPy draw."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("more", ["dropout", "global"])
def test_global_generators_go_on_where_they_were(tmp_path, stop_after, more):
    if more == "global" and BACKEND == "jax":
        pytest.skip("JAX has no global generator, and Keras's raises in a compiled step")

    def run(folder, seed):
        keras.utils.set_random_seed(seed)
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
        model = classifier(layers.Dropout(0.3) if more == "dropout" else GlobalNoise())
        finetune(model, folder, [Draws()])
        return values(model), random.random(), np.random.rand()  # noqa: NPY002

    expected = run(None, 1)
    assert stop_after(100, lambda: run(tmp_path / "whole", 1))[1:] == expected[1:]
    for n in (1, 3, 5, 8):  # the begin, a dispatch, an epoch's end, the end
        stop_after(n, lambda n=n: run(tmp_path / str(n), 1))
        again = run(tmp_path / str(n), 2)
        assert_same(again[0], expected[0])
        # What comes after the run draws what it would have drawn.
        assert again[1:] == expected[1:]


def test_layers_of_a_schedule_draw_what_they_would_have_drawn(tmp_path, stop_after):
    def run(folder, seed):
        keras.utils.set_random_seed(seed)
        stack = sda.StackedDenoisingAutoencoder([5, 4], corruption=0.2, seed=1)
        pretrainer = sda.GreedyPretrainer(
            stack, epochs=1, batch_size=10, seed=1, callbacks=lambda k: [Draws()],
            checkpoint_dir=folder,
        )  # fmt: skip
        pretrainer.fit(rows()[0], verbose=0)
        return values(stack), random.random()

    expected = run(None, 1)
    for n in (3, 4, 5, 8):  # the end of a training, of its layer, the next one's begin, the end
        stop_after(n, lambda n=n: run(tmp_path / str(n), 1))
        again = run(tmp_path / str(n), 2)
        assert_same(again[0], expected[0])
        assert again[1] == expected[1]


# Settings that changed


class Underscored(keras.callbacks.Callback):
    def __init__(self, rate):
        super().__init__()
        self._rate = rate


def schedule(factor):
    return lambda epoch, rate: rate * factor


CHANGED = {
    "min_delta=0.2": [keras.callbacks.EarlyStopping(min_delta=d, patience=5) for d in (0.1, 0.2)],
    "min_delta=0.02": [keras.callbacks.ReduceLROnPlateau(min_delta=d) for d in (0.01, 0.02)],
    "rate=0.7": [Underscored(rate) for rate in (0.5, 0.7)],
    "schedule.closure.factor='0.5'": [
        keras.callbacks.LearningRateScheduler(schedule(f)) for f in (0.9, 0.5)
    ],
    "schedule.code": [
        keras.callbacks.LearningRateScheduler(f)
        for f in (lambda epoch, rate: rate * 0.9, lambda epoch, rate: rate * 0.5)
    ],
    "schedule.defaults[0]='0.5'": [
        keras.callbacks.LearningRateScheduler(f)
        for f in (lambda epoch, rate, by=0.9: rate * by, lambda epoch, rate, by=0.5: rate * by)
    ],
    "schedule.bound[0]": [
        keras.callbacks.LearningRateScheduler(functools.partial(lambda by, e, rate: rate * by, b))
        for b in (0.9, 0.5)
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("named", CHANGED)
def test_settings_of_callbacks_that_changed_are_named(tmp_path, named):
    first, second = CHANGED[named]
    finetune(classifier(), tmp_path, [first], epochs=1)
    with pytest.raises(ValueError, match="the data and settings of the run") as error:
        finetune(classifier(), tmp_path, [second], epochs=1)
    assert f"callbacks[0].{named}" in str(error.value)


@pytest.mark.slow
def test_the_same_function_made_again_is_the_same_setting(tmp_path):
    def callbacks():
        return [
            keras.callbacks.LearningRateScheduler(schedule(0.9)),
            keras.callbacks.EarlyStopping(min_delta=0.1, patience=5),
        ]

    used = callbacks()
    finetune(classifier(), tmp_path, used)
    finetune(classifier(), tmp_path, callbacks())
    finetune(classifier(), tmp_path, used)  # whose min_delta has turned its sign


@pytest.mark.slow
def test_code_that_another_python_compiled_is_not_compared(tmp_path, monkeypatch):
    callback = keras.callbacks.LearningRateScheduler(schedule(0.9))
    with monkeypatch.context() as patch:
        patch.setattr(bytecode.platform, "python_version_tuple", lambda: ("3", "0", "0"))
        finetune(classifier(), tmp_path, [callback], epochs=1)
    other = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)
    with pytest.raises(ValueError, match=r"schedule\.closure"):
        finetune(classifier(), tmp_path, [other], epochs=1)
    callback = keras.callbacks.LearningRateScheduler(schedule(0.9))
    with pytest.warns(UserWarning, match=r"other versions.*python 3\.0 -> 3\."):
        finetune(classifier(), tmp_path, [callback], epochs=1)


class Stops(keras.callbacks.Callback):
    """Presses Ctrl-C once, and changes what it was made with."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            self.at = None
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_fit_again_after_ctrl_c_goes_on_where_callbacks_had_changed_settings(tmp_path, ctrl_c):
    def callbacks(at):
        seen = []

        def rate(epoch, rate):
            seen.append(rate)
            return rate * 0.5

        return [keras.callbacks.LearningRateScheduler(rate), Stops(at)]

    expected = classifier()
    finetune(expected, None, callbacks(None), epochs=4)
    model, used = classifier(), callbacks(2)
    with pytest.raises(KeyboardInterrupt, match="call `fit` again"):
        finetune(model, tmp_path, used, epochs=4)
    assert float(model.optimizer.learning_rate) < 0.05
    finetune(model, tmp_path, used, epochs=4)
    assert_same(values(model), values(expected))
    # What somebody changes between the two is another setting still.
    model.optimizer.learning_rate = 0.3
    with pytest.raises(ValueError, match=r"learning_rate=0\.3.*\(there: 0\.05"):
        finetune(model, tmp_path, used, epochs=4)


@pytest.mark.slow
def test_a_schedule_goes_on_with_the_callbacks_that_it_was_cut_off_with(tmp_path, ctrl_c):
    def pretrainer(stack, folder, made):
        return sda.GreedyPretrainer(
            stack, "adam", epochs=2, batch_size=10, seed=1, callbacks=lambda k: [made[k]],
            checkpoint_dir=folder,
        )  # fmt: skip

    def stacked():
        return sda.StackedDenoisingAutoencoder([5, 4], corruption=0.2, seed=1)

    expected, stack = stacked(), stacked()
    pretrainer(expected, None, [Stops(None), Stops(None)]).fit(rows()[0], verbose=0)
    cut = pretrainer(stack, tmp_path, [Stops(None), Stops(1)])
    with pytest.raises(KeyboardInterrupt, match="call `fit` again"):
        cut.fit(rows()[0], verbose=0)
    cut.fit(rows()[0], verbose=0)
    assert_same(values(stack), values(expected))


# Code


LOCK = threading.Lock()


def of_lock(*args, **kwargs):
    return LOCK.locked() + keras.ops.mean(args[-1])


class Locked(sda.Corruption):
    def corrupt(self, x):
        return of_lock(x), None


def compiled(loss="mse", metrics=(), **settings):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1, **settings)])
    model.compile("sgd", loss, metrics=list(metrics))
    return model


def fit_compiled(model, folder, *callbacks):
    x, y = rows()[0], rows()[0][:, :1]
    return sda.fit(
        model, x, y, 10, 1, 0, list(callbacks), seed=1, checkpoint_dir=folder, checkpoint_every=0
    )


@pytest.mark.parametrize(
    ("name", "settings", "callbacks"),
    [
        ("loss", {"loss": of_lock}, []),
        ("metrics", {"metrics": [of_lock]}, []),
        ("model", {"activation": of_lock}, []),
        ("model", {"kernel_initializer": of_lock}, []),
        ("LearningRateScheduler", {}, [keras.callbacks.LearningRateScheduler(of_lock)]),
        (
            "CorruptionSchedule",
            {},
            [sda.callbacks.CorruptionSchedule(sda.MaskingNoise(0.1), of_lock)],
        ),
    ],
)
def test_what_cannot_be_known_is_refused_where_it_changes_numbers(
    tmp_path, name, settings, callbacks
):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    model = compiled(**settings) if "kernel_initializer" not in settings else model
    if "kernel_initializer" in settings:
        model.layers[0].kernel_initializer = of_lock
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=rf"Expected `{name}` to be made .* LOCK of type .*Make"):
        fit_compiled(model, tmp_path / "run", *callbacks)
    assert not (tmp_path / "run").exists()


def test_a_noise_that_cannot_be_known_is_refused(tmp_path):
    stack = sda.StackedDenoisingAutoencoder([3], Locked(), decoder_activation="linear")
    with pytest.raises(ValueError, match=r"Expected `model` to be made of .* LOCK of type"):
        pretrain(stack, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def of(source, **names):
    """What a cell of a notebook defines, under the name `f`."""
    exec(compile(source, "<cell>", "exec"), names)
    return names["f"]


CODE = {
    "loss": ("by = {}\ndef f(y, z): return by * keras.ops.mean((y - z) ** 2)", (2, 3)),
    "metric": ("def f(y, z): return {} * keras.ops.mean(y - z, -1)", (2, 3)),
    "activation": ("def g(by): return lambda x: x * by\nf = g({})", (2.0, 3.0)),
    "schedule": ("by = {}\ndef f(epoch, rate): return rate * by", (0.5, 0.7)),
    "callback": ("def f(epoch, logs): print({})", (1, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("role", CODE)
def test_other_code_is_another_run_and_the_same_in_another_line_is_not(tmp_path, role):
    source, (one, other) = CODE[role]

    def run(source):
        function = of(source, keras=keras)
        settings, callbacks = {}, []
        if role == "loss":
            settings = {"loss": function}
        elif role == "metric":
            settings = {"metrics": [function]}
        elif role == "activation":
            settings = {"activation": function}
        elif role == "schedule":
            callbacks = [keras.callbacks.LearningRateScheduler(function)]
        else:
            callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=function)]
        model = compiled(**settings)
        fit_compiled(model, tmp_path, *callbacks)
        return values(model)

    expected = run(source.format(one))
    assert_same(run("\n\n# The same.\n" + source.format(one)), expected)
    with pytest.raises(ValueError, match="the data and settings of the run"):
        run(source.format(other))


@pytest.mark.slow
def test_what_other_callbacks_hold_and_fill_is_left_out_with_one_warning(tmp_path):
    kept, seen, by_name = [], {}, [0]

    def note(epoch, logs):
        kept.append(logs["loss"])
        seen[epoch] = LOCK.locked()
        by_name[0] += 1

    def callbacks():
        return [keras.callbacks.LambdaCallback(on_epoch_end=note)]

    for _ in range(2):  # the second time with what the first one has filled
        with pytest.warns(UserWarning, match="runs are not told apart") as told:
            fit_compiled(compiled(), tmp_path, *callbacks())
    told = [str(w.message) for w in told if "told apart" in str(w.message)]
    assert len(told) == 1
    for name in ("LOCK", "kept", "seen", "by_name"):
        assert f" {name} of LambdaCallback" in told[0]


# Weights to start from


def unseeded(units=4):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(units, "tanh"), layers.Dense(3, "softmax", name="top")]
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    return model


class Fails(keras.callbacks.Callback):
    """Raises in the middle of an epoch, once."""

    fails = True

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.fails and self.epoch == 1:
            self.fails = False
            raise InterruptedError


def pretrain(stack, folder, callbacks=None, **settings):
    settings = {"epochs": 2, "batch_size": 10, **settings}
    pretrainer = sda.GreedyPretrainer(
        stack, "adam", callbacks=callbacks, checkpoint_dir=folder, checkpoint_every=600, **settings
    )
    return pretrainer.fit(rows()[0], verbose=0)


def two_layers(seed=None):
    return sda.StackedDenoisingAutoencoder([5, 4], corruption=0.2, seed=seed)


TOLD = "The weights are those of the checkpoint in"


def test_a_fresh_model_without_seeds_goes_on_and_says_so(tmp_path, capsys):
    whole, again = unseeded(), unseeded()
    assert not np.allclose(whole.get_weights()[0], again.get_weights()[0])
    finetune(whole, tmp_path)
    assert TOLD not in capsys.readouterr().out
    x, y = rows()
    settings = {"validation_data": (x, y), "seed": 1, "checkpoint_dir": tmp_path, "epochs": 2}
    sda.fit(again, x, y, 10, verbose=2, **settings)
    assert TOLD in capsys.readouterr().out
    assert_same(values(again), values(whole))
    # In its own process, and with what the checkpoint holds, there is nothing to say.
    sda.fit(again, x, y, 10, verbose=2, **settings)
    loaded = unseeded()
    loaded.set_weights(whole.get_weights())
    sda.fit(loaded, x, y, 10, verbose=2, **settings)
    assert TOLD not in capsys.readouterr().out


SCRIPT = """
import keras, numpy as np, sda
x, y = np.random.default_rng(0).random((20, 6)), np.arange(20) % 3
stack = sda.StackedDenoisingAutoencoder([5, 4], corruption=0.2)
sda.GreedyPretrainer(stack, epochs=1, checkpoint_dir="a").fit(x, verbose=0)
model = stack.classifier(3, dropout=0.2)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
sda.fit(model, x, y, epochs=2, checkpoint_dir="b", verbose=0)
print([float(np.sum(w)) for w in model.get_weights()])
"""


@pytest.mark.slow
def test_a_script_without_seeds_goes_on_in_another_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    found = [
        subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(sda.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_cell_that_is_run_twice_goes_on(tmp_path, fails):
    expected, stack = two_layers(1), two_layers(1)
    pretrain(expected, None, seed=1)
    made = [Fails(), Fails()]
    made[0].fails = False
    made[1].fails = fails

    def cell():
        return pretrain(stack, tmp_path / "a", lambda k: [made[k]], seed=1)

    if fails:  # with weights that no checkpoint holds
        with pytest.raises(InterruptedError):
            cell()
    cell()
    cell()
    assert_same(values(stack), values(expected))

    model, callback = classifier(), Fails()
    callback.fails = fails

    def cell():
        model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
        return finetune(model, tmp_path / "b", [callback], checkpoint_every=600)

    if fails:
        with pytest.raises(InterruptedError):
            cell()
    cell()
    cell()
    expected = classifier()
    finetune(expected)
    assert_same(values(model), values(expected))


def test_other_weights_are_refused_and_the_layer_is_named(tmp_path):
    stack, other = two_layers(1), two_layers(1)
    pretrain(stack, tmp_path / "a", seed=1)
    other.build((None, 6))
    other.autoencoders[1].encoder.kernel.assign(np.full((5, 4), 0.1))
    before = values(other)
    name = other.autoencoders[1].encoder.name
    with pytest.raises(ValueError, match=rf"in layer '{name}' \(kernel\).*anew.*another folder"):
        pretrain(other, tmp_path / "a", seed=1)
    assert_same(values(other), before)

    model, other = unseeded(), unseeded()
    finetune(model, tmp_path / "b")
    files = sorted((p.name, p.read_bytes()) for p in (tmp_path / "b").iterdir())
    other.layers[1].bias.assign([1.0, 0, 0])
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"in layer 'top' \(bias\)"):
        finetune(other, tmp_path / "b")
    assert_same(other.get_weights(), before)
    assert files == sorted((p.name, p.read_bytes()) for p in (tmp_path / "b").iterdir())
    # Training on without checkpoints makes other weights, too.
    x, y = rows()
    sda.fit(model, x, y, 10, verbose=0)
    with pytest.raises(ValueError, match="Received: others in layer"):
        finetune(model, tmp_path / "b")


def test_a_run_of_loaded_weights_goes_on_from_these_and_from_fresh_ones(tmp_path):
    def loaded():
        model = classifier()
        model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
        return model

    model, fresh = loaded(), classifier()
    finetune(model, tmp_path)
    for again in (loaded(), fresh):
        finetune(again, tmp_path)
        assert_same(values(again), values(model))


def test_another_machines_last_bits_are_no_other_weights(tmp_path):
    generator = np.random.default_rng(1)
    start = [generator.normal(size=w.shape) for w in classifier().get_weights()]

    def model(change):
        made = classifier()
        made.set_weights([change(w) for w in start])
        return made

    whole = model(lambda w: w)
    finetune(whole, tmp_path, epochs=1)
    near = model(lambda w: w * (1 + 1e-5 * np.sign(w)))
    finetune(near, tmp_path, epochs=1)
    assert_same(values(near), values(whole))
    kept = np.linspace(0, 23, 16).astype(int)  # of the 24 weights of the first kernel

    def same_entries(w):
        other = w.copy()
        if w.size == 24:
            other.ravel()[np.setdiff1d(np.arange(24), kept)] += 0.5
        return other

    for change in (
        lambda w: w * 1.01,
        lambda w: w[::-1],  # of the same norm
        same_entries,
    ):
        with pytest.raises(ValueError, match="Received: others in layer"):
            finetune(model(change), tmp_path, epochs=1)


class Adds(layers.Layer):
    """Has a weight whose initialiser nobody keeps."""

    def build(self, shape):
        self.shift = self.add_weight(shape[1:], initializer="random_normal", name="shift")

    def call(self, x):
        return x + self.shift


def test_a_weight_whose_initialiser_cannot_be_asked_is_taken_for_fresh(tmp_path):
    whole, again = classifier(Adds()), classifier(Adds())
    assert not np.allclose(whole.layers[1].shift, again.layers[1].shift)
    finetune(whole, tmp_path)
    finetune(again, tmp_path)
    assert_same(values(again), values(whole))


def test_a_checkpoint_with_other_weights_of_the_begin_is_refused(tmp_path):
    finetune(classifier(), tmp_path, epochs=1)
    (path, *_) = sorted(tmp_path.glob("*.checkpoint"))[-1:]
    saved = codec.read(path)
    for start in ([], [{}] * 5, None, [{"digest": 1, "norm": "x", "entries": [[]]}] * 4):
        codec.write(path, {**saved, "context": {**saved["context"], "start": start}})
        with pytest.raises(ValueError, match="Expected a checkpoint with"):
            finetune(classifier(), tmp_path, epochs=1)


# State of callbacks


class Keeps(keras.callbacks.Callback):
    """Keeps state of many kinds, the first of it when an epoch ends, and lets training depend."""

    def __init__(self, path="log"):
        super().__init__()
        self.path = path
        self.generator = np.random.default_rng(3)
        self.other = random.Random(4)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.last = collections.deque(maxlen=2)
            self.tensor = keras.ops.ones((2,))
            self.count = 0
        self.count += 1
        self.tensor = self.tensor * 2
        self.last.append(self.count * self.generator.random() * self.other.random())
        rate = 0.01 * sum(self.last) + 0.001 * float(self.tensor[0])
        self.model.optimizer.learning_rate = rate


def test_state_of_every_kind_comes_back(tmp_path, stop_after):
    expected, whole = classifier(), Keeps()
    finetune(expected, None, [whole], epochs=4)
    for n in (4, 7, 10):  # ends of epochs
        stop_after(n, lambda n=n: finetune(classifier(), tmp_path / str(n), [Keeps()], epochs=4))
        model, again = classifier(), Keeps()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            finetune(model, tmp_path / str(n), [again], epochs=4)
        assert_same(values(model), values(expected))
        assert again.last == whole.last
        assert again.last.maxlen == 2
        assert float(again.tensor[0]) == 16


class Names(Keeps):
    """Changes a text in training."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.path = f"log_{epoch}"
        self.paths = [b"log"]


class NamesToo(Names):
    """Says itself what its state is, and so keeps the text."""

    def get_state(self):
        return {"path": self.path, "count": getattr(self, "count", 0)}

    def set_state(self, state):
        vars(self).update(state)


class Pickled(Keeps):
    """Has a state for pickles, of its own."""

    def __getstate__(self):
        return {"path": self.path, "half": getattr(self, "count", 0) / 2}

    def __setstate__(self, state):
        self.path, self.count = state["path"], int(2 * state["half"])


@pytest.mark.slow
def test_texts_that_change_are_not_taken_from_a_file_and_told_once(tmp_path):
    with pytest.warns(UserWarning, match="not saved in checkpoints") as told:
        finetune(classifier(), tmp_path / "a", [Names()])
    told = [str(w.message) for w in told if "not saved" in str(w.message)]
    assert len(told) == 1
    assert "`path` of Names, `paths` of Names" in told[0]
    assert "get_state()" in told[0]
    again = Names()
    finetune(classifier(), tmp_path / "a", [again])
    assert (again.path, again.count, hasattr(again, "paths")) == ("log", 2, False)


@pytest.mark.slow
def test_a_state_that_the_class_defines_is_used(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        finetune(classifier(), tmp_path / "a", [Pickled("here")])
        finetune(classifier(), tmp_path / "b", [NamesToo()])
    again, named = Pickled("here"), NamesToo()
    finetune(classifier(), tmp_path / "a", [again])
    assert (again.path, again.count) == ("here", 2)
    finetune(classifier(), tmp_path / "b", [named])
    assert (named.path, named.count) == ("log_1", 2)


@pytest.mark.slow
def test_attributes_of_an_optimizer_that_change_are_told(tmp_path):
    class Turns(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.turns = epoch

    with pytest.warns(UserWarning, match=r"`turns` of Adam is not saved"):
        finetune(classifier(), tmp_path, [Turns()])


@pytest.mark.slow
def test_what_cannot_be_saved_is_told(tmp_path):
    class Own:
        pass

    class Holds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.own = Own()

    with pytest.warns(UserWarning, match=r"`own` of Holds is not saved"):
        finetune(classifier(), tmp_path, [Holds()])


@pytest.mark.slow
def test_a_logger_is_no_state(tmp_path):
    class Logs(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.log = logging.getLogger("logs")

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        finetune(classifier(), tmp_path, [Logs()])


# Files that are not what they seem


def pretrained(store, seed=1):
    stack = sda.StackedDenoisingAutoencoder([5], corruption=0.2, seed=seed)
    pretrainer = sda.GreedyPretrainer(stack, epochs=1, seed=1, cache=store)
    pretrainer.fit(rows()[0], verbose=0)
    return values(stack)


def copied_over(path, other):
    path.write_bytes(other.read_bytes())


def of_nan(path, other):
    saved = codec.read(path)
    saved["context"]["variables"][0][:] = np.nan
    codec.write(path, saved)


def foreign(path, other):
    saved = codec.read(path)
    codec.write(path, {**saved, "context": None})


def folder(path, other):
    path.unlink()
    path.mkdir()


def link_to_itself(path, other):
    path.unlink()
    path.symlink_to(path.name)


def fifo(path, other):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [copied_over, of_nan, foreign, folder, link_to_itself, fifo])
def test_a_layer_of_the_store_that_is_not_what_was_asked_for_is_trained_again(tmp_path, spoil):
    store = sda.LayerCache(tmp_path)
    expected = pretrained(store)
    (path,) = tmp_path.glob("*.layer")
    pretrained(store, seed=2)
    (other,) = set(tmp_path.glob("*.layer")) - {path}
    spoil(path, other)
    store = sda.LayerCache(tmp_path)
    with pytest.warns(UserWarning, match="is not used|could not be kept") as told:
        assert_same(pretrained(store), expected)
    assert any(re.search(rf"{path}.* is not used", str(warning.message)) for warning in told)
    assert (store.hits, store.misses) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [folder, link_to_itself, fifo])
def test_a_layer_whose_lock_is_none_is_trained_all_the_same(tmp_path, spoil):
    expected = pretrained(sda.LayerCache(tmp_path))
    (path,) = tmp_path.glob("*.layer")
    path.unlink()
    spoil(path.with_suffix(".lock"), None)
    store = sda.LayerCache(tmp_path)
    with pytest.warns(UserWarning, match=rf"{path.with_suffix('.lock')}.* cannot be taken"):
        assert_same(pretrained(store), expected)
    assert_same(pretrained(store), expected)
    assert (store.hits, store.misses) == (1, 1)


@pytest.mark.slow
def test_a_store_that_cannot_be_written_costs_the_layer_and_not_the_run(tmp_path):
    (tmp_path / "file").write_text("no folder")
    store = sda.LayerCache(tmp_path / "file")
    with pytest.warns(UserWarning, match="could not be kept"):
        again = pretrained(store)
    assert_same(again, pretrained(None))


def test_a_lock_is_held_by_one_of_those_that_wait_at_a_time(tmp_path):
    lock, order = tmp_path / "lock", []

    def wait():
        with locks.alone(lock):
            order.append("second")
            time.sleep(0.5)
            order.append("second ends")

    with locks.alone(lock):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
    while not order:
        time.sleep(0.01)
    with locks.alone(lock):
        order.append("third")
    thread.join()
    assert order == ["second", "second ends", "third"]


def test_leftovers_are_cleared_away_and_what_others_put_there_stays(tmp_path):
    run = tmp_path / "run"
    finetune(classifier(), run, epochs=1)
    others = ["mine.checkpoint", "00000001.checkpoint.bak", "notes.checkpoint.tmp", "x.tmp"]
    for name in [*others, "0123456789abcdef.checkpoint.tmp"]:
        (run / name).write_text(name)
    folder = run / "fedcba9876543210.checkpoint.tmp"
    folder.mkdir()
    finetune(classifier(), run, epochs=1)
    assert folder.is_dir()
    assert all((run / name).read_text() == name for name in others)
    assert not (run / "0123456789abcdef.checkpoint.tmp").exists()

    store = tmp_path / "store"
    store.mkdir()
    dead, living = (f"{digit * 64}.0123456789abcdef.layer.tmp" for digit in "ab")
    for name in (dead, living, "notes.tmp"):
        (store / name).write_text(name)
    with locks.alone(store / f"{'b' * 64}.lock"):  # its writer lives
        pretrained(sda.LayerCache(store))
    assert {path.name for path in store.glob("*.tmp")} == {living, "notes.tmp"}


def test_a_folder_that_is_emptied_under_a_run_has_one_owner(tmp_path):
    def opened():
        return folders.Checkpoints(tmp_path, {}, every=60)

    with opened() as first:
        first.save(1)
        for path in tmp_path.iterdir():
            path.unlink()
        with opened() as second:
            with pytest.raises(ValueError, match="another run has taken since"):
                first.save(2)
            second.save(3)
        with pytest.raises(ValueError, match="another run has taken since"):
            first.save(4)
    with opened() as found:
        assert found.progress == 3
        shutil.rmtree(tmp_path)
        found.save(5)  # nobody else has taken it
        with pytest.raises(ValueError, match="which another run is using"), opened():
            pass
    with opened() as found:
        assert found.progress == 5


# A process that is killed while it has a folder for temporary files.
SCRATCH = """
import sys, sda.files.locks
with sda.files.locks.scratch_folder("sda-codes-") as folder:
    (folder / "codes.h5").write_text("many")
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_scratch_folders_of_killed_processes_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    others = [
        subprocess.Popen(
            [sys.executable, "-c", SCRATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    (tmp_path / "sda-codes-of-somebody").mkdir()
    (tmp_path / "sda-codes-of-somebody" / "mine").touch()
    try:
        folders = [pathlib.Path(other.stdout.readline().strip()) for other in others]
        others[0].kill()
        others[0].wait()
        assert folders[0].exists()
        with locks.scratch_folder("sda-codes-") as mine:
            assert not folders[0].exists()
            assert (folders[1] / "codes.h5").exists()
        assert not mine.exists()
        assert (tmp_path / "sda-codes-of-somebody" / "mine").exists()
    finally:
        others[1].communicate("\n", timeout=60)
    assert not folders[1].exists()
