"""Every attack is refused in the house's words: no payload runs, and no other file is read."""

import contextlib
import ctypes
import gzip
import io
import os
import pathlib
import resource
import struct
import sys

import attacks
import h5py
import keras
import numpy as np
import pytest

import sda
from sda.checkpoints import folder
from sda.checkpoints import state as states
from sda.datasets import mnist
from sda.datasets.idx import read_idx


@contextlib.contextmanager
def little_memory(more=2 * 2**30):
    """Leave this process `more` bytes of address space: a bomb fails here, not on the machine."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def unread(path):
    """Fail if anything in this process, HDF5 included, opens the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    in_open = 0x20
    assert libc.inotify_add_watch(watch, os.fsencode(path), in_open) >= 0
    try:
        yield
        with pytest.raises(BlockingIOError):  # There is no event.
            os.read(watch, 1024)
    finally:
        os.close(watch)


@contextlib.contextmanager
def refused(ground, words):
    """Check that the attack is refused with `words`, and that nothing happened."""
    before = sorted(ground.path.parent.rglob("*"))
    with little_memory(), unread(ground.secret), pytest.raises(ValueError, match=words) as caught:
        yield
    message = str(caught.value)
    assert message.startswith("Expected "), message
    assert ". Received: " in message, message
    assert sorted(ground.path.parent.rglob("*")) == before


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches files through inotify")


@pytest.fixture
def ground(tmp_path, request):
    return attacks.Ground(tmp_path, request.param)


def table(rows, name):
    """Parametrise a test with a table of attacks on the file `name`."""

    def decorate(test):
        test = pytest.mark.parametrize("ground", [name], indirect=True, ids=[""])(test)
        return pytest.mark.parametrize(("build", "words"), rows.values(), ids=rows)(test)

    return decorate


# The attacks are real


@table({"": (attacks.with_layer(attacks.lambda_layer), "")}, "model.keras")
def test_the_lambda_would_run(ground, build, words):
    build(ground)
    keras.saving.load_model(ground.path, safe_mode=False)
    assert ground.canary.exists()


@table({"": (attacks.npz_with_objects, "")}, "rows.npz")
def test_the_pickle_would_run(ground, build, words):
    build(ground)
    with np.load(ground.path, allow_pickle=True) as arrays:
        assert arrays["x"].shape == (1,)
    assert ground.canary.exists()


@table({"": (attacks.data(attacks.linked_data), "")}, "rows.h5")
def test_the_link_would_be_followed_and_be_noticed(ground, build, words):
    build(ground)
    with pytest.raises(pytest.fail.Exception), unread(ground.secret), h5py.File(ground.path) as f:
        assert f["x"][0, 0] == 0.5


# Models


@table(attacks.MODEL_FILES, "model.keras")
def test_model_files(ground, build, words):
    build(ground)
    with refused(ground, words):
        sda.load_model(ground.path)


def built():
    stack = sda.StackedDenoisingAutoencoder([3], seed=1)
    stack.build((None, 4))
    return stack


def unchanged(model):
    weights = [w.copy() for w in model.get_weights()]

    @contextlib.contextmanager
    def check():
        yield
        for now, then in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(now, then)

    return check()


@table(attacks.WEIGHTS_FILES, "model.weights.h5")
def test_weights_files(ground, build, words):
    build(ground)
    stack = built()
    with unchanged(stack), refused(ground, words):
        sda.load_weights(stack, ground.path)


def test_weights_of_another_model_leave_everything_as_it_was(tmp_path):
    other = sda.StackedDenoisingAutoencoder([3], tied=False, seed=2)
    other.build((None, 4))
    other.save_weights(tmp_path / "other.weights.h5")
    stack = built()
    with unchanged(stack), pytest.raises(ValueError, match="`path` to be a file with the weights"):
        sda.load_weights(stack, tmp_path / "other.weights.h5")


@table(attacks.WEIGHTS_FILES, "model.weights.h5")
def test_keras_refuses_weights_files_too(ground, build, words):
    build(ground)
    # It looks behind an external link before it refuses: `sda.load_weights` does not.
    with little_memory(), pytest.raises((ValueError, OSError)):
        built().load_weights(ground.path)
    assert not ground.canary.exists()


def test_a_name_on_the_hub_is_not_fetched(monkeypatch):
    with pytest.raises(ValueError, match="Expected `path`"):
        sda.load_model("hf://somebody/model.keras")


# Honest files load


