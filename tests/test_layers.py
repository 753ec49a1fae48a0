import keras
import numpy as np
import pytest
from layer_checks import array, check_layer

import sda
from sda.layers.corruption import Corruption
from sda.layers.selective import SelectiveNoise

X = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32")

NOISES = {
    "masking": lambda **kwargs: sda.MaskingNoise(0.5, seed=1, **kwargs),
    "salt and pepper": lambda **kwargs: sda.SaltAndPepperNoise(0.5, -1, 2, seed=1, **kwargs),
    "gaussian": lambda **kwargs: sda.GaussianNoise(2.0, seed=1, **kwargs),
    "swap": lambda **kwargs: sda.SwapNoise(0.5, seed=1, **kwargs),
    "swap, a rate a column, groups": lambda **kwargs: sda.SwapNoise(
        [0.5, 0.0, 0.9], seed=1, groups=[1, 1, 2], **kwargs
    ),
    "composed, rank 3": lambda **kwargs: sda.ComposedNoise(
        [sda.SwapNoise(0.5), sda.GaussianNoise(0.5, seed=9)], seed=1, **kwargs
    ),
}


def dense(dtype=None):
    layer = keras.layers.Dense(5, "tanh", dtype=dtype)
    layer.build((None, 4))
    return layer


def autoencoder(*args, **kwargs):
    """A dA whose every variable counts: the initial visible bias is not 0."""
    layer = sda.DenoisingAutoencoder(*args, corruption=0.5, seed=1, **kwargs)
    layer.build((None, 4))
    layer.visible_bias.assign([0.1, -0.2, 0.3, -0.4])
    return layer


AUTOENCODERS = {
    "tied": lambda **kwargs: autoencoder(5, **kwargs),
    "untied, initializer object": lambda **kwargs: autoencoder(
        5, kernel_initializer=keras.initializers.RandomNormal(stddev=0.3), tied=False, **kwargs
    ),
    "relu, linear decoder, rank 3": lambda **kwargs: autoencoder(
        5, activation="relu", decoder_activation="linear", kernel_initializer="he_normal", **kwargs
    ),
    "activation objects": lambda **kwargs: autoencoder(
        5,
        activation=keras.layers.LeakyReLU(0.1, **kwargs),
        decoder_activation=keras.layers.ELU(**kwargs),
        **kwargs,
    ),
}
SHARING = {
    "tied": lambda dtype=None, **kwargs: autoencoder(encoder=dense(dtype), dtype=dtype, **kwargs),
    "encoder of another dtype": lambda **kwargs: autoencoder(encoder=dense(), **kwargs),
    "encoder with an activation object": lambda **kwargs: autoencoder(
        encoder=keras.layers.Dense(5, keras.layers.LeakyReLU(0.1)), **kwargs
    ),
    "untied, code layers": lambda **kwargs: autoencoder(
        encoder=keras.layers.Dense(5),
        code_layers=[keras.layers.Activation("tanh"), keras.layers.Dropout(0.5)],
        tied=False,
        **kwargs,
    ),
}


def shaped(name):
    """The data that a layer of this name is checked on."""
    return X.reshape(2, 3, 4) if "rank 3" in name else X


def seeded(make):
    """Let layers around a given encoder have equal weights: its initializer knows no dA's seed."""

    def make_seeded(**kwargs):
        keras.utils.set_random_seed(0)
        return make(**kwargs)

    return make_seeded


def stack(**kwargs):
    layer = sda.StackedDenoisingAutoencoder(
        [5, 3], corruption=[0.1, sda.GaussianNoise(0.5)], activation="tanh", seed=1, **kwargs
    )
    layer.build((None, 4))
    return layer


def rebuilt(layer, x):
    """z = s'(s(x W + b) V + b') in NumPy, of a dA."""
    kernel, bias = array(layer.encoder.kernel), array(layer.encoder.bias)
    code = x @ kernel + bias
    for activation in (layer.encoder.activation, *layer.code_layers[:1]):
        code = array(activation(code))
    back = kernel.T if layer.tied else array(layer.decoder_kernel)
    return array(layer.decoder_activation(code @ back + array(layer.visible_bias)))


def encoded(layer, x):
    for part in layer.autoencoders:
        x = np.tanh(x @ array(part.encoder.kernel) + array(part.encoder.bias))
    return x


@pytest.mark.parametrize("name", NOISES)
def test_noise_layers(name, tmp_path):
    check_layer(NOISES[name], shaped(name), tmp_path, clean=lambda layer, x: x)


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_noise_layers_return_the_input_itself_at_inference(make):
    np.testing.assert_array_equal(array(make()(X, training=False)), X)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_layers(name, tmp_path):
    check_layer(AUTOENCODERS[name], shaped(name), tmp_path, clean=rebuilt)


@pytest.mark.parametrize("make", SHARING.values(), ids=SHARING)
def test_autoencoder_layers_around_an_encoder(make, tmp_path):
    check_layer(seeded(make), X, tmp_path, clean=rebuilt)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_stack_as_a_layer(tmp_path):
    check_layer(stack, X, tmp_path, clean=encoded, noisy=False, untrained=["visible_bias"])


def test_every_public_layer_is_checked():
    public = {
        value
        for value in map(sda.__dict__.get, sda.__all__)
        if isinstance(value, type) and issubclass(value, keras.layers.Layer)
    }
    makers = [*NOISES.values(), *AUTOENCODERS.values(), stack]
    assert public == {type(make()) for make in makers} | {Corruption, SelectiveNoise}
