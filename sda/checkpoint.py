"""What a run needs to resume exactly: a folder of checkpoints, each whole or absent."""

import collections
import contextlib
import hashlib
import io
import json
import logging
import os
import pathlib
import random
import re
import secrets
import time
import types
import warnings

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from sda import processes
from sda.checkpoints.identity import differences, stateful, versions
from sda.checks import check_number
from sda.locks import LOCK, Lock
from sda.safe_files import open_plain, printable, read_npz

# The header of a checkpoint: this, the version of the format, and the SHA-256 of what follows.
MAGIC = b"sda-checkpoint"
VERSION = b"1"
# A folder keeps the newest checkpoint and the one before it.
KEPT = 2
SUFFIX = ".checkpoint"
# The names of its files, and of what a run that was killed had begun to write; others are not ours.
OURS = re.compile(rf"\d{{8,}}{re.escape(SUFFIX)}")
LEFTOVER = re.compile(r"(?:[0-9a-f]{8,64}\.)?[0-9a-f]{8,16}\.[a-z]+\.tmp")
# The kinds of dtype that may be in one, as NumPy's letters: numbers and text.
KINDS = "biufcSU"
# The generators of NumPy that may be in one.
BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}
# Attributes of a callback that are not its state: what `fit` sets, what does not change the result,
# a setting whose sign Keras turns when it first looks at the logs, and files that TensorBoard opens
# by itself.
NO_STATE = ("params", "_model", "verbose", "min_delta", "_writers", "_prev_summary_state")


