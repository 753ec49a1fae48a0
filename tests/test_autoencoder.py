import re
from itertools import pairwise

import keras
import numpy as np
import pytest
from gradients import central_differences
from keras import ops
from keras.layers import Activation, Dense, Dropout

import sda
from sda.models.denoising import Denoising

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(6, 5))
MASK = RNG.uniform(size=(6, 5)) < 0.4
UNITS = 3
RATE = 0.2


class FixedMask(sda.Corruption):
    """Sets the entries of a given mask to zero."""

    selects = True

    def __init__(self, mask):
        super().__init__(seed=0)
        self.mask = mask

    def corrupt(self, x):
        mask = ops.convert_to_tensor(self.mask)
        return ops.where(mask, ops.zeros_like(x), x), mask


# The dA in float64, written out: each function with its derivative.


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


FUNCTIONS = {
    "sigmoid": (sigmoid, lambda a: sigmoid(a) * (1 - sigmoid(a))),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(float)),
    "linear": (lambda a: a, np.ones_like),
}


class Reference:
    """The dA z = s'(s(x̃ W + b) V + c) in NumPy; V = Wᵀ if tied."""

    def __init__(self, variables, activation, decoder, loss, alpha, beta):
        self.tied = "V" not in variables
        self.variables = {name: v.astype("float64") for name, v in variables.items()}
        self.activation, self.decoder = FUNCTIONS[activation], FUNCTIONS[decoder]
        self.squared = loss == "squared_error"
        self.weights = np.where(MASK, alpha, beta)

    def forward(self, W, b, c, V=None):
        a = np.where(MASK, 0, X) @ W + b
        y = self.activation[0](a)
        return a, y, y @ (W.T if V is None else V) + c

    def loss(self, **variables):
        *_, logits = self.forward(**variables)
        z = self.decoder[0](logits)
        # -x log z - (1 - x) log(1 - z), without the rounding of 1 - z.
        cross_entropy = np.logaddexp(0, logits) - X * logits
        values = (X - z) ** 2 if self.squared else cross_entropy
        return (self.weights * values).sum() / len(X)

    def gradients(self):
        V = self.variables["W"].T if self.tied else self.variables["V"]
        a, y, logits = self.forward(**self.variables)
        z = self.decoder[0](logits)
        slope = 2 * (z - X) * self.decoder[1](logits) if self.squared else z - X
        delta = self.weights * slope / len(X)
        hidden = (delta @ V.T) * self.activation[1](a)
        dW, dV = np.where(MASK, 0, X).T @ hidden, y.T @ delta
        rest = {"b": hidden.sum(axis=0), "c": delta.sum(axis=0)}
        return {"W": dW + dV.T, **rest} if self.tied else {"W": dW, "V": dV, **rest}

    def step(self):
        for name, slope in self.gradients().items():
            self.variables[name] -= RATE * slope


CASES = {
    f"{'tied' if tied else 'untied'}, {activation}, {decoder} {loss}, α={alpha} β={beta}": (
        tied, activation, decoder, loss, alpha, beta,
    )
    for tied in (True, False)
    for activation in FUNCTIONS
    for decoder, loss in (
        ("sigmoid", "cross_entropy"), ("sigmoid", "squared_error"), ("linear", "squared_error"),
    )
    for alpha, beta in ((1.0, 1.0), (1.0, 0.25))
}  # fmt: skip


def numbers(layer):
    """The variables of a dA under the names of the formula."""
    variables = {"W": layer.encoder.kernel, "b": layer.encoder.bias, "c": layer.visible_bias}
    if not layer.tied:
        variables["V"] = layer.decoder_kernel
    return {name: ops.convert_to_numpy(v.value).copy() for name, v in variables.items()}


def built(units=UNITS, visible=5, **kwargs):
    """A dA with biases other than 0."""
    layer = sda.DenoisingAutoencoder(units, seed=kwargs.pop("seed", 1), **kwargs)
    layer.build((None, visible))
    layer.encoder.bias.assign(np.linspace(-0.3, 0.4, layer.units))
    layer.visible_bias.assign(np.linspace(-0.2, 0.5, visible))
    return layer


