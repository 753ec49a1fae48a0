"""What a run is, in nested plain values, and how one is told from another.

A run is its data, the weights that it starts from, its settings, its callbacks and the code of all
of these. Two runs are the same where these are.
"""

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import re
import warnings

import keras
from keras import ops, tree

from sda.checkpoints.arrays import kept_values
from sda.checkpoints.bytecode import python_version
from sda.checkpoints.code import Reader
from sda.checkpoints.configs import anonymous, config_of, get_config, items_of
from sda.checkpoints.keras_objects import arguments, unsaid
from sda.files.cells import printable
from sda.rows.reading import as_rows


def data_settings(data):
    """Return what tells one set of data from another: for each source its type, shape and digest.

    Args:
        data: Nested structure of rows, or None.
    """
    return [as_rows(rows).digest() for rows in tree.flatten(data) if rows is not None]


def model_settings(model, left_out=None):
    """Return what tells one model from another before training: its layers, without their names.

    Args:
        model: A `keras.Model`.
        left_out: List, to which the names of what cannot be known are added.

    Raises:
        ValueError: If a noise, an activation or an initialiser cannot be told from others.
    """
    reader = Reader("model", left_out)
    config = get_config(model)
    if config is None:  # a subclass that does not say how it was made, or a layer of a lambda
        config = [config_of(layer, reader) for layer in model._flatten_layers(include_self=False)]
    found = {
        "class": type(model).__name__,
        "backend": keras.backend.backend(),
        "floatx": keras.config.floatx(),
        "config": anonymous(config_of(config, reader)),
    }
    code = unsaid(reader, model)
    return {**found, "code": code} if code else found


def object_settings(thing, name, left_out=None):
    """Return what tells a loss, an optimizer or a layer from others, but for its name.

    Raises:
        ValueError: If it cannot be told from others.
    """
    reader = Reader(name, left_out)
    if not hasattr(thing, "get_config"):
        return {"value": reader.read(thing)}
    found = anonymous(config_of(thing, reader))
    code = unsaid(reader, thing)
    return {**found, "code": code} if code else found


def compile_settings(model, left_out=None):
    """Return what the model was compiled with, as far as the result depends on it.

    Raises:
        ValueError: If a loss, a metric or a schedule cannot be told from others.
    """
    made = getattr(model, "_compile_config", None)
    made = dict(made.config) if made is not None else {}
    for name in ("run_eagerly", "steps_per_execution"):
        made.pop(name, None)
    found = {}
    if type(model).get_compile_config is not keras.Model.get_compile_config:
        found["own"] = config_of(model.get_compile_config(), Reader("compile", left_out))
    for name, value in made.items():
        reader = Reader(name, left_out)
        config = config_of(value, reader)
        # The names of metrics are those of the logs, and stay.
        found[name] = anonymous(config) if name in ("optimizer", "loss") else config
        code = unsaid(reader, value)
        if code:
            found[f"{name} code"] = code
    return found


def callback_settings(callbacks, left_out=None):
    """Return the classes of the callbacks and the arguments they were made with.

    Args:
        callbacks: List of callbacks.
        left_out: List, to which the names of what cannot be known are added.

    Raises:
        ValueError: If a schedule cannot be told from others.
    """
    return [
        {
            "class": type(callback).__name__,
            **arguments(_callback_reader(callback, left_out), callback),
        }
        for callback in stateful(callbacks)
    ]


def stateful(callbacks):
    """Return the callbacks but for the progress bar, which a run may have or not."""
    return [c for c in callbacks if not isinstance(c, keras.callbacks.ProgbarLogger)]


def store_settings(callback, left_out=None):
    """Return the class of a callback that was not used yet, and all of its attributes.

    Raises:
        ValueError: If it is a schedule that cannot be told from others.
    """
    found = arguments(_callback_reader(callback, left_out), callback, everything=True)
    return {"class": f"{type(callback).__module__}.{type(callback).__qualname__}", **found}


