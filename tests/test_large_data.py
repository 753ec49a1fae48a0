"""Data that stay on disk while they are trained on give the weights that they give in memory."""

import gc
import os
import pathlib
import tempfile
import threading
import tracemalloc

import h5py
import keras
import numpy as np
import pytest

import sda
from sda import streams
from sda.checkpoints import arrays as variables
from sda.checkpoints import state as states
from sda.rows import base, codes, orders
from sda.rows import scratch as scratches
from sda.rows.scratch import Scratch
from sda.training import feed

WIDTH = 12


@pytest.fixture(autouse=True)
def pieces(monkeypatch, tmp_path):
    """Let 60 rows be too many, and be read in pieces of 28; the list has one item a piece.

    In blocks of 4, the windows are of 12 rows, which pieces cut.
    """
    read = []

    def counted(function, items):
        def noted(item):
            read.append(threading.current_thread().name)
            return function(item)

        return ahead(noted, items)

    ahead = feed.ahead
    monkeypatch.setattr(feed, "ahead", counted)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 2800)
    monkeypatch.setattr(feed, "PIECES", 2)
    monkeypatch.setattr(orders, "BLOCK", 4)
    monkeypatch.setattr(orders, "WINDOW", 3)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return read


def data(rows=60):
    generator = np.random.default_rng(0)
    x = generator.random((rows, WIDTH), "float32")
    return x, generator.integers(3, size=rows), generator.random(rows, "float32") + 0.5


# Sources of the same rows: one for each array, or one for all of them


def arrays(arrays, folder):
    return arrays


def memmap(arrays, folder):
    found = []
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", array)
        found.append(np.load(folder / f"{number}.npy", mmap_mode="r"))
    return found


OPEN = []


def h5(arrays, folder, **settings):
    OPEN.append(h5py.File(folder / "data.h5", "w"))
    return [OPEN[-1].create_dataset(str(i), data=a, **settings) for i, a in enumerate(arrays)]


def gzip(arrays, folder):
    return h5(arrays, folder, compression="gzip", chunks=True)


def path(arrays, folder):
    names = [dataset.name for dataset in h5(arrays, folder)]
    OPEN.pop().close()
    return [sda.datasets.read(folder / "data.h5", name) for name in names]


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays, size=7):
        super().__init__()
        self.arrays, self.size = arrays, size

    @property
    def num_batches(self):
        return -(-len(self.arrays[0]) // self.size)

    def __getitem__(self, i):
        return tuple(a[self.size * i : self.size * (i + 1)] for a in self.arrays)


def py_dataset(arrays, folder):
    return Batches(arrays)


def tf_dataset(arrays, folder):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(tuple(arrays)).batch(7)


def small_chunks(arrays, folder):
    OPEN.append(h5py.File(folder / "data.h5", "w"))
    return [
        OPEN[-1].create_dataset(str(i), data=a, compression="gzip", chunks=(3, *a.shape[1:]))
        for i, a in enumerate(arrays)
    ]


SOURCES = [memmap, h5, gzip, path, py_dataset, tf_dataset]


@pytest.fixture(autouse=True)
def closed():
    yield
    while OPEN:
        OPEN.pop().close()


def split(source, folder, some):
    """Return the arguments of `fit` for the arrays of one source."""
    folder.mkdir(parents=True)
    found = source(some, folder)
    return tuple(found) if isinstance(found, list) else found


def pretrain(source, folder, shuffle=True, units=(6,), validation=True, **settings):
    x = data()[0]
    stack = sda.StackedDenoisingAutoencoder(list(units), corruption=0.3, seed=1)
    settings = {"epochs": 2, "batch_size": 5, "codes_storage": "disk", "seed": 1, **settings}
    pretrainer = sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.1), **settings)
    examples = split(source, folder / "x", [x])
    scored = split(source, folder / "v", [x]) if validation else None
    x, validation_data = (e[0] if isinstance(e, tuple) else e for e in (examples, scored))
    histories = pretrainer.fit(x, validation_data=validation_data, shuffle=shuffle, verbose=0)
    return stack.get_weights(), [history.history for history in histories]


MADE = []


def classifier():
    """Return the one model of this file, which is compiled once, as it was when it was made."""
    if not MADE:
        start = keras.initializers.GlorotUniform(1)
        model = keras.Sequential(
            [
                keras.Input((WIDTH,)),
                keras.layers.Dense(6, "tanh", kernel_initializer=start),
                keras.layers.Dropout(0.3, seed=1),
                keras.layers.Dense(3, "softmax", kernel_initializer=start),
            ]
        )
        model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
        model.optimizer.build(model.trainable_variables)
        MADE.extend([model, variables.values(changing(model))])
    model, values = MADE
    states.assign(changing(model), values, "own")
    return model


