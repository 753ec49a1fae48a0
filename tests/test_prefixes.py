"""Layers that several runs share: trained once, with the result of runs that share nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
import types

import keras
import numpy as np
import pytest

import sda
from sda.checkpoints import identity
from sda.checkpoints import layer_cache as cache
from sda.files import locks
from sda.pretraining.inputs import Inputs
from sda.pretraining.part import Part
from sda.pretraining.schedule import Schedule
from sda.training.feeding import Feeding


def data():
    return np.random.default_rng(0).random((60, 12)).astype("float32")


def pretrained(store=None, x=None, units=(8, 6, 5), corruption=(0.1, 0.2, 0.3), seed=1, **settings):
    """Return a stack of three layers and its Histories."""
    stack = sda.StackedDenoisingAutoencoder(list(units), list(corruption), seed=seed)
    settings = {"optimizer": keras.optimizers.SGD(0.1), "epochs": 1, "seed": 3, **settings}
    pretrainer = sda.GreedyPretrainer(stack, cache=store, **settings)
    validation_data = settings.pop("validation_data", None)
    x = data() if x is None else x
    return stack, pretrainer.fit(x, validation_data=validation_data, verbose=0)


def assert_equal(stack, other):
    """All of it: weights, visible biases and the counters of the noise."""
    assert len(stack.variables) == len(other.variables) > 9
    for a, b in zip(stack.variables, other.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(a.value), keras.ops.convert_to_numpy(b.value)
        )


def assert_close(stack, other):
    for a, b in zip(stack.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def counts(store):
    found = store.hits, store.misses
    store.hits = store.misses = 0
    return found


@pytest.fixture
def store(tmp_path):
    return sda.LayerCache(tmp_path / "layers")


def test_runs_that_differ_in_the_third_layer_share_two_and_end_as_without_a_store(store):
    for level, found in ((0.3, (0, 3)), (0.5, (2, 1)), (0.3, (3, 0))):
        shared, histories = pretrained(store, corruption=(0.1, 0.2, level))
        alone, expected = pretrained(corruption=(0.1, 0.2, level))
        assert_equal(shared, alone)
        assert [h.history for h in histories] == [h.history for h in expected]
        assert [h.epoch for h in histories] == [h.epoch for h in expected]
        assert counts(store) == found


@pytest.mark.slow
def test_depth_does_not_matter_to_the_layers_below(store):
    pretrained(store, units=(8, 6), corruption=(0.1, 0.2))
    pretrained(store)
    assert counts(store) == (2, 3)


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({"epochs": [1, 2, 1]}, 1),
        ({"batch_size": [20, 20, 30]}, 2),
        ({"optimizer": keras.optimizers.SGD(0.2)}, 0),
        ({"optimizer": keras.optimizers.SGD(0.1, momentum=0.9)}, 0),
        ({"loss": [None, None, "squared_error"]}, 2),
        ({"seed": 4}, 0),
        ({"codes_storage": "recompute"}, 3),
        ({"x": data()[:40]}, 0),
        ({"x": data() * 0.5}, 0),
        ({"units": (8, 6, 4)}, 2),
        ({"units": (9, 6, 5)}, 0),
        ({"shuffle": "blocks"}, 0),
        ({"shuffle": False}, 0),
        ({"corruption": (0.1, sda.GaussianNoise(0.2), 0.3)}, 1),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_layer_depends_on_is_in_its_address(settings, shared, keys_of):
    assert keys_of()[:shared] == keys_of(**settings)[:shared]
    assert not set(keys_of()[shared:]) & set(keys_of(**settings)[shared:])


@pytest.fixture
def keys_of():
    """Return the addresses of the layers of a run, without the run."""

    def keys_of(x=None, units=(8, 6, 5), corruption=(0.1, 0.2, 0.3), stack=None, **settings):
        shuffle = settings.pop("shuffle", True)
        made = stack or sda.StackedDenoisingAutoencoder(list(units), list(corruption), seed=1)
        made.build((None, 12))
        settings = {"optimizer": keras.optimizers.SGD(0.1), "epochs": 1, "seed": 3, **settings}
        pretrainer = sda.GreedyPretrainer(made, cache=sda.LayerCache("unused"), **settings)
        inputs = Inputs(pretrainer, (data() if x is None else x,), None)
        feeding = Feeding(pretrainer.batch_size, shuffle)
        schedule = Schedule(pretrainer, Part(made), inputs, feeding)
        return [identity.address(key) for key in schedule.cache_keys()]

    return keys_of


def test_weights_and_noise_that_a_stack_starts_from_are_in_the_address(keys_of):
    stack = sda.StackedDenoisingAutoencoder([8, 6, 5], [0.1, 0.2, 0.3], seed=1)
    before = keys_of(stack=stack)
    assert before == keys_of()
    stack.autoencoders[1].corruption(np.ones((2, 8), "float32"), training=True)
    after = keys_of(stack=stack)
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    kernel = stack.autoencoders[0].encoder.kernel
    kernel.assign(kernel.value + 1)
    assert keys_of(stack=stack)[0] != after[0]


def test_the_dtype_policy_is_in_the_address_and_layer_names_are_not(keys_of):
    def stack(name, dtype="float32", activation="relu"):
        layers = [
            keras.layers.Dense(8, activation, name=name, dtype=dtype, kernel_initializer="ones")
        ]
        mlp = keras.Sequential([keras.Input((12,)), *layers, keras.layers.Dense(3)])
        return sda.StackedDenoisingAutoencoder.from_model(mlp, [0.1], seed=1)

    def key(*made):
        return keys_of(stack=stack(*made), units=(8,), loss="squared_error")

    assert key("first") == key("second") == key("relu")
    assert key("first") != key("first", "mixed_bfloat16")
    # A name like that of an activation does not stand for it.
    assert key("relu") != key("tanh", "float32", "tanh")


def test_callbacks_are_known_by_their_attributes(keys_of):
    def stopping(min_delta):
        return lambda k: [keras.callbacks.EarlyStopping("loss", min_delta)] if k == 1 else []

    first, second = keys_of(callbacks=stopping(0.1)), keys_of(callbacks=stopping(0.2))
    assert first == keys_of(callbacks=stopping(0.1))
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, False]


def test_functions_are_known_by_their_code_and_what_it_captures(keys_of):
    def losses(by):
        return lambda x, z: by * keras.ops.mean(keras.ops.square(x - z), -1)

    def logs(by):
        log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(by))
        return lambda k: [log] if k == 2 else []

    for name, made in (("loss", losses), ("callbacks", logs)):
        assert keys_of(**{name: made(2)}) == keys_of(**{name: made(2)})
        assert keys_of(**{name: made(2)}) != keys_of(**{name: made(3)})


@pytest.mark.slow
def test_a_layer_trained_with_another_closure_or_silent_class_is_not_taken(store):
    class Noise(sda.Corruption):
        def __init__(self, by, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def corrupt(self, x):
            return x * self.by, None

        def copy(self, seed):
            return type(self)(self.by, seed=seed)

    def loss(by):
        return lambda x, z: by * keras.ops.mean(keras.ops.square(x - z), -1)

    for by, found in ((0.5, (0, 1)), (0.5, (1, 0)), (0.9, (0, 1))):
        settings = {"units": [5], "corruption": [Noise(by)], "loss": "squared_error"}
        assert_close(pretrained(store, **settings)[0], pretrained(**settings)[0])
        assert counts(store) == found
        settings = {"units": [5], "corruption": [0.1], "loss": loss(by)}
        assert_close(pretrained(store, **settings)[0], pretrained(**settings)[0])
        assert counts(store) == found


@pytest.mark.slow
def test_what_cannot_be_told_apart_is_refused_in_a_loss_and_left_out_of_callbacks(store):
    lock = threading.Lock()

    def loss(x, z):
        with lock:
            return keras.ops.mean(x - z, -1)

    with pytest.raises(ValueError, match=r"Expected `loss` to be made of.*Received: lock of type"):
        pretrained(store, loss=loss)
    assert not store.path.exists()

    def callbacks(k):
        return [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: lock.locked())]

    with pytest.warns(UserWarning, match=r"By shared layers runs are not told apart: .* lock of"):
        pretrained(store, callbacks=callbacks)


def test_bad_settings_are_refused(tmp_path):
    stack = sda.StackedDenoisingAutoencoder([4], seed=1)
    with pytest.raises(ValueError, match="Expected `cache` to be"):
        sda.GreedyPretrainer(stack, seed=1, cache=str(tmp_path))
    with pytest.raises(ValueError, match="Expected `seed` to be an integer under `cache`"):
        sda.GreedyPretrainer(stack, cache=sda.LayerCache(tmp_path))
    with pytest.raises(ValueError, match="Expected `path`"):
        sda.LayerCache(3)
    with pytest.raises(ValueError, match="Expected `max_bytes`"):
        sda.LayerCache(tmp_path, -1)


# The folder


def layer(store, number, train=lambda: "trained", size=1000):
    variable = keras.Variable(np.zeros(size, "float32"))

    def trained():
        variable.assign(np.full(size, number, "float32"))
        return train()

    return store.layer({"number": number}, [variable], trained), variable


def test_the_least_recently_used_layers_go_first(tmp_path):
    store = sda.LayerCache(tmp_path)
    layer(store, 0)
    one = store.size()
    store.max_bytes = 3 * one + 100
    for number in (1, 2):
        layer(store, number)
        time.sleep(0.01)
    layer(store, 0)  # used again
    layer(store, 3)
    assert store.size() == 3 * one
    counts(store)
    for number in (0, 2, 3):
        layer(store, number)
    assert counts(store) == (3, 0)
    layer(store, 1)
    assert counts(store) == (0, 1)


def test_a_layer_larger_than_the_limit_is_trained_and_not_kept(tmp_path):
    store = sda.LayerCache(tmp_path, max_bytes=10)
    outcome, variable = layer(store, 7)
    assert outcome == "trained"
    assert keras.ops.convert_to_numpy(variable.value)[0] == 7
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_layer_is_trained_again(tmp_path):
    store = sda.LayerCache(tmp_path)
    layer(store, 1)
    (path,) = tmp_path.glob("*.layer")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    _, variable = layer(store, 1)
    assert counts(store) == (0, 2)
    assert path.read_bytes() == whole
    assert keras.ops.convert_to_numpy(variable.value)[0] == 1


def test_a_training_that_fails_leaves_nothing(tmp_path):
    store = sda.LayerCache(tmp_path)

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer(store, 1, fail)
    assert store.size() == 0
    assert layer(store, 1)[0] == "trained"


def test_a_full_disk_costs_the_layer_and_not_the_run(tmp_path, monkeypatch):
    def full(path, saved):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.codec, "write", full)
    with pytest.warns(UserWarning, match="could not be kept.*No space left"):
        assert layer(sda.LayerCache(tmp_path), 1)[0] == "trained"


# Another process that holds the lock of a layer and puts the layer in its place when told to.
OTHER = """
import fcntl, os, sys
path = sys.argv[1]
with open(path.replace(".layer", ".lock"), "ab") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("training", flush=True)
    sys.stdin.readline()
    os.replace(path + ".made", path)
