"""What a run starts from, and what it leaves: with which weights and settings it may go on.

A run that goes on may find the model as it was when it began, as its newest checkpoint has it, as a
training of this process left it, or fresh.
"""

import contextlib
import os
import weakref

import keras
import numpy as np
from keras import ops

from sda.checkpoints.arrays import digest, kept_values
from sda.checkpoints.identity import callback_settings
from sda.checkpoints.installed import is_installed
from sda.distribution import processes

# Entries of a variable that are kept beside its digest, and how near they have to be.
ENTRIES = 16
NEAR = 1e-3
# The `Begun` of the last training of each model and stack that lives. It holds none of them.
_LAST = weakref.WeakKeyDictionary()


class Begun:
    """What a training changes, as it was when the run in a folder began, and as it was left.

    A callback may change the learning rate, and its own attributes. Where the run goes on in the
    process that it was cut off in, with the same objects as it left them, its settings are still
    those that it began with; and so are weights that are still what it left.

    Args:
        owner: The model or stack that is trained, whose last training is looked at.
        folder: Path of the run's folder.
    """

    def __init__(self, owner, folder):
        self._owner = owner
        self._folder = os.path.abspath(folder)
        before = _LAST.get(owner)
        same = before is not None and before._folder == self._folder
        self._left = before._left if same else []
        self.weights = before.weights if same else []
        self._read = []
        self._variables = []

    def read(self, thing, settings):
        """Return what the function `settings` tells of `thing`, or told when the run began."""
        now = settings()
        for other, begun, left in self._left:
            if other() is thing and left == now:
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
                self._left.append((weakref.ref(thing), begun, settings()))
        if self._variables:
            self.weights = [digest(value) for value in kept_values(self._variables)]
        _LAST[self._owner] = self
        self._owner, self._read, self._variables = None, [], []


def check_start(checkpoints, model, variables, newest, verbose):
    """Write down what a run starts from, or raise `ValueError` where it cannot go on with that.

    Args:
        checkpoints: The open `Checkpoints` of the run.
        model: The model or stack that is trained.
        variables: List of its Keras variables.
        newest: List of the values of the newest checkpoint, one per variable, or None where there
            is none.
        verbose: 0 for silence.
    """
    if newest is None:
        checkpoints.context["start"] = start_of(variables)
    else:
        start, left = checkpoints.context.get("start"), checkpoints.begun.weights
        resume_from(checkpoints.path, model, variables, start, newest, left, verbose)
    checkpoints.begun.train(variables)


def start_of(variables):
    """Return what tells the values of variables from others: digest, norm and some entries."""
    return [
        {"digest": digest(value), "norm": _norm(value), "entries": _entries(value)}
        for value in kept_values(variables)
    ]


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
        variables, kept_values(variables), start, newest, left, strict=True
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
