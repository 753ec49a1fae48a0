import keras
import numpy as np
import pytest
from keras import layers

import sda

ACTIVATIONS = {
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "linear": lambda a: a,
}


@pytest.fixture
def x():
    return np.random.default_rng(0).random((60, 12), "float32")


def built(units, **settings):
    """A stack whose weights, biases included, are all in play."""
    stack = sda.StackedDenoisingAutoencoder(list(units), seed=1, **settings)
    stack.build((None, 12))
    generator = np.random.default_rng(1)
    for variable in stack.trainable_variables:
        variable.assign(generator.normal(0, 0.7, variable.shape))
    return stack


def encoded(x, autoencoder):
    kernel, bias = autoencoder.encoder.get_weights()
    return ACTIVATIONS[autoencoder.encoder.activation.__name__](x @ kernel + bias)


def decoded(codes, autoencoder):
    kernel = autoencoder.encoder.get_weights()[0].T
    if not autoencoder.tied:
        kernel = keras.ops.convert_to_numpy(autoencoder.decoder_kernel)
    bias = keras.ops.convert_to_numpy(autoencoder.visible_bias)
    return ACTIVATIONS[autoencoder.decoder_activation.__name__](codes @ kernel + bias)


def weights(model):
    return [w.copy() for w in model.get_weights()]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


# Settings


def test_one_value_holds_for_every_layer():
    stack = sda.StackedDenoisingAutoencoder(
        [8, 5, 6], 0.25, "relu", "linear", tied=False, kernel_initializer="zeros"
    )
    stack.build((None, 12))
    assert [a.units for a in stack.autoencoders] == [8, 5, 6]
    for autoencoder in stack.autoencoders:
        assert autoencoder.corruption.rate == 0.25
        assert autoencoder.encoder.activation is keras.activations.relu
        assert autoencoder.decoder_activation is keras.activations.linear
        assert not autoencoder.tied
        assert not np.any(autoencoder.encoder.get_weights()[0])


def test_a_list_gives_each_layer_its_value():
    stack = sda.StackedDenoisingAutoencoder(
        [8, 5],
        corruption=[0.1, sda.GaussianNoise(2.0)],
        activation=["tanh", "relu"],
        decoder_activation=["linear", "sigmoid"],
        tied=[True, False],
        kernel_initializer=["zeros", "ones"],
    )
    stack.build((None, 12))
    first, second = stack.autoencoders
    assert (first.corruption.rate, second.corruption.stddev) == (0.1, 2.0)
    assert (first.encoder.activation.__name__, second.encoder.activation.__name__) == (
        "tanh",
        "relu",
    )
    assert first.decoder_activation is keras.activations.linear
    assert second.decoder_activation is keras.activations.sigmoid
    assert (first.tied, second.tied) == (True, False)
    assert np.all(first.encoder.get_weights()[0] == 0)
    assert np.all(second.encoder.get_weights()[0] == 1)


