"""What a dA is made of: the layers that are handed to it, checked, and what is made from names."""

import keras

from sda.checks import look_up


def check_encoder(encoder, units, activation, kernel_initializer):
    """Raise `ValueError` unless a layer can be an encoder, and the other arguments agree with it.

    Args:
        encoder: What was given as `encoder`.
        units, activation, kernel_initializer: What was given besides, which is the encoder's own.
    """
    if not isinstance(encoder, keras.layers.Dense):
        raise ValueError(
            f"Expected `encoder` to be a keras.layers.Dense. Received: encoder={encoder!r}"
        )
    if not encoder.use_bias:
        raise ValueError(
            f"Expected `encoder` to have a bias. Received: encoder={encoder!r} with use_bias=False"
        )
    if units not in (None, encoder.units):
        raise ValueError(
            f"Expected `units` to be left out or {encoder.units}, as `encoder` has. "
            f"Received: units={units!r}"
        )
    # "sigmoid" is what a caller gets who says nothing.
    if keras.activations.get(activation) not in (keras.activations.sigmoid, encoder.activation):
        raise ValueError(
            "Expected `activation` to be left out: the activation of `encoder` is used. "
            f"Received: activation={activation!r}"
        )
    if kernel_initializer is not None:
        raise ValueError(
            "Expected `kernel_initializer` to be left out: the one kernel is that of `encoder`. "
            f"Received: kernel_initializer={kernel_initializer!r}"
        )


def code_layers(layers):
    """Return the layers behind an encoder as a list; raise `ValueError` for others than such."""
    if not isinstance(layers, (list, tuple)):
        raise ValueError(f"Expected `code_layers` to be a list. Received: code_layers={layers!r}")
    for layer in layers:
        _check_code_layer(layer)
    return list(layers)


def build_code_layers(layers, shape, dtype):
    """Build the layers behind an encoder for codes of a shape, which they have to keep."""
    for layer in layers:
        if not layer.built:
            layer.build(shape)
        _check_code_layer(layer)
        returned = tuple(layer.compute_output_spec(keras.KerasTensor(shape, dtype)).shape)
        if returned != shape:
            raise ValueError(
                f"Expected `code_layers` to keep the shape of the codes, {shape}; a layer that "
                f"changes it belongs before the encoder. Received: {layer!r}, which returns "
                f"the shape {returned}"
            )


def _check_code_layer(layer):
    if not isinstance(layer, keras.layers.Layer) or layer.weights:
        raise ValueError(
            f"Expected `code_layers` to hold Keras layers without weights. Received: {layer!r}"
        )


def activation(identifier, name):
    """Return the function that is meant by the argument `name`."""
    return look_up(keras.activations.get, identifier, name, "an activation function or its name")


def initializer(identifier, activation, seed):
    """Return a fresh initializer, seeded where it can be; None is the activation's default."""
    if identifier is None:
        # 4·Glorot's limit is VarianceScaling with 16 times its scale.
        scale = 16.0 if keras.activations.get(activation) is keras.activations.sigmoid else 1.0
        return keras.initializers.VarianceScaling(scale, "fan_avg", "uniform", seed=seed)
    expectation = "a Keras initializer or None"
    found = look_up(keras.initializers.get, identifier, "kernel_initializer", expectation)
    if not isinstance(found, keras.initializers.Initializer):
        raise ValueError(
            f"Expected `kernel_initializer` to be {expectation}. "
            f"Received: kernel_initializer={identifier!r}"
        )
    config = found.get_config()
    if config.get("seed", 0) is None:
        config["seed"] = seed
    return type(found).from_config(config)


def serialize_shared(layer):
    """Return the config of a layer that other layers of the same model may hold too.

    In a file Keras marks a layer as shared from its second config on, and the first one
    afterwards: too late for a config that went into another one, which was copied by then.
    """
    keras.saving.serialize_keras_object(layer)
    return keras.saving.serialize_keras_object(layer)
