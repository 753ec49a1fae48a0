import json
import re

import keras
import numpy as np
import pytest
from gradients import central_differences, gradient
from keras import ops
from keras.layers import Activation, Dense, Dropout

import sda
from sda.losses.derivatives import SLOPES
from sda.models.denoising import Denoising

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(6, 5))
UNITS = 4
RATE = 0.2
TARGET, BETA, LAMBDA, LASSO = 0.2, 0.7, 0.5, 0.3


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


FUNCTIONS = {"sigmoid": sigmoid, "tanh": np.tanh, "softplus": lambda a: np.log1p(np.exp(a))}


def kl(h):
    mean = h.mean(axis=0)
    return (TARGET * np.log(TARGET / mean) + (1 - TARGET) * np.log((1 - TARGET) / (1 - mean))).sum()


def jacobian_norm(encode, x):
    """The squared norm of ∂encode(x)/∂x, by central differences, averaged over the examples."""
    total = 0.0
    for i in range(x.shape[1]):
        step = np.zeros(x.shape[1])
        step[i] = 1e-5
        total += (((encode(x + step) - encode(x - step)) / 2e-5) ** 2).sum() / len(x)
    return total


def made(activation="sigmoid", tied=True, **penalties):
    """A dA with biases other than 0, without noise."""
    layer = sda.DenoisingAutoencoder(UNITS, 0.0, activation, tied=tied, seed=1, **penalties)
    layer.build((None, 5))
    layer.encoder.bias.assign(np.linspace(-0.3, 0.4, UNITS))
    layer.visible_bias.assign(np.linspace(-0.2, 0.5, 5))
    return layer


def numbers(layer):
    """The variables of a dA under the names of the formula, in float64."""
    variables = {"W": layer.encoder.kernel, "b": layer.encoder.bias, "c": layer.visible_bias}
    if not layer.tied:
        variables["V"] = layer.decoder_kernel
    return {n: ops.convert_to_numpy(v.value).astype("float64") for n, v in variables.items()}


def step(layer, eagerly):
    """The gradient that one step of SGD takes, and the logs of the step."""
    model = Denoising(layer, sda.losses.SquaredError())
    model.compile(keras.optimizers.SGD(RATE), run_eagerly=eagerly)
    before = numbers(layer)
    history = sda.fit(model, X, batch_size=len(X), verbose=0)
    after = numbers(layer)
    return {name: (before[name] - after[name]) / RATE for name in before}, history.history


PENALTIES = {
    "KL": ({"sparsity": sda.penalties.KLSparsity(TARGET, BETA)}, ("sigmoid",)),
    "L1": ({"sparsity": keras.regularizers.L1(LASSO)}, ("tanh",)),
    "contraction": ({"contraction": LAMBDA}, ("sigmoid", "tanh", "softplus")),
    "both": (
        {"sparsity": sda.penalties.KLSparsity(TARGET, BETA), "contraction": LAMBDA}, ("sigmoid",),
    ),
}  # fmt: skip
CASES = [
    (name, activation, tied)
    for name, (_, activations) in PENALTIES.items()
    for activation in activations
    for tied in (True, False)
    if tied or (activation == "sigmoid" and name in ("contraction", "both"))
]


def penalties_in_numpy(name, activation, W, b):
    encode = lambda x: FUNCTIONS[activation](x @ W + b)  # noqa: E731
    found = {}
    if name in ("KL", "both"):
        found["sparsity"] = BETA * kl(encode(X))
    if name == "L1":
        found["sparsity"] = LASSO * np.abs(encode(X)).sum() / len(X)
    if name in ("contraction", "both"):
        found["contraction"] = LAMBDA * jacobian_norm(encode, X)
    return found


@pytest.mark.parametrize(("name", "activation", "tied"), CASES)
def test_value_and_gradient_are_those_of_finite_differences(name, activation, tied):
    layer = made(activation, tied, **PENALTIES[name][0])
    variables = numbers(layer)

    def reconstruction(W, b, c, V=None):
        z = sigmoid(FUNCTIONS[activation](X @ W + b) @ (W.T if V is None else V) + c)
        return ((X - z) ** 2).sum() / len(X)

    def penalty(W, b, **_):
        return sum(penalties_in_numpy(name, activation, W, b).values())

    def differences(function, key):
        return central_differences(
            lambda value: function(**{**variables, key: value}), variables[key], 1e-4
        )

    expected = penalties_in_numpy(name, activation, variables["W"], variables["b"])
    # One compiled, the others not: compiling takes most of the time.
    found, logs = step(layer, eagerly=(name, tied) != ("both", True))
    assert set(logs) == {"loss", *expected}
    for key, value in expected.items():
        assert logs[key][0] == pytest.approx(value, rel=1e-4)
    assert logs["loss"][0] == pytest.approx(
        reconstruction(**variables) + sum(expected.values()), rel=1e-4
    )
    for key in variables:
        of_penalty = differences(penalty, key)
        # The penalty reaches the encoder's variables, and only these.
        assert (abs(of_penalty).max() > 1e-2) == (key in ("W", "b"))
        np.testing.assert_allclose(
            found[key], differences(reconstruction, key) + of_penalty, atol=2e-4, err_msg=key
        )