def train(layer, loss, x=X, epochs=1, optimizer=None, run_eagerly=False, **kwargs):
    model = Denoising(layer, loss)
    model.compile(optimizer or keras.optimizers.SGD(RATE), run_eagerly=run_eagerly)
    kwargs = {"batch_size": len(x), "shuffle": False, "verbose": 0, **kwargs}
    return sda.fit(model, x, epochs=epochs, **kwargs)


def loss_of(name, alpha=1.0, beta=1.0):
    losses = {"cross_entropy": sda.losses.CrossEntropy, "squared_error": sda.losses.SquaredError}
    return losses[name](alpha, beta)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_agrees_with_central_differences(case):
    tied, *settings = case
    reference = Reference(numbers(built(tied=tied)), *settings)
    variables = reference.variables
    for name, slope in reference.gradients().items():
        expected = central_differences(
            lambda value, name=name: reference.loss(**{**variables, name: value}), variables[name]
        )
        np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sgd_steps_equal_numpy(case):
    tied, activation, decoder, loss, alpha, beta = case
    layer = built(
        tied=tied, activation=activation, decoder_activation=decoder, corruption=FixedMask(MASK)
    )
    reference = Reference(numbers(layer), activation, decoder, loss, alpha, beta)
    steps = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: steps.append(numbers(layer)))
    # Compiled for one activation: compiling takes most of the time.
    eager = activation != "sigmoid"
    history = train(
        layer, loss_of(loss, alpha, beta), epochs=3, callbacks=[keep], run_eagerly=eager
    )
    for actual, value in zip(steps, history.history["loss"], strict=True):
        assert value == pytest.approx(reference.loss(**reference.variables), rel=1e-5)
        reference.step()
        assert set(actual) == set(reference.variables)
        for name, expected in reference.variables.items():
            np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_step_of_plain_keras_fit_equals_numpy(tied, activation):
    layer = built(tied=tied, activation=activation, corruption=FixedMask(MASK))
    reference = Reference(numbers(layer), activation, "sigmoid", "squared_error", 1, 1)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(
        keras.optimizers.SGD(RATE), sda.losses.SquaredError(), run_eagerly=activation != "sigmoid"
    )
    model.fit(X, X, batch_size=len(X), shuffle=False, verbose=0)
    reference.step()
    for name, actual in numbers(layer).items():
        np.testing.assert_allclose(actual, reference.variables[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("tied", "policy"), [(True, "mixed_bfloat16"), (False, "mixed_float16")])
def test_a_step_in_mixed_precision_is_near_the_exact_one(tied, policy):
    layer = built(tied=tied, corruption=FixedMask(MASK), activation="tanh", dtype=policy)
    reference = Reference(numbers(layer), "tanh", "sigmoid", "cross_entropy", 1, 1)
    train(layer, sda.losses.CrossEntropy(), run_eagerly=True)
    reference.step()
    for name, actual in numbers(layer).items():
        assert actual.dtype == "float32"
        np.testing.assert_allclose(actual, reference.variables[name], atol=0.005, err_msg=name)


def test_tied_gradient_is_the_sum_of_encoder_and_decoder():
    tied, untied = (built(tied=t, corruption=FixedMask(MASK)) for t in (True, False))
    untied.encoder.kernel.assign(tied.encoder.kernel)
    untied.decoder_kernel.assign(ops.transpose(tied.encoder.kernel))
    before = numbers(tied)["W"]
    for layer in (tied, untied):
        train(layer, sda.losses.CrossEntropy())
    change, parts = numbers(tied)["W"] - before, numbers(untied)
    encoder, decoder = parts["W"] - before, parts["V"].T - before
    assert min(abs(encoder).max(), abs(decoder).max()) > 1e-3
    np.testing.assert_allclose(change, encoder + decoder, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_linear_autoencoder_finds_the_subspace_of_pca(tied):
    rotation = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    x = (RNG.normal(size=(100, 5)) * [2.0, 1.5, 0.6, 0.5, 0.4]) @ rotation
    x -= x.mean(axis=0)
    principal = np.linalg.svd(x)[2][:2]
    layer = sda.DenoisingAutoencoder(
        2, corruption=0.0, activation="linear", decoder_activation="linear", tied=tied, seed=1
    )
    # Copies of the data: an epoch is many full-batch steps in one dispatch.
    train(layer, sda.losses.SquaredError(), np.tile(x, (400, 1)), batch_size=100,
          optimizer=keras.optimizers.SGD(0.02, momentum=0.9))  # fmt: skip
    learned = numbers(layer)
    for subspace in (learned["W"], learned["W"] if tied else learned["V"].T):
        cosines = np.linalg.svd(principal @ np.linalg.qr(subspace)[0], compute_uv=False)
        assert np.arccos(np.minimum(cosines, 1)).max() < 0.05


@pytest.mark.parametrize(
    ("activation", "factor"), [("sigmoid", 4), ("tanh", 1), ("relu", 1), ("linear", 1)]
)
def test_initial_kernels_are_uniform_over_the_default_range(activation, factor):
    layer = built(100, 300, activation=activation, tied=False)
    limit = factor * np.sqrt(6 / 400)
    for name in ("W", "V"):
        kernel = numbers(layer)[name]
        assert 0.999 * limit < abs(kernel).max() <= limit * (1 + 1e-6)
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
        assert abs(kernel.mean()) < 5 * kernel.std() / np.sqrt(kernel.size)


def test_initial_biases_are_0():
    layer = sda.DenoisingAutoencoder(3)
    layer.build((None, 5))
    assert not numbers(layer)["b"].any()
    assert not numbers(layer)["c"].any()


@pytest.mark.parametrize("initializer", [None, "he_normal"])
def test_weights_are_a_function_of_the_seed(initializer):
    def kernels(seed):
        keras.random.uniform((3,))  # The global random state has no part in it.
        layer = built(7, 7, tied=False, seed=seed, kernel_initializer=initializer)
        return numbers(layer)["W"], numbers(layer)["V"]

    encoder, decoder = kernels(1)
    for first, second in zip(kernels(1), (encoder, decoder), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.allclose(encoder, kernels(2)[0])
    assert not np.allclose(encoder, decoder)
    assert not np.allclose(encoder, decoder.T)


def test_training_is_a_function_of_the_seed():
    def trained(seed):
        layer = built(seed=seed, corruption=0.5)
        train(layer, sda.losses.CrossEntropy(), epochs=2, batch_size=3)
        return numbers(layer)["W"]

    first = trained(1)
    np.testing.assert_array_equal(trained(1), first)
    assert not np.allclose(trained(2), first)


def test_seed_reaches_an_unseeded_corruption_and_leaves_a_seeded_one():
    seeded, unseeded = sda.SwapNoise(0.5, seed=7), sda.SwapNoise(0.5)
    assert built(corruption=seeded).corruption is seeded
    copied = built(corruption=unseeded).corruption
    assert copied is not unseeded
    assert copied.seed is not None
    assert copied.seed == built(corruption=0.5).corruption.seed
    assert built(corruption=0.5, seed=2).corruption.seed != copied.seed


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("tied", [True, False])
def test_noise_is_on_the_input_never_on_the_code(activation, tied):
    """At rate 1 the encoder sees zeros, and the decoder the whole code of them, s(b)."""
    layer = built(activation=activation, tied=tied, corruption=1.0)
    v = numbers(layer)
    code = FUNCTIONS[activation][0](v["b"])
    expected = sigmoid(code @ (v["W"].T if tied else v["V"]) + v["c"])
    out = ops.convert_to_numpy(layer(X.astype("float32"), training=True))
    np.testing.assert_allclose(out, np.tile(expected, (len(X), 1)), rtol=1e-5)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_encode_applies_the_activation_without_noise(activation):
    layer = built(activation=activation, corruption=1.0)
    v = numbers(layer)
    expected = FUNCTIONS[activation][0](X @ v["W"] + v["b"])
    codes = layer.encode(X.astype("float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(codes), expected, rtol=1e-5, atol=1e-6)


REBUILT = {
    "tied": lambda: built(),
    "untied": lambda: built(tied=False),
    "no known slope": lambda: built(activation="gelu"),
    "code layers": lambda: built(None, encoder=Dense(UNITS), code_layers=[Activation("tanh")]),
}


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)], ids=["rows", "rank 3"])
@pytest.mark.parametrize("make_layer", REBUILT.values(), ids=REBUILT)
def test_rebuild_is_decode_of_encode(make_layer, shape, logits):
    layer, x = make_layer(), ops.convert_to_tensor(X.reshape(shape).astype("float32"))
    expected = layer.decode(layer.encode(x), logits=logits)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.rebuild(x, logits=logits)),
        ops.convert_to_numpy(expected),
        rtol=1e-5,
        atol=1e-6,
    )


