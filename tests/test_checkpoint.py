import csv
import errno
import gc
import json
import multiprocessing
import os
import pathlib
import pickle
import random
import shutil
import signal
import threading
import time
import warnings

import h5py
import keras
import numpy as np
import pytest
import schedule
from keras import layers

import sda
from sda.checkpoints import arrays, codec, identity
from sda.checkpoints import folder as folders
from sda.checkpoints import state as states
from sda.checkpoints.folder import Checkpoints
from sda.training import pace

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """Where tests run in the background, the shell has told them to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def same(a, b):
    """Whether two nested values are equal: types, order of keys, dtypes and every bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(k, m) and same(v, w) for (k, v), (m, w) in pairs)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def opened(path, settings=None, every=600):
    return Checkpoints(path, settings or {"batch_size": 5}, every)


def write(path, *progresses, settings=None):
    with opened(path, settings) as folder:
        for progress in progresses:
            folder.save(progress)


def read(path, settings=None):
    with opened(path, settings) as folder:
        return folder.progress


def files(path):
    """The content of every file of a folder."""
    return {p.name: p.read_bytes() for p in pathlib.Path(path).iterdir()}


# What is in a checkpoint


def test_what_is_saved_comes_back_as_it_was(tmp_path):
    progress = {
        "numbers": [1, -(2**70), 0.1, 1e-320, float("inf"), -0.0, True, None],
        "text": "σ(Wx + b)",
        3: (np.float32(0.1), np.arange(6, dtype="int64").reshape(2, 3)),
        "tuple": ((), [], {}),
        "arrays": [np.array([np.nan, 1], "float32"), np.zeros((0, 3), "uint8"), np.array([True])],
        "words": np.array(["a", "bc"]),
    }
    write(tmp_path, progress)
    assert same(read(tmp_path), progress)


def test_the_context_is_saved_too(tmp_path):
    with opened(tmp_path) as folder:
        folder.context["seed"] = 7
        folder.save({"step": 1})
    with opened(tmp_path) as folder:
        assert folder.context == {"seed": 7}
        assert folder.progress == {"step": 1}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int64", "bool"])
def test_variables_of_every_type_come_back_bit_for_bit(tmp_path, dtype):
    start = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    some, other = (keras.Variable(x, dtype=dtype, trainable=False) for x in (start, 0 * start))
    write(tmp_path, arrays.values([some]))
    states.assign([other], read(tmp_path), "trainable")
    assert other.dtype == dtype
    assert bool(keras.ops.all(other.value == some.value))


@pytest.mark.parametrize("saved", [[np.zeros(3)], [np.zeros(3), np.zeros(2)], [np.zeros(3)] * 3])
def test_a_checkpoint_of_other_variables_is_refused_whole(saved):
    variables = [keras.Variable(np.ones(3)), keras.Variable(np.ones(3))]
    with pytest.raises(ValueError, match="the 2 trainable variables"):
        states.assign(variables, saved, "trainable")
    assert all(bool(keras.ops.all(v.value == 1)) for v in variables)


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1, 2}, [print]])
def test_what_has_no_place_in_a_file_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match="no place for"):
        write(tmp_path, {"value": value})
    assert read(tmp_path) is None


# The folder


def test_the_last_two_checkpoints_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3)
    assert sorted(files(tmp_path)) == ["00000002.checkpoint", "00000003.checkpoint", "lock"]
    assert read(tmp_path) == 3
    write(tmp_path, 4)
    assert sorted(files(tmp_path)) == ["00000003.checkpoint", "00000004.checkpoint", "lock"]


def test_a_flipped_bit_anywhere_is_detected_and_the_checkpoint_before_used(tmp_path):
    write(tmp_path, {"step": 1}, {"step": 2})
    newest = tmp_path / "00000002.checkpoint"
    whole = newest.read_bytes()
    generator = random.Random(1)
    positions = [*range(100), *generator.sample(range(len(whole)), 100)]
    for position in positions:
        broken = bytearray(whole)
        broken[position] ^= 1 << generator.randrange(8)
        newest.write_bytes(broken)
        with pytest.warns(UserWarning, match=r"00000002.checkpoint' is damaged"):
            assert read(tmp_path) == {"step": 1}
    newest.write_bytes(whole)
    assert read(tmp_path) == {"step": 2}


