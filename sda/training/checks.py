"""What `fit` checks before anything is trained."""

import collections.abc
import functools
import math

import keras
import numpy as np
from keras import ops, tree

from sda.distribution import processes
from sda.rows.arrays import arrays_of_lists
from sda.rows.base import host
from sda.rows.iterated import is_iterated, length
from sda.rows.reading import as_rows, check_finite, pieces
from sda.training import validation as validating
from sda.training.batches import Batches
from sda.training.drivers import identical
from sda.training.feed import leaves, map_leaves

# Keras's losses that compare targets of the output's own shape. With others in their place, most
# would be stretched to fit.
ELEMENTWISE = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "categorical_hinge": keras.losses.CategoricalHinge,
    "cosine_similarity": keras.losses.CosineSimilarity,
    "hinge": keras.losses.Hinge,
    "huber": keras.losses.Huber,
    "kl_divergence": keras.losses.KLDivergence,
    "log_cosh": keras.losses.LogCosh,
    "mean_absolute_error": keras.losses.MeanAbsoluteError,
    "mean_absolute_percentage_error": keras.losses.MeanAbsolutePercentageError,
    "mean_squared_error": keras.losses.MeanSquaredError,
    "mean_squared_logarithmic_error": keras.losses.MeanSquaredLogarithmicError,
    "poisson": keras.losses.Poisson,
    "squared_hinge": keras.losses.SquaredHinge,
}
SPARSE = "sparse_categorical_crossentropy"
LOSSES = {**ELEMENTWISE, SPARSE: keras.losses.SparseCategoricalCrossentropy}


def check_compiled(model):
    """Raise `ValueError` unless a model is, and its optimizer knows, what it was at `compile`."""
    now = {layer: layer.trainable for layer in model._compiled_trainable_state}
    changed = [
        la.name for la, before in model._compiled_trainable_state.items() if before != now[la]
    ]
    if changed:
        raise ValueError(
            "Expected the `trainable` of all layers to be what it was when the model was compiled: "
            "it acts from `compile` on, so compile again. Received: another one of "
            f"{', '.join(map(repr, changed))}"
        )
    optimizer = model.optimizer
    known = getattr(optimizer, "_trainable_variables", [])
    if optimizer.built and not identical(known, model.trainable_variables):
        raise ValueError(
            "Expected an optimizer that has trained no other variables, whose momentum and the "
            "like it keeps: make one per compile. Received: optimizer="
            f"{type(optimizer).__name__} of {len(known)} variables, some of which are not the "
            f"{len(model.trainable_variables)} of model {model.name!r}"
        )


def check_callbacks(callbacks):
    """Raise `ValueError` unless `callbacks` is None, or one or several callbacks of Keras."""
    known = (keras.callbacks.Callback, keras.callbacks.CallbackList)
    given = [] if callbacks is None else tree.flatten(callbacks)
    if not all(isinstance(callback, known) for callback in given):
        raise ValueError(
            "Expected `callbacks` to be a list of Keras callbacks. "
            f"Received: callbacks={callbacks!r}"
        )


def check_streamed(x, epochs, steps_per_epoch, splits, shuffle):
    """Raise `ValueError` where batches cannot be asked for anew in each of the epochs."""
    once = isinstance(x, collections.abc.Iterator)
    if steps_per_epoch is None and (length(x) == math.inf or (once and epochs > 1)):
        has = "an end, which could not be asked twice" if once else "no end"
        raise ValueError(
            f"Expected `steps_per_epoch` where `x` has {has}. Received: x of type "
            f"{type(x).__name__}, {epochs} epochs; or use read_once=True to keep its rows"
        )
    if splits:
        raise ValueError(
            "Expected `validation_split` to be left out where `x` yields batches, unless "
            "read_once=True keeps their rows. Received: x of type " + type(x).__name__
        )
    if shuffle == "blocks":
        raise ValueError(
            "Expected `shuffle` to be True or False where `x` yields batches, unless "
            f"read_once=True keeps their rows. Received: shuffle={shuffle!r}"
        )
    if processes.count() > 1:
        raise ValueError(
            "Expected `x` to be rows, or read_once=True, where several processes train together: "
            f"each reads its part of a batch. Received: x of type {type(x).__name__}"
        )


def checked_validation(model, data, steps):
    if data is None:
        return None
    if is_iterated(data):
        if steps is None and length(data) == math.inf:
            raise ValueError(
                "Expected `validation_steps` where `validation_data` has no end. Received: "
                f"validation_data of type {type(data).__name__}"
            )
        check = functools.partial(checked_batches, model, "validation_data", None)
        return Batches(data, "validation_data", steps, check)
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise ValueError(
            "Expected `validation_data` to be (x, y) or (x, y, sample_weight). "
            f"Received: {type(data).__name__}"
        )
    return checked_data(model, (*data, None)[:3], argument_names("validation_data"))


def checked_batches(model, name, class_weight, data):
    """Return the rows of one or several batches, checked, and with the weights of their classes."""
    x, y, weight = checked_data(model, data, argument_names(name))
    if class_weight is not None:
        weight = validating.weights_of_classes(class_weight, y, weight)
    return x, y, weight


def argument_names(name):
    if name == "x":
        return "x", "y", "sample_weight"
    return [f"{name}[{i}]" for i in range(3)]