def test_plain_keras_fit_takes_the_same_step():
    settings = PENALTIES["both"][0]
    expected, logs = step(made(**settings), eagerly=True)
    layer = made(**settings)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(keras.optimizers.SGD(RATE), sda.losses.SquaredError())
    before = numbers(layer)
    history = model.fit(X, X, batch_size=len(X), shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(logs["loss"][0], rel=1e-5)
    for name, value in numbers(layer).items():
        np.testing.assert_allclose((before[name] - value) / RATE, expected[name], atol=1e-4)


def test_there_is_no_penalty_in_inference():
    layer = made(**PENALTIES["both"][0])
    for training, count in ((False, 0), (True, 2), (None, 0)):
        layer(X.astype("float32"), training=training)
        assert len(layer.losses) == count


@pytest.mark.parametrize("activation", SLOPES, ids=keras.activations.serialize)
def test_slopes_are_the_derivatives(activation):
    # Not at 0, where some have a kink.
    a = np.linspace(-4, 4, 40).astype("float32")
    expected = gradient(lambda a: ops.sum(activation(a)), a)
    actual = SLOPES[activation](activation(ops.convert_to_tensor(a)))
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e-12, 1.0])
def test_units_that_are_always_off_or_on_keep_a_finite_gradient(mean):
    penalty = sda.penalties.KLSparsity(0.05)
    codes = np.full((4, 3), mean, "float32")
    slope = gradient(penalty, codes)
    assert np.isfinite(slope).all()
    # Downhill is towards the target.
    assert (np.sign(slope) == (1 if mean > 0.05 else -1)).all()


def test_the_target_itself_costs_nothing():
    penalty = sda.penalties.KLSparsity(0.1, 3.0)
    codes = np.array([[0.05, 0.1], [0.15, 0.1]], "float32")
    assert float(penalty(codes)) == pytest.approx(0, abs=1e-5)
    assert float(penalty(codes + 0.1)) > 0.1


def test_as_an_activity_regularizer_of_keras_it_has_the_same_scale():
    layer = Dense(UNITS, "sigmoid", activity_regularizer=sda.penalties.KLSparsity(TARGET, BETA))
    codes = ops.convert_to_numpy(layer(X.astype("float32"))).astype("float64")
    loss = float(ops.convert_to_numpy(layer.losses[0]))
    assert loss == pytest.approx(BETA * kl(codes), rel=1e-4)


def test_examples_of_more_axes_are_summed_over_their_positions():
    layer = made("tanh", sparsity=keras.regularizers.L1(LASSO), contraction=LAMBDA)
    x = X.reshape(2, 3, 5).astype("float32")
    flat, deep = (layer.penalties(layer.encode(rows)) for rows in (x.reshape(6, 5), x))
    for name in ("sparsity", "contraction"):
        assert float(deep[name]) == pytest.approx(3 * float(flat[name]), rel=1e-5)


def test_code_layers_are_part_of_the_code():
    whole = made("tanh", contraction=1.0)
    parts = sda.DenoisingAutoencoder(
        encoder=Dense(UNITS), code_layers=[Activation("tanh"), Dropout(0.5)], contraction=1.0
    )
    parts.build((None, 5))
    parts.encoder.set_weights(whole.encoder.get_weights())
    x = X.astype("float32")
    values = [float(la.penalties(la.encode(x))["contraction"]) for la in (whole, parts)]
    assert values[1] == pytest.approx(values[0], rel=1e-6)


# What training with them does


def pretrained(x=None, validation=None, epochs=40, units=8, rate=0.2, **settings):
    stack = sda.StackedDenoisingAutoencoder(units, corruption=0.0, seed=1, **settings)
    pretrainer = sda.GreedyPretrainer(
        stack, keras.optimizers.SGD(rate), epochs=epochs, batch_size=50, seed=1
    )
    x = rows() if x is None else x
    return stack, pretrainer.fit(x, validation_data=validation, verbose=0)


def rows():
    return np.random.default_rng(1).random((200, 12)).astype("float32")


@pytest.fixture(scope="module")
def plain():
    """A stack that was pretrained without penalties."""
    return pretrained()[0]