def test_an_honest_stack_loads(tmp_path):
    noises = [sda.ComposedNoise([sda.GaussianNoise(0.1), sda.MaskingNoise(0.2)]), 0.5]
    stack = sda.StackedDenoisingAutoencoder([5, 3], noises, tied=[True, False], seed=1)
    x = np.random.default_rng(0).random((6, 4), "float32")
    stack.build((None, 4))
    stack.save(tmp_path / "stack.keras")
    loaded = sda.load_model(tmp_path / "stack.keras")
    np.testing.assert_array_equal(loaded.reconstruct(x), stack.reconstruct(x))
    loaded.autoencoders[0].visible_bias.assign(np.ones(4))
    stack.save_weights(tmp_path / "stack.weights.h5")
    sda.load_weights(loaded, tmp_path / "stack.weights.h5")
    np.testing.assert_array_equal(loaded.reconstruct(x), stack.reconstruct(x))


def test_an_honest_model_around_a_stack_loads(tmp_path):
    layers = keras.layers
    mlp = keras.Sequential(
        [
            keras.Input((2, 2)),
            layers.Rescaling(2.0),
            layers.Flatten(),
            layers.Dense(5, kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Dropout(0.5),
            layers.Dense(3, "softmax", kernel_constraint="max_norm"),
        ]
    )
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10**7))
    mlp.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = np.random.default_rng(0).random((6, 2, 2), "float32"), np.arange(6) % 3
    mlp.train_on_batch(x, y)
    mlp.save(tmp_path / "mlp.keras")
    loaded = sda.load_model(tmp_path / "mlp.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), mlp.predict(x, verbose=0), atol=1e-6)
    assert type(loaded.optimizer) is type(mlp.optimizer)
    assert int(loaded.optimizer.iterations) == 1


def test_an_honest_functional_model_loads(tmp_path):
    # The dA and the Dense beside it share one kernel, and the config names it twice.
    inputs = keras.Input((4,))
    encoder = keras.layers.Dense(3, "sigmoid")
    codes = encoder(inputs)
    outputs = [codes, sda.DenoisingAutoencoder(encoder=encoder)(inputs)]
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    loaded = sda.load_model(tmp_path / "model.keras")
    assert loaded.layers[1] is loaded.layers[2].encoder


class Shift(sda.Corruption):
    def corrupt(self, x):
        return x + 1.0, None


def test_a_class_of_ones_own_loads_when_it_is_named(tmp_path):
    keras.saving.register_keras_serializable(package="shop")(Shift)
    stack = sda.StackedDenoisingAutoencoder([3], corruption=Shift())
    stack.build((None, 4))
    stack.save(tmp_path / "stack.keras")
    with pytest.raises(ValueError, match="shop>Shift"):
        sda.load_model(tmp_path / "stack.keras")
    loaded = sda.load_model(tmp_path / "stack.keras", custom_objects={"shop>Shift": Shift})
    assert type(loaded.autoencoders[0].corruption) is Shift


# HDF5 training data


def pretrain(x):
    sda.GreedyPretrainer(built(), "sgd", epochs=1).fit(x, verbose=0)


def validate(x):
    good = np.full((5, 4), 0.5, "float32")
    sda.GreedyPretrainer(built(), "sgd", epochs=1).fit(good, validation_data=x, verbose=0)


def fine_tune(x):
    model = built().classifier(2)
    model.compile("sgd", "sparse_categorical_crossentropy")
    sda.fit(model, x, np.zeros(5, "int64"), verbose=0)


def fine_tune_towards(y):
    model = built().unrolled()
    model.compile("sgd", "mse")
    sda.fit(model, np.zeros((5, 4), "float32"), y, verbose=0)


def encode(x):
    built().encode(x)


def reconstruct(x):
    built().reconstruct(x)


@pytest.mark.parametrize(
    "use", [pretrain, validate, fine_tune, fine_tune_towards, encode, reconstruct]
)
@table(attacks.HDF5_DATA, "rows.h5")
def test_hdf5_training_data(ground, build, words, use):
    build(ground)
    # An index into an h5py.File follows links: that was the caller's doing, not ours.
    with h5py.File(ground.path) as file:
        x = file["x"]
        with refused(ground, words):
            use(x)


@table(attacks.HDF5_DATA, "rows.h5")
def test_hdf5_files_of_rows(ground, build, words):
    build(ground)
    with refused(ground, words.replace("external link", "ExternalLink")):
        rows = sda.datasets.read(ground.path, "x")
        pretrain(rows)


@table({"": (attacks.data(attacks.linked_data), "external link")}, "rows.h5")
def test_a_link_is_noticed_behind_a_file_that_is_gone(ground, build, words):
    build(ground)
    x = h5py.File(ground.path)["x"]
    with refused(ground, words):
        pretrain(x)


def test_honest_hdf5_rows_are_read(tmp_path):
    rows = np.random.default_rng(0).random((20, 4), "float32")
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["plain/x"] = rows
        filters = {"compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("packed", data=rows, chunks=(7, 4), **filters)
        file.create_dataset("lzf", data=rows, chunks=(7, 4), compression="lzf")
        file["other name"] = file["packed"]  # A hard link leads nowhere else.
    stack = built()
    for name in ("plain/x", "packed", "lzf", "other name"):
        read = sda.datasets.read(tmp_path / "rows.h5", name)
        np.testing.assert_array_equal(read[:], rows)
        np.testing.assert_allclose(stack.encode(read), stack.encode(rows), atol=1e-6)
    with pytest.raises(ValueError, match=r"`name`.*'lzf'.*Received: name=None"):
        sda.datasets.read(tmp_path / "rows.h5")
    with pytest.raises(ValueError, match=r"nothing at 'plain/y'"):
        sda.datasets.read(tmp_path / "rows.h5", "plain/y")


@pytest.mark.parametrize("values", ["random", "alike", "both"])
@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
@pytest.mark.parametrize("more", [{}, {"shuffle": True}, {"fletcher32": True}])
def test_honest_chunks_are_read(tmp_path, values, compression, more):
    # LZF leaves a chunk as it is that does not shrink.
    rows = np.random.default_rng(0).integers(256, size=(300, 40), dtype="uint8")
    rows[{"random": slice(0), "alike": slice(None), "both": slice(50, 200)}[values]] = 7
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file.create_dataset("x", data=rows, chunks=(70, 30), compression=compression, **more)
    order = np.random.default_rng(1).permutation(300)
    for indices in (slice(None), slice(3, 90), slice(None, None, 7), order, order[:5], order[:0]):
        read = sda.datasets.read(tmp_path / "rows.h5")
        np.testing.assert_array_equal(read[indices], rows[indices])


def test_what_hdf5_has_not_written_yet_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("sda.files.opening.SMALL", 1000)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        x = file.create_dataset("x", (1000, 40), "float32", chunks=(500, 40), compression="gzip")
        x[:] = np.random.default_rng(0).random((1000, 40))
        assert (tmp_path / "rows.h5").stat().st_size < 1000
        sda.files.h5.check_dataset(x, "x")


# Arrays and text


@table(attacks.NPZ_FILES, "rows.npz")
def test_npz_files(ground, build, words):
    build(ground)
    for name in ("x", None):
        with refused(ground, words):
            sda.datasets.read(ground.path, name)
    with refused(ground, words):
        sda.files.zips.read_npz(io.BytesIO(ground.path.read_bytes()))


@table(attacks.NPY_FILES, "rows.npy")
def test_npy_files(ground, build, words):
    build(ground)
    with refused(ground, words):
        sda.datasets.read(ground.path)


@table(attacks.TEXT_FILES, "rows.amat")
def test_text_files(ground, build, words):
    build(ground)
    with refused(ground, words):
        sda.datasets.read(ground.path)


@pytest.mark.parametrize("name", ["rows.gz", "rows.pkl", "rows.csv.bz2", "rows"])
def test_other_files_are_not_guessed_at(tmp_path, name):
    ground = attacks.Ground(tmp_path, name)
    attacks.bare_pickle(ground)
    with refused(ground, "`path` to be an .npz"):
        sda.datasets.read(ground.path)


def test_honest_arrays_and_text_are_read(tmp_path):
    rows = np.random.default_rng(0).random((5, 4), "float32")
    np.savez_compressed(tmp_path / "rows.npz", x=np.asfortranarray(rows), y=np.arange(5))
    np.save(tmp_path / "rows.npy", rows.astype(">f8"))
    np.savetxt(tmp_path / "rows.amat", rows)
    np.testing.assert_array_equal(sda.datasets.read(tmp_path / "rows.npz", "x"), rows)
    np.testing.assert_array_equal(sda.datasets.read(tmp_path / "rows.npy"), rows)
    np.testing.assert_array_equal(sda.datasets.read(tmp_path / "rows.amat"), rows)
    np.savez(tmp_path / "one.npz", rows)
    np.testing.assert_array_equal(sda.datasets.read(tmp_path / "one.npz"), rows)
    with pytest.raises(ValueError, match=r"one of \['x', 'y'\]"):
        sda.datasets.read(tmp_path / "rows.npz")
    with pytest.raises(ValueError, match=r"with the arrays z.*x.npy"):
        sda.datasets.read(tmp_path / "rows.npz", "z")
    with pytest.raises(ValueError, match=r"`name`.*name='x'"):
        sda.datasets.read(tmp_path / "rows.npy", "x")
    with pytest.raises(FileNotFoundError):
        sda.datasets.read(tmp_path / "nowhere.h5", "x")


# The datasets of the field

MNIST_FILES = {
    "objects": (
        lambda ground: np.savez(
            ground.path, **{name: [attacks.Payload(ground)] for name in mnist.SHAPES}
        ),
        "dtype object",
    ),
    "a zip bomb": (attacks.npz_of(attacks.BOMB, "x_train.npy", **attacks.DEFLATED), "bytes out of"),
    "a shape bomb": (
        attacks.npz_of(attacks.npy((attacks.HUGE, 28, 28), b"", "|u1"), "x_train.npy"),
        "shape",
    ),
}


@table(MNIST_FILES, "mnist.npz")
def test_mnist_files(ground, build, words, monkeypatch):
    build(ground)
    monkeypatch.setenv("SDA_DATA", str(ground.path.parent))
    with refused(ground, words):
        sda.datasets.load("mnist")


def gzip_bomb(ground):
    header = struct.pack(">IIII", 0x0803, 5, 3, 2)
    ground.path.write_bytes(gzip.compress(header + attacks.BOMB, 1))


@table({"a gzip bomb": (gzip_bomb, "other than 30 bytes")}, "images.gz")
def test_idx_files(ground, build, words):
    build(ground)
    with refused(ground, words):
        read_idx(ground.path, (5, 3, 2))


# Constructors

OPENED = []
WATCHED = [False]


def note(event, args):
    if WATCHED[0] and event in ("open", "os.mkdir", "os.listdir", "tempfile.mkstemp"):
        OPENED.append((event, str(args[0])))


def construct(path):
    """One of everything that is public, with paths where words are expected."""
    stack = sda.StackedDenoisingAutoencoder([3, 2], seed=1, name="stack")
    for word in (path, f"file://{path}"):
        for make in (
            lambda word: sda.DenoisingAutoencoder(3, activation=word),
            lambda word: sda.DenoisingAutoencoder(3, decoder_activation=word),
            lambda word: sda.DenoisingAutoencoder(3, kernel_initializer=word),
            lambda word: sda.DenoisingAutoencoder(3, corruption=word),
            lambda word: sda.DenoisingAutoencoder(3, encoder=word),
            lambda word: sda.StackedDenoisingAutoencoder(word),
            lambda word: sda.GreedyPretrainer(stack, optimizer=word),
            lambda word: sda.GreedyPretrainer(stack, loss=word),
            lambda word: sda.GreedyPretrainer(stack, codes_storage=word),
        ):
            with pytest.raises(ValueError):  # noqa: PT011
                make(word)
    sda.GreedyPretrainer(stack, "adam", codes_storage="disk")
    sda.callbacks.GeometricPatience(path)
    sda.losses.CrossEntropy(name="loss")
    sda.ComposedNoise([sda.MaskingNoise(0.1), sda.SwapNoise(0.1), sda.SaltAndPepperNoise(0.1)])


def test_constructors_open_no_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    construct(str(path))  # What Python imports late is imported now.
    sys.addaudithook(note)
    WATCHED[0] = True
    try:
        construct(str(path))
        assert OPENED == []
        open(path).close()
        assert [("open", str(path))] == OPENED  # The watch is real.
    finally:
        WATCHED[0] = False


# Checkpoints


@table(attacks.CHECKPOINTS, "run/00000001.checkpoint")
def test_checkpoints(ground, build, words):
    build(ground)
    run = folder.Checkpoints(ground.path.parent, {}, 60)
    with refused(ground, words), run:
        pass


def test_a_checkpoint_gives_a_callback_no_other_file():
    callback = keras.callbacks.ModelCheckpoint("mine.keras")
    state = {"filepath": "theirs.keras", "best": 0.5, "unheard_of": "theirs", "on_epoch_end": 1}
    states.restore_callbacks([callback], [state])
    states.restore_callbacks([callback], [{"filepath": b"theirs.keras"}])
    assert (callback.filepath, callback.best) == ("mine.keras", 0.5)
    assert not hasattr(callback, "unheard_of")
    assert callable(callback.on_epoch_end)