def test_an_integer_makes_a_stack_of_one_layer():
    assert [a.units for a in sda.StackedDenoisingAutoencoder(8).autoencoders] == [8]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("corruption", [0.1, 0.2, 0.3]),
        ("activation", ["relu"] * 3),
        ("decoder_activation", ["sigmoid"] * 3),
        ("tied", [True] * 3),
        ("kernel_initializer", ["zeros"] * 3),
    ],
)
def test_a_list_of_the_wrong_length_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` to be one value or a list of 2.*a list of 3"):
        sda.StackedDenoisingAutoencoder([8, 5], **{name: value})


@pytest.mark.parametrize("units", [[], [8, 0], [8, -1], [8, 2.5], ["8"]])
def test_units_that_are_no_layer_sizes_are_refused(units):
    with pytest.raises(ValueError, match="`units`"):
        sda.StackedDenoisingAutoencoder(units)


@pytest.mark.parametrize(
    ("activation", "decoders"),
    [
        ("sigmoid", ["sigmoid", "sigmoid", "sigmoid"]),
        ("relu", ["sigmoid", "linear", "linear"]),
        (["tanh", "sigmoid", "relu"], ["sigmoid", "linear", "sigmoid"]),
    ],
)
def test_decoders_are_sigmoid_above_values_in_the_unit_interval_and_else_linear(
    activation, decoders
):
    stack = sda.StackedDenoisingAutoencoder([8, 5, 6], activation=activation)
    assert [a.decoder_activation.__name__ for a in stack.autoencoders] == decoders


# Codes and reconstructions


@pytest.mark.parametrize(("layer", "depth"), [(0, 1), (1, 2), (2, 3), (-1, 3), (-3, 1)])
def test_codes_of_any_layer_are_those_of_numpy(x, layer, depth):
    stack = built([8, 5, 6], activation=["sigmoid", "tanh", "relu"])
    expected = x.astype("float64")
    for autoencoder in stack.autoencoders[:depth]:
        expected = encoded(expected, autoencoder)
    np.testing.assert_allclose(stack.encode(x, layer), expected, atol=1e-5)
    np.testing.assert_allclose(stack.encode(x, layer, batch_size=7), expected, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_called_stack_returns_its_top_codes_without_noise(x, training):
    stack = built([8, 5], corruption=0.9)
    codes = keras.Sequential([keras.Input((12,)), stack])(x, training=training)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(codes), stack.encode(x), atol=1e-6)
    assert stack.compute_output_shape((None, 12)) == (None, 5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("layer", "depth"), [(0, 1), (-1, 3)])
def test_reconstructions_are_those_of_numpy(x, tied, layer, depth):
    stack = built([8, 5, 6], activation=["sigmoid", "tanh", "sigmoid"], tied=tied)
    path = stack.autoencoders[:depth]
    expected = x.astype("float64")
    for autoencoder in path:
        expected = encoded(expected, autoencoder)
    for autoencoder in reversed(path):
        expected = decoded(expected, autoencoder)
    np.testing.assert_allclose(stack.reconstruct(x, layer), expected, atol=1e-5)


@pytest.mark.parametrize("layer", [3, -4, 1.5, "top", True])
@pytest.mark.parametrize("method", ["encode", "reconstruct"])
def test_a_layer_that_is_not_there_is_refused(x, method, layer):
    with pytest.raises(ValueError, match="`layer` to be an integer from -3 to 2"):
        getattr(built([8, 5, 6]), method)(x, layer)


@pytest.mark.parametrize("method", ["encode", "reconstruct", "sample"])
def test_examples_of_another_width_are_refused(x, method):
    with pytest.raises(ValueError, match=r"`x` of shape \(n, 12\).*\(60, 5\)"):
        getattr(built([8, 5]), method)(x[:, :5])


# Samples


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_are_those_of_numpy_with_the_same_draws(x, steps):
    stack = built([8, 5, 6], activation=["sigmoid", "tanh", "sigmoid"])
    generator = np.random.default_rng(7)
    means = x.astype("float64")
    for _ in range(steps):
        codes = means
        for autoencoder in stack.autoencoders:
            codes = encoded(codes, autoencoder)
        for k in (2, 1, 0):
            means = decoded(codes, stack.autoencoders[k])
            # The second layer's codes are tanh: its mean is passed on, not drawn.
            codes = generator.random(means.shape) < means if k == 1 else means
    np.testing.assert_allclose(stack.sample(x, steps, seed=7), means, atol=1e-5)


def test_samples_go_through_binary_codes_to_means_in_the_unit_interval(x):
    stack = built([1, 5])
    samples = stack.sample(x, seed=7)
    off, on = decoded(np.array([[0.0], [1.0]]), stack.autoencoders[0])
    assert samples.min() >= 0
    assert samples.max() <= 1
    is_off, is_on = (np.isclose(samples, means, atol=1e-6).all(1) for means in (off, on))
    assert np.all(is_off ^ is_on)
    assert is_off.any()
    assert is_on.any()


def test_samples_are_a_function_of_the_seed(x):
    stack = built([8, 5])
    np.testing.assert_array_equal(stack.sample(x, seed=7), stack.sample(x, seed=7))
    assert np.any(stack.sample(x, seed=7) != stack.sample(x, seed=8))
    assert np.any(stack.sample(x) != stack.sample(x))


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_a_number_of_steps_below_one_is_refused(x, steps):
    with pytest.raises(ValueError, match="`steps` to be an integer, at least 1"):
        built([8, 5]).sample(x, steps)


def test_decoder_biases_are_learned_kept_and_used(x, tmp_path):
    stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.1), epochs=1, seed=1).fit(x, verbose=0)
    biases = [keras.ops.convert_to_numpy(a.visible_bias) for a in stack.autoencoders]
    assert all(np.all(bias != 0) for bias in biases)

    stack.save(tmp_path / "stack.keras")
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    assert_same([keras.ops.convert_to_numpy(a.visible_bias) for a in loaded.autoencoders], biases)

    samples = stack.sample(x, seed=7)
    for autoencoder in stack.autoencoders:
        autoencoder.visible_bias.assign(np.zeros(autoencoder.visible_bias.shape))
        changed = stack.sample(x, seed=7)
        assert np.any(changed != samples)
        samples = changed


# Around a model that is there already


def mlp():
    return keras.Sequential(
        [
            keras.Input((3, 4)),
            layers.Flatten(),
            layers.Dense(8, "relu"),
            layers.Dropout(0.5),
            layers.Dense(5),
            layers.Activation("sigmoid"),
            layers.Dense(6),
            layers.Dense(3),
        ]
    )


def functional_mlp():
    model = mlp()
    return keras.Model(model.inputs, model.outputs)


@pytest.mark.parametrize("make", [mlp, functional_mlp])
def test_from_model_holds_the_hidden_layers_of_the_model_itself(make):
    model = make()
    stack = sda.StackedDenoisingAutoencoder.from_model(model, corruption=[0.1, 0.2, 0.3])
    hidden = [layer for layer in model.layers if isinstance(layer, layers.Dense)][:-1]
    assert [a.encoder for a in stack.autoencoders] == hidden
    assert [a.corruption.rate for a in stack.autoencoders] == [0.1, 0.2, 0.3]
    decoders = [a.decoder_activation.__name__ for a in stack.autoencoders]
    assert decoders == ["sigmoid", "linear", "sigmoid"]


def test_from_model_keeps_the_layers_without_weights_in_their_places(x):
    model = mlp()
    stack = sda.StackedDenoisingAutoencoder.from_model(model)
    flatten, _, dropout, _, activation, *_ = model.layers
    assert stack.preprocessing == [flatten]
    assert [a.code_layers for a in stack.autoencoders] == [[dropout], [activation], []]
    up_to_the_output = keras.Sequential([keras.Input((3, 4)), *model.layers[:-1]])
    images = x.reshape(60, 3, 4)
    np.testing.assert_allclose(
        stack.encode(images), up_to_the_output.predict(images, verbose=0), atol=1e-6
    )


def test_pretraining_a_stack_from_a_model_teaches_that_model_through_its_activations(x):
    def chain(*hidden):
        model = keras.Sequential([keras.Input((3, 4)), layers.Flatten(), *hidden, layers.Dense(3)])
        generator = np.random.default_rng(1)
        model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
        before = weights(model)
        stack = sda.StackedDenoisingAutoencoder.from_model(model, corruption=0.3, seed=1)
        sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.1), epochs=2, seed=1).fit(
            x.reshape(60, 3, 4), verbose=0
        )
        return before, weights(model)

    before, apart = chain(layers.Dense(5), layers.Activation("sigmoid"))
    _, fused = chain(layers.Dense(5, "sigmoid"))
    assert all(np.any(a != b) for a, b in zip(apart[:2], before[:2], strict=True))
    assert_same(apart[2:], before[2:])  # the output layer is no business of the stack
    for a, b in zip(apart, fused, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_classifier_of_a_stack_from_a_model_keeps_its_layers(x):
    model = mlp()
    classifier = sda.StackedDenoisingAutoencoder.from_model(model).classifier(3)
    assert classifier.layers[:-1] == model.layers[:-1]
    assert classifier.predict(x.reshape(60, 3, 4), verbose=0).shape == (60, 3)


def skipping():
    inputs = keras.Input((12,))
    hidden = layers.Dense(12)(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.Add()([inputs, hidden])))


def two_inputs():
    inputs = [keras.Input((12,)), keras.Input((12,))]
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(5)(layers.Concatenate()(inputs))))


def calling_a_layer_twice():
    inputs, shared = keras.Input((12,)), layers.Dense(12)
    return keras.Model(inputs, layers.Dense(3)(shared(shared(inputs))))


def normalised():
    return keras.Sequential(
        [keras.Input((12,)), layers.Dense(5), layers.BatchNormalization(), layers.Dense(3)]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([layers.Dense(5), layers.Dense(3)]), "to be a built"),
        (lambda: "mlp", "to be a built"),
        (skipping, "one chain of layers"),
        (two_inputs, "one chain of layers"),
        (calling_a_layer_twice, "one chain of layers"),
        (lambda: keras.Sequential([keras.Input((12,)), layers.Dense(3)]), "1 Dense layers"),
        (normalised, "only Dense layers to have weights.*BatchNormalization"),
    ],
)
def test_models_that_are_no_chain_of_dense_layers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        sda.StackedDenoisingAutoencoder.from_model(make())


# Saving


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_stack_comes_back_whole(x, tmp_path, tied):
    stack = built([8, 5], activation=["relu", "sigmoid"], corruption=[0.1, 0.4], tied=tied)
    stack.save(tmp_path / "stack.keras")
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    assert [a.corruption.rate for a in loaded.autoencoders] == [0.1, 0.4]
    np.testing.assert_array_equal(loaded.encode(x), stack.encode(x))
    np.testing.assert_array_equal(loaded.reconstruct(x), stack.reconstruct(x))


def test_a_saved_stack_from_a_model_comes_back_whole(x, tmp_path):
    images = x.reshape(60, 3, 4)
    stack = sda.StackedDenoisingAutoencoder.from_model(mlp(), seed=1)
    stack.save(tmp_path / "stack.keras")
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    np.testing.assert_array_equal(loaded.reconstruct(images), stack.reconstruct(images))


def test_saved_weights_load_into_another_stack(x, tmp_path):
    stack, other = built([8, 5]), sda.StackedDenoisingAutoencoder([8, 5], seed=2)
    other.build((None, 12))
    stack.save_weights(tmp_path / "stack.weights.h5")
    other.load_weights(tmp_path / "stack.weights.h5")
    np.testing.assert_array_equal(other.reconstruct(x), stack.reconstruct(x))


def test_a_reloaded_stack_decodes_with_the_kernels_that_it_encodes_with(x, tmp_path):
    built([8, 5]).save(tmp_path / "stack.keras")
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    assert len(loaded.trainable_variables) == 2 * 3
    codes = np.ones((1, 8), "float32")
    first = loaded.autoencoders[0]
    first.encoder.kernel.assign(np.zeros((12, 8)))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(first.decode(codes)), decoded(codes, first), atol=1e-6
    )
    assert np.all(loaded.encode(x, 0) == loaded.encode(x, 0)[0])


def test_a_stack_is_made_again_from_its_config(x):
    stack = sda.StackedDenoisingAutoencoder([8, 5], [0.1, 0.2], "tanh", "linear", seed=3)
    again = sda.StackedDenoisingAutoencoder.from_config(stack.get_config())
    assert again.get_config() == stack.get_config()
    np.testing.assert_array_equal(again.encode(x), stack.encode(x))


def elsewhere(package=None):
    """A noise of a module that is not imported, or not any more."""

    class Added(sda.Corruption):
        def corrupt(self, x):
            return x + 1, None

    Added.__module__ = "elsewhere"
    if package:
        keras.saving.register_keras_serializable(package)(Added)
    return Added


@pytest.mark.parametrize("load", [keras.saving.load_model, sda.load_model])
@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize(("package", "name"), [(None, "Added"), ("shop", "shop>Added")])
def test_a_noise_whose_class_is_not_known_has_to_be_named(
    x, tmp_path, load, composed, package, name
):
    noise = elsewhere(package)
    made = noise(seed=1)
    stack = built(
        [8], corruption=sda.ComposedNoise([made, sda.MaskingNoise(0.1)]) if composed else made
    )
    stack.save(tmp_path / "stack.keras")
    keras.saving.get_custom_objects().pop(name, None)
    with pytest.raises(ValueError, match=r"(?s)^Expected.*register it, and name it in `custom_ob"):
        load(tmp_path / "stack.keras")
    loaded = load(tmp_path / "stack.keras", custom_objects={name: noise})
    np.testing.assert_array_equal(loaded.encode(x), stack.encode(x))