def norm_of(stack):
    W, b = (v.astype("float64") for v in stack.autoencoders[0].encoder.get_weights())
    return jacobian_norm(lambda x: sigmoid(x @ W + b), rows().astype("float64"))


def test_training_brings_mean_activations_to_the_target(plain):
    before = plain.encode(rows()).mean(axis=0)
    sparse, (history,) = pretrained(sparsity=sda.penalties.KLSparsity(0.1, weight=6.0), epochs=80)
    means = sparse.encode(rows()).mean(axis=0)
    assert abs(before - 0.1).mean() > 0.2
    np.testing.assert_allclose(means, 0.1, atol=0.02)
    assert history.history["sparsity"][-1] < 0.05 * history.history["sparsity"][0]


def test_training_contracts_the_jacobian_and_l1_lowers_the_codes(plain):
    contracted, (history,) = pretrained(contraction=0.5)
    assert norm_of(contracted) < 0.5 * norm_of(plain)
    assert history.history["contraction"][-1] < 0.5 * history.history["contraction"][0]
    lowered, _ = pretrained(sparsity=keras.regularizers.L1(0.5))
    assert lowered.encode(rows()).mean() < 0.5 * plain.encode(rows()).mean()


def test_logs_of_each_layer_with_validation():
    # At a rate of 0 nothing moves: training and validation see the same.
    stack, histories = pretrained(
        validation=rows(), epochs=1, units=[8, 6], rate=0.0,
        sparsity=[sda.penalties.KLSparsity(0.1), None], contraction=[0.0, 0.5],
    )  # fmt: skip
    for history, name in zip(histories, ("sparsity", "contraction"), strict=True):
        logs = {key: values[0] for key, values in history.history.items()}
        assert set(logs) == {"loss", name, "val_loss", "val_clean_loss", f"val_{name}"}
        assert logs["val_loss"] == pytest.approx(logs["val_clean_loss"], rel=1e-5)
        assert logs["loss"] == pytest.approx(logs["val_loss"] + logs[name], rel=1e-4)
    codes = stack.encode(rows(), layer=0).astype("float64")
    W, b = (v.astype("float64") for v in stack.autoencoders[1].encoder.get_weights())
    expected = 0.5 * jacobian_norm(lambda h: sigmoid(h @ W + b), codes)
    assert histories[1].history["contraction"][0] == pytest.approx(expected, rel=1e-4)
    assert histories[1].history["val_contraction"][0] == pytest.approx(expected, rel=1e-4)


def test_penalties_act_on_what_the_layer_was_shown():
    layer = sda.DenoisingAutoencoder(UNITS, 1.0, sparsity=keras.regularizers.L1(1.0), seed=1)
    layer.build((None, 5))
    # Everything is masked, so that the codes are s(b).
    layer.encoder.bias.assign(np.linspace(-2, 2, UNITS))
    _, logs = step(layer, eagerly=True)
    expected = sigmoid(np.linspace(-2, 2, UNITS)).sum()
    assert logs["sparsity"][0] == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_computes_penalties_in_float32():
    layer = made(dtype="mixed_bfloat16", **PENALTIES["both"][0])
    found = layer.penalties(layer.encode(X.astype("float32")))
    W, b = numbers(layer)["W"], numbers(layer)["b"]
    for name, value in penalties_in_numpy("both", "sigmoid", W, b).items():
        assert keras.backend.standardize_dtype(found[name].dtype) == "float32"
        assert float(found[name]) == pytest.approx(value, rel=0.02)


def test_the_fine_tuned_network_has_no_penalty():
    stack, _ = pretrained(epochs=0, contraction=0.5, sparsity="l1")
    stack.build((None, 12))
    classifier = stack.classifier(3)
    classifier(rows())
    assert classifier.losses == []


@pytest.mark.parametrize("kind", ["kernel_regularizer", "activity_regularizer"])
def test_regularizers_of_a_shared_encoder_act_in_pretraining(kind):
    """Those of Keras on the `Dense`: they stay with it, in fine-tuning too."""
    layers = []
    for settings in ({}, {kind: keras.regularizers.L2(0.3)}):
        encoder = Dense(UNITS, "sigmoid", **settings)
        layer = sda.DenoisingAutoencoder(encoder=encoder, corruption=0.0, seed=1)
        layer.build((None, 5))
        encoder.kernel.assign(made().encoder.kernel)
        layers.append(layer)
    W = numbers(layers[0])["W"]
    plain, logs = step(layers[0], eagerly=True)
    found, penalised_logs = step(layers[1], eagerly=True)

    def penalty(W):
        if kind == "kernel_regularizer":
            return 0.3 * (W**2).sum()
        return 0.3 * (sigmoid(X @ W) ** 2).sum() / len(X)

    expected = central_differences(penalty, W)
    assert abs(expected).max() > 0.01
    np.testing.assert_allclose(found["W"] - plain["W"], expected, atol=1e-4)
    assert penalised_logs["loss"][0] - logs["loss"][0] == pytest.approx(penalty(W), rel=1e-4)


