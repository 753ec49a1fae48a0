"""Layers before the first dA: in every step, in every model made of a stack, and back again."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops

import sda

WIDTH = 6


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, WIDTH)).astype("uint8")


def rescaling(x):
    return keras.layers.Rescaling(1 / 255)


def normalization(x):
    layer = keras.layers.Normalization()
    layer.adapt(x.astype("float32"))
    return layer


def inverted(x):
    # x / 255 · (1 + its column), and its column on top.
    columns = np.arange(WIDTH, dtype="float64")
    variance = ((1 + columns) / 255) ** 2
    return keras.layers.Normalization(
        mean=columns.tolist(), variance=variance.tolist(), invert=True
    )


def both(x):
    return [keras.layers.Rescaling(1 / 127.5, -1.0), normalization(x / 127.5 - 1)]


def one_model(x):
    return keras.Sequential([keras.Input((WIDTH,)), keras.layers.Rescaling(1 / 64), rescaling(x)])


def of_all(x):
    """One mean and one variance."""
    layer = keras.layers.Normalization(axis=None)
    layer.adapt(x.astype("float32"))
    return layer


def standard(x, mean, variance):
    return (x - mean) / np.sqrt(variance)


# Each with what it computes, in float64.
KINDS = {
    "rescaling": (rescaling, lambda x: x / 255),
    "normalization": (normalization, lambda x: standard(x, x.mean(0), x.var(0))),
    "inverted": (inverted, lambda x: x / 255 * (1 + np.arange(WIDTH)) + np.arange(WIDTH)),
    "both": (both, lambda x: standard(x / 127.5 - 1, (x / 127.5 - 1).mean(0), (x / 127.5).var(0))),
    "one model": (one_model, lambda x: x / 64 / 255),
    "of all": (of_all, lambda x: standard(x, x.mean(), x.var())),
}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def make(preprocessing=None, units=(5, 4), **arguments):
    arguments = {"corruption": 0.3, "decoder_activation": "linear", "seed": 1, **arguments}
    return sda.StackedDenoisingAutoencoder(list(units), preprocessing=preprocessing, **arguments)


def pretrain(stack, x, **arguments):
    arguments = {"epochs": 2, "batch_size": 16, "seed": 2, **arguments}
    pretrainer = sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.01), **arguments)
    return pretrainer.fit(x, verbose=0)


def check_same(stack, other, tolerance=1e-5):
    for some, others in zip(stack.autoencoders, other.autoencoders, strict=True):
        for ours, expected in zip(some.get_weights(), others.get_weights(), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


class Listener(keras.layers.Layer):
    """Notes what it is given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = set()

    def call(self, x):
        self.seen.add(keras.backend.standardize_dtype(x.dtype))
        return ops.cast(x, "float32") / 255

    def compute_output_shape(self, shape):
        return shape


# In the step


# Each product is of two new models, which TensorFlow and JAX compile.
PRODUCTS = 12 if keras.backend.backend() == "torch" else 3


@settings(
    max_examples=PRODUCTS,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    noise=st.sampled_from([0.3, sda.GaussianNoise(0.2), sda.SwapNoise(0.2)]),
    tied=st.booleans(),
    activation=st.sampled_from(["sigmoid", "tanh"]),
    dtype=st.sampled_from(["uint8", "float32", "float64", "int32"]),
    missing=st.booleans(),
    contraction=st.sampled_from([0.0, 0.1]),
)
def test_a_layer_before_the_first_is_that_layer_on_all_rows(
    kind, noise, tied, activation, dtype, missing, contraction
):
    x = np.random.default_rng(0).integers(0, 256, (40, WIDTH)).astype(dtype)
    layers, function = KINDS[kind]
    made = layers(x)
    rows = x
    if missing:
        rows = np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, x)
        rows = rows.astype("float32")
    prepared = np.where(np.isnan(rows), np.nan, function(x.astype("float64")))
    stacks = [
        make(
            before,
            corruption=noise,
            tied=tied,
            activation=activation,
            contraction=contraction,
            fill_value=0.5 if missing else None,
        )
        for before in (made, None)
    ]
    histories = [
        pretrain(stack, data, batch_size=7)
        for stack, data in zip(stacks, (rows, prepared.astype("float32")), strict=True)
    ]
    check_same(*stacks, 2e-5)
    for some, others in zip(*histories, strict=True):
        np.testing.assert_allclose(some.history["loss"], others.history["loss"], rtol=1e-4)
    np.testing.assert_allclose(
        stacks[0].encode(rows), stacks[1].encode(prepared.astype("float32")), atol=1e-4
    )


