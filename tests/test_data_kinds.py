"""What holds the rows does not matter: every door gives what it gives for a plain NumPy array."""

import keras
import numpy as np
import pytest

import sda
from sda.rows import codes
from sda.rows.reading import on_arrays, rows_of
from sda.training import feed

pd = pytest.importorskip("pandas")

ROWS, WIDTH = 24, 6


def data():
    generator = np.random.default_rng(0)
    x = generator.random((ROWS, WIDTH), "float32")
    return x, generator.integers(3, size=ROWS), generator.random(ROWS, "float32") + 0.5


class Frame:
    """What DataFrames of other libraries have in common; indexed, it would give columns."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape
        self.dtypes = ["Float32"]

    def __len__(self):
        return len(self.array)

    def __getitem__(self, column):
        raise AssertionError("a column is no row")

    def to_numpy(self):
        return self.array


def shuffled(array):
    index = np.random.default_rng(1).permutation(len(array))
    make = pd.Series if array.ndim == 1 else pd.DataFrame
    return make(array, index=index)


def text_index(array):
    return shuffled(array).rename(index=lambda label: f"row {label}")


def nullable(array):
    return shuffled(array).convert_dtypes(dtype_backend="numpy_nullable")


def two_dtypes(array):
    frame = shuffled(array)
    return frame if array.ndim == 1 else frame.astype({0: "float64", 1: "Float64"})


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def fortran(array):
    return np.asfortranarray(array)


def backwards(array):
    return array[::-1].copy()[::-1]


def tensor(array):
    return keras.ops.convert_to_tensor(array)


def variable(array):
    return keras.Variable(array, trainable=False, dtype=str(array.dtype))


def of_torch(array):
    made = pytest.importorskip("torch").from_numpy(array.copy())
    return made.requires_grad_() if made.is_floating_point() else made


def of_tensorflow(array):
    return pytest.importorskip("tensorflow").constant(array)


def of_jax(array):
    return pytest.importorskip("jax").numpy.asarray(array)


def sparse(array):
    if array.ndim == 1:
        return array
    return pytest.importorskip("scipy.sparse").csr_array(array)


KINDS = [
    sparse, shuffled, text_index, nullable, two_dtypes, Frame, np.ndarray.tolist, big_endian,
    fortran, backwards, tensor, variable, of_torch, of_tensorflow, of_jax,
]  # fmt: skip


def stack_of(**settings):
    stack = sda.StackedDenoisingAutoencoder([5, 3], corruption=0.3, seed=1, **settings)
    stack.build((None, WIDTH))
    return stack


MADE = {}


def once(make):
    """Return what `make` does, made once: compiling takes most of the time here."""
    if make not in MADE:
        MADE[make] = make()
    return MADE[make]


def classifier():
    model = stack_of().classifier(3)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model, model.get_weights()


def fit(some):
    model, weights = once(classifier)
    model.set_weights(weights)
    x, y, weight = map(some, data())
    history = sda.fit(
        model, x, y, 5, 2, sample_weight=weight, validation_data=(x, y, weight), seed=1, verbose=0
    )
    return [*model.get_weights(), history.history["loss"], history.history["val_loss"]]


def pretrain(some):
    stack = stack_of()
    x = some(data()[0])
    pretrainer = sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.1), batch_size=5, epochs=1)
    pretrainer.seed = 1
    histories = pretrainer.fit(x, validation_data=x, verbose=0)
    return [*stack.get_weights(), *(history.history["val_loss"] for history in histories)]


def diagnose(some):
    x, y, _ = map(some, data())
    reports = sda.diagnostics.diagnose(once(stack_of), x, y, train=(x, y))
    return [list(vars(report).values()) for report in reports]


def semisupervised(some):
    x, y, _ = data()
    graph = sda.semisupervised.neighbour_graph(some(x), neighbours=3)
    y[::2] = -1
    predictions = np.full((ROWS, 3), 1 / 3, "float32")
    return [
        graph.toarray(),
        *sda.semisupervised.targets(graph, some(y)),
        *sda.semisupervised.targets(graph, some(y), some(predictions)),
    ]


def filling():
    return stack_of(fill_value=0.5)


def with_gaps(some):
    x = data()[0]
    x[2, 3] = np.nan
    return some(x)


DOORS = {
    "fit": fit,
    "pretrain": pretrain,
    "encode": lambda some: [once(stack_of).encode(some(data()[0]), batch_size=7)],
    "reconstruct": lambda some: [once(stack_of).reconstruct(some(data()[0]), batch_size=7)],
    "sample": lambda some: [once(stack_of).sample(some(data()[0]), seed=1)],
    "impute": lambda some: [once(filling).impute(with_gaps(some))],
    "error": lambda some: [once(filling).reconstruction_error(with_gaps(some))],
    "diagnose": diagnose,
    "denoised": lambda some: sda.diagnostics.denoised(once(stack_of), some(data()[0])),
    "predict": lambda some: [
        sda.diagnostics.predict(once(stack_of).encoder_model(), some(data()[0]))
    ],
    "semisupervised": semisupervised,
}
EXPECTED = {}


@pytest.fixture(params=["resident", "in pieces"])
def size(request, monkeypatch):
    """Let the rows be few, or too many for the device; the result is the same."""
    if request.param == "in pieces":
        monkeypatch.setattr(feed, "RESIDENT_BYTES", 400)
        monkeypatch.setattr(feed, "PIECES", 2)


def assert_as_for_arrays(door, kind):
    if door not in EXPECTED:
        EXPECTED[door] = DOORS[door](lambda array: array)
    found = DOORS[door](kind)
    assert len(found) == len(EXPECTED[door]) > 0
    for a, b in zip(found, EXPECTED[door], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", [door for door in DOORS if door not in ("fit", "pretrain")])
def test_rows_count_by_position_in_whatever_holds_them(door, kind):
    assert_as_for_arrays(door, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_so_do_those_of_fit(size, kind):
    assert_as_for_arrays("fit", kind)


@pytest.mark.parametrize("kind", [shuffled, np.ndarray.tolist, big_endian])
def test_so_do_those_of_pretraining(monkeypatch, kind):
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 400)
    assert_as_for_arrays("pretrain", kind)


@pytest.mark.parametrize("kind", [shuffled, nullable])
def test_what_is_missing_in_a_frame_is_nan(kind):
    x = data()[0]
    x[2, 3] = np.nan
    frame = kind(x)
    if kind is nullable:
        assert frame.iloc[2, 3] is pd.NA
    np.testing.assert_array_equal(once(filling).encode(frame), once(filling).encode(x))
    with pytest.raises(ValueError, match=r"`x` to hold finite values.*nan in row 2"):
        sda.GreedyPretrainer(stack_of()).fit(frame, verbose=0)


def test_a_label_that_is_missing_is_refused():
    x, y, _ = data()
    labels = pd.Series(y, dtype="Int64")
    labels[4] = pd.NA
    with pytest.raises(ValueError, match=r"`y` to hold finite values\. Received: nan in row 4"):
        sda.fit(once(classifier)[0], x, labels, verbose=0)


def test_numbers_and_booleans_of_a_frame_are_numbers():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 0.25], "c": [True, False]}, index=[1, 0])
    frame["d"] = pd.array([True, None], dtype="boolean")
    frame["e"] = pd.arrays.SparseArray([0.0, 2.0])
    frame["f"] = pd.array([7, None], dtype="Int8")
    plain = np.array([[1, 0.5, 1, 1, 0, 7], [2, 0.25, 0, np.nan, 2, np.nan]])
    np.testing.assert_array_equal(once(filling).encode(frame), once(filling).encode(plain))


def test_bytes_of_a_frame_are_the_pixels_of_an_array():
    pixels = np.arange(2 * WIDTH, dtype="uint8").reshape(2, WIDTH)
    stack = once(stack_of)
    for frame in (shuffled(pixels), nullable(pixels)):
        frame = frame.astype("UInt8") if frame is not None else frame
        np.testing.assert_array_equal(stack.encode(frame), stack.encode(pixels))


class Symbolic:
    def __new__(cls, array):
        return keras.KerasTensor(array.shape)


def masked(array):
    return np.ma.array(array, mask=array > 0.5)


def texts(array):
    return pd.DataFrame({"number": array[:, 0], "name": ["a"] * len(array)})


def categories(array):
    return pd.DataFrame({"number": array[:, 0], "name": pd.Categorical(["a"] * len(array))})


def dates(array):
    return pd.DataFrame({"number": array[:, 0], "name": pd.to_datetime(["2020-01-01"] * ROWS)})


REFUSED = {
    masked: r"without a mask.*filled\(np\.nan\)",
    Symbolic: "to hold values.*symbolic",
    texts: r"\['name'\]` to hold numbers\. Received: dtype (str|object); sda\.tables\.Columns",
    categories: r"\['name'\]` to hold numbers\. Received: dtype category; sda\.tables\.Columns",
    dates: r"\['name'\]` to hold numbers\. Received: dtype datetime64",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("door", [door for door in DOORS if door != "semisupervised"])
def test_what_are_no_rows_of_numbers_is_refused(door, kind):
    def some(array):
        return kind(array) if array.ndim == 2 else array

    with pytest.raises(ValueError, match=REFUSED[kind]):
        DOORS[door](some)


@pytest.mark.parametrize("labels", [pd.Categorical(["a", "b"] * 12), np.ma.array([0, 1] * 12)])
def test_so_are_targets(labels):
    with pytest.raises(ValueError, match=r"Expected `y` to (hold numbers|be an array without)"):
        sda.fit(once(classifier)[0], data()[0], labels, verbose=0)


# Missing and infinite values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("use", ["encode", "reconstruct", "sample", "reconstruction_error"])
def test_values_that_nothing_fills_in_are_refused(use, value):
    x = data()[0].astype("float64")
    x[17, 2] = value
    batches = {"batch_size": 5} if use in ("encode", "reconstruct") else {}
    with pytest.raises(ValueError, match=r"`x` to hold finite values\. Received: .* in row 17"):
        getattr(once(stack_of), use)(x, **batches)
    if np.isnan(value):
        assert np.isfinite(getattr(once(filling), use)(x, **batches)).all()
    else:
        with pytest.raises(ValueError, match=r"`x` to hold finite values.* in row 17"):
            getattr(once(filling), use)(x, **batches)


# Targets where there are none


def test_targets_of_a_layer_are_refused():
    x, stack = data()[0], stack_of()
    before = stack.get_weights()
    pretrainer = sda.GreedyPretrainer(stack, epochs=1)
    with pytest.raises(ValueError, match=r"Expected `x` alone.*`targets=`.*Received: 2 arguments"):
        pretrainer.fit(x, x, verbose=0)
    with pytest.raises(
        ValueError, match=r"`validation_data` to be examples.*`targets=`.*of 2 arrays"
    ):
        pretrainer.fit(x, validation_data=(x, x), verbose=0)
    with pytest.raises(ValueError, match=r"sda\.GreedyPretrainer\(stack\)\.fit\(x\)"):
        stack.fit(x, x)
    for a, b in zip(before, stack.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Precision


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has float64 where it is told to")
@pytest.mark.parametrize("place", ["device", "ram", "disk", "recompute"])
def test_codes_are_kept_in_float64(float64, tmp_path, place):
    x = data()[0].astype("float64")
    stack = stack_of(dtype="float64")
    expected = stack.encode(x, layer=0)
    encode = on_arrays(stack.autoencoders[0].encode)
    kept = codes.encode_rows(encode, rows_of(x), expected.shape, place, tmp_path, "codes")
    assert kept.dtype == expected.dtype == "float64"
    np.testing.assert_array_equal(kept[:], expected)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has float64 where it is told to")
def test_swap_noise_works_in_float64(float64):
    x = data()[0].astype("float64")
    stack = sda.StackedDenoisingAutoencoder([5], sda.SwapNoise(0.3), seed=1, dtype="float64")
    sda.GreedyPretrainer(stack, epochs=1, seed=1).fit(x, verbose=0)
    swap = sda.SwapNoise(1.0, seed=1, dtype="float64")
    noisy = keras.ops.convert_to_numpy(swap(x, training=True))
    assert noisy.dtype == "float64"
    for column in range(WIDTH):
        assert np.isin(noisy[:, column], x[:, column]).all()
    assert (noisy != x).all()


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_codes_of_16_bits_can_be_on_disk(policy):
    x, weights = data()[0], []
    for place in ("device", "disk"):
        stack = sda.StackedDenoisingAutoencoder([5, 3], corruption=0.3, seed=1, dtype=policy)
        sda.GreedyPretrainer(stack, epochs=1, codes_storage=place, seed=1).fit(x, verbose=0)
        weights.append([np.asarray(w, "float32") for w in stack.get_weights()])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
