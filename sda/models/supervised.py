"""Builders of the supervised models on a stack's encoders: stock Keras layers, nothing else."""

import keras
from keras import ops

from sda.checks import check_number
from sda.layers import preprocessing as before
from sda.streams import stream

# Settings of a layer that are functions or objects.
OBJECTS = {
    "activation",
    "activity_regularizer",
    "bias_constraint",
    "bias_initializer",
    "bias_regularizer",
    "kernel_constraint",
    "kernel_initializer",
    "kernel_regularizer",
}


def supervised(
    input_shape,
    preprocessing,
    encoders,
    units,
    activation,
    dropout,
    copy,
    seed,
    missing=None,
    noise=0.0,
    dtype=None,
    name=None,
    position=(),
):
    """Return a `keras.Sequential` of the encoders and a new output layer.

    The output layer starts at zero, as in the tutorial: the first predictions are indifferent.

    Args:
        input_shape: Shape of one example.
        preprocessing: List of the built layers before the first encoder.
        encoders: List with one entry a hidden layer: the list of the layers that compute its code.
        units: Integer, the number of outputs.
        activation: Activation of the output layer.
        dropout: List of rates: one for the input and one for each code.
        copy: Whether the model gets encoders of its own instead of the given ones.
        seed: Integer or None, for the dropout masks and the noise.
        missing: What stands for NaN after the preprocessing: a number, a list with one a feature,
            or None.
        noise: Standard deviation of Gaussian noise on the input of the first encoder.
        dtype: The dtype policy of the model, from which `compile` knows whether to scale the loss.
            Each layer has its own.
        name: Name of the model.
        position: Tuple of what tells the model from the others that the stack has made: its masks,
            its noise and the copies of seeded layers have streams of their own.
    """
    noise = check_number(noise, "noise", "in [0, 1]", lambda s: 0 <= s <= 1)
    output = keras.layers.Dense(
        units, activation=activation, kernel_initializer="zeros", name="output"
    )
    layers = _prepared(input_shape, preprocessing, copy, missing, position)
    if noise > 0:
        own = stream(seed, "dropout", *position, len(dropout))
        layers.append(keras.layers.GaussianNoise(noise, seed=own))
    layers += _dropout(dropout[0], stream(seed, "dropout", *position, 0))
    for k, encoder in enumerate(encoders):
        layers += [_copy(layer, position) for layer in encoder] if copy else encoder
        layers += _dropout(dropout[k + 1], stream(seed, "dropout", *position, k + 1))
    model = keras.Sequential([*layers, output], name=name)
    if dtype is not None:
        model.dtype_policy = dtype
    return model


def encoder(input_shape, preprocessing, encoders, copy, missing=None, name="encoder", position=()):
    """Return a `keras.Sequential` of the encoders alone; arguments as in `supervised`."""
    layers = _prepared(input_shape, preprocessing, copy, missing, position)
    for encoder in encoders:
        layers += [_copy(layer, position) for layer in encoder] if copy else encoder
    return keras.Sequential(layers, name=name)


def unrolled(
    input_shape,
    preprocessing,
    encoders,
    autoencoders,
    copy,
    missing=None,
    name="unrolled",
    position=(),
):
    """Return the deep autoencoder: all encoders, then the decoders in reverse order.

    At its end what the preprocessing did is undone, where it can be.

    A stock `Dense` cannot decode with another layer's kernel transposed, so the decoders are layers
    of their own that start from the stack's weights and are untied from there on (Hinton and
    Salakhutdinov, Science 313 (2006)).
    """
    layers = _prepared(input_shape, preprocessing, copy, missing, position)
    for encoder in encoders:
        layers += [_copy(layer, position) for layer in encoder] if copy else encoder
    decoders = [
        keras.layers.Dense(
            autoencoder.encoder.kernel.shape[0],
            activation=autoencoder.decoder_activation,
            dtype=autoencoder.dtype_policy,
            name=f"{autoencoder.name}_decoder",
        )
        for autoencoder in reversed(autoencoders)
    ]
    back = before.inverse(preprocessing, input_shape) or []
    model = keras.Sequential([*layers, *decoders, *back], name=name)
    for decoder, autoencoder in zip(decoders, reversed(autoencoders), strict=True):
        tied = autoencoder.tied
        kernel = ops.transpose(autoencoder.kernel) if tied else autoencoder.decoder_kernel
        # On JAX a plain assignment would share the buffer, which `Model.fit` deletes.
        decoder.kernel.assign(ops.copy(kernel))
        decoder.bias.assign(ops.copy(autoencoder.visible_bias))
    return model


def _prepared(input_shape, preprocessing, copy, missing, position):
    """Return the layers from the input to what the first encoder, noise and dropout act on."""
    shape = before.build(preprocessing, (None, *input_shape))[1:]
    layers = [_copy(layer, position) for layer in preprocessing] if copy else preprocessing
    return [keras.Input(input_shape), *layers, *_fill(shape, missing)]


def _fill(input_shape, missing):
    """Return the layer that puts `missing` in place of NaN, in a list, or an empty one for None.

    A small functional model of Keras's own operations, which loads where there is no `sda`.
    """
    if missing is None:
        return []
    x = keras.Input(input_shape)
    fill = missing
    if isinstance(missing, list):
        # An operation keeps no list as an argument; this layer does, and 0 · x + m is m.
        fill = keras.layers.Rescaling(0.0, missing)(ops.nan_to_num(x))
    return [keras.Model(x, ops.where(ops.isnan(x), fill, x), name="fill_missing")]


def _dropout(rate, seed):
    rate = check_number(rate, "dropout", "or one a code, in [0, 1)", lambda r: 0 <= r < 1)
    return [keras.layers.Dropout(rate, seed=seed)] if rate > 0 else []


def _copy(layer, position):
    # It holds nothing, and the config of a lambda leads back to none.
    if type(layer) is keras.layers.Lambda:
        return layer
    config = layer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] = stream(abs(config["seed"]), "dropout", *position)
    for setting in OBJECTS & set(config):
        # As they are: a config names a function, and only registered names lead back to one.
        config[setting] = getattr(layer, setting)
    copy = type(layer).from_config(config)
    if layer.weights and not isinstance(layer, keras.layers.Dense):
        # Of a Normalization, which works with more than its variables.
        copy.build_from_config(layer.get_build_config())
        values = {}
        layer.save_own_variables(values)
        copy.load_own_variables(values)
    elif layer.weights:
        copy.build((None, layer.kernel.shape[0]))
        copy.set_weights(layer.get_weights())
    return copy
