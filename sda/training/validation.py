"""What is validated, how often, and in batches of which size; weights of classes."""

import math

import keras
import numpy as np

from sda.checks import check_count, check_number
from sda.rows.arrays import ArrayRows
from sda.rows.iterated import warn_of_end

# Rows a step in which an evaluation is fast, where the size of its batches changes no result.
ROWS = 500


def usual_batch_size(given, rows, steps):
    """Return the examples a step, as Keras has them: `given`, or 32, or all in `steps` steps."""
    if given is not None:
        return given
    return 32 if steps is None else math.ceil(rows / steps)


def rows_of_steps(rows, batch_size, steps):
    """Return how many of the rows an evaluation of `steps` steps takes."""
    if steps is None:
        return rows
    there = math.ceil(rows / batch_size)
    if there < steps:
        warn_of_end("validation_data", there, steps)
    return min(rows, steps * batch_size)


def split_at(rows, share):
    """Return the number of the first of the last rows, the `share` that is held out.

    Raises:
        ValueError: If one of the two parts has no rows.
    """
    first = math.floor(rows * (1.0 - share))
    if not 0 < first < rows:
        raise ValueError(
            "Expected `validation_split` to leave rows to train on, and rows to validate on. "
            f"Received: validation_split={share!r}, of {rows} rows"
        )
    return first


def check_split(share):
    """Return `validation_split` as a float; raise `ValueError` unless it is in [0, 1)."""
    return check_number(share, "validation_split", "in [0, 1)", lambda s: 0 <= s < 1)


def check_frequency(frequency):
    """Return `validation_freq` as an integer, or a list of the epochs, counted from 1."""
    if isinstance(frequency, (list, tuple, set)):
        return [check_count(epoch, "validation_freq") for epoch in sorted(frequency)]
    return check_count(frequency, "validation_freq")


def is_due(epoch, frequency):
    """Return whether the epoch, counted from 0, ends with a validation."""
    if isinstance(frequency, list):
        return epoch + 1 in frequency
    return (epoch + 1) % frequency == 0


def weights_of_classes(class_weight, y, sample_weight):
    """Return the weight of each row as `Rows`: its class's, 1 for a class that is not named.

    As in Keras, the class of a row of several targets is its largest one's.

    Args:
        class_weight: Dictionary from class to weight.
        y: `Rows` of targets, of shape `(n,)`, `(n, 1)` or `(n, classes)`.
        sample_weight: What `fit` was given as such.

    Raises:
        ValueError: If there are sample weights too, the model has several outputs, or
            `class_weight` is no dictionary of weights by class.
    """
    if not isinstance(class_weight, dict) or not all(
        isinstance(label, (int, np.integer)) and not isinstance(label, bool)
        for label in class_weight
    ):
        raise ValueError(
            "Expected `class_weight` to be a dictionary from class to weight. "
            f"Received: class_weight={class_weight!r}"
        )
    for weight in class_weight.values():
        check_number(weight, "class_weight", "finite", np.isfinite)
    if sample_weight is not None:
        raise ValueError(
            "Expected `class_weight` or `sample_weight`, not both. Received: "
            f"class_weight={class_weight!r}, sample_weight of type {type(sample_weight).__name__}"
        )
    if not hasattr(y, "shape"):
        raise ValueError(
            "Expected the targets of one output under `class_weight`. Received: y of type "
            f"{type(y).__name__}"
        )
    found = []
    for labels in y.pieces():
        if labels.ndim > 1:
            labels = labels.argmax(-1) if labels.shape[-1] != 1 else labels[..., 0]
        labels = np.round(labels).astype("int32").tolist()
        found += [float(class_weight.get(label, 1.0)) for label in labels]
    return ArrayRows(np.array(found, keras.config.floatx()))


def batch_size_for(model, batch_size):
    """Return in batches of which size to evaluate a model that trains in those of `batch_size`.

    Larger ones where results do not depend on it: where losses and metrics are Keras's, and means
    over rows.
    """
    compiled = getattr(model, "_compile_loss", None)
    losses = [part.loss for part in getattr(compiled, "_flat_losses", None) or []]
    usual = type(model).compute_loss is keras.Model.compute_loss
    usual = usual and type(model).test_step is keras.Model.test_step
    means = usual and losses and all(_is_mean(loss) for loss in losses)
    return max(batch_size, ROWS) if means and _metrics_add_up(model) else batch_size


def _is_mean(loss):
    return loss is None or (
        type(loss).__module__.startswith("keras.")
        and getattr(loss, "reduction", None) in ("mean", "sum_over_batch_size")
        and getattr(getattr(loss, "fn", None), "__module__", "").startswith("keras.")
        and loss.get_config().get("ignore_class") is None
    )


def _metrics_add_up(model):
    compiled = getattr(model, "_compile_metrics", None)
    metrics = getattr(compiled, "metrics", [])
    return all(
        type(metric).__module__.startswith("keras.")
        and getattr(getattr(metric, "_fn", None), "__module__", "keras.").startswith("keras.")
        for metric in metrics
    )