def test_a_truncated_checkpoint_is_detected_and_the_one_before_used(tmp_path):
    write(tmp_path, {"step": 1}, {"step": 2})
    newest = tmp_path / "00000002.checkpoint"
    whole = newest.read_bytes()
    for size in [0, 1, 14, 40, 82, 83, len(whole) // 2, len(whole) - 1]:
        newest.write_bytes(whole[:size])
        with pytest.warns(UserWarning, match="is damaged"):
            assert read(tmp_path) == {"step": 1}
    # What is damaged makes no room for what is whole: the next one stands beside the first.
    with pytest.warns(UserWarning, match="is damaged"):
        write(tmp_path, {"step": 3})
    assert sorted(files(tmp_path)) == ["00000001.checkpoint", "00000003.checkpoint", "lock"]


def test_where_all_are_damaged_nothing_is_overwritten(tmp_path):
    write(tmp_path, 1, 2)
    for path in tmp_path.glob("*.checkpoint"):
        path.write_bytes(path.read_bytes()[:-1])
    before = files(tmp_path)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=r"a whole checkpoint in `checkpoint_dir`.*2 that are"),
    ):
        read(tmp_path)
    assert files(tmp_path) == before


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(codec, "VERSION", b"2")
        write(tmp_path, 1)
    with pytest.raises(ValueError, match=r"format 1\. Received: one of format 2"):
        read(tmp_path)


def test_what_differs_from_the_run_in_the_folder_is_named(tmp_path):
    there = {"batch_size": 5, "data": {"x": ["1", "2"]}, "seed": None, "old": 1}
    here = {"batch_size": 6, "data": {"x": ["1", "3"]}, "seed": None, "new": 1}
    write(tmp_path, 1, settings=there)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"the run in `checkpoint_dir`") as error:
        read(tmp_path, here)
    for part in (
        "batch_size=6 (there: 5)",
        "data.x[1]='3' (there: '2')",
        "new=1 (there: nothing)",
        "old=nothing (there: 1)",
        str(tmp_path),
    ):
        assert part in str(error.value)
    assert "seed" not in str(error.value)
    assert files(tmp_path) == before


def test_another_precision_is_another_run():
    def settings(dtype):
        layer = keras.layers.Dense(2, dtype=dtype)
        return identity.model_settings(keras.Sequential([keras.Input((3,)), layer]))

    assert settings("float32") == settings("float32")  # but for the names of the layers
    assert settings("bfloat16") != settings("mixed_bfloat16")


def test_other_versions_are_told(tmp_path, monkeypatch):
    write(tmp_path, 1)
    monkeypatch.setattr(folders, "versions", lambda: {"keras": "0.0.1"})
    with pytest.warns(UserWarning, match=r"other versions.*keras 3.* -> 0\.0\.1"):
        assert read(tmp_path) == 1