# Subclasses, and stacks of dAs that exist


@keras.saving.register_keras_serializable(package="tests")
class Tempered(sda.StackedDenoisingAutoencoder):
    """Has an argument of its own, which its codes depend on, and a layer."""

    def __init__(self, units, temperature=1.0, **kwargs):
        super().__init__(units, activation="tanh", **kwargs)
        self.temperature = temperature
        self.scale = layers.Rescaling(1 / temperature)

    def call(self, x):
        return self.scale(super().call(x))

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


class InFull(sda.StackedDenoisingAutoencoder):
    """Says all that it is made of, and takes nothing else."""

    def __init__(self, temperature=1.0, name=None):
        super().__init__([8, 5], corruption=0.2, name=name)
        self.temperature = temperature

    def get_config(self):
        return {"temperature": self.temperature, "name": self.name}


class Closed(sda.StackedDenoisingAutoencoder):
    """Takes nothing of what a stack is made of."""

    def __init__(self, temperature=1.0):
        super().__init__([8, 5])


@pytest.mark.parametrize("load", [keras.saving.load_model, sda.load_model])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Tempered([8, 5], temperature=4.0, corruption=[0.1, 0.4], seed=1),
        lambda: Tempered.from_model(mlp_of_rows(), temperature=4.0, corruption=[0.1, 0.4], seed=1),
        lambda: InFull(4.0),
    ],
    ids=["with an argument of its own", "from a model", "in full"],
)
def test_a_subclass_comes_back_whole(x, tmp_path, make, load):
    stack = make()
    stack.build((None, 12))
    generator = np.random.default_rng(1)
    for variable in stack.trainable_variables:
        variable.assign(generator.normal(0, 0.7, variable.shape))
    stack.save(tmp_path / "stack.keras")
    names = {"tests>Tempered": Tempered, "InFull": InFull}
    loaded = load(tmp_path / "stack.keras", names)
    assert type(loaded) is type(stack)
    assert loaded.temperature == 4.0
    rates = [[a.corruption.rate for a in made.autoencoders] for made in (loaded, stack)]
    assert rates[0] == rates[1]
    np.testing.assert_array_equal(loaded.encode(x), stack.encode(x))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), stack.predict(x, verbose=0))
    if type(stack) is Tempered:
        codes = stack.encode(x) / 4
        np.testing.assert_allclose(loaded.predict(x, verbose=0), codes, rtol=1e-5, atol=1e-6)