def test_bytes_stay_bytes_on_their_way_into_a_step(pixels):
    listener = Listener()
    stack = make(listener)
    pretrain(stack, pixels)
    stack.encode(pixels)
    stack.reconstruct(pixels)
    assert listener.seen == {"uint8"}


@pytest.mark.parametrize("kind", ["rescaling", "both"])
def test_training_is_that_of_keras(pixels, kind):
    stacks = [make(KINDS[kind][0](pixels)) for _ in range(2)]
    pretrainers = [
        sda.GreedyPretrainer(stack, "sgd", epochs=2, batch_size=16, seed=1) for stack in stacks
    ]
    stacks[1].build((None, WIDTH))
    pretrainers[0].fit(pixels, shuffle=False, verbose=0)
    for k, rows in enumerate([pixels, None]):
        if rows is None:
            rows = stacks[1].encode(pixels, 0)
        model = pretrainers[1].layer_model(k)
        model.fit(rows, rows, batch_size=16, epochs=2, shuffle=False, verbose=0)
    check_same(*stacks)


def test_layers_of_training_alone_do_nothing_before_the_first(pixels):
    noisy = [keras.layers.Dropout(0.9, seed=1), rescaling(pixels), keras.layers.GaussianNoise(0.9)]
    stacks = [make(noisy), make(rescaling(pixels))]
    for stack in stacks:
        pretrain(stack, pixels, epochs=1)
    check_same(*stacks, 1e-6)
    np.testing.assert_allclose(*(s.reconstruct(pixels) for s in stacks), rtol=1e-5)


def test_validation_is_of_prepared_rows(pixels):
    histories = []
    for before, rows in ((rescaling(pixels), pixels), (None, (pixels / 255).astype("float32"))):
        stack = make(before)
        pretrainer = sda.GreedyPretrainer(stack, "sgd", epochs=2, seed=1)
        histories.append(pretrainer.fit(rows[:30], validation_data=rows[30:], verbose=0))
    for some, others in zip(*histories, strict=True):
        assert set(some.history) == {"loss", "val_loss", "val_clean_loss"}
        for name in some.history:
            np.testing.assert_allclose(some.history[name], others.history[name], rtol=1e-5)


def test_rows_of_images_are_flattened_in_the_step():
    images = np.random.default_rng(0).random((30, 2, 3)).astype("float32")
    stack = make([keras.layers.Flatten()])
    flat = make()
    pretrain(stack, images)
    pretrain(flat, images.reshape(30, 6))
    check_same(stack, flat)
    assert stack.reconstruct(images).shape == images.shape
    assert stack.unrolled()(images).shape == images.shape
    np.testing.assert_allclose(
        stack.reconstruct(images).reshape(30, 6), flat.reconstruct(images.reshape(30, 6)), atol=1e-5
    )