def _callback_reader(callback, left_out):
    kind = type(callback)
    strict = "schedule" in inspect.signature(kind.__init__).parameters or isinstance(
        callback, keras.callbacks.LearningRateScheduler
    )
    return Reader(kind.__name__, left_out, strict)


def warn_of(left_out, where):
    """Warn, in one line, of what cannot be known and so is not compared."""
    if left_out:
        warnings.warn(
            f"By {where} runs are not told apart: {', '.join(left_out)}. These are no functions, "
            "numbers, strings, arrays or Keras objects, or training changes them.",
            stacklevel=4,
        )


# Layers, each on the one below


def ground(stack, rows, validation):
    """Return the settings that every layer of a stack depends on: what is below the first."""
    return {
        "data": data_settings(rows),
        "validation_data": data_settings(validation),
        "preprocessing": [object_settings(la, "stack") for la in stack.preprocessing],
        "preprocessing weights": weights_settings(stack.preprocessing),
        # Of Python's the bytecode tells, where there is any.
        "versions": {k: v for k, v in versions().items() if k != "python"},
        "floatx": keras.config.floatx(),
        # Its kind: "cuda:1" computes what "cuda:0" does.
        "device": re.sub(r"\d+", "", str(ops.zeros(()).device)),
    }


def layer_settings(below, autoencoder, training):
    """Return what the weights of a layer depend on.

    Args:
        below: The settings of the layer below it, or of the ground.
        autoencoder: The built `sda.DenoisingAutoencoder`, about to be trained.
        training: Nested dictionary of plain values: what it is, and how it is trained.
    """
    start = values_digest(kept_values(autoencoder.variables))
    return {"below": address(below), "start": start, "training": training}


# Comparing


def differences(there, here):
    """Return as text where two nested settings differ, or nothing.

    Code that another Python has compiled is not compared.
    """
    there, here = _of_one_python(there, here)
    there, here = dict(_flat(there)), dict(_flat(here))
    differing = [
        f"{name}={_short(here, name)} (there: {_short(there, name)})"
        for name in [*here, *(name for name in there if name not in here)]
        if name not in here or name not in there or here[name] != there[name]
    ]
    more = f", and {len(differing) - 5} more" if len(differing) > 5 else ""
    return printable(", ".join(differing[:5]) + more)


def address(settings):
    """Return the SHA-256 of nested plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def values_digest(arrays):
    """Return the SHA-256 of several arrays, with their types and shapes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def weights_settings(layers):
    """Return what tells the weights of layers from others: a Normalization is what it knows."""
    return values_digest(array for layer in layers for array in layer.get_weights())


def versions():
    """Return the versions of what the bits of a result depend on."""
    found = {"python": python_version()}
    for package in ("keras-sda", "keras", "numpy", keras.backend.backend()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _flat(value, path=""):
    """Yield (path, value) of all that is plain in nested dictionaries and lists."""
    inner = list(items_of(value))
    if not inner:
        yield path, value
    for key, item in inner:
        step = f"[{key}]" if isinstance(value, list) else f".{key}" if path else key
        yield from _flat(item, path + step)


def _of_one_python(there, here):
    """Return both settings without the code of functions that another Python has compiled."""
    if isinstance(there, dict) and isinstance(here, dict):
        if "code" in there and "python" in there and there["python"] != here.get("python"):
            left_out = ("python", "code")
            there, here = ({k: v for k, v in s.items() if k not in left_out} for s in (there, here))
        pairs = {k: _of_one_python(there[k], here[k]) for k in there.keys() & here.keys()}
        there, here = (
            {k: pairs[k][n] if k in pairs else v for k, v in s.items()}
            for n, s in enumerate((there, here))
        )
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here) > 0:
        there, here = map(list, zip(*map(_of_one_python, there, here), strict=True))
    return there, here


def _short(settings, name):
    text = repr(settings[name]) if name in settings else "nothing"
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"
