import json

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
        ("encoder_model", []),
        ("unrolled", []),
    ],
)
def test_two_models_of_one_stack_fit_into_one_model_under_names_of_their_own(x, method, arguments):
    make = getattr(built_stack(), method)
    first, second = make(*arguments), make(*arguments, name="second")
    assert (first.name, second.name) == (method.removesuffix("_model"), "second")
    inputs = keras.Input((12,))
    both = keras.Model(inputs, [first(inputs), second(inputs)])
    for output, model in zip(both.predict(x, verbose=0), (first, second), strict=True):
        np.testing.assert_allclose(output, model.predict(x, verbose=0), atol=1e-6)


def doubled_tanh(a):
    return keras.ops.tanh(2 * a)


@pytest.mark.parametrize("method", ["encoder_model", "unrolled"])
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


# Files of models in which layers are shared


def shared_dense():
    return layers.Dense(5, "sigmoid", name="shared")


def dA(encoder=None, **settings):
    units = 5 if encoder is None else None
    return sda.DenoisingAutoencoder(units, encoder=encoder, seed=1, **settings)


def an_encoder_before_its_dA(inputs):
    layer = dA()
    layer.build((None, 12))
    return [layer.encoder(inputs), layer(inputs)]


def an_encoder_behind_its_dA(inputs):
    layer = dA(tied=False, kernel_initializer="he_normal")
    return [layer(inputs), layer.encoder(inputs)]


def a_dense_before_its_dA(inputs):
    dense = shared_dense()
    return [dense(inputs), dA(dense)(inputs)]


def a_dense_behind_its_dA(inputs):
    dense = shared_dense()
    return [dA(dense, code_layers=[layers.Dropout(0.5)])(inputs), dense(inputs)]


def two_dAs_on_one_dense(inputs):
    dense = shared_dense()
    return [dA(dense)(inputs), dA(dense, tied=False)(inputs)]


def two_dAs_on_the_encoder_of_one(inputs):
    first = dA()
    rebuilt = first(inputs)
    return [rebuilt, dA(first.encoder)(inputs), first.encoder(inputs)]


def a_dA_in_a_nested_model(inputs):
    dense = shared_dense()
    inner = keras.Sequential([keras.Input((12,)), dA(dense)])
    return [inner(inputs), dense(inputs)]


def a_dA_in_a_nested_model_behind_its_dense(inputs):
    dense = shared_dense()
    codes = dense(inputs)
    inner = keras.Sequential([keras.Input((12,)), dA(dense)])
    return [codes, inner(inputs)]


def a_dense_nested_behind_its_dA(inputs):
    layer = dA()
    rebuilt = layer(inputs)
    return [rebuilt, keras.Sequential([keras.Input((12,)), layer.encoder])(inputs)]


def dA_and_dense_in_one_nested_model(inputs):
    within = keras.Input((12,))
    return keras.Model(within, an_encoder_behind_its_dA(within))(inputs)


def dAs_in_two_nested_models(inputs):
    dense = shared_dense()
    return [keras.Sequential([keras.Input((12,)), dA(dense)])(inputs) for _ in range(2)]


def a_stack_and_its_classifier(inputs):
    stack = built_stack()
    return [stack(inputs), stack.classifier(3, dropout=0.2)(inputs)]


def a_stack_and_its_first_dA(inputs):
    stack = built_stack()
    return [stack(inputs), stack.autoencoders[0](inputs)]


def a_dA_and_its_stack(inputs):
    stack = built_stack()
    return [stack.autoencoders[0](inputs), stack(inputs)]


ARRANGEMENTS = [
    an_encoder_before_its_dA,
    an_encoder_behind_its_dA,
    a_dense_before_its_dA,
    a_dense_behind_its_dA,
    two_dAs_on_one_dense,
    two_dAs_on_the_encoder_of_one,
    a_dA_in_a_nested_model,
    a_dA_in_a_nested_model_behind_its_dense,
    a_dense_nested_behind_its_dA,
    dA_and_dense_in_one_nested_model,
    dAs_in_two_nested_models,
    a_stack_and_its_classifier,
    a_stack_and_its_first_dA,
    a_dA_and_its_stack,
]