def test_means_of_sixteen_bits_do_not_come_near_a_normalization():
    x = (1000 + np.random.default_rng(0).random((64, WIDTH))).astype("float32")
    layer = keras.layers.Normalization(dtype="float32")
    layer.adapt(x)
    stacks = [make(layer, dtype="mixed_bfloat16"), make(dtype="mixed_bfloat16")]
    for stack, rows in zip(stacks, (x, ops.convert_to_numpy(layer(x))), strict=True):
        pretrain(stack, rows)
    check_same(*stacks, 1e-2)
    codes = [
        ops.convert_to_numpy(ops.cast(stack(rows), "float32"))
        for stack, rows in zip(stacks, (x, layer(x)), strict=True)
    ]
    np.testing.assert_allclose(*codes, atol=1e-2)


# Models made of a stack


def test_a_classifier_prepares_fills_disturbs_and_drops_in_this_order(pixels):
    before = [rescaling(pixels), normalization(pixels / 255)]
    stack = make(before, fill_value=0.25)
    pretrain(stack, pixels.astype("float32"))
    for copy in (False, True):
        model = stack.classifier(3, dropout=[0.2, 0, 0], noise=0.1, copy=copy)
        kinds = [type(layer).__name__ for layer in model.layers]
        assert kinds == [
            "Rescaling", "Normalization", "Functional", "GaussianNoise", "Dropout", "Dense",
            "Dense", "Dense",
        ]  # fmt: skip
        assert (model.layers[1] is before[1]) is not copy
        holed = np.where(pixels > 200, np.nan, pixels).astype("float32")
        encoder = stack.encoder_model(copy=copy)
        h = standard(holed.astype("float64") / 255, (pixels / 255).mean(0), (pixels / 255).var(0))
        h = np.where(np.isnan(h), 0.25, h)
        for dA in stack.autoencoders:
            w, b = (ops.convert_to_numpy(v).astype("float64") for v in dA.encoder.weights)
            h = sigmoid(h @ w + b)
        np.testing.assert_allclose(encoder.predict(holed, verbose=0), h, atol=1e-5)
        np.testing.assert_allclose(stack.encode(holed), h, atol=1e-5)


def test_a_copy_keeps_what_its_normalization_was_adapted_to(pixels):
    before = normalization(pixels)
    stack = make(before)
    pretrain(stack, pixels)
    model = stack.classifier(2, copy=True)
    outputs = model.predict(pixels, verbose=0)
    before.adapt(np.zeros((4, WIDTH), "float32"))
    np.testing.assert_array_equal(model.predict(pixels, verbose=0), outputs)


def test_a_copy_computes_the_function_of_a_lambda(pixels):
    stack = make(keras.layers.Lambda(lambda x: x / 255), units=(5,))
    stack.build((None, WIDTH))
    kernel, bias = stack.autoencoders[0].encoder.get_weights()
    codes = stack.encoder_model(copy=True).predict(pixels, verbose=0)
    np.testing.assert_allclose(codes, sigmoid(pixels / 255 @ kernel + bias), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_models_load_from_files(pixels, kind, tmp_path):
    stack = make(KINDS[kind][0](pixels))
    pretrain(stack, pixels)
    models = {
        "classifier": stack.classifier(3),
        "encoder": stack.encoder_model(0),
        "unrolled": stack.unrolled(),
    }
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        outputs = [m.predict(pixels, verbose=0) for m in (model, loaded)]
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
    stack.save(tmp_path / "stack.keras")
    for load in (sda.load_model, keras.saving.load_model):
        loaded = load(tmp_path / "stack.keras")
        np.testing.assert_allclose(loaded.encode(pixels), stack.encode(pixels), atol=1e-6)
        np.testing.assert_allclose(loaded.reconstruct(pixels), stack.reconstruct(pixels), rtol=1e-5)


def test_a_stack_of_a_model_has_its_layers_before_the_first_dense(pixels):
    before = [rescaling(pixels), normalization(pixels / 255)]
    mlp = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            *before,
            keras.layers.Dense(5, "sigmoid"),
            keras.layers.Dense(4, "sigmoid"),
            keras.layers.Dense(3),
        ]
    )
    stack = sda.StackedDenoisingAutoencoder.from_model(mlp, decoder_activation="linear", seed=1)
    assert stack.preprocessing == before
    kinds = [type(layer).__name__ for layer in stack.classifier(3, noise=0.1).layers]
    assert kinds == ["Rescaling", "Normalization", "GaussianNoise", "Dense", "Dense", "Dense"]
    inner = keras.Model(mlp.inputs, mlp.layers[3].output)
    np.testing.assert_allclose(stack.encode(pixels), inner.predict(pixels, verbose=0), atol=1e-5)