# Settings


def test_one_value_a_layer_and_through_files(tmp_path):
    sparse = sda.penalties.KLSparsity(0.1, 2.0)
    stack = sda.StackedDenoisingAutoencoder(
        [8, 6, 4], sparsity=[sparse, None, "l1"], contraction=[0.5, 0.0, 0.25], seed=1
    )
    stack.build((None, 12))
    stack.save(tmp_path / "stack.keras")
    loaded = sda.load_model(tmp_path / "stack.keras")
    for one in (stack, loaded):
        assert [a.contraction for a in one.autoencoders] == [0.5, 0.0, 0.25]
        first, second, third = (a.sparsity for a in one.autoencoders)
        assert (first.target, first.weight, second) == (0.1, 2.0, None)
        assert type(third) is keras.regularizers.L1
    dA = made(sparsity=sparse, contraction=0.5)
    copy = sda.DenoisingAutoencoder.from_config(json.loads(json.dumps(dA.get_config())))
    assert all(copy.get_config()[key] == dA.get_config()[key] for key in PENALTIES["both"][0])
    x = X.astype("float32")
    copy(x)
    copy.encoder.set_weights(dA.encoder.get_weights())
    for name, value in dA.penalties(dA.encode(x)).items():
        assert float(copy.penalties(copy.encode(x))[name]) == float(value)


def test_penalties_on_the_layers_of_a_model():
    mlp = keras.Sequential([keras.Input((5,)), Dense(4, "relu"), Dense(3, "tanh"), Dense(2)])
    stack = sda.StackedDenoisingAutoencoder.from_model(mlp, sparsity="l2", contraction=[0.5, 0.25])
    assert [a.contraction for a in stack.autoencoders] == [0.5, 0.25]
    assert all(type(a.sparsity) is keras.regularizers.L2 for a in stack.autoencoders)


class Bent(keras.layers.Layer):
    def call(self, x):
        return x * x


KL = sda.penalties.KLSparsity
BAD = {
    "target 0": (lambda: KL(0.0), "`target` to be a number, in (0, 1); target=0.0"),
    "target 1": (lambda: KL(1), "`target` to be a number, in (0, 1); target=1"),
    "weight": (lambda: KL(weight=-1), "`weight` to be a number, finite and; weight=-1"),
    "contraction": (lambda: made(contraction=-0.1), "`contraction` to be a; contraction=-0.1"),
    "no number": (lambda: made(contraction="0.1"), "`contraction` to be a; contraction='0.1'"),
    "infinite": (lambda: made(contraction=float("inf")), "`contraction` to; contraction=inf"),
    "sparsity": (lambda: made(sparsity=0.1), "`sparsity` to be a keras.reg; sparsity=0.1"),
    "a name": (lambda: made(sparsity="l7"), "`sparsity` to be a keras.reg; sparsity='l7'"),
    "a function": (lambda: made(sparsity=abs), "`sparsity` to be a keras.reg; sparsity="),
    "KL of tanh": (
        lambda: made("tanh", sparsity=KL()), "codes in [0, 1], as those of a sigmoid; activation=",
    ),
    "no known derivative": (
        lambda: made("gelu", contraction=0.1), "a known derivative under `contraction`, one of elu"
        "; activation=<function gelu",
    ),
    "derivative of softmax": (
        lambda: made("softmax", contraction=0.1), "a known derivative; activation=<function softm",
    ),
    "two activations": (
        lambda: sda.dA(encoder=Dense(3, "tanh"), code_layers=[Activation("tanh")], contraction=1),
        "a known derivative under `contraction`; code_layers=[<Activation",
    ),
    "any other layer": (
        lambda: sda.dA(encoder=Dense(3, "tanh"), code_layers=[Bent()], contraction=1),
        "a known derivative under `contraction`; code_layers=[<Bent",
    ),
    "on the reconstruction": (
        lambda: made(activity_regularizer="l2"),
        "`activity_regularizer` to be left out; activity_regularizer=<keras",
    ),
    "length": (
        lambda: sda.StackedDenoisingAutoencoder([4, 3], contraction=[0.1]),
        "`contraction` to be one value or a list of 2; contraction=[0.1]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(call, message):
    expected, received = (re.escape(part) for part in message.split("; "))
    with pytest.raises(ValueError, match=f"(?s)^Expected .*{expected}.*Received: .*{received}"):
        call()