class Checkpoints:
    """The folder of one run: locked while the run lasts, holding its last two checkpoints.

    Used as a context manager, it takes the folder for this process (the system gives it back when
    the process ends, in whatever way), reads the newest checkpoint that is whole, and refuses one
    of another run. `context` is then what the owner of the run saved beside its training, and
    `progress` the training's own state; empty and None where nothing was saved yet.

    Args:
        path: Path of the folder; made if it does not exist.
        settings: Nested dictionary of plain values: what must be equal for a run to go on.
        every: Seconds after which a checkpoint is due within an epoch.

    Raises:
        ValueError: If another run uses the folder or left its checkpoints there, or if none of
            them is whole.
    """

    def __init__(self, path, settings, every):
        self.path = pathlib.Path(path)
        self.every = every
        self.settings = settings
        self.versions = versions()
        self.context = {}
        self.progress = None
        self._whole = collections.deque(maxlen=KEPT)
        self._number = 0
        self._saved_at = time.monotonic()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            # Of several processes the first one has the folder; the others need not see it.
            content = processes.from_first(lambda: self._take(stack))
            if content:
                saved = _unpacked(content)
                self._check(saved)
                self.context, self.progress = saved["context"], saved["progress"]
            self._open = stack.pop_all()
        return self

    def _take(self, stack):
        """Take the folder; return the content of the newest whole checkpoint, or nothing."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path / LOCK)
        if not self._lock.take():
            raise self._taken("which another run is using")
        stack.callback(self._lock.release)
        # What a run that was killed had begun to write.
        for leftover in self.path.glob(f"*{SUFFIX}.tmp"):
            if LEFTOVER.fullmatch(leftover.name):
                with contextlib.suppress(OSError):  # a folder
                    leftover.unlink()
        files = self._files()
        for path in reversed(files):
            try:
                content = _verified(path.read_bytes())
            except Damaged as damage:
                warnings.warn(
                    f"The checkpoint {str(path)!r} is damaged ({damage}); using the one before it.",
                    stacklevel=5,
                )
                continue
            self._whole.append(path)
            self._number = int(files[-1].name.removesuffix(SUFFIX))
            return content
        if files:
            raise ValueError(
                "Expected a whole checkpoint in `checkpoint_dir`. Received: checkpoint_dir="
                f"{str(self.path)!r}, with {len(files)} that are damaged; delete them to start anew"
            )
        return b""

    def __exit__(self, *error):
        self._open.close()

    def _keep(self):
        """Take the folder anew if it was emptied; raise `ValueError` if another run has it."""
        if self._lock.is_held():
            return
        # Another run's, even where that has ended.
        others = self._lock.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.release()
        if not self._lock.take() or (others and self._files()):
            raise self._taken("which was emptied, and which another run has taken since")

    def _taken(self, how):
        return ValueError(
            "Expected `checkpoint_dir` to belong to one run at a time. Received: "
            f"checkpoint_dir={str(self.path)!r}, {how}"
        )

    def due(self):
        """Return whether `every` seconds have passed since the last checkpoint."""
        return time.monotonic() - self._saved_at >= self.every

    def save(self, progress):
        """Write a checkpoint of `context` and `progress`, nested plain values and arrays.

        Of several processes the first one does.

        Raises:
            OSError: If the file cannot be written, as on a full disk.
            ValueError: If the folder was emptied, and is another run's now.
        """
        self._saved_at = time.monotonic()
        if processes.rank() > 0:
            return
        self._keep()
        saved = {
            "settings": self.settings,
            "versions": self.versions,
            "context": self.context,
            "progress": progress,
        }
        self._number += 1
        path = self.path / f"{self._number:08d}{SUFFIX}"
        try:
            write(path, saved)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Could not save a checkpoint in {str(self.path)!r}: {error.strerror}. Training "
                "has stopped; the checkpoint before this one is whole. Call `fit` again with the "
                "same data and settings to carry on from there",
            ) from error
        self._whole.append(path)
        for other in set(self._files()) - set(self._whole):
            other.unlink()
        self._saved_at = time.monotonic()

    def _files(self):
        found = self.path.glob(f"*{SUFFIX}")
        ours = (path for path in found if OURS.fullmatch(path.name) and not path.is_symlink())
        return sorted(path for path in ours if path.is_file())

    def _check(self, saved):
        """Raise `ValueError` if the checkpoint is that of another run, and name what differs."""
        differing = differences(saved["settings"], self.settings)
        if differing:
            raise ValueError(
                "Expected the data and settings of the run in `checkpoint_dir`. Received: "
                f"{differing}; checkpoint_dir={str(self.path)!r}. Nothing was "
                "changed: use another folder, or delete this one to start anew"
            )
        then, now = saved["versions"], self.versions
        changed = [f"{p} {then.get(p)} -> {now.get(p)}" for p in now if now[p] != then.get(p)]
        if changed:
            warnings.warn(
                "The run was begun with other versions, so its result may differ in the last bits: "
                f"{printable(', '.join(changed))}.",
                stacklevel=5,
            )


def discard(path):
    """Delete the checkpoints in a folder, and the folder if nobody else has put files there."""
    path = pathlib.Path(path)
    if path.is_symlink() or not path.is_dir():
        return
    for file in path.iterdir():
        if file.name == LOCK or OURS.fullmatch(file.name) or LEFTOVER.fullmatch(file.name):
            with contextlib.suppress(OSError):
                file.unlink()
    with contextlib.suppress(OSError):
        path.rmdir()


def check_checkpoints(checkpoint_dir, checkpoint_every):
    """Raise `ValueError` unless the two arguments make sense."""
    if checkpoint_dir is not None and not isinstance(checkpoint_dir, (str, os.PathLike)):
        raise ValueError(
            "Expected `checkpoint_dir` to be the path of a folder or None. "
            f"Received: checkpoint_dir={checkpoint_dir!r}"
        )
    check_number(checkpoint_every, "checkpoint_every", "in seconds, at least 0", lambda s: s >= 0)


# The state of a training


def values(variables):
    """Return the values of Keras variables, as NumPy arrays of their own."""
    # Through a tensor: on TensorFlow a variable of several replicas is no array.
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v.value))) for v in variables]


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
        return {n: v for n, v in vars(callback).items() if n not in NO_STATE and _can_pack(v)}
    return {n: v for n, v in _attributes(callback) if not _has_text(v) and _can_pack(v)}


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
    if _has_text(value) or callable(value) or _can_pack(value):
        return False
    if isinstance(value, (list, tuple, dict, set, collections.deque)):
        return True
    # Keras's own have files and threads.
    return not (
        type(callback).__module__.startswith("keras.")
        or isinstance(value, (io.IOBase, types.ModuleType, logging.Logger))
    )


# Random numbers of generators that belong to no model


def random_state():
    """Return the states of the global generators of Python, NumPy, Keras and the backend.

    None stands for a generator that nothing has drawn from yet.
    """
    version, numbers, normal = random.getstate()
    state = {
        "python": (version, np.array(numbers, "uint32"), normal),
        "numpy": np.random.get_state(),  # noqa: NPY002 - what user code may draw from
        "keras": _global_seeds(),
    }
    if state["keras"] is not None:
        (state["keras"],) = values([state["keras"].state])
    if keras.backend.backend() == "torch":
        import torch

        state["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = [one.numpy() for one in torch.cuda.get_rng_state_all()]
    if keras.backend.backend() == "tensorflow":
        generator = _tensorflow_generator()
        state["tensorflow"] = None if generator is None else generator.state.numpy()
    return state


def set_random_state(state):
    """Set the global generators to what `random_state` returned, on whichever devices there are.

    Raises:
        ValueError: If it did not return that.
    """
    if state is None:  # of a version that did not save it
        return
    try:
        if state["keras"] is None:
            global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, None)
        else:
            seed_generator.global_seed_generator().state.assign(state["keras"])
        # After Keras's, which draws its seed from Python's where it is new.
        version, numbers, normal = state["python"]
        random.setstate((version, tuple(int(n) for n in numbers), normal))
        np.random.set_state(state["numpy"])  # noqa: NPY002 - what user code may draw from
        if "torch" in state:
            import torch

            torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
            if (
                torch.cuda.is_available()
                and len(state.get("cuda", ())) == torch.cuda.device_count()
            ):
                torch.cuda.set_rng_state_all([torch.from_numpy(np.array(s)) for s in state["cuda"]])
        if state.get("tensorflow") is not None:
            generator = _tensorflow_generator()
            if generator is not None:
                generator.reset(state["tensorflow"])
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected a checkpoint with the states of random generators. Received: one with "
            f"{type(error).__name__}: {error}"
        ) from error


def _global_seeds():
    """Return Keras's global `SeedGenerator`, or None where nothing has asked for it."""
    return global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)