def mlp_of_rows():
    return keras.Sequential(
        [keras.Input((12,)), layers.Dense(8, "relu"), layers.Dense(5), layers.Dense(3)]
    )


def test_a_subclass_around_a_model_is_whole_or_refused():
    model = mlp_of_rows()
    stack = Tempered.from_model(model, name="tempered")
    assert (stack.temperature, stack.name) == (1.0, "tempered")
    assert stack.autoencoders[0].encoder is model.layers[0]
    assert stack.autoencoders[0].encoder.activation is keras.activations.relu
    with pytest.raises(ValueError, match=r"constructor of Closed.*Received.*autoencoders"):
        Closed.from_model(model)
    with pytest.raises(ValueError, match=r"constructor of Closed"):
        Closed.from_config(Closed().get_config())


def test_a_stack_is_made_of_dAs_that_exist(x, tmp_path):
    dAs = [
        sda.DenoisingAutoencoder(8, seed=1),
        sda.DenoisingAutoencoder(5, activation="tanh", seed=2),
    ]
    stack = sda.StackedDenoisingAutoencoder(autoencoders=dAs)
    codes = dAs[1].encode(dAs[0].encode(x))
    np.testing.assert_allclose(stack.encode(x), keras.ops.convert_to_numpy(codes), atol=1e-6)
    assert all(a is b for a, b in zip(stack.autoencoders, dAs, strict=True))
    stack.save(tmp_path / "stack.keras")
    loaded = sda.load_model(tmp_path / "stack.keras")
    np.testing.assert_array_equal(loaded.reconstruct(x), stack.reconstruct(x))