def test_a_folder_serves_one_run_at_a_time(tmp_path):
    refusals = []

    def second():
        try:
            write(tmp_path, 2)
        except ValueError as error:
            refusals.append(str(error))

    with opened(tmp_path):
        second()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refusals) == 2
    assert all("one run at a time" in text and str(tmp_path) in text for text in refusals)
    second()
    assert read(tmp_path) == 2


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    held = context.Event()

    def hold():
        with opened(tmp_path):
            held.set()
            time.sleep(60)

    process = context.Process(target=hold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons, and JAX, warn of forks
        process.start()
    assert held.wait(30)
    with pytest.raises(ValueError, match="one run at a time"):
        read(tmp_path)
    process.kill()
    process.join()
    assert read(tmp_path) is None


def test_what_a_killed_run_had_begun_to_write_is_cleared_away(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "00000002.checkpoint.tmp").write_bytes(b"half")
    assert read(tmp_path) == 1
    assert sorted(files(tmp_path)) == ["00000001.checkpoint", "lock"]


class FullDisk:
    """Lets the operations of a save fail with "no space left", from the given one on.

    They are: opening the file, each write to it, its flush and sync, the rename, the folder's sync.
    """

    def __init__(self, monkeypatch, fails_at=None):
        self.done = 0
        self.fails_at = fails_at
        self.real = {"open": open, "fsync": os.fsync, "replace": os.replace}
        monkeypatch.setattr(codec, "open", self.open, raising=False)
        monkeypatch.setattr(codec.os, "fsync", lambda fd: self.call("fsync", fd))
        monkeypatch.setattr(folders.os, "replace", lambda a, b: self.call("replace", a, b))

    def full(self):
        self.done += 1
        return self.fails_at is not None and self.done > self.fails_at

    def call(self, name, *args):
        if self.full():
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real[name](*args)

    def open(self, path, mode):
        if not str(path).endswith(".tmp"):
            return self.real["open"](path, mode)
        file = self.call("open", path, mode)
        disk, write, flush = self, file.write, file.flush

        class Writer:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def fileno(self):
                return file.fileno()

            def write(self, content):
                if disk.full():
                    write(content[: len(content) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device")
                write(content)

            def flush(self):
                disk.call("open", os.devnull, "rb").close()  # counts, and fails when it is time
                flush()

        return Writer()


def test_a_full_disk_leaves_whole_checkpoints_whichever_operation_fails(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        disk = FullDisk(patch)
        write(tmp_path / "counted", 1)
        operations = disk.done
    assert operations > 3
    for fails_at in range(operations):
        folder = tmp_path / str(fails_at)
        write(folder, 1, 2)
        with monkeypatch.context() as patch, opened(folder) as opened_folder:
            FullDisk(patch, fails_at)
            with pytest.raises(OSError, match=r"save a checkpoint in .*No space.*whole.*fit") as e:
                opened_folder.save(3)
            assert e.value.errno == errno.ENOSPC
        assert not list(folder.glob("*.tmp"))
        # Only the folder's own sync comes after the new name.
        assert read(folder) == (3 if fails_at == operations - 1 else 2)
        write(folder, 4)
        assert read(folder) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_dir": 3}, "`checkpoint_dir` to be the path of a folder.*checkpoint_dir=3"),
        ({"checkpoint_every": -1}, "`checkpoint_every` to be a number, in seconds.*=-1"),
        ({"checkpoint_every": None}, "`checkpoint_every` to be a number"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    stack = sda.StackedDenoisingAutoencoder([3])
    with pytest.raises(ValueError, match=message):
        sda.GreedyPretrainer(stack, **arguments)
    with pytest.raises(ValueError, match=message):
        sda.fit(classifier(), *rows(), **arguments)


# Runs


def rows():
    generator = np.random.default_rng(0)
    return generator.random((25, 6), "float32"), generator.integers(3, size=25)


def classifier(seed=1, optimizer=None, name=None):
    """A classifier with noise counters, moving averages and slots; random where seed is None."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            sda.MaskingNoise(0.2, seed=seed),
            layers.Dense(5, "tanh", kernel_initializer=keras.initializers.GlorotUniform(seed)),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=seed),
            layers.Dense(3, "softmax", kernel_initializer=keras.initializers.GlorotUniform(seed)),
        ],
        name=name,
    )
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def finetune(model, folder=None, callbacks=(), **settings):
    x, y = rows()
    settings = {
        "x": x,
        "y": y,
        "batch_size": 10,
        "epochs": 4,
        "validation_data": (x[:10], y[:10]),
        "steps_per_execution": 1,
        "verbose": 0,
        "checkpoint_every": 0,
        **settings,
    }
    return sda.fit(model, callbacks=list(callbacks), checkpoint_dir=folder, **settings)


def pretrain(stack, folder=None, callbacks=None, data=None, **settings):
    x = rows()[0] if data is None else data
    settings = {"optimizer": keras.optimizers.Adam(0.01), "epochs": 2, "batch_size": 10, **settings}
    pretrainer = sda.GreedyPretrainer(
        stack, callbacks=callbacks, checkpoint_dir=folder, checkpoint_every=0, **settings
    )
    return pretrainer.fit(x, validation_data=x[:10], verbose=0)


def stacked(seed=None, **settings):
    return sda.StackedDenoisingAutoencoder(
        [5, 4], corruption=[0.2, sda.GaussianNoise(0.1)], seed=seed, **settings
    )


def everything(model):
    """All variables: weights, noise counters, and the optimizer's slots where there is one."""
    optimizer = getattr(model, "optimizer", None)
    return arrays.values([*model.variables, *(optimizer.variables if optimizer else [])])


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def one_step_a_dispatch(monkeypatch):
    monkeypatch.setattr(pace, "DISPATCH_FLOPS", 0)


class Copies(keras.callbacks.Callback):
    """Copies the checkpoints, and a log beside them, as they are at each batch's and epoch's begin.

    Each copy is what a run killed at that moment would have left.
    """

    def __init__(self, folder, made):
        super().__init__()
        self.folder = folder
        self.made = made

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    is_idle = False

    def copy(self):
        if self.is_idle:
            return
        target = self.folder.with_name(f"{self.folder.name}_{len(self.made)}")
        shutil.copytree(self.folder, target)
        log = self.folder.with_name("log.csv")
        if log.exists():
            shutil.copy(log, target.with_suffix(".csv"))
        self.made.append(target)

    def on_epoch_begin(self, epoch, logs=None):
        self.copy()

    def on_train_batch_begin(self, batch, logs=None):
        self.copy()


def idle(folder):
    """Stands for `Copies` in the runs that go on from a copy."""
    callback = Copies(folder, [])
    callback.is_idle = True
    return callback


def keras_callbacks(log, best):
    return [
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True, min_delta=0.01),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.1),
        keras.callbacks.ModelCheckpoint(str(best), save_best_only=True, save_weights_only=True),
        keras.callbacks.CSVLogger(str(log)),
        sda.callbacks.GeometricPatience("val_accuracy", patience=9),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
    ]


def test_finetuning_goes_on_from_every_moment_as_if_nothing_had_happened(tmp_path):
    best = tmp_path / "best.weights.h5"
    made = []
    whole = classifier()
    history = finetune(
        whole,
        tmp_path / "run",
        [*keras_callbacks(tmp_path / "log.csv", best), Copies(tmp_path / "run", made)],
    )
    log = (tmp_path / "log.csv").read_text()
    assert len(made) == 4 * 4  # 4 epochs of 3 dispatches
    plain = classifier()
    finetune(plain, None, keras_callbacks(tmp_path / "plain.csv", best), seed=None)
    compared = 0
    # Each is compiled anew, but on PyTorch.
    copies = made[::3] if BACKEND == "torch" else made[1::7]
    for folder in copies:
        # Another split into dispatches may not matter.
        resumed = classifier(seed=1)
        callbacks = keras_callbacks(folder.with_suffix(".csv"), best)
        # A log's path is one of the settings.
        shutil.move(folder.with_suffix(".csv"), tmp_path / "log.csv")
        callbacks[3] = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
        again = finetune(
            resumed,
            folder,
            [*callbacks, idle(tmp_path / "run")],
            steps_per_execution=1 + compared % 3,
        )
        assert_same(everything(resumed), everything(whole))
        assert again.history == history.history
        assert again.epoch == history.epoch
        assert (tmp_path / "log.csv").read_text() == log
        compared += 1
    assert compared == len(copies) == (6 if BACKEND == "torch" else 3)
    assert len(list(csv.reader(log.splitlines()))) == 5  # a header and four epochs


def test_checkpoints_do_not_change_the_result(tmp_path):
    with_them, without = classifier(), classifier()
    history = finetune(with_them, tmp_path, seed=3)
    plain = finetune(without, None, seed=3)
    assert_same(everything(with_them), everything(without))
    assert history.history == plain.history


def test_a_schedule_without_seeds_goes_on_from_every_moment(tmp_path, one_step_a_dispatch):
    made = []
    whole = stacked()
    folder = tmp_path / "run"
    histories = pretrain(whole, folder, lambda k: [Copies(folder, made)])
    assert len(made) == 2 * 2 * 4  # 2 layers, 2 epochs, 3 dispatches
    # Each is compiled anew, but on PyTorch. In the middle of either layer.
    for copy in made if BACKEND == "torch" else made[2::9]:
        resumed = stacked()  # other random weights, noise and order
        again = pretrain(resumed, copy, lambda k: [idle(folder)])
        assert_same(everything(resumed), everything(whole))
        assert [h.history for h in again] == [h.history for h in histories]


@pytest.mark.slow
def test_a_finished_run_returns_at_once(tmp_path):
    begun = []

    class Begins(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append(True)

    stack, model = stacked(), classifier(None)
    histories = pretrain(stack, tmp_path / "a", lambda k: [Begins()])
    histories.append(finetune(model, tmp_path / "b", [Begins()]))
    assert len(begun) == 3
    other_stack, other_model = stacked(), classifier(None)
    # The data are what they say, wherever they are.
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x = file.create_dataset("x", data=rows()[0])
        again = pretrain(other_stack, tmp_path / "a", lambda k: [Begins()], data=x)
    again.append(finetune(other_model, tmp_path / "b", [Begins()]))
    assert len(begun) == 3
    assert [h.history for h in again] == [h.history for h in histories]
    assert [h.params for h in again] == [h.params for h in histories]
    assert_same(everything(other_stack), everything(stack))
    assert_same(everything(other_model), everything(model))


@pytest.mark.slow
def test_a_second_model_of_a_process_is_no_other_for_its_names(tmp_path):
    finetune(classifier(name="first"), tmp_path)
    finetune(classifier(name="second"), tmp_path)
    functional = []
    for _ in range(2):
        x = keras.Input((6,))
        h = layers.Dense(4)(x)
        model = keras.Model(x, layers.Add()([h, layers.Dense(4)(h)]))
        functional.append(identity.model_settings(model))
    assert functional[0] == functional[1]
    assert model.layers[1].name not in json.dumps(functional)
    # The same layers, connected otherwise.
    other = keras.Model(x, layers.Add()([layers.Dense(4)(x), layers.Dense(4)(h)]))
    assert identity.model_settings(other) != functional[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda x, y: {"x": x + 0.001}, "data.x"),
        (lambda x, y: {"y": (y + 1) % 3}, "data.y"),
        (lambda x, y: {"sample_weight": np.ones(25)}, "data.w"),
        (lambda x, y: {"validation_data": (x[:9], y[:9])}, "validation_data"),
        (lambda x, y: {"batch_size": 5}, "batch_size=5 (there: 10)"),
        (lambda x, y: {"epochs": 5}, "epochs=5 (there: 4)"),
        (lambda x, y: {"shuffle": False}, "shuffle=False (there: True)"),
        (lambda x, y: {"seed": 9}, "seed=9 (there: None)"),
        (lambda x, y: {"callbacks": [keras.callbacks.EarlyStopping(patience=9)]}, "patience=9"),
        (lambda x, y: {"model": classifier(seed=2)}, "model.config.layers[1].config.seed=2"),
        (
            lambda x, y: {"model": classifier(optimizer=keras.optimizers.Adam(0.5))},
            "compile.optimizer.config.learning_rate=0.5",
        ),
    ],
)
def test_other_data_or_settings_of_finetuning_are_named(finished, change, named):
    folder, callbacks = finished
    before = files(folder)
    settings = {"callbacks": callbacks(), **change(*rows())}
    model = settings.pop("model", None) or classifier()
    weights = everything(model)
    with pytest.raises(ValueError, match=r"the data and settings of the run") as error:
        finetune(model, folder, **settings)
    assert named in str(error.value)
    assert files(folder) == before
    assert_same(everything(model), weights)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished fine-tuning, and what makes its callbacks."""
    folder = tmp_path_factory.mktemp("finished")

    def callbacks():
        return [keras.callbacks.EarlyStopping(patience=2)]

    finetune(classifier(), folder, callbacks())
    return folder, callbacks


@pytest.mark.slow
def test_other_data_or_settings_of_pretraining_are_named(tmp_path):
    pretrain(stacked(1), tmp_path, epochs=1)
    before = files(tmp_path)
    changes = {
        "data.x": {"data": rows()[0][:20]},
        "epochs[1]=2 (there: 1)": {"epochs": [1, 2]},
        "batch_size[0]=5": {"batch_size": [5, 10]},
        "optimizer[1].config.learning_rate": {
            "optimizer": [keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.02)]
        },
        "loss[0]": {"loss": "squared_error"},
        "seed=4": {"seed": 4},
        "callbacks[0][0].class='Callback'": {"callbacks": lambda k: [keras.callbacks.Callback()]},
    }
    for named, change in changes.items():
        stack = stacked(1)
        with pytest.raises(ValueError, match=r"the data and settings of the run") as error:
            pretrain(stack, tmp_path, **{"epochs": 1, **change})
        assert named in str(error.value)
        assert not stack.built
    other = sda.StackedDenoisingAutoencoder(
        [5, 4], corruption=[0.1, sda.GaussianNoise(0.1)], seed=1
    )
    with pytest.raises(ValueError, match=r"stack\.config\.autoencoders\[0\].*rate=0\.1"):
        pretrain(other, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"phase='fit' \(there: 'pretraining'\)"):
        finetune(classifier(), tmp_path)
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_full_disk_stops_a_run_and_space_lets_it_go_on(tmp_path, monkeypatch):
    expected = classifier()
    with monkeypatch.context() as patch:
        disk = FullDisk(patch)
        finetune(expected, tmp_path / "whole", epochs=2, seed=1, checkpoint_every=600)
        operations = disk.done
    # In the content of each of four: at the begin, after each of 2 epochs, at the end.
    for fails_at in range(2, operations, operations // 4):
        folder = tmp_path / str(fails_at)
        with monkeypatch.context() as patch:
            FullDisk(patch, fails_at)
            with pytest.raises(OSError, match="No space left"):
                finetune(classifier(), folder, epochs=2, seed=1, checkpoint_every=600)
        assert not list(folder.glob("*.tmp"))
        model = classifier()
        finetune(model, folder, epochs=2, seed=1, checkpoint_every=600)
        assert_same(everything(model), everything(expected))


# Callbacks


@pytest.mark.slow
def test_a_callback_may_say_what_its_state_is(tmp_path):
    class Counts(keras.callbacks.Callback):
        stop_at = None

        def on_train_begin(self, logs=None):
            self.seen = {self.model.name}
            self.count = 0

        def on_epoch_end(self, epoch, logs=None):
            self.count += 1
            if self.count == self.stop_at:
                raise InterruptedError

        def get_state(self):
            return {"seen": sorted(self.seen), "count": self.count}

        def set_state(self, state):
            self.seen, self.count = set(state["seen"]), state["count"]

    counts = Counts()
    counts.stop_at = 3
    with pytest.raises(InterruptedError):
        finetune(classifier(name="first"), tmp_path, [counts], checkpoint_every=600)
    counts = Counts()
    finetune(classifier(name="second"), tmp_path, [counts], checkpoint_every=600)
    assert counts.count == 4
    assert counts.seen == {"first"}


@pytest.mark.slow
def test_state_that_cannot_be_saved_is_told(tmp_path):
    class Keeps(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.kept = [self.model]

    with pytest.warns(UserWarning, match=r"`kept` of Keeps is not saved.*get_state"):
        finetune(classifier(), tmp_path, [Keeps()], epochs=1)


# Ctrl-C


class PressCtrlC(keras.callbacks.Callback):
    """Interrupts the process as Ctrl-C does, at a moment of training."""

    is_idle = False

    def __init__(self, epoch, batch, times=1):
        super().__init__()
        self.epoch = epoch
        self.batch = batch
        self.times = times

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch) and not self.is_idle:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def presses_nothing(epoch, batch):
    callback = PressCtrlC(epoch, batch)
    callback.is_idle = True
    return callback


@pytest.mark.parametrize(
    ("batch", "done"),
    [
        (0, "1 epochs and 1 steps"),
        pytest.param(2, "1 epochs and 3", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_after_the_dispatch_and_says_how_to_go_on(tmp_path, batch, done):
    expected = classifier()
    history = finetune(expected, seed=1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=rf"after {done}.*{tmp_path}.*`fit` again"):
        finetune(classifier(), tmp_path, [PressCtrlC(1, batch)], seed=1, checkpoint_every=600)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = classifier()
    again = finetune(resumed, tmp_path, [presses_nothing(1, batch)], seed=1)
    assert_same(everything(resumed), everything(expected))
    assert again.history == history.history


@pytest.mark.slow
def test_ctrl_c_stops_a_schedule(tmp_path, one_step_a_dispatch):
    expected = stacked(1)
    pretrain(expected, seed=1)
    with pytest.raises(KeyboardInterrupt, match="Stopped after 1 epochs and 2 steps"):
        pretrain(stacked(1), tmp_path, lambda k: [PressCtrlC(k, 1)] if k else [], seed=1)
    resumed = stacked(1)
    pretrain(resumed, tmp_path, lambda k: [presses_nothing(k, 1)] if k else [], seed=1)
    assert_same(everything(resumed), everything(expected))


def test_a_second_ctrl_c_is_immediate_and_without_checkpoints_the_first(tmp_path):
    for folder, times in ((tmp_path, 2), (None, 1)):
        with pytest.raises(KeyboardInterrupt) as interrupt:
            finetune(classifier(), folder, [PressCtrlC(0, 1, times)])
        assert str(interrupt.value) == ""


# Divergence


class Spoils(keras.callbacks.Callback):
    """Keeps the weights of each epoch's begin, and lets the rate explode in one."""

    def __init__(self, epoch, rate=1e38):
        super().__init__()
        self.epoch = epoch
        self.rate = rate

    def on_train_begin(self, logs=None):
        self.begins = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append([w.copy() for w in self.model.get_weights()])
        if epoch == self.epoch:
            self.model.optimizer.learning_rate = self.rate


def regression():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, name="line")], name="lines")
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