# Back to the units of the rows


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_has_the_units_of_the_rows(pixels, kind):
    layers, function = KINDS[kind]
    stack = make(layers(pixels), units=[5], fill_value=0.25)
    holed = np.where(np.random.default_rng(1).random(pixels.shape) < 0.3, np.nan, pixels)
    holed = holed.astype("float32")
    stack.build((None, WIDTH))
    dA = stack.autoencoders[0]
    w, b = (ops.convert_to_numpy(v).astype("float64") for v in dA.encoder.weights)
    h = np.where(np.isnan(holed), 0.25, function(pixels.astype("float64")))
    rebuilt = sigmoid(h @ w + b) @ w.T
    # Each function is affine, a column at a time.
    zeros, ones = (function_at(function, pixels, value) for value in (0.0, 1.0))
    expected = (rebuilt - zeros) / (ones - zeros)
    scale = np.abs(expected).max()
    for found in (stack.reconstruct(holed), stack.sample(holed), stack.unrolled()(holed)):
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5 * scale)
    filled = stack.impute(holed)
    np.testing.assert_allclose(
        filled, np.where(np.isnan(holed), expected, pixels), atol=1e-5 * scale
    )
    np.testing.assert_array_equal(filled[~np.isnan(holed)], pixels[~np.isnan(holed)])


def function_at(function, pixels, value):
    """Return what an affine function of columns, which knows the moments of `pixels`, makes."""
    x = pixels.astype("float64")
    low, high = function(x)[0], function(x)[1]
    slope = (high - low) / np.where(x[1] == x[0], 1, x[1] - x[0])
    assert not np.any(x[1] == x[0])
    return low + slope * (value - x[0])


def test_errors_are_in_the_units_after_preprocessing(pixels):
    stack, plain = make(rescaling(pixels)), make()
    x = (pixels / 255).astype("float32")
    plain.build((None, WIDTH))
    for per_column in (False, True):
        np.testing.assert_allclose(
            stack.reconstruction_error(pixels, per_column),
            plain.reconstruction_error(x, per_column),
            rtol=1e-4,
        )
    reports = [sda.diagnostics.diagnose(one, rows) for one, rows in ((stack, pixels), (plain, x))]
    for some, others in zip(*reports, strict=True):
        for name, value in vars(some).items():
            expected = getattr(others, name)
            if expected is None:
                assert value is None, name
            else:
                assert value == pytest.approx(expected, rel=1e-3), name
    strips = [sda.diagnostics.denoised(one, rows) for one, rows in ((stack, pixels), (plain, x))]
    for some, others in zip(*strips, strict=True):
        np.testing.assert_allclose(some, others, atol=1e-5)


def fixed_dense(x):
    """A linear map of the columns, such as one that whitens them."""
    kernel = np.eye(WIDTH)[::-1] / 255
    layer = keras.layers.Dense(WIDTH, trainable=False)
    layer.build((None, WIDTH))
    layer.trainable = False
    layer.set_weights([kernel.astype("float32"), np.zeros(WIDTH, "float32")])
    return layer


class AlwaysHalf(keras.layers.Dropout):
    def call(self, x, training=False):
        return x / 2