def _tensorflow_generator():
    """Return TensorFlow's global generator, or None where there can be none."""
    import tensorflow as tf

    # In a strategy's scope it would be another, one for each replica.
    if tf.distribute.has_strategy():
        return None
    try:
        return tf.random.get_global_generator()
    except RuntimeError:  # deterministic operations were asked for, and it was given no seed
        return None


# Files


class Damaged(Exception):
    """The bytes are not those that were written."""


def write(path, saved):
    """Write settings, versions, context and progress to a file, whole or not at all.

    It is written under another name, synced to the disk and then renamed: whatever happens
    meanwhile, what is under `path` is whole. Nobody else's write has the same other name.
    """
    content = _packed(saved)
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}{path.suffix}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(b"%s %s %s\n" % (MAGIC, VERSION, _digest(VERSION, content)))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read(path):
    """Return what `write` wrote; raise `Damaged` if it is no longer that.

    Raises:
        ValueError: If it is a link or no regular file, such as a FIFO, which would be waited for.
    """
    with open_plain(path, links=False) as file:
        return _unpacked(_verified(file.read()))


def _digest(version, content):
    return hashlib.sha256(version + b"\n" + content).hexdigest().encode()


def _verified(file):
    """Return the content of a checkpoint's bytes after its header, if it is what was written."""
    header, _, content = file.partition(b"\n")
    parts = header.split(b" ")
    if len(parts) != 3 or parts[0] != MAGIC:
        raise Damaged("it has no header")
    if parts[2] != _digest(parts[1], content):
        raise Damaged("its digest is wrong")
    if parts[1] != VERSION:
        raise ValueError(
            f"Expected checkpoints of format {VERSION.decode()}. Received: one of format "
            f"{parts[1].decode(errors='replace')}, of another version of keras-sda"
        )
    return content


