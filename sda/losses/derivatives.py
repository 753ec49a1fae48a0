"""Derivatives of activations as functions of the activation's value: s'(a) from y = s(a)."""

import keras
from keras import ops

# Of the settings that have no name in a string, Keras's defaults.
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

SLOPES = {
    keras.activations.sigmoid: lambda y: y * (1 - y),
    keras.activations.tanh: lambda y: 1 - y * y,
    keras.activations.relu: lambda y: ops.cast(y > 0, y.dtype),
    keras.activations.linear: ops.ones_like,
    keras.activations.elu: lambda y: ops.where(y > 0, 1.0, y + 1.0),
    keras.activations.selu: lambda y: ops.where(y > 0, _SELU_SCALE, y + _SELU_SCALE * _SELU_ALPHA),
    keras.activations.leaky_relu: lambda y: ops.where(y > 0, 1.0, 0.2),
    keras.activations.softplus: lambda y: 1 - ops.exp(-y),
    keras.activations.softsign: lambda y: ops.square(1 - ops.abs(y)),
    keras.activations.exponential: lambda y: y,
}


def names():
    """Return the names of these activations, as a string of Keras's."""
    return ", ".join(sorted(keras.activations.serialize(activation) for activation in SLOPES))
