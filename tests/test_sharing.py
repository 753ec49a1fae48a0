import keras
import numpy as np
import pytest
from keras import layers

import sda


@pytest.fixture
def x():
    return np.random.default_rng(0).random((20, 12), "float32")


def hidden():
    return [layers.Dense(8, "relu"), layers.Dropout(0.5), layers.Dense(5, "tanh"), layers.Dense(3)]


def listed():
    return keras.Sequential([keras.Input((12,)), *hidden()])


def added():
    model = keras.Sequential()
    for layer in [keras.Input((12,)), *hidden()]:
        model.add(layer)
    return model


def built_later():
    model = keras.Sequential(hidden())
    model.build((None, 12))
    return model


def popped():
    model = added()
    model.add(layers.Dense(2))
    model.pop()
    return model


def functional():
    inputs = output = keras.Input((12,))
    for layer in hidden():
        output = layer(output)
    return keras.Model(inputs, output)


def called_elsewhere():
    model = functional()
    keras.Sequential([keras.Input((12,)), *model.layers[1:]])
    return model


# Building around a model


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("make", [listed, added, built_later, popped, functional, called_elsewhere])
def test_from_model_takes_a_chain_however_it_was_made(x, tmp_path, make, loaded):
    model = make()
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    stack = sda.StackedDenoisingAutoencoder.from_model(model, seed=1)
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    assert [a.encoder for a in stack.autoencoders] == dense[:-1]
    (first, b), (second, c) = (layer.get_weights() for layer in dense[:-1])
    expected = np.tanh(np.maximum(x.astype("float64") @ first + b, 0) @ second + c)
    np.testing.assert_allclose(stack.encode(x), expected, atol=1e-5)


# The models that a stack makes


def built_stack(activation="sigmoid"):
    stack = sda.StackedDenoisingAutoencoder([8, 5], activation=activation, seed=1)
    stack.build((None, 12))
    return stack


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("classifier", [3]),
        ("multilabel_classifier", [3]),
        ("regressor", [3]),
        ("encoder", []),
        ("unrolled", []),
    ],
)
def test_two_models_of_one_stack_fit_into_one_model_under_names_of_their_own(x, method, arguments):
    make = getattr(built_stack(), method)
    first, second = make(*arguments), make(*arguments, name="second")
    assert (first.name, second.name) == (method, "second")
    inputs = keras.Input((12,))
    both = keras.Model(inputs, [first(inputs), second(inputs)])
    for output, model in zip(both.predict(x, verbose=0), (first, second), strict=True):
        np.testing.assert_allclose(output, model.predict(x, verbose=0), atol=1e-6)


def doubled_tanh(a):
    return keras.ops.tanh(2 * a)


@pytest.mark.parametrize("method", ["encoder", "unrolled"])
def test_copies_keep_an_activation_that_is_registered_nowhere(x, method):
    stack = built_stack(doubled_tanh)
    own = getattr(stack, method)(copy=True)
    shared = getattr(stack, method)()
    expected = x.astype("float64")
    for autoencoder in stack.autoencoders:
        kernel, bias = autoencoder.encoder.get_weights()
        expected = np.tanh(2 * (expected @ kernel + bias))
    codes = keras.ops.convert_to_numpy(keras.Sequential(own.layers[:2])(x))
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    np.testing.assert_allclose(own.predict(x, verbose=0), shared.predict(x, verbose=0), atol=1e-6)
    assert own.layers[0] is not shared.layers[0]
    before = own.predict(x, verbose=0)
    stack.autoencoders[0].encoder.kernel.assign(np.zeros((12, 8)))
    np.testing.assert_array_equal(own.predict(x, verbose=0), before)


# Kernels in force


def adapt(dense):
    dense.enable_lora(2)
    generator = np.random.default_rng(5)
    for variable in (dense.lora_kernel_a, dense.lora_kernel_b):
        variable.assign(generator.normal(size=variable.shape))


CHANGED = {
    "quantized": [lambda dense: dense.quantize("int8")],
    "adapted": [adapt],
    "adapted, then quantized": [adapt, lambda dense: dense.quantize("int8")],
}


@pytest.mark.parametrize("changes", CHANGED)
def test_a_tied_decoder_has_the_kernel_that_its_encoder_computes_with(changes):
    stack = sda.StackedDenoisingAutoencoder([5, 4], corruption=0.0, activation="linear", seed=1)
    stack.build((None, 6))
    for change in CHANGED[changes]:
        change(stack.autoencoders[0].encoder)
    dA = stack.autoencoders[0]
    x = np.random.default_rng(2).random((7, 6), "float32")
    # A row of the identity is quantized without a loss: the layer says its kernel itself.
    bias = keras.ops.convert_to_numpy(dA.encoder.bias)
    kernel = keras.ops.convert_to_numpy(dA.encoder(np.eye(6, dtype="float32"))) - bias
    codes = stack.encode(x, layer=0)
    z = codes @ kernel.T + keras.ops.convert_to_numpy(dA.visible_bias)
    np.testing.assert_allclose(stack.reconstruct(x, layer=0), 1 / (1 + np.exp(-z)), atol=1e-5)
    decoders = stack.unrolled(copy=False).layers[-1]
    np.testing.assert_allclose(decoders.get_weights()[0], kernel.T, atol=1e-5)
    with pytest.raises(ValueError, match="Expected `model` to have plain weights"):
        sda.tutorial_params.of(stack)
    before = stack.get_weights()
    with pytest.raises(ValueError, match="Expected `model` to have plain weights"):
        sda.tutorial_params.assign(stack, [np.ones((6, 5))])
    for some, others in zip(before, stack.get_weights(), strict=True):
        np.testing.assert_array_equal(some, others)


def test_a_kernel_of_four_bits_is_refused():
    dA = sda.DenoisingAutoencoder(4, seed=1)
    dA.build((None, 6))
    dA.encoder.quantize("int4")
    with pytest.raises(ValueError, match='quantized to "int8"'):
        dA.decode(np.ones((2, 4), "float32"))
