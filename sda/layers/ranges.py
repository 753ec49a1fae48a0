"""The ranges of codes: the ends between which layers are known to keep them."""

import keras

# The ends of activations that have two, and come near both.
ENDS = {
    keras.activations.sigmoid: (0, 1),
    keras.activations.hard_sigmoid: (0, 1),
    keras.activations.tanh: (-1, 1),
    keras.activations.hard_tanh: (-1, 1),
    keras.activations.softsign: (-1, 1),
}
# What code layers may be, besides activations, without a part in a derivative: inert in inference.
INERT = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)
# What only moves values.
MOVING = (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)


def computes_as(layer, kinds):
    """Return whether a layer computes what one of the classes does; a subclass may do anything."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return any(isinstance(layer, kind) and type(layer).call is kind.call for kind in kinds)


def of_codes(layers):
    """Return the ends of what layers return, one after the other.

    Args:
        layers: List of Keras layers, in inference mode.

    Returns:
        Two numbers, or None where nothing is known, or there are no two ends.
    """
    ends = None
    for layer in layers:
        ends = _behind(layer, ends)
    return ends


def _behind(layer, ends):
    if computes_as(layer, INERT + MOVING):
        return ends
    if computes_as(layer, keras.layers.Softmax):
        return 0, 1
    if computes_as(layer, keras.layers.ReLU) and not layer.negative_slope:
        return _rectified(ends)
    if computes_as(layer, keras.layers.Dense):
        # Its sums may be of any size.
        return _activated(layer.activation, None)
    if computes_as(layer, keras.layers.Activation):
        return _activated(layer.activation, ends)
    return None


def _activated(activation, ends):
    if activation is keras.activations.linear:
        return ends
    if activation is keras.activations.relu:
        return _rectified(ends)
    # Between these ends, though many units together come near neither.
    return (0, 1) if activation is keras.activations.softmax else ENDS.get(activation)


def _rectified(ends):
    return ends and tuple(max(end, 0) for end in ends)