def test_decode_takes_arrays_of_any_float_and_gives_logits():
    layer = built()
    v = numbers(layer)
    codes = RNG.uniform(size=(4, UNITS))
    logits = codes @ v["W"].T + v["c"]
    for dtype in ("float64", "float32"):
        given = codes.astype(dtype)
        actual = ops.convert_to_numpy(layer.decode(given, logits=True))
        np.testing.assert_allclose(actual, logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            ops.convert_to_numpy(layer.decode(given)), sigmoid(logits), rtol=1e-5
        )


def test_code_layers_belong_to_the_code_and_run_in_inference_mode():
    layer = built(None, encoder=Dense(UNITS), code_layers=[Activation("tanh"), Dropout(0.5)])
    v = numbers(layer)
    expected = sigmoid(np.tanh(X @ v["W"] + v["b"]) @ v["W"].T + v["c"])
    layer.corruption.rate = 0.0
    out = layer(X.astype("float32"), training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(out), expected, rtol=1e-5)
    assert layer.activation is keras.activations.tanh


def test_a_shared_encoder_stays_shared_through_training_and_reload(tmp_path):
    encoder = Dense(UNITS, "sigmoid", name="shared")
    inputs = keras.Input((5,))
    layer = built(None, encoder=encoder, name="dA")
    assert layer.encoder is encoder
    outputs = {"label": Dense(2, name="label")(encoder(inputs)), "rebuilt": layer(inputs)}
    model = keras.Model(inputs, outputs)
    # W, b and b', and the two of the output layer.
    assert len(model.trainable_variables) == 5

    def check(model):
        """Both outputs come from one kernel: return it."""
        v, (kernel, bias) = numbers(model.get_layer("dA")), model.get_layer("label").get_weights()
        code = sigmoid(X @ v["W"] + v["b"])
        out = model(X.astype("float32"))
        label, rebuilt = (ops.convert_to_numpy(out[key]) for key in ("label", "rebuilt"))
        np.testing.assert_allclose(label, code @ kernel + bias, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rebuilt, sigmoid(code @ v["W"].T + v["c"]), rtol=1e-4)
        return v["W"]

    def train_both(model):
        """Train the dA, then the classifier; return the kernels on the way."""
        kernels = [check(model)]
        train(model.get_layer("dA"), sda.losses.CrossEntropy())
        kernels.append(check(model))
        classifier = keras.Model(model.inputs, model.output["label"])
        classifier.compile("sgd", "mse")
        classifier.fit(X, np.ones((6, 2)), verbose=0)
        kernels.append(check(model))
        assert min(abs(a - b).max() for a, b in pairwise(kernels)) > 1e-4
        return kernels[-1]

    last = train_both(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("dA").encoder is loaded.get_layer("shared")
    assert len(loaded.trainable_variables) == 5
    np.testing.assert_array_equal(check(loaded), last)
    train_both(loaded)


@pytest.mark.parametrize("tied", [True, False])
def test_dA_trains_in_plain_keras_models(tied):
    inputs = keras.Input((5,))
    for wrap in (
        lambda layer: keras.Model(inputs, layer(inputs)),
        lambda layer: keras.Sequential([inputs, layer]),
    ):
        layer = sda.dA(8, corruption=0.1, tied=tied, seed=1)
        model = wrap(layer)
        model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
        before, loss = numbers(layer), model.evaluate(X, X, verbose=0)
        model.fit(X, X, batch_size=3, epochs=8, verbose=0)
        assert model.evaluate(X, X, verbose=0) < 0.9 * loss
        assert all((value != before[name]).any() for name, value in numbers(layer).items())


def test_dA_is_the_same_class():
    assert sda.dA is sda.DenoisingAutoencoder


def wide():
    layer = Dense(3)
    layer.build((None, 7))
    return layer


def make(units=None, encoder=None, **kwargs):
    return sda.DenoisingAutoencoder(units, encoder=encoder, **kwargs)


def build(shape, **kwargs):
    return make(**kwargs).build(shape)


BAD = {
    **{
        f"units {units!r}": (lambda units=units: make(units), f"`units` {INTEGER}; units={units!r}")
        for INTEGER in ["to be an integer, at least 1"]
        for units in (None, 0, -1, 2.5, True, "3", [3])
    },
    **{
        f"tied {tied!r}": (
            lambda tied=tied: make(3, tied=tied), f"`tied` to be True or False; tied={tied!r}",
        )
        for tied in ("yes", None, 1)
    },
    "corruption": (
        lambda: make(3, corruption="masking"), "`corruption` to be; corruption='masking'",
    ),
    "level": (lambda: make(3, corruption=1.5), "`rate` to be a number, between 0 and 1; rate=1.5"),
    "seed": (lambda: make(3, seed=-1), "`seed` to be a non-negative integer or None; seed=-1"),
    "initializer": (
        lambda: make(3, kernel_initializer=lambda *_: 0), "`kernel_initializer` to be a Keras "
        "initializer; kernel_initializer=<function",
    ),
    "encoder class": (
        lambda: make(encoder=Activation("relu")), "`encoder` to be a keras.layers.Dense; "
        "encoder=<Activation",
    ),
    "encoder without bias": (
        lambda: make(encoder=Dense(3, use_bias=False)), "`encoder` to have a bias; use_bias=False",
    ),
    "units against encoder": (
        lambda: make(4, encoder=Dense(3)), "`units` to be left out or 3; units=4",
    ),
    "activation against encoder": (
        lambda: make(encoder=Dense(3, "relu"), activation="tanh"),
        "`activation` to be left out; activation='tanh'",
    ),
    "initializer against tied encoder": (
        lambda: make(encoder=Dense(3), kernel_initializer="he_normal"),
        "`kernel_initializer` to be left out; kernel_initializer='he_normal'",
    ),
    "code layers with weights": (
        lambda: make(encoder=Dense(3), code_layers=[wide()]),
        "`code_layers` to hold Keras layers without weights; <Dense",
    ),
    "code layers that will have weights": (
        lambda: build((None, 5), encoder=Dense(3), code_layers=[Dense(2)]),
        "`code_layers` to hold Keras layers without weights; <Dense",
    ),
    "code layers, not layers": (
        lambda: make(encoder=Dense(3), code_layers=["relu"]),
        "`code_layers` to hold Keras layers without weights; 'relu'",
    ),
    "width": (
        lambda: build((None, 5), encoder=wide()),
        "inputs with 7 features, as `encoder` has; input_shape=(None, 5)",
    ),
    "unknown width": (
        lambda: build((None, None), units=3), "a known last axis; input_shape=(None, None)",
    ),
    "rank": (lambda: build((5,), units=3), "inputs of shape (batch, ; input_shape=(5,)"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(call, message):
    expected, received = (re.escape(part) for part in message.split("; "))
    with pytest.raises(ValueError, match=f"(?s)^Expected .*{expected}.*Received: .*{received}"):
        call()


def test_arguments_that_an_encoder_allows():
    encoder = Dense(3, "relu")
    assert make(3, encoder=encoder, activation="relu").units == 3
    untied = make(encoder=encoder, tied=False, kernel_initializer="ones")
    untied.build((None, 5))
    assert (numbers(untied)["V"] == 1).all()
    assert not (numbers(untied)["W"] == 1).any()
