"""The state of a run beside its settings: the values of variables, and callbacks."""

import collections
import contextlib
import io
import logging
import os
import random
import types
import warnings

import keras
import numpy as np

from sda.checkpoints.codec import can_pack
from sda.checkpoints.identity import stateful

# Attributes of a callback that are not its state: what `fit` sets, what does not change the result,
# a setting whose sign Keras turns when it first looks at the logs, and files that TensorBoard opens
# by itself.
NO_STATE = ("params", "_model", "verbose", "min_delta", "_writers", "_prev_summary_state")


# The state of a training


def assign(variables, saved, name):
    """Give the variables the values that were saved.

    Raises:
        ValueError: If there are more or fewer of them, or a shape differs. Nothing is changed then.
    """
    if [tuple(v.shape) for v in variables] != [np.shape(value) for value in saved]:
        raise ValueError(
            f"Expected a checkpoint with the {len(variables)} {name} variables of this model. "
            f"Received: one with {len(saved)}, or with other shapes"
        )
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)


def callback_states(callbacks):
    """Return the state of each callback.

    It is what the callback's `get_state()` returns, or a `__getstate__` of its own, or else all of
    its attributes that are None, numbers, arrays, tensors, random generators, or lists, tuples,
    deques and dictionaries of these. Strings are settings, such as the path of a file, and a file
    that somebody else made must not change those.
    """
    return [_state(callback) for callback in stateful(callbacks)]


def restore_callbacks(callbacks, states):
    """Give each callback its state back; to be called after `on_train_begin`."""
    for callback, state in zip(stateful(callbacks), states, strict=True):
        if hasattr(callback, "set_state"):
            callback.set_state(state)
        elif isinstance(callback, keras.callbacks.CSVLogger) or not isinstance(state, dict):
            continue
        elif _has_own(callback, "__setstate__"):
            whole = callback.__getstate__() if _has_own(callback, "__getstate__") else {}
            whole = whole if isinstance(whole, dict) else {}
            callback.__setstate__({**whole, **{n: v for n, v in state.items() if not _has_text(v)}})
        else:
            # Also what `on_train_begin` or a later event would set: a run that has finished is not
            # begun again.
            for name, value in state.items():
                if _may_be_set(callback, name, value):
                    _set(vars(callback), name, value)


def _has_own(callback, method):
    """Return whether a class of the callback's defines what every object has a default of."""
    return any(method in vars(cls) for cls in type(callback).__mro__ if cls is not object)


def _set(attributes, name, value):
    """Set an attribute; what others may hold, too, in place."""
    there = attributes.get(name)
    if isinstance(there, keras.Variable):
        there.assign(value)
    elif isinstance(there, np.random.Generator) and isinstance(value, np.random.Generator):
        there.bit_generator.state = value.bit_generator.state
    elif isinstance(there, random.Random) and isinstance(value, random.Random):
        there.setstate(value.getstate())
    else:
        attributes[name] = value


def _may_be_set(callback, name, value):
    """Return whether an attribute may come from a file that somebody else made."""
    in_class = getattr(type(callback), str(name), None)
    return (
        isinstance(name, str)
        and name not in NO_STATE
        and not name.startswith("__")
        # Neither a method nor a property.
        and not hasattr(in_class, "__get__")
        and not _has_text(value)
    )


def _has_text(value):
    """Return whether there are strings or bytes in the value, but for the keys of dictionaries."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "SU"
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return isinstance(value, (str, bytes, bytearray, os.PathLike))
    return any(_has_text(item) for item in value)


@contextlib.contextmanager
def continued_logs(callbacks, states):
    """Let each `CSVLogger` go on where it was, and not begin its file anew, in `on_train_begin`."""
    loggers = [
        (callback, callback.append, state["size"])
        for callback, state in zip(stateful(callbacks), states, strict=True)
        if isinstance(callback, keras.callbacks.CSVLogger)
    ]
    for callback, _, size in loggers:
        callback.append = True
        # Lines of epochs that will be run again.
        with contextlib.suppress(FileNotFoundError):
            os.truncate(callback.filename, min(size, os.path.getsize(callback.filename)))
    try:
        yield
    finally:
        for callback, append, _ in loggers:
            callback.append = append


def _state(callback):
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        return {"size": os.path.getsize(callback.filename)}
    if isinstance(callback, keras.callbacks.History):
        # Nothing of it is a setting, and its logs are the run's.
        return {n: v for n, v in vars(callback).items() if n not in NO_STATE and can_pack(v)}
    return {n: v for n, v in _attributes(callback) if not _has_text(v) and can_pack(v)}


def _attributes(callback):
    """Yield (name, value) of what may be the state of a callback that does not tell it itself."""
    attributes = vars(callback)
    if _has_own(callback, "__getstate__"):
        attributes = callback.__getstate__()
    for name, value in attributes.items() if isinstance(attributes, dict) else ():
        if name not in NO_STATE:
            yield name, value


class Watched:
    """Tells, once, what training changes and a checkpoint does not hold.

    To be made when training begins: what is set before that is set again when a run goes on.

    Args:
        callbacks: List of callbacks.
        optimizer: The optimizer, whose variables are saved, but no other attributes.
    """

    def __init__(self, callbacks, optimizer):
        self._callbacks = [
            c
            for c in stateful(callbacks)
            if not hasattr(c, "get_state")
            and not isinstance(c, (keras.callbacks.CSVLogger, keras.callbacks.History))
        ]
        self._optimizer = optimizer
        self._texts = self._texts_now()
        self._plain = self._plain_now()
        self._told = set()

    def tell(self):
        """Warn of what has changed, or cannot be saved, and was not told before."""
        texts, plain = self._texts_now(), self._plain_now()
        kind = type(self._optimizer).__name__
        lost = [key[1:] for key in texts if self._texts.get(key) != texts[key]]
        lost += [
            (type(c).__name__, name)
            for c in self._callbacks
            for name, value in _attributes(c)
            if _is_lost(c, value)
        ]
        lost += [(kind, n) for n, v in plain.items() if n not in self._plain or v != self._plain[n]]
        lost = [one for one in dict.fromkeys(lost) if one not in self._told]
        if not lost:
            return
        self._told.update(lost)
        named = ", ".join(f"`{name}` of {owner}" for owner, name in lost)
        warnings.warn(
            f"{named} is not saved in checkpoints: of a callback's attributes those that hold "
            "numbers, arrays and random generators are, but no strings, and of an optimizer its "
            "variables. If it is part of the state, give the callback `get_state()` and "
            "`set_state(state)`.",
            stacklevel=2,
        )

    def _texts_now(self):
        return {
            (i, type(c).__name__, name): repr(value)
            for i, c in enumerate(self._callbacks)
            for name, value in _attributes(c)
            if _has_text(value)
        }

    def _plain_now(self):
        """Return the attributes of the optimizer that hold one plain value, or a schedule."""
        kinds = (bool, int, float, str, np.generic, keras.optimizers.schedules.LearningRateSchedule)
        found = vars(self._optimizer).items()
        return {n: v for n, v in found if v is None or isinstance(v, kinds)}


def _is_lost(callback, value):
    """Return whether an attribute that cannot be saved may be part of the callback's state."""
    if _has_text(value) or callable(value) or can_pack(value):
        return False
    if isinstance(value, (list, tuple, dict, set, collections.deque)):
        return True
    # Keras's own have files and threads.
    return not (
        type(callback).__module__.startswith("keras.")
        or isinstance(value, (io.IOBase, types.ModuleType, logging.Logger))
    )