@pytest.mark.parametrize("kind", [fixed_dense, lambda x: AlwaysHalf(0.5)], ids=["dense", "own"])
def test_only_what_does_nothing_counts_as_undone(pixels, kind):
    layer = kind(pixels)
    x = pixels.astype("float32")
    x[3, 2] = np.nan
    stack, plain = make(layer, fill_value=0.0), make(fill_value=0.0)
    with pytest.raises(ValueError, match="preprocessing has an inverse"):
        stack.impute(x)
    whole = np.nan_to_num(x)
    rows = ops.convert_to_numpy(layer(whole))
    np.testing.assert_allclose(stack.reconstruct(whole), plain.reconstruct(rows), atol=1e-5)


def test_filling_in_needs_a_way_back(pixels):
    stack = make(Listener(), fill_value=0.0)
    x = np.where(pixels > 200, np.nan, pixels).astype("float32")
    with pytest.raises(ValueError, match="preprocessing has an inverse"):
        stack.impute(x)
    # Without one, what is rebuilt stays in the units after it.
    plain = make(fill_value=0.0)
    np.testing.assert_allclose(stack.reconstruct(x), plain.reconstruct(x / 255), atol=1e-5)


# Nothing unasked


def test_bytes_are_numbers(pixels):
    stacks = [make(), make()]
    pretrain(stacks[0], pixels, epochs=1)
    pretrain(stacks[1], pixels.astype("float32"), epochs=1)
    check_same(*stacks, 0)
    np.testing.assert_array_equal(
        stacks[0].encode(pixels), stacks[1].encode(pixels.astype("float32"))
    )


