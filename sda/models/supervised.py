"""Models on a stack's encoders, for fine-tuning and for use: stock Keras layers, nothing else."""

import keras
from keras import ops

from sda.checks import check_flag, check_number, per_layer
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


def supervised(stack, units, activation, dropout=0.0, copy=False, noise=0.0, name="supervised"):
    """Return a `keras.Sequential` of a stack's encoders and a new output layer.

    The output layer starts at zero, as in the tutorial: the first predictions are indifferent.

    Args:
        stack: A built `sda.StackedDenoisingAutoencoder`.
        units: Integer, the number of outputs.
        activation: Activation of the output layer.
        dropout, copy, noise: As in `StackedDenoisingAutoencoder.classifier`.
        name: Name of the model.
    """
    parts = _Parts(stack, activation, name, copy)
    rates = per_layer(dropout, len(stack.autoencoders) + 1, "dropout")
    noise = check_number(noise, "noise", "in [0, 1]", lambda s: 0 <= s <= 1)
    output = keras.layers.Dense(
        units, activation=activation, kernel_initializer="zeros", name="output"
    )
    layers = parts.prepared()
    if noise > 0:
        layers.append(keras.layers.GaussianNoise(noise, seed=parts.seed(len(rates))))
    layers += _dropout(rates[0], parts.seed(0))
    for k, rate in enumerate(rates[1:]):
        layers += [*parts.encoder(k), *_dropout(rate, parts.seed(k + 1))]
    model = keras.Sequential([*layers, output], name=name)
    # From it `compile` knows whether to scale the loss. Each layer has its own.
    model.dtype_policy = stack.dtype_policy
    return model


def encoder_model(stack, depth, copy=False, name="encoder"):
    """Return a `keras.Sequential` of the first `depth` encoders of a stack."""
    parts = _Parts(stack, "encoder", name, copy)
    encoders = [layer for k in range(depth) for layer in parts.encoder(k)]
    return keras.Sequential([*parts.prepared(), *encoders], name=name)


def unrolled(stack, copy=False, name="unrolled"):
    """Return the deep autoencoder: all encoders, then the decoders in reverse order.

    At its end what the preprocessing did is undone, where it can be.

    A stock `Dense` cannot decode with another layer's kernel transposed, so the decoders are layers
    of their own that start from the stack's weights and are untied from there on (Hinton and
    Salakhutdinov, Science 313 (2006)).
    """
    parts = _Parts(stack, "unrolled", name, copy)
    autoencoders = stack.autoencoders
    encoders = [layer for k in range(len(autoencoders)) for layer in parts.encoder(k)]
    decoders = [
        keras.layers.Dense(
            autoencoder.features,
            activation=autoencoder.decoder_activation,
            dtype=autoencoder.dtype_policy,
            name=f"{autoencoder.name}_decoder",
        )
        for autoencoder in reversed(autoencoders)
    ]
    back = before.inverse(stack.preprocessing, stack.example_shape) or []
    model = keras.Sequential([*parts.prepared(), *encoders, *decoders, *back], name=name)
    for decoder, autoencoder in zip(decoders, reversed(autoencoders), strict=True):
        # On JAX a plain assignment would share the buffer, which `Model.fit` deletes.
        decoder.kernel.assign(ops.copy(autoencoder.decoder_filters()))
        decoder.bias.assign(ops.copy(autoencoder.visible_bias))
    return model


class _Parts:
    """What a stack gives to a model: its own layers or copies, and seeds.

    Masks, noise and copies of seeded layers draw from streams of the model's kind and name: the
    same cell of a notebook, run twice, makes the same model, and no two models share one.
    """

    def __init__(self, stack, kind, name, copy):
        if not stack.built:
            raise ValueError(
                "Expected a stack that knows the shape of its input: pretrain it, call it on "
                "data, or use `stack.build((None, features))` first. Received: an unbuilt stack"
            )
        self.stack = stack
        self.position = (kind, name)
        self.copies = check_flag(copy, "copy")

    def seed(self, number):
        return stream(self.stack.seed, "dropout", *self.position, number)

    def prepared(self):
        """Return the layers from the input to what the first encoder, noise and dropout act on."""
        stack = self.stack
        shape = before.build(stack.preprocessing, (None, *stack.example_shape))[1:]
        layers = self._own(stack.preprocessing)
        return [keras.Input(stack.example_shape), *layers, *stack.autoencoders[0].fill.stock(shape)]

    def encoder(self, k):
        """Return the layers that compute the codes of dA `k`."""
        return self._own(self.stack.autoencoders[k].encoder_layers)

    def _own(self, layers):
        return [_copy(layer, self.position) for layer in layers] if self.copies else layers


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
    if layer.weights:
        copy.build_from_config(layer.get_build_config())
    if layer.weights and not isinstance(layer, keras.layers.Dense):
        # Of a Normalization, which works with more than its variables.
        values = {}
        layer.save_own_variables(values)
        copy.load_own_variables(values)
    elif layer.weights:
        copy.set_weights(layer.get_weights())
    return copy