"""


@pytest.fixture
def other(store):
    pytest.importorskip("fcntl")
    layer(store, 5)
    counts(store)
    (path,) = store.path.glob("*.layer")
    path.rename(f"{path}.made")
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "training\n"
    yield process
    process.kill()
    process.communicate()


def test_of_two_processes_one_trains_and_the_other_waits(store, other, monkeypatch):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 1:
            other.stdin.write("go\n")
            other.stdin.flush()
            other.wait(60)

    monkeypatch.setattr(locks, "time", types.SimpleNamespace(sleep=sleep))
    _, variable = layer(store, 5, train=None)  # it must not train
    assert len(waited) == 1
    assert keras.ops.convert_to_numpy(variable.value)[0] == 5
    assert counts(store) == (1, 0)


def test_who_is_killed_is_not_waited_for(store, other):
    os.kill(other.pid, signal.SIGKILL)
    other.wait(60)
    assert layer(store, 5)[0] == "trained"
    assert counts(store) == (0, 1)


@pytest.mark.slow
def test_a_run_that_resumes_keeps_the_addresses_it_began_with(store, tmp_path, monkeypatch):
    train = Schedule.train

    def stopped(self, k):
        if k == 1:
            raise KeyboardInterrupt
        return train(self, k)

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrained(store, checkpoint_dir=tmp_path / "run")
    for path in store.path.iterdir():
        path.unlink()
    resumed, _ = pretrained(store, checkpoint_dir=tmp_path / "run")
    assert counts(store) == (0, 4)
    again, _ = pretrained(store)
    # The first layer was deleted; those that were trained on top of it are where they belong.
    assert counts(store) == (2, 1)
    alone, _ = pretrained()
    assert_equal(resumed, alone)
    assert_equal(again, alone)
