"""What a run was trained on, and how good it is on other rows."""

import dataclasses
import math

import numpy as np

from sda import diagnostics
from sda.datasets import sources
from sda.models.stack import StackedDenoisingAutoencoder
from sda.runs.kinds import damaged, is_text
from sda.runs.phase import Phase
from sda.saving.load import load_model


def load_stack(phase):
    """Return the stack of a `Phase` that pretrained one."""
    path = phase.file("stack.keras")
    stack = load_model(path)
    if not isinstance(stack, StackedDenoisingAutoencoder):
        raise damaged(path, f"a {type(stack).__name__}")
    return stack


def columns(run):
    """Return the names of the columns that a run was pretrained on, or None if they had none."""
    phase = Phase(run, "pretrain")
    names = phase.results.get("columns") if phase.exists else None
    if names is not None and not (isinstance(names, list) and all(map(is_text, names))):
        raise damaged(phase.path / "results.json", "columns without names")
    return names


def read_rows(settings, columns=None):
    """Return the rows to train on, and those held out or None, that a phase's settings name.

    Args:
        settings: Dictionary with "data", "validation_split", and maybe "labels" and "image_shape"
            (such as "28x28", or "none").
        columns: List of names, the order in which a table's columns are wanted; see `columns`.

    Returns:
        Two `sda.datasets.sources.Source`s, or one and None.
    """
    return _open(settings, columns).split(settings.get("validation_split", 0))


def read_test_rows(settings, columns=None):
    """Return rows that a phase was not trained on, and a word on what they are.

    Those of a dataset that has test rows; otherwise those held out; otherwise, for want of better,
    the rows it was trained on.
    """
    name = settings.get("data", "")
    if not sources.is_file(name) and "::" not in name:
        return _open({**settings, "data": f"{name}::test"}), f"the test rows of {name}"
    train, held_out = read_rows(settings, columns)
    if held_out is None:
        return train, "the rows it was trained on"
    return held_out, "the rows held out"


def score(phase, rows):
    """Return `diagnostics.classification` of the classifier of a fine-tuning on a `Source`.

    Raises:
        ValueError: If the rows have no labels, or some that the classifier does not know.
    """
    classes = np.asarray(phase.results.get("classes", []))
    if rows.y is None:
        raise ValueError("Expected `labels` to say what the rows are. Received: none")
    path = phase.file("classifier.keras")
    model = load_model(path)
    shapes = model.input_shape, model.output_shape
    if [type(shape) for shape in shapes] != [tuple] * 2 or shapes[1] != (None, len(classes)):
        raise damaged(path, f"a model from {shapes[0]} to {shapes[1]}")
    width = model.input_shape[-1]
    if rows.x.shape[1] != width:
        raise ValueError(
            f"Expected rows of {width} values, as the classifier takes them. "
            f"Received: {rows.x.shape[1]} values"
        )
    strange = np.setdiff1d(rows.y, classes)
    if len(strange):
        raise ValueError(
            f"Expected labels that were there in fine-tuning, {classes.tolist()}. "
            f"Received: {strange[0]}"
        )
    predicted = diagnostics.predict(model, rows.x).argmax(axis=1)
    return diagnostics.classification(np.searchsorted(classes, rows.y), predicted, len(classes))


def _open(settings, columns=None):
    if not settings.get("data"):
        raise ValueError("Expected settings that name `data`. Received: none")
    source = sources.open_source(settings["data"], settings.get("labels")).with_columns(columns)
    text = settings.get("image_shape")
    if text is None:
        return source
    shape = None if text == "none" else tuple(int(axis) for axis in text.split("x"))
    if shape is not None and math.prod(shape) != source.x.shape[1]:
        raise ValueError(
            f"Expected `image_shape` to hold the {source.x.shape[1]} values of a row. "
            f"Received: {text}"
        )
    return dataclasses.replace(source, image_shape=shape)
