"""What rows go through before the first dA: layers of Keras that nothing trains."""

import keras
import numpy as np
from keras import ops

from sda.layers import ranges

# Layers that do nothing in inference: besides those that may stand among codes.
INERT = (
    *ranges.INERT,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


def checked(layers):
    """Return one layer, a list of layers, or None as a list; raise `ValueError` for others."""
    if layers is None:
        layers = []
    layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise _unfit(layer)
        _check_fixed(layer)
    return layers


def _check_fixed(layer):
    """Raise `ValueError` for a layer with weights that training would change."""
    if layer.trainable_weights:
        raise _unfit(layer)


def _unfit(layer):
    return ValueError(
        "Expected `preprocessing` to be a Keras layer, or a list of such, without weights "
        "that training changes: a Rescaling, or a Normalization that was adapted. "
        f"Received: {layer!r}"
    )


def for_rows(rows):
    """Return the preprocessing that shell and sweeps choose: bytes are pixels, scaled to [0, 1]."""
    return [keras.layers.Rescaling(1 / 255)] if rows.dtype == "uint8" else []


def described(layers):
    """Return the layers in words, for a line of the terminal and the results of a run."""
    names = [
        f"Rescaling({layer.scale:.6g}, {layer.offset:.6g})"
        if affine([layer]) is not None
        else type(layer).__name__
        for layer in layers
    ]
    return ", ".join(names)


def check_adapted(layers):
    """Raise `ValueError` for a `Normalization` that saw no data, or missing values in them."""
    for layer in _flat(layers):
        if type(layer) is not keras.layers.Normalization:
            continue
        given = layer.input_mean is not None
        values = (layer.input_mean, layer.input_variance) if given else layer.get_weights()[:2]
        mean, variance = (np.asarray(value, "float32") for value in values)
        # Behind it, all that the column has would be missing.
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(
                "Expected the Normalization in `preprocessing` to have finite means and variances: "
                "where values are missing, give it those of the others, as "
                "`Normalization(mean=np.nanmean(x, 0), variance=np.nanvar(x, 0))`. "
                f"Received: mean={mean.ravel()}"
            )
        if given:
            continue
        if not mean.any() and np.all(variance == 1):
            raise ValueError(
                "Expected the Normalization in `preprocessing` to be adapted: call "
                f"`layer.adapt(x)` first. Received: {layer!r} with mean 0 and variance 1"
            )


def build(layers, shape):
    """Build the layers for inputs of `shape`; return the shape of what they make of them."""
    for layer in layers:
        if not layer.built:
            layer.build(shape)
            # Before that, it had no weights at all.
            _check_fixed(layer)
        shape = _output_shape(layer, shape)
    return shape


def apply(layers, x):
    """Return the tensor `x` after the layers, in inference mode, as floats."""
    for layer in layers:
        x = layer(x, training=False)
    # Integers would round what is added to them.
    return x if keras.backend.is_float_dtype(x.dtype) else ops.cast(x, keras.config.floatx())


def inverse(layers, shape):
    """Return the layers that lead back, or None where one of `layers` has no inverse.

    Args:
        layers: Built layers, as for `apply`.
        shape: Shape of what they are given, without the batch.
    """
    back = []
    for layer in _flat(layers):
        undone = _inverse(layer, shape)
        if undone is None:
            return None
        shape = _output_shape(layer, (None, *shape))[1:]
        back = [*undone, *back]
    return back


def _inverse(layer, shape):
    """Return the list of layers that undoes one, or None."""
    if ranges.computes_as(layer, INERT):
        return []
    # A subclass may do something else; so does a Dense, whose activation is linear too.
    if type(layer) is keras.layers.Activation and layer.activation is keras.activations.linear:
        return []
    if type(layer) is keras.layers.Rescaling:
        scale, offset = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
        if not np.all(scale):
            return None
        scale, offset = 1 / scale, -offset / scale
        dtype = keras.config.floatx()
        return [keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype=dtype)]
    if type(layer) is keras.layers.Normalization:
        axes = sorted(axis % (len(shape) + 1) for axis in layer.axis)
        mean, variance = (
            ops.convert_to_numpy(value).reshape([(None, *shape)[axis] for axis in axes]).tolist()
            for value in (layer.mean, layer.variance)
        )
        return [
            keras.layers.Normalization(
                tuple(axes),
                mean,
                variance,
                invert=not layer.invert,
                dtype=keras.config.floatx(),
            )
        ]
    if type(layer) in (keras.layers.Flatten, keras.layers.Reshape) and None not in shape:
        return [keras.layers.Reshape(shape)]
    return None


def affine(layers):
    """Return `(scale, offset)` where the layers are one `Rescaling` by two numbers, or None."""
    if len(layers) != 1 or type(layers[0]) is not keras.layers.Rescaling:
        return None
    (layer,) = layers
    if np.ndim(layer.scale) or np.ndim(layer.offset) or layer.compute_dtype != "float32":
        return None
    return layer.scale, layer.offset


def _output_shape(layer, shape):
    # Where a layer does not say its shape, Keras finds it by calling it.
    return tuple(layer.compute_output_spec(keras.KerasTensor(shape)).shape)


def _flat(layers):
    """Yield the layers, those of a chain in its place."""
    for layer in layers:
        if isinstance(layer, keras.Sequential):
            yield from _flat(layer.layers)
        else:
            yield layer