def checked_data(model, data, names):
    data = [arrays_of_lists(part, name) for part, name in zip(data, names, strict=True)]
    for part, name in zip(data, names, strict=True):
        if part is not None and not leaves(part):
            raise ValueError(f"Expected `{name}` to hold arrays. Received: {name}={part!r}")
    if data[0] is None:
        raise ValueError(f"Expected `{names[0]}` to hold arrays. Received: {names[0]}=None")
    rows = tuple(
        tree.map_structure(lambda a, name=name: None if a is None else as_rows(a, name), part)
        for part, name in zip(data, names, strict=True)
    )
    for part, name in zip(rows, names, strict=True):
        for leaf in leaves(part):
            if len(leaf) != len(leaves(rows)[0]):
                raise ValueError(
                    f"Expected `{name}` to have {len(leaves(rows)[0])} examples, as "
                    f"`{names[0]}` has. Received: {len(leaf)} examples"
                )
    x, y, weight = rows
    missing = {
        names[0]: lambda: _takes_missing(model, x),
        names[1]: lambda: getattr(model.loss, "missing_values", False),
    }
    for part, name in zip(rows, names, strict=True):
        for leaf in leaves(part):
            try:
                check_finite(leaf, name)
            except ValueError:
                # Asked only where something is wrong: most data are whole.
                if not missing.get(name, bool)():
                    raise
                check_finite(leaf, name, missing=True)
    if y is None and model.loss is not None:
        raise ValueError(f"Expected `{names[1]}` to be targets for the loss. Received: None")
    if hasattr(weight, "shape") and len(weight.shape) != 1:
        raise ValueError(
            f"Expected `{names[2]}` of shape (n,). Received: shape {tuple(weight.shape)}"
        )
    if hasattr(x, "shape") and not isinstance(getattr(model, "input_shape", None), (list, dict)):
        expected = getattr(model, "input_shape", None)
        if expected is not None and not _matches(x.shape, expected):
            raise ValueError(
                f"Expected `{names[0]}` of shape {expected}, as the model takes it. "
                f"Received: shape {tuple(x.shape)}"
            )
    if y is not None:
        _check_targets(model, y, names[1])
    return rows


def _takes_missing(model, x):
    """Return whether a model has an answer where all of its input is missing (NaN)."""
    nothing = map_leaves(lambda a: np.full_like(host(a[:1]), np.nan, keras.config.floatx()), x)
    try:
        y = model(map_leaves(ops.convert_to_tensor, nothing), training=False)
    # Whatever it is that does not fit, missing values are one thing more.
    except Exception:
        return False
    return all(np.isfinite(ops.convert_to_numpy(leaf)).all() for leaf in leaves(y))


def _matches(shape, expected):
    return len(shape) == len(expected) and all(
        e is None or s == e for s, e in zip(shape[1:], expected[1:], strict=True)
    )


def _check_targets(model, y, name):
    """Raise `ValueError` where targets do not fit a loss of Keras's own."""
    shapes = getattr(model, "output_shape", None)
    if isinstance(shapes, tuple):
        losses = _losses(model)
        if len(losses) == 1 and len(leaves(y)) == 1:
            _check_labels(losses[0], leaves(y)[0], shapes, name)
        return
    if isinstance(shapes, list) and isinstance(y, (list, tuple)) and len(y) == len(shapes):
        losses = dict(zip(model.output_names, _losses(model), strict=False))
        if isinstance(model.loss, dict):
            losses = model.loss
        for i, (output, shape) in enumerate(zip(model.output_names, shapes, strict=True)):
            if y[i] is not None:
                _check_labels(losses.get(output), y[i], shape, f"{name}[{i}]")
    if isinstance(shapes, dict) and isinstance(y, dict) and isinstance(model.loss, dict):
        for output in shapes.keys() & y.keys() & model.loss.keys():
            if hasattr(y[output], "shape"):
                _check_labels(model.loss[output], y[output], shapes[output], f"{name}[{output!r}]")


def _check_labels(loss, y, shape, name):
    """Raise `ValueError` where the targets of one output are not what its loss compares."""
    loss_name = _loss_name(loss)
    if not isinstance(shape, tuple) or not shape or not isinstance(shape[-1], int):
        return
    classes = shape[-1]
    # As in Keras, a single output and its targets may have an axis of one, or not.
    one = shape[:-1] if classes == 1 else shape
    if loss_name in ELEMENTWISE and not (_matches(y.shape, shape) or _matches(y.shape, one)):
        raise ValueError(
            f"Expected `{name}` of shape {shape}, as the model's output. "
            f"Received: shape {tuple(y.shape)}"
        )
    if loss_name in ("binary_crossentropy", "categorical_crossentropy"):
        for piece in pieces(y):
            if piece.min() < 0 or piece.max() > 1:
                raise ValueError(
                    f"Expected `{name}` to lie in [0, 1] under {loss_name}. "
                    f"Received: values from {piece.min()} to {piece.max()}"
                )
    if loss_name != SPARSE:
        return
    if not _matches(y.shape, shape[:-1]) and not _matches(y.shape, (*shape[:-1], 1)):
        raise ValueError(
            f"Expected `{name}` of shape {shape[:-1]}, a label an example. "
            f"Received: shape {tuple(y.shape)}"
        )
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    ignored = config.get("ignore_class")
    for labels in pieces(y):
        wrong = (labels < 0) | (labels >= classes) | (labels != np.floor(labels))
        wrong = labels[wrong & (labels != ignored)] if ignored is not None else labels[wrong]
        if wrong.size:
            raise ValueError(
                f"Expected `{name}` to hold labels from 0 to {classes - 1}, as the model has "
                f"{classes} outputs. Received: {wrong.flat[0]}"
            )


def _losses(model):
    """Return the losses that a model was compiled with, in a list."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict):
        return list(loss.values())
    return list(loss) if isinstance(loss, (list, tuple)) else [loss]


def _loss_name(loss):
    """Return the name of Keras's own loss, given as a string, a function or an object, or None.

    Losses of others are theirs, also where they have the name of one of Keras's.
    """
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return None
    for name, kind in LOSSES.items():
        if type(loss) is kind or loss is getattr(keras.losses, name):
            return name
    return None