@keras.saving.register_keras_serializable(package="tests")
class Halved(sda.DenoisingAutoencoder):
    """A dA with an argument of its own."""

    def __init__(self, units=None, factor=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.factor = factor

    def encode(self, x):
        return self.factor * super().encode(x)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@pytest.mark.parametrize("load", [keras.saving.load_model, sda.load_model])
def test_a_subclass_of_the_dA_comes_back_whole(x, tmp_path, load):
    own = Halved(8, factor=0.5, seed=1)
    on_another = Halved(encoder=layers.Dense(5, "tanh"), factor=0.25)
    stack = sda.StackedDenoisingAutoencoder(autoencoders=[own, on_another])
    stack.build((None, 12))
    stack.save(tmp_path / "stack.keras")
    loaded = load(tmp_path / "stack.keras", {"tests>Halved": Halved})
    assert [(type(a), a.factor) for a in loaded.autoencoders] == [(Halved, 0.5), (Halved, 0.25)]
    np.testing.assert_array_equal(loaded.encode(x), stack.encode(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoencoders": "dA"}, "`autoencoders` to be a list of.*autoencoders='dA'"),
        ({"autoencoders": [5]}, r"`autoencoders` to be a list of.*autoencoders=\[5\]"),
        ({"units": [8, 4]}, r"`units` to be left out or \[8, 5\].*units=\[8, 4\]"),
    ],
)
def test_dAs_that_are_none_or_others_are_refused(settings, message):
    dAs = [sda.DenoisingAutoencoder(8), sda.DenoisingAutoencoder(5)]
    with pytest.raises(ValueError, match=message):
        sda.StackedDenoisingAutoencoder(**{"autoencoders": dAs, **settings})


# Seeds


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("corruption", [0.5, sda.MaskingNoise(0.5, seed=3)])
def test_no_two_layers_draw_the_same_noise(seed, corruption):
    stack = sda.StackedDenoisingAutoencoder([12, 12, 12], corruption, seed=seed)
    ones = np.ones((4, 12), "float32")
    draws = [
        keras.ops.convert_to_numpy(a.corruption(ones, training=True)).tobytes()
        for a in stack.autoencoders
        for _ in range(4)
    ]
    assert len(set(draws)) == 12


def initial_weights(seed, initializer=None):
    stack = sda.StackedDenoisingAutoencoder(
        [12, 12], tied=False, kernel_initializer=initializer, seed=seed
    )
    stack.build((None, 12))
    return [w for w in stack.get_weights() if w.ndim == 2 and w.shape == (12, 12)]


def test_initial_weights_are_a_function_of_the_seed():
    assert_same(initial_weights(1), initial_weights(1))
    for other in (initial_weights(2), initial_weights(None)):
        assert all(np.any(a != b) for a, b in zip(initial_weights(1), other, strict=True))


@pytest.mark.parametrize(
    "initializer",
    [None, "glorot_uniform", keras.initializers.HeNormal()],
    ids=["default", "name", "instance"],
)
@pytest.mark.parametrize("seed", [1, None])
def test_layers_of_one_shape_start_from_different_weights(seed, initializer):
    kernels = initial_weights(seed, initializer)
    assert len(kernels) == 4
    assert len({kernel.tobytes() for kernel in kernels}) == 4