@pytest.mark.parametrize("load", [keras.saving.load_model, sda.load_model])
@pytest.mark.parametrize("outputs", ARRANGEMENTS)
def test_what_layers_share_outlives_a_file(x, tmp_path, outputs, load):
    inputs = keras.Input((12,))
    model = keras.Model(inputs, outputs(inputs))
    generator = np.random.default_rng(4)
    for variable in model.weights:
        variable.assign(generator.normal(0, 0.7, variable.shape))
    model.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]
    for scale in (1.0, 0.5):
        # A variable is one: what it is set to, all outputs see.
        for made in (model, loaded):
            kernel = next(w for w in made.weights if w.shape[0] == 12 and len(w.shape) == 2)
            kernel.assign(scale * kernel.value)
        actual, expected = (made.predict(x, verbose=0) for made in (loaded, model))
        for some, others in zip(actual, expected, strict=True):
            np.testing.assert_allclose(some, others, atol=1e-6)


def test_an_encoder_is_the_dAs_own_again_after_a_file(x, tmp_path):
    settings = {"kernel_initializer": "he_normal", "activation": doubled_tanh, "tied": False}
    layer = sda.DenoisingAutoencoder(5, **settings, seed=3)
    model = keras.Sequential([keras.Input((12,)), layer])
    model.save(tmp_path / "model.keras")
    custom_objects = {"doubled_tanh": doubled_tanh}
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects).layers[0]
    with keras.saving.custom_object_scope(custom_objects):
        configs = [json.dumps(made.get_config(), sort_keys=True) for made in (loaded, layer)]
        assert configs[0] == configs[1]
        # Outside a file it is described by its settings, which may be changed.
        other = type(loaded).from_config({**loaded.get_config(), "units": 4})
    other.build((None, 7))
    assert other.encoder.kernel.shape == (7, 4)


@pytest.mark.parametrize("changes", ["quantized", "adapted"])
def test_a_changed_kernel_of_an_own_encoder_outlives_a_file(x, tmp_path, changes):
    stack = built_stack()
    for change in CHANGED[changes]:
        change(stack.autoencoders[0].encoder)
    stack.save(tmp_path / "stack.keras")
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    np.testing.assert_allclose(loaded.reconstruct(x), stack.reconstruct(x), atol=1e-6)
    kernels = [keras.ops.convert_to_numpy(s.autoencoders[0].filters()) for s in (loaded, stack)]
    np.testing.assert_allclose(*kernels, atol=1e-6)


def nested_before(inputs, later):
    dense = shared_dense()
    codes = keras.Sequential([keras.Input((12,)), dense])(inputs)
    return [codes, later(dense)(inputs)]


@pytest.mark.filterwarnings("ignore")  # of Keras, before it gives up
@pytest.mark.parametrize("later", [lambda dense: dense, dA], ids=["stock Keras", "dA"])
def test_a_dense_first_met_within_a_nested_model_is_no_longer_shared(tmp_path, later):
    """Keras copies the config of a nested model before it knows what is shared."""
    inputs = keras.Input((12,))
    model = keras.Model(inputs, nested_before(inputs, later))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"Expected `path`.*could not be loaded"):
        sda.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("hold", [layers.TimeDistributed, dA], ids=["stock Keras", "dA"])
def test_a_clone_shares_no_layers(hold):
    """Keras clones layer by layer, those that hold another one as well."""
    inputs, dense = keras.Input((3, 12)), shared_dense()
    model = keras.Model(inputs, [dense(inputs), hold(dense)(inputs)])
    clone = keras.models.clone_model(model)
    assert len(clone.weights) == len(model.weights) + 2