@pytest.mark.parametrize(
    ("steps", "what"),
    [(3, "loss became (nan|inf)"), (1, "weights became NaN or infinite")],
)
def test_a_run_that_diverges_keeps_its_last_good_weights(steps, what):
    model, spoils = regression(), Spoils(2)
    x, y = np.full((30, 6), 9.0), np.zeros((30, 2))
    with pytest.raises(
        sda.TrainingDivergedError, match=rf"'lines' diverged: the {what} in epoch 3"
    ) as e:
        sda.fit(
            model, x, y, 30 // steps, 9, verbose=0, callbacks=[spoils], shuffle=False,
            steps_per_execution=1,
        )  # fmt: skip
    assert_same(model.get_weights(), spoils.begins[2])
    assert len(e.value.history.history["loss"]) == 2
    for advice in ("learning rate below 1e+38", "SGD(..., global_clipnorm=1.0)", "scaled"):
        assert advice in str(e.value)


@pytest.mark.slow
def test_divergence_is_told_to_another_process():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e30), "mse")
    with pytest.raises(sda.TrainingDivergedError) as caught:
        sda.fit(model, np.ones((8, 1)), np.zeros((8, 1)), epochs=9, verbose=0)
    told = pickle.loads(pickle.dumps(caught.value))
    assert type(told) is sda.TrainingDivergedError
    assert str(told) == str(caught.value)
    assert told.history.history == caught.value.history.history