MODELS = {
    "scales": lambda: [keras.layers.Rescaling(1 / 255), keras.layers.Dense(3, "softmax")],
    "scales and drops": lambda: [
        keras.layers.Rescaling(1 / 255, 0.5),
        keras.layers.GaussianNoise(0.1, seed=1),
        keras.layers.Dropout(0.2, seed=2),
        keras.layers.Dense(4, "relu"),
        keras.layers.Dense(3, "softmax"),
    ],
    "normalizes": lambda: [
        keras.layers.Normalization(mean=128.0, variance=5000.0),
        keras.layers.Dense(3, "softmax"),
    ],
    "embeds": lambda: [
        keras.layers.Embedding(256, 2),
        keras.layers.Flatten(),
        keras.layers.Dense(3, "softmax"),
    ],
    "takes numbers": lambda: [
        keras.layers.Dense(
            3, "softmax", kernel_initializer=keras.initializers.RandomNormal(0, 1e-3)
        )
    ],
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_on_bytes_is_trained_as_keras_trains_it(pixels, kind):
    y = np.random.default_rng(3).integers(0, 3, len(pixels))
    logs = []
    weights = []
    for trained_by in (keras.Model.fit, sda.fit):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((WIDTH,)), *MODELS[kind]()])
        # Numbers as large as these make short work of a softmax.
        rate = 1e-6 if kind == "takes numbers" else 0.01
        model.compile(
            keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        history = trained_by(
            model, pixels, y, batch_size=16, epochs=2, shuffle=False, verbose=0,
            validation_data=(pixels[:9], y[:9]),
        )  # fmt: skip
        logs.append({**history.history, "evaluate": model.evaluate(pixels, y, verbose=0)})
        weights.append(model.get_weights())
    assert set(logs[0]) == set(logs[1])
    for name, value in logs[0].items():
        np.testing.assert_allclose(logs[1][name], value, rtol=1e-5)
    for ours, expected in zip(*weights[::-1], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_pixels_under_cross_entropy_name_the_remedy(pixels):
    stack = make(decoder_activation="sigmoid")
    with pytest.raises(ValueError, match=r"preprocessing=keras.layers.Rescaling\(1 / 255\)"):
        pretrain(stack, pixels)
    pretrain(make(rescaling(pixels), decoder_activation="sigmoid"), pixels)
    with pytest.raises(ValueError, match="after its preprocessing"):
        pretrain(make(keras.layers.Rescaling(1 / 100), decoder_activation="sigmoid"), pixels)


# What it may be


def test_only_layers_without_weights_to_train_are_taken():
    for wrong in (keras.layers.Dense, "rescaling", [3], 0.5):
        with pytest.raises(ValueError, match="Expected `preprocessing` to be a Keras layer"):
            make(wrong)
    dense = keras.layers.Dense(3)
    dense.build((None, WIDTH))
    with pytest.raises(ValueError, match="without weights that training changes"):
        make(dense)


@pytest.mark.parametrize(
    "layer", [lambda: keras.layers.Dense(3), keras.layers.BatchNormalization], ids=["dense", "norm"]
)
def test_a_layer_that_gets_such_weights_when_it_is_built_is_refused(layer):
    stack = make(layer())
    with pytest.raises(ValueError, match="without weights that training changes"):
        stack.build((None, WIDTH))


def test_a_normalization_that_saw_nothing_is_refused(pixels):
    stack = make(keras.layers.Normalization())
    with pytest.raises(ValueError, match=r"call `layer.adapt\(x\)` first"):
        pretrain(stack, pixels)


def test_a_normalization_that_saw_missing_values_is_refused(pixels):
    x = pixels.astype("float32")
    x[3, 2] = np.nan
    stack = make(normalization(x), fill_value=0.0)
    with pytest.raises(ValueError, match="finite means and variances"):
        pretrain(stack, x)
    # What the message says to do.
    known = keras.layers.Normalization(mean=np.nanmean(x, 0), variance=np.nanvar(x, 0))
    stack, plain = make(known, fill_value=0.0), make(fill_value=0.0)
    pretrain(stack, x)
    pretrain(plain, standard(x, np.nanmean(x, 0), np.nanvar(x, 0)).astype("float32"))
    check_same(stack, plain)


def test_a_run_goes_on_only_with_what_its_normalization_knew(pixels, tmp_path):
    def fit(adapted_to):
        pretrain(make(normalization(adapted_to)), pixels, checkpoint_dir=tmp_path / "run")

    fit(pixels)
    fit(pixels)
    with pytest.raises(ValueError, match="preprocessing"):
        fit(pixels[:20])


def test_shared_layers_know_what_a_normalization_knew(pixels, tmp_path):
    store = sda.LayerCache(tmp_path)
    stacks = [make(normalization(rows)) for rows in (pixels, pixels[:20])]
    for stack in stacks:
        pretrain(stack, pixels, cache=store)
    alone = make(normalization(pixels[:20]))
    pretrain(alone, pixels)
    check_same(stacks[1], alone, 0)


def test_members_of_a_population_share_their_preprocessing(pixels):
    def pretrainers(*adapted_to):
        stacks = [
            make(normalization(rows), corruption=0.1 * i) for i, rows in enumerate(adapted_to)
        ]
        return [sda.GreedyPretrainer(stack, "sgd", epochs=2, seed=1) for stack in stacks]

    with pytest.raises(ValueError, match="preprocessing weights"):
        sda.population.fit(pretrainers(pixels, pixels[:20]), pixels)
    together = pretrainers(pixels, pixels)
    sda.population.fit(together, pixels)
    for member in together:
        alone = make(normalization(pixels), corruption=member.stack.autoencoders[0].corruption.rate)
        sda.GreedyPretrainer(alone, "sgd", epochs=2, seed=1).fit(pixels, verbose=0)
        check_same(member.stack, alone)


@pytest.mark.parametrize(("name", "full"), [("mnist_5k", 255), ("digits", 16)])
def test_datasets_give_their_bytes(name, full):
    (raw, labels), _ = sda.datasets.load(name, raw=True)
    (x, y), _ = sda.datasets.load(name)
    assert raw.dtype == "uint8"
    assert raw.max() == full
    np.testing.assert_allclose(raw / full, x, atol=1e-7)
    np.testing.assert_array_equal(labels, y)
    with pytest.raises(ValueError, match="`raw`"):
        sda.datasets.load(name, raw=1)
