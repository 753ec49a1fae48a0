"""Weights as the Theano tutorials keep them: lists `params` of arrays, in and out.

A dA of the tutorial has `params = [W, b, b']`, an SdA the W and b of each layer, then those of the
logistic layer on top. `sda.tutorial_params.of(model)` returns such a list, and
`sda.tutorial_params.assign(model, params)` takes it:

| `model` | `params` |
|---|---|
| `sda.DenoisingAutoencoder` | W, b, b' |
| `sda.StackedDenoisingAutoencoder` | W, b, b' of each layer, from the input up |
| a classifier, or any `keras.Sequential` with `Dense` layers | W, b of each layer, output last |
"""

import os

import keras
import numpy as np
from keras import ops

from sda.files.zips import read_npz
from sda.layers.autoencoder import DenoisingAutoencoder
from sda.models.stack import StackedDenoisingAutoencoder

# How a list is written, in the program that has it.
TO_NPZ = "`numpy.savez('params.npz', *[p.get_value() for p in params])`"


def of(model):
    """Return the weights of a model as the tutorial's list of arrays.

    Args:
        model: A built and tied dA, a stack of such, or a `keras.Sequential` with `Dense` layers.

    Returns:
        List of float NumPy arrays, copies. `numpy.savez("params.npz", *arrays)` keeps them.

    Raises:
        ValueError: If the model is not built, or is none that the tutorial has.

    Example:

    >>> layer = sda.DenoisingAutoencoder(3, seed=1)
    >>> layer.build((None, 5))
    >>> [w.shape for w in sda.tutorial_params.of(layer)]
    [(5, 3), (3,), (5,)]
    """
    _check_model(model)
    if not model.built:
        raise ValueError(f"Expected `model` to be built. Received: model={model!r}, not built")
    return [np.array(ops.convert_to_numpy(v.value)) for v in _variables(model)]


def assign(model, params):
    """Give a model the weights of a tutorial's list.

    Args:
        model: As in `of`. A dA or a stack may be unbuilt: its input then is as wide as W says.
        params: List of arrays, of Theano's or PyTensor's shared variables, or of lists of these,
            one a layer: `[dA.params for dA in sda.dA_layers]`. Or the path of an `.npz` file that
            `numpy.savez(path, *arrays)` wrote.

    Raises:
        ValueError: If `params` has more or fewer arrays than `model`, or some of another shape, or
            values that are not finite; or if it is the path of another file, such as a pickle.
            Nothing is changed then.

    Example:

    >>> layer = sda.DenoisingAutoencoder(3, corruption=0.3)
    >>> W, b, b_prime = np.ones((5, 3)), np.zeros(3), np.zeros(5)
    >>> sda.tutorial_params.assign(layer, [W, b, b_prime])
    >>> layer(keras.ops.zeros((2, 5))).shape
    (2, 5)
    """
    _check_model(model)
    arrays = _arrays(params)
    if not model.built:
        shapes = _shapes(model, arrays[0].shape[0] if arrays and arrays[0].ndim else 0)
    else:
        shapes = [tuple(v.shape) for v in _variables(model)]
    received = [array.shape for array in arrays]
    if received != shapes:
        raise ValueError(
            f"Expected `params` to be {len(shapes)} arrays of shapes {shapes}. "
            f"Received: {len(received)} of shapes {received}"
        )
    for i, array in enumerate(arrays):
        if array.dtype.kind not in "fiu":
            raise _no_numbers(i, f"of dtype {array.dtype}")
        with np.errstate(over="ignore"):
            if not np.isfinite(array.astype("float32")).all():
                raise _no_numbers(i, f"from {array.min()} to {array.max()}")
    if not model.built:
        model.build((None, shapes[0][0]))
    for variable, array in zip(_variables(model), arrays, strict=True):
        variable.assign(array)


def _no_numbers(i, received):
    return ValueError(f"Expected `params` to hold finite numbers. Received: params[{i}] {received}")


def _check_model(model):
    """Raise `ValueError` unless the tutorial has such a model."""
    for layer in model._flatten_layers() if isinstance(model, keras.layers.Layer) else ():
        if isinstance(layer, keras.layers.Dense) and (
            layer.quantization_mode or layer.lora_enabled
        ):
            raise ValueError(
                "Expected `model` to have plain weights: merge those of LoRA, and take the model "
                f"from before it was quantized. Received: model={model!r} with layer={layer!r}"
            )
    if isinstance(model, StackedDenoisingAutoencoder):
        known = all(autoencoder.tied for autoencoder in model.autoencoders)
    elif isinstance(model, DenoisingAutoencoder):
        known = model.tied
    else:
        dense = [la for la in getattr(model, "layers", []) if isinstance(la, keras.layers.Dense)]
        known = isinstance(model, keras.Sequential) and dense and all(la.use_bias for la in dense)
        known = known and sum(len(la.weights) for la in model.layers) == 2 * len(dense)
    if not known:
        raise ValueError(
            "Expected `model` to be a tied dA, a stack of such, or a built keras.Sequential whose "
            f"weights are those of Dense layers with biases. Received: model={model!r}"
        )


def _variables(model):
    """Return the variables of a built model in the tutorial's order."""
    if isinstance(model, keras.Sequential):
        dense = [la for la in model.layers if isinstance(la, keras.layers.Dense)]
        return [v for layer in dense for v in layer.weights]
    layers = getattr(model, "autoencoders", [model])
    return [v for dA in layers for v in (*dA.encoder.weights, dA.visible_bias)]


def _shapes(model, visible):
    """Return the shapes that the variables of an unbuilt model will have."""
    shapes = []
    for dA in getattr(model, "autoencoders", [model]):
        (units,) = dA.code_shape((visible,))
        shapes += [(visible, units), (units,), (visible,)]
        visible = units
    return shapes


def _arrays(params):
    """Return `params` as a flat list of arrays."""
    if isinstance(params, (str, os.PathLike)):
        path = os.fspath(params)
        if not path.endswith(".npz"):
            raise ValueError(
                "Expected `params` to be a list of arrays, or the path of an .npz file. Pickles "
                "run code, and are not read: in the program that made yours, run "
                f"{TO_NPZ}. Received: params={path!r}"
            )
        named = read_npz(path)
        names = [f"arr_{i}" for i in range(len(named))]
        if set(names) != set(named):
            raise ValueError(
                f"Expected an .npz file that {TO_NPZ} wrote. "
                f"Received: one with the arrays {sorted(named)}"
            )
        return [named[name] for name in names]
    if not isinstance(params, (list, tuple)):
        raise ValueError(
            "Expected `params` to be a list of arrays, or the path of an .npz file. "
            f"Received: params={params!r}"
        )
    arrays = []
    for item in params:
        if isinstance(item, (list, tuple)):
            arrays += _arrays(item)
        else:
            # The value of a shared variable of Theano.
            item = item.get_value() if hasattr(item, "get_value") else item
            arrays.append(np.asarray(item))
    return arrays