def _packed(value):
    """Return nested plain values and arrays as bytes: an .npz of the arrays and one JSON text."""
    arrays = []
    text = json.dumps(_to_json(value, arrays))
    buffer = io.BytesIO()
    named = {f"array_{i}": array for i, array in enumerate(arrays)}
    np.savez(buffer, json=np.frombuffer(text.encode(), "uint8"), **named)
    return buffer.getvalue()


def _unpacked(content):
    # A digest shows damage, not malice: what is in the file is still not trusted.
    try:
        arrays = read_npz(io.BytesIO(content), kinds=KINDS)
        saved = _from_json(json.loads(arrays["json"].tobytes()), arrays)
        return {name: saved[name] for name in ("settings", "versions", "context", "progress")}
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected checkpoints that keras-sda has written. Received: one with "
            f"{type(error).__name__}: {printable(error)}"
        ) from error


def _to_json(value, arrays):
    """Return the value for JSON, with dictionaries as tags, and its arrays moved to `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        # NumPy has no bfloat16 of its own; in float32 its values are the same.
        array = value.astype("float32") if value.dtype.kind == "V" else np.asarray(value)
        if array.dtype.kind in KINDS:
            arrays.append(array)
            return {"array": len(arrays) - 1}
    if isinstance(value, keras.Variable) or ops.is_tensor(value):
        array = ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(value)))
        dtype = keras.backend.standardize_dtype(value.dtype)
        return {"tensor": [_to_json(array, arrays), dtype]}
    if type(value) is np.random.Generator:
        return {"generator": _to_json(value.bit_generator.state, arrays)}
    if type(value) is random.Random:
        return {"random": _to_json(value.getstate(), arrays)}
    if type(value) is collections.deque:
        return {"deque": [[_to_json(item, arrays) for item in value], value.maxlen]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_to_json(item, arrays) for item in value]}
    if type(value) in (dict, collections.defaultdict, collections.OrderedDict):
        return {"dict": [[_to_json(k, arrays), _to_json(v, arrays)] for k, v in value.items()]}
    raise TypeError(f"no place for a {type(value).__name__} in a checkpoint")


def _from_json(value, arrays):
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = value.items()
    if tag == "array":
        # A number of NumPy's comes back as one.
        return arrays[f"array_{inner}"][()]
    if tag == "dict":
        return {_from_json(k, arrays): _from_json(v, arrays) for k, v in inner}
    if tag == "tensor":
        array, dtype = inner
        return ops.convert_to_tensor(_from_json(array, arrays), dtype=dtype)
    if tag == "generator":
        state = _from_json(inner, arrays)
        generator = BIT_GENERATORS[state["bit_generator"]](0)
        generator.state = state
        return np.random.Generator(generator)
    if tag == "random":
        generator = random.Random()
        generator.setstate(_from_json(inner, arrays))
        return generator
    if tag == "deque":
        items, maxlen = inner
        return collections.deque((_from_json(item, arrays) for item in items), maxlen)
    return {"list": list, "tuple": tuple}[tag](_from_json(item, arrays) for item in inner)


def _can_pack(value):
    try:
        json.dumps(_to_json(value, []))
    except (TypeError, RecursionError):
        return False
    return True


def _sync_folder(path):
    """Let the folder's new names reach the disk, where the system can open a folder."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