def changing(model):
    return [*model.variables, *model.optimizer.variables]


def finetune(source, folder, shuffle=True, **settings):
    model = classifier()
    train, score = (split(source, folder / name, list(data())) for name in ("train", "score"))
    if isinstance(train, tuple):
        x, y, weight = train
        train = {"x": x, "y": y, "sample_weight": weight}
    else:
        train = {"x": train, "read_once": True}
    settings = {"batch_size": 5, "epochs": 2, "seed": 1, "verbose": 0, **settings}
    history = sda.fit(model, **train, validation_data=score, shuffle=shuffle, **settings)
    return model.get_weights(), history.history


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sda-reader")]


RESIDENT = {}


@pytest.fixture
def resident(monkeypatch, tmp_path):
    """What is learned from arrays that are on the device as a whole."""

    def learned(train, **settings):
        key = (train, str(settings))
        if key not in RESIDENT:
            with monkeypatch.context() as patch:
                patch.setattr(feed, "RESIDENT_BYTES", 2**30)
                RESIDENT[key] = train(arrays, tmp_path / f"in_ram_{len(RESIDENT)}", **settings)
        return RESIDENT[key]

    return learned


def assert_equal(found, expected):
    """Compare weights and logs."""
    assert_same(found[0], expected[0])
    assert found[1] == expected[1]


# The same weights


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("train", [pretrain, finetune])
def test_streamed_rows_give_the_weights_that_they_give_in_memory(
    resident, pieces, tmp_path, train, source
):
    expected = resident(train)
    assert not pieces
    assert_equal(train(source, tmp_path), expected)
    # An epoch reads 3 pieces, and one for validation.
    assert len(pieces) >= 2 * (3 + 1)
    assert all(name.startswith("sda-reader") for name in pieces)
    assert not readers()
    assert not list((tmp_path / "scratch").glob("sda-*"))


@pytest.mark.parametrize(("train", "source"), [(pretrain, gzip), (finetune, py_dataset)])
def test_so_do_rows_in_their_own_order(resident, tmp_path, train, source):
    found = train(source, tmp_path, shuffle=False)
    assert_equal(found, resident(train, shuffle=False))
    assert np.any(found[0][0] != resident(train)[0][0])


@pytest.mark.parametrize(
    ("train", "source"),
    [(train, source) for train in (pretrain, finetune) for source in (*SOURCES, small_chunks)],
)
def test_so_do_rows_that_are_shuffled_in_blocks(resident, pieces, tmp_path, train, source):
    found = train(source, tmp_path, shuffle="blocks")
    assert len(pieces) >= 2 * (3 + 1)
    assert_equal(found, resident(train, shuffle="blocks"))
    assert np.any(found[0][0] != resident(train)[0][0])
    assert np.any(found[0][0] != resident(train, shuffle=False)[0][0])


def test_small_chunks_are_not_unpacked_for_blocks(tmp_path, monkeypatch):
    copies = []
    keep = Scratch.keep

    def noted(self, batches, name):
        copies.append(name)
        return keep(self, batches, name)

    monkeypatch.setattr(Scratch, "keep", noted)
    finetune(small_chunks, tmp_path / "blocks", shuffle="blocks")
    assert not copies
    finetune(small_chunks, tmp_path / "all")
    assert copies == ["/0"]
    # A window of 12 rows would be larger than a piece.
    copies.clear()
    monkeypatch.setattr(orders, "WINDOW", 9)
    finetune(small_chunks, tmp_path / "windows", shuffle="blocks")
    assert copies == ["/0"]


def test_rows_in_blocks_are_those_of_the_order(tmp_path):
    """Trained in the order of the blocks, or on rows that lie in that order: the same."""
    stack = sda.StackedDenoisingAutoencoder([6], corruption=0.3, seed=1)
    x = data()[0]
    order = orders.Blocks(streams.stream(1, "order", 0)).indices(0, 60)
    pretrainer = sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.1), None, 1, 5, seed=1)
    pretrainer.fit(x[order], shuffle=False, verbose=0)
    assert_same(pretrain(h5, tmp_path, shuffle="blocks", epochs=1)[0], stack.get_weights())


