"""What a run is, in nested plain values, and how one is told from another.

A run is its data, the weights that it starts from, its settings, its callbacks and the code of all
of these. Two runs are the same where these are.
"""

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import warnings

import keras
import numpy as np
from keras import ops, tree

from sda.checkpoints.code import (
    Reader,
    anonymous,
    config_of,
    digest,
    get_config,
    is_installed,
    items_of,
    python_version,
)
from sda.distribution import processes
from sda.files.cells import printable
from sda.rows.reading import as_rows

# Entries of a variable that are kept beside its digest, and how near they have to be.
ENTRIES = 16
NEAR = 1e-3


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
    code = reader.unsaid(model)
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
    code = reader.unsaid(thing)
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
        code = reader.unsaid(value)
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
            **_callback_reader(callback, left_out).arguments(callback),
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
    found = _callback_reader(callback, left_out).arguments(callback, everything=True)
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


class Begun:
    """What a training changes, as it was when the run in a folder began, and as it was left.

    A callback may change the learning rate, and its own attributes. Where the run goes on in the
    process that it was cut off in, with the same objects as it left them, its settings are still
    those that it began with; and so are weights that are still what it left.

    Args:
        folder: Path of the run's folder.
        before: The `Begun` of the training before this one, or None.
    """

    def __init__(self, folder, before=None):
        self._folder = os.path.abspath(folder)
        same = before is not None and before._folder == self._folder
        self._left = before._left if same else []
        self.weights = before.weights if same else []
        self._read = []
        self._variables = []

    def read(self, thing, settings):
        """Return what the function `settings` tells of `thing`, or told when the run began."""
        now = settings()
        for other, begun, left in self._left:
            if other is thing and left == now:
                now = begun
        self._read.append((thing, now, settings))
        return now

    def callbacks(self, callbacks, left_out=None):
        """Return the `callback_settings` of a list of callbacks, each as the run began."""
        return [
            settings
            for one in callbacks
            for settings in self.read(one, lambda one=one: callback_settings([one], left_out))
        ]

    def train(self, variables):
        """Remember the variables that are about to be trained."""
        self._variables = list(variables)

    def leave(self):
        """Keep how training leaves the things and the variables."""
        self._left = []
        for thing, begun, settings in self._read:
            # What cannot be told from others any more is not what was left.
            with contextlib.suppress(ValueError):
                self._left.append((thing, begun, settings()))
        if self._variables:
            self.weights = digests(self._variables)
        self._read, self._variables = [], []


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
    start = values_digest(_values(autoencoder.variables))
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


# Starting weights


def start_of(variables):
    """Return what tells the values of variables from others: digest, norm and some entries."""
    return [
        {"digest": digest(value), "norm": _norm(value), "entries": _entries(value)}
        for value in _values(variables)
    ]


def digests(variables):
    """Return the digest of the value of each variable."""
    return [digest(value) for value in _values(variables)]


def resume_from(folder, model, variables, start, newest, left, verbose):
    """Check that a model may be given the weights of a run; say so where it loses others by that.

    Its weights may be what the run began with, what its newest checkpoint holds, or what a training
    of this process left. Any others have to be as their initialiser draws them, or as those that
    the run began with but for the last bits, or to have no initialiser that can be asked.

    Args:
        folder: Path of the run's checkpoints.
        model: The model or stack.
        variables: List of its Keras variables.
        start: What `start_of` returned of them when the run began.
        newest: List of the values of the newest checkpoint, one per variable; None for none.
        left: List of the digests that a training of this process left, or an empty one.
        verbose: 0 for silence.

    Raises:
        ValueError: If a variable is none of that. Nothing is changed.
    """
    _check_kept(start, newest, variables)
    left = left if len(left) == len(variables) else [None] * len(variables)
    layers = [*model._flatten_layers()]
    loses = False
    for variable, value, begun, held, of_left in zip(
        variables, _values(variables), start, newest, left, strict=True
    ):
        now = digest(value)
        if now in (begun["digest"], of_left) or (
            held is not None and now == digest(np.asarray(held))
        ):
            continue
        loses = True
        owner = next((layer for layer in layers if _owns(layer, variable)), None)
        initializer = _initializer(owner, variable)
        if initializer is None or _is_near(value, begun) or _is_drawn(initializer, variable, value):
            continue
        raise ValueError(
            "Expected the weights with which the run in `checkpoint_dir` began, those of its "
            f"newest checkpoint, or fresh ones. Received: others in layer {owner.name!r} "
            f"({variable.name}); checkpoint_dir={str(folder)!r}. Nothing was changed: make the "
            "model or stack anew to go on with that run; to begin one with these weights, use "
            "another folder, or delete this one"
        )
    if loses and verbose and processes.rank() == 0:
        print(f"The weights are those of the checkpoint in {str(folder)!r}, not fresh ones.")


def _check_kept(start, newest, variables):
    """Raise `ValueError` unless a checkpoint holds what `start_of` returns of these variables."""
    is_whole = isinstance(start, list) and len(start) == len(newest) == len(variables)
    if not is_whole or not all(
        isinstance(one, dict)
        and isinstance(one.get("digest"), str)
        and isinstance(one.get("norm"), float)
        and isinstance(one.get("entries"), list)
        and all(isinstance(entry, float) for entry in one["entries"])
        for one in start
    ):
        raise ValueError(
            f"Expected a checkpoint with the weights that a run of {len(variables)} variables "
            "began with. Received: one of another model, or of another version of keras-sda"
        )


def _values(variables):
    # Through a tensor: on TensorFlow a variable of several replicas is no array.
    found = [np.array(ops.convert_to_numpy(ops.stop_gradient(v.value))) for v in variables]
    # A checkpoint has no bfloat16: in float32 its values are the same.
    return [value.astype("float32") if value.dtype.kind == "V" else value for value in found]


def _norm(value):
    return float(np.linalg.norm(value.astype("float64").ravel()))


def _entries(value):
    flat = value.ravel()
    places = np.linspace(0, max(flat.size - 1, 0), min(ENTRIES, flat.size)).astype("int64")
    return [float(entry) for entry in flat[places]]


def _is_near(value, begun):
    """Return whether a value is that of another machine: equal but for the last bits."""
    there, here = np.asarray(begun["entries"], "float64"), np.asarray(_entries(value))
    if there.shape != here.shape:
        return False
    scale = np.abs(there).max(initial=0)
    return bool(
        abs(_norm(value) - begun["norm"]) <= NEAR * begun["norm"]
        and np.all(np.abs(here - there) <= NEAR * scale)
    )


def _owns(layer, variable):
    kept = (
        getattr(layer, "_trainable_variables", []),
        getattr(layer, "_non_trainable_variables", []),
    )
    return any(variable is other for variables in kept for other in variables)


def _initializer(layer, variable):
    """Return the initialiser that a layer keeps of a variable, or None if it cannot be asked."""
    name = f"{variable.name}_initializer"
    initializer = vars(layer).get(name, vars(layer).get(f"_{name}")) if layer is not None else None
    pure = isinstance(initializer, keras.initializers.Initializer) and is_installed(
        type(initializer)
    )
    # One that shares a generator draws other numbers each time.
    if not pure or isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
        return None
    return initializer


def _is_drawn(initializer, variable, value):
    drawn = np.asarray(
        ops.convert_to_numpy(ops.convert_to_tensor(initializer(variable.shape, variable.dtype)))
    ).astype("float64")
    scale = np.abs(drawn).max(initial=0)
    return bool(np.all(np.abs(value.astype("float64") - drawn) <= NEAR * scale))