def test_a_layer_that_diverges_leaves_the_others_as_they_are(tmp_path):
    watch = []

    def callbacks(k):
        watch.append(Spoils(1 if k else None))
        return [watch[-1]]

    settings = {"decoder_activation": "linear", "activation": "relu"}
    stack, expected = stacked(1, **settings), stacked(1, **settings)
    optimizer = keras.optimizers.SGD(0.01)
    pretrain(expected, optimizer=optimizer, seed=1, epochs=[3, 1])
    with pytest.raises(sda.TrainingDivergedError, match="'autoencoder_2' diverged"):
        pretrain(stack, tmp_path, callbacks, optimizer=optimizer, seed=1, epochs=[3, 3])
    # The first layer, and one epoch of the second.
    assert_same(stack.get_weights(), expected.get_weights())
    # What is on disk is good, too.
    saved = max(tmp_path.glob("*.checkpoint"))
    progress = codec.read(saved)["progress"]
    assert progress["position"]["epoch"] == 1
    assert all(np.isfinite(w).all() for w in progress["variables"]["trainable"])


# Many fits, threads, forks


def test_fits_in_a_row_compile_once_and_leave_no_file_open():
    traces = []

    class Counted(keras.Sequential):
        def compute_loss(self, *args, **kwargs):
            traces.append(True)
            return super().compute_loss(*args, **kwargs)

    def handles():
        return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

    x, y = rows()
    model = Counted([keras.Input((6,)), layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    counts = []
    for _ in range(10):
        before = len(traces)
        sda.fit(model, x, y, 5, 1, verbose=0, seed=1)
        counts.append((len(traces) - before, handles()))
    # The first builds and compiles; PyTorch runs the code at each of the five steps.
    assert len(set(counts[1:])) == 1
    assert counts[1][0] == (5 if BACKEND == "torch" else 0)
    # Another loss is another step.
    model.compile("sgd", "categorical_crossentropy")
    before = model.get_weights()
    sda.fit(model, x, np.eye(3)[y], 5, 1, verbose=0, seed=1)
    assert np.any(model.get_weights()[0] != before[0])


def test_pretraining_leaves_no_model_and_no_graph_behind():
    def alive():
        gc.collect()
        kinds = ("FuncGraph", "Denoising", "StackedDenoisingAutoencoder")
        return sum(type(thing).__name__ in kinds for thing in gc.get_objects())

    counts = []
    for _ in range(3):
        pretrain(sda.StackedDenoisingAutoencoder([5], corruption=0.2, seed=1), epochs=1)
        counts.append(alive())
    assert counts[2] == counts[1]


def test_fits_in_threads_are_those_of_one_thread():
    def train(seed, results):
        stack = sda.StackedDenoisingAutoencoder([5], corruption=0.2, seed=seed)
        pretrain(stack, seed=seed, epochs=1)
        model = stack.classifier(3, dropout=0.2)
        model.compile("adam", "sparse_categorical_crossentropy")
        finetune(model, seed=seed, epochs=2)
        results[seed] = model.get_weights()

    epsilon = keras.config.epsilon()
    expected, results = {}, {}
    for seed in (1, 2):
        train(seed, expected)
    threads = [threading.Thread(target=train, args=(seed, results)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keras.config.epsilon() == epsilon
    for seed in (1, 2):
        assert_same(results[seed], expected[seed])


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's list of threads")
def test_a_fork_of_a_process_that_has_computed_is_refused():
    x, y = rows()
    model, stack = classifier(), stacked(1)
    keras.ops.matmul(np.ones((600, 600)), np.ones((600, 600)))  # PyTorch starts its threads late

    def refused(function):
        try:
            function()
        except RuntimeError as error:
            return "spawn" in str(error)
        # PyTorch on one thread has none to lose.
        return BACKEND == "torch" and os.environ.get("OMP_NUM_THREADS") == "1"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons, and JAX, warn of forks
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        wrong = [
            not refused(lambda: sda.fit(model, x, y)),
            not refused(lambda: sda.GreedyPretrainer(stack).fit(x)),
            not refused(lambda: stack.build((None, 6))),
        ]
        os._exit(sum(wrong))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Killed


KILLS = 30 if BACKEND == "tensorflow" else 5


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a fork server")
def test_a_schedule_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path):
    # A server that has imported everything and computed nothing forks a process for each attempt.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sda"])

    def start(folder, pause):
        folder.mkdir(exist_ok=True)
        process = context.Process(target=schedule.run, args=(str(folder), pause))
        process.start()
        return process

    def wait(process, until):
        # Some two minutes; looks are counted, since a machine may sleep.
        for _ in range(60_000):
            if until():
                return
            assert process.is_alive() or until()
            time.sleep(0.002)
        raise AssertionError("the schedule stands still")

    def finish(process):
        wait(process, lambda: process.exitcode is not None)
        assert process.exitcode == 0

    def moment(folder):
        path = folder / "moments"
        lines = path.read_text().split("\n") if path.exists() else []
        return int(lines[-2]) if len(lines) > 1 else -1

    finish(start(tmp_path / "whole", 0.0))
    expected = json.loads((tmp_path / "whole" / "result.json").read_text())

    folder = tmp_path / "killed"
    generator = random.Random(1)
    for target in sorted(generator.sample(range(-1, schedule.MOMENTS - 1), KILLS)):
        process = start(folder, 0.01)
        wait(process, lambda target=target: moment(folder) >= target)
        time.sleep(generator.uniform(0, 0.03 if target >= 0 else 1.0))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (folder / "result.json").exists()
    finish(start(folder, 0.01))
    assert json.loads((folder / "result.json").read_text()) == expected