@pytest.mark.slow
def test_so_do_codes_on_disk_above_the_input_on_disk(resident, tmp_path):
    units = (8, 5)
    for shuffle in (True, "blocks"):
        found = pretrain(h5, tmp_path / str(shuffle), shuffle, units=units)
        assert_equal(found, resident(pretrain, shuffle=shuffle, units=units))


def test_few_rows_are_read_once(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 2**30)
    finetune(h5, tmp_path)
    assert not pieces


def test_steps_a_dispatch_do_not_matter(resident, tmp_path):
    for steps in (1, 4):
        for shuffle in (True, "blocks"):
            folder = tmp_path / f"{steps}_{shuffle}"
            found = finetune(memmap, folder, shuffle, steps_per_execution=steps)
            assert_equal(found, resident(finetune, shuffle=shuffle))


# Memory


@pytest.mark.slow
def test_memory_is_that_of_some_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 2**21)
    monkeypatch.setattr(feed, "PIECES", 4)
    rows = np.random.default_rng(1).random((100_000, 80), "float32")  # 32 MB
    rows.tofile(tmp_path / "rows")
    shape = rows.shape
    del rows
    sources = {
        "memmap": np.memmap(tmp_path / "rows", "float32", "r", shape=shape),
        "batches": Batches([np.memmap(tmp_path / "rows", "float32", "r", shape=shape)], 1000),
    }
    for name, x in sources.items():
        stack = sda.StackedDenoisingAutoencoder([4], seed=1)
        pretrainer = sda.GreedyPretrainer(stack, epochs=1, batch_size=1000, seed=1)
        tracemalloc.start()
        try:
            pretrainer.fit(x, verbose=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2**23, name


# Nothing is left behind


class Rows(base.Rows):
    """Rows of an array that fail at one of the reads."""

    resident = False

    def __init__(self, array, fails_at=None):
        super().__init__(array.shape, array.dtype)
        self.array, self.left = array, fails_at

    def __getitem__(self, rows):
        if threading.current_thread().name.startswith("sda-reader") and self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError("the disk is gone")
        return self.array[rows]


def test_errors_of_the_reader_are_raised_by_fit(tmp_path):
    x, y, _ = data()
    model = classifier()
    for fails_at in (0, 4):
        with pytest.raises(OSError, match="the disk is gone"):
            sda.fit(model, Rows(x, fails_at), y, 5, 2, verbose=0)
        assert not readers()
    pretrainer = sda.GreedyPretrainer(sda.StackedDenoisingAutoencoder([5]), batch_size=5)
    with pytest.raises(OSError, match="the disk is gone"):
        pretrainer.fit(Rows(x, 4), verbose=0)
    assert not readers()


class At(keras.callbacks.Callback):
    """Does something at a batch of the first epoch."""

    def __init__(self, batch, action):
        super().__init__()
        self.at, self.act = batch, action

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 0 and batch == self.at and self.act is not None:
            self.act(self.model)


def stop(model):
    model.stop_training = True


def interrupt(model):
    raise KeyboardInterrupt


def handles():
    return len(os.listdir("/proc/self/fd")) if pathlib.Path("/proc/self/fd").exists() else 0


@pytest.mark.parametrize(("source", "action"), [(h5, stop), (py_dataset, interrupt)])
def test_a_run_that_stops_early_leaves_no_thread_and_no_file(tmp_path, source, action):
    counts = []
    for number in range(3):
        try:
            finetune(
                source, tmp_path / str(number), callbacks=[At(1, action)], steps_per_execution=1
            )
        except KeyboardInterrupt:
            assert action is interrupt
        assert not readers()
        assert not list((tmp_path / "scratch").glob("sda-*"))
        while OPEN:
            OPEN.pop().close()
        gc.collect()  # what an error's traceback held
        counts.append(handles())
    assert counts[2] == counts[1]


# Resuming


@pytest.mark.parametrize(
    ("begun", "resumed", "shuffle"),
    [(h5, memmap, True), (py_dataset, arrays, True), (h5, memmap, "blocks")],
)
def test_a_streamed_run_goes_on_bit_for_bit_from_whatever_source(
    resident, tmp_path, begun, resumed, shuffle
):
    settings = {"checkpoint_dir": tmp_path / "run", "checkpoint_every": 0, "steps_per_execution": 1}
    settings["shuffle"] = shuffle
    with pytest.raises(KeyboardInterrupt):
        finetune(begun, tmp_path / "a", callbacks=[At(4, interrupt)], **settings)
    other = {True: "blocks", "blocks": True}[shuffle]
    with pytest.raises(ValueError, match="shuffle"):
        finetune(resumed, tmp_path / "o", callbacks=[At(4, None)], **settings | {"shuffle": other})
    found = finetune(resumed, tmp_path / "b", callbacks=[At(4, None)], **settings)
    assert_equal(found, resident(finetune, shuffle=shuffle))


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_a_streamed_schedule_goes_on_bit_for_bit(resident, tmp_path, shuffle):
    settings = {"checkpoint_dir": tmp_path / "run", "checkpoint_every": 0, "units": (8, 5)}
    settings["shuffle"] = shuffle
    stops = [At(11, None), At(11, interrupt)]
    with pytest.raises(KeyboardInterrupt):
        pretrain(h5, tmp_path / "a", callbacks=lambda k: [stops[k]], **settings)
    found = pretrain(py_dataset, tmp_path / "b", callbacks=lambda k: [At(11, None)], **settings)
    assert_equal(found, resident(pretrain, shuffle=shuffle, units=(8, 5)))


# Codes


def test_the_codes_of_one_layer_are_on_disk_at_a_time(tmp_path):
    found = []

    def look(model):
        found.append(sorted(p.name for p in (tmp_path / "scratch").rglob("*.h5")))

    pretrain(h5, tmp_path, units=(8, 5, 4), callbacks=lambda k: [At(11, look)], validation=False)
    assert found == [[], ["below_1.h5"], ["below_2.h5"]]
    assert not list((tmp_path / "scratch").glob("sda-*"))


def test_codes_that_the_disk_has_no_room_for_are_refused_before_anything_is_trained(
    tmp_path, monkeypatch
):
    class Disk:
        free = 60 * 8 * 4 - 1

    monkeypatch.setattr(codes.shutil, "disk_usage", lambda path: Disk)
    with pytest.raises(ValueError, match=r'fit the 1919 bytes that are free.*"recompute".*1920 by'):
        pretrain(h5, tmp_path, units=(8, 5), callbacks=lambda k: [At(0, interrupt)])


# Errors


def endless(some):
    tf = pytest.importorskip("tensorflow")

    def generate():
        while True:
            yield some[:5]

    return tf.data.Dataset.from_generator(
        generate, output_signature=tf.TensorSpec((5, WIDTH), tf.float32)
    )


def test_a_dataset_of_unknown_length_that_never_ends_is_refused(tmp_path, monkeypatch):

    class Disk:
        def __init__(self, path):
            used = sum(f.stat().st_size for f in pathlib.Path(path).rglob("*") if f.is_file())
            self.free = 50_000 - used

    monkeypatch.setattr(scratches.shutil, "disk_usage", Disk)
    stack = sda.StackedDenoisingAutoencoder([5], seed=1)
    with pytest.raises(ValueError, match=r"`x` to end, and to fit 90% of the free disk space"):
        sda.GreedyPretrainer(stack).fit(endless(data()[0]), verbose=0)
    assert not stack.built
    assert not list((tmp_path / "scratch").glob("sda-*"))


def test_targets_beside_a_dataset_of_batches_are_refused():
    x, y, weight = data()
    for settings in ({"y": y}, {"sample_weight": weight}):
        with pytest.raises(
            ValueError, match=r"`y` and `sample_weight` to be None where `x` yields"
        ):
            sda.fit(classifier(), Batches([x, y]), **settings)


def test_a_path_is_no_source():
    message = r"sda\.datasets\.read\(path, name\)"
    with pytest.raises(ValueError, match=message):
        sda.fit(classifier(), "rows.h5", data()[1])
    with pytest.raises(ValueError, match=message):
        sda.GreedyPretrainer(sda.StackedDenoisingAutoencoder([5])).fit(pathlib.Path("rows.h5"))


@pytest.mark.parametrize("shuffle", ["batch", "Blocks", "", None, 1, 0.0, ["blocks"]])
def test_other_orders_are_refused(shuffle):
    message = r'Expected `shuffle` to be True, False or "blocks"\. Received: shuffle='
    x, y, _ = data()
    stack = sda.StackedDenoisingAutoencoder([5])
    with pytest.raises(ValueError, match=message):
        sda.fit(classifier(), x, y, shuffle=shuffle)
    with pytest.raises(ValueError, match=message):
        sda.GreedyPretrainer(stack).fit(x, shuffle=shuffle)
    with pytest.raises(ValueError, match=message):
        sda.population.fit([sda.GreedyPretrainer(stack)], x, shuffle=shuffle)
    assert not stack.built
