"""Pretrained layers that several runs share: a store on disk, addressed by what made them."""

import contextlib
import os
import pathlib
import re
import stat
import warnings

import numpy as np

from sda.checkpoints import arrays, codec, identity, state
from sda.checks import check_count
from sda.files.cells import printable
from sda.files.locks import Lock, alone

SUFFIX = ".layer"
# What a process that was killed had begun to write: the address, and a random name.
LEFTOVER = re.compile(rf"([0-9a-f]{{64}})\.[0-9a-f]{{16}}{re.escape(SUFFIX)}\.tmp")


class LayerCache:
    """Pretrained layers on disk, each under the SHA-256 of all that its weights depend on.

    That is: the data, the versions of Keras, the backend and this package, the kind of device, the
    layer's settings, initial weights and noise, its training and the seed of its order, and the
    same of every layer below. Two runs that agree on these up to some layer train the layers up to
    there once: `sda.GreedyPretrainer(stack, ..., cache=store)` takes from the store what is
    there, and adds what is not. The result is that of a run without a store, bit for bit on one
    machine.

    Several processes, also on several machines, may use one folder at a time: of two that need the
    same layer one trains it, and the other waits for it. (Where the file system knows no locks,
    both train it, with the same result.) A process that is killed leaves neither a lock that is
    held nor half a layer: what it had begun to write is deleted by whoever uses the store next.

    What a function is, its code says, with its constants, defaults, closure and the globals that it
    names; what an object is, its config, and its attributes and methods where its class is yours.
    What an installed package defines goes by its name and version, what a module of yours defines
    by its name alone: empty the store when you have changed such a module.

    Args:
        path: Path of the folder; made if it does not exist.
        max_bytes: Integer, the size of all layers together, in bytes. Beyond it those that were
            not used for longest are deleted.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> store = sda.LayerCache("runs/layers")
    >>> for level in (0.2, 0.4):
    ...     stack = sda.StackedDenoisingAutoencoder([8, 5], corruption=[0.1, level], seed=1)
    ...     pretrainer = sda.GreedyPretrainer(stack, epochs=1, seed=1, cache=store)
    ...     histories = pretrainer.fit(np.eye(12), verbose=0)
    >>> store.hits, store.misses
    (1, 3)
    """

    def __init__(self, path, max_bytes=2**33):
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"Expected `path` to be the path of a folder. Received: path={path!r}")
        self.path = pathlib.Path(path)
        self.max_bytes = check_count(max_bytes, "max_bytes", least=0)
        self.hits = 0
        self.misses = 0

    def layer(self, settings, variables, train):
        """Give a layer the values that training gives it; return what `train` returned.

        Args:
            settings: Nested dictionary of plain values: what the values depend on.
            variables: The Keras variables of the layer.
            train: Function without arguments that trains the layer and returns plain values.
        """
        path = self.path / f"{identity.address(settings)}{SUFFIX}"
        with contextlib.suppress(OSError):  # told where the layer cannot be kept
            self.path.mkdir(parents=True, exist_ok=True)
            self._clear()
        saved = self._read(path, settings, variables)
        if saved is None:
            with self._lock(path.with_suffix(".lock")):
                saved = self._read(path, settings, variables)
                if saved is None:
                    return self._train(path, settings, variables, train)
        state.assign(variables, saved["variables"], "layer")
        self.hits += 1
        return saved["outcome"]

    @contextlib.contextmanager
    def _lock(self, path):
        """Hold the lock of a layer; where there can be none, say so, and wait for nobody."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(alone(path))
            except ValueError as error:
                warnings.warn(
                    f"The lock {str(path)!r} cannot be taken: {printable(error)}. Whoever needs "
                    "the layer trains it.",
                    stacklevel=4,
                )
            yield

    def _train(self, path, settings, variables, train):
        self.misses += 1
        outcome = train()
        saved = {
            "settings": settings,
            "versions": identity.versions(),
            "context": {"variables": arrays.values(variables), "outcome": outcome},
            "progress": None,
        }
        try:
            codec.write(path, saved)
        except OSError as error:
            warnings.warn(
                f"A layer could not be kept in {str(self.path)!r}: {error.strerror}. Whoever needs "
                "it will train it again.",
                stacklevel=2,
            )
        self._evict()
        return outcome

    def _clear(self):
        """Delete what processes that are gone had begun to write."""
        for path in self.path.glob("*.tmp"):
            found = LEFTOVER.fullmatch(path.name)
            if found:
                # Who writes holds the lock of the layer.
                with contextlib.suppress(OSError, ValueError):
                    lock = Lock(self.path / f"{found[1]}.lock")
                    if lock.take():
                        path.unlink(missing_ok=True)
                        lock.release()

    def size(self):
        """Return the bytes that the layers take."""
        return sum(size for _, size, _ in self._entries())

    def _read(self, path, settings, variables):
        """Return what is under `path`, or None unless it is the whole layer that was asked for."""
        try:
            saved = codec.read(path)
        except FileNotFoundError:
            return None
        except codec.Damaged:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except NotADirectoryError:
            return None
        except (OSError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            problem = _problem(saved, settings, variables)
        if problem:
            warnings.warn(
                f"The layer {str(path)!r} is not used, and trained again: {printable(problem)}.",
                stacklevel=2,
            )
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return saved["context"]

    def _entries(self):
        """Return (time of last use, size, path) of each layer, the least recently used first."""
        entries = []
        for path in self.path.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # evicted by another process
                found = path.lstat()
                if not stat.S_ISREG(found.st_mode):  # nothing of ours
                    continue
                entries.append((found.st_mtime_ns, found.st_size, path))
        return sorted(entries)

    def _evict(self):
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) - self.max_bytes
        for _, size, path in entries:
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            excess -= size


def _problem(saved, settings, variables):
    """Return why what was read is not the layer that was asked for, or nothing."""
    try:
        if identity.address(saved["settings"]) != identity.address(settings):
            return "it says of itself that it is another"
        values = saved["context"]["variables"]
        shapes = [np.shape(value) for value in values]
        if shapes != [tuple(v.shape) for v in variables] or "outcome" not in saved["context"]:
            return "it does not hold the variables of this layer"
        if not all(np.all(np.isfinite(value)) for value in values):
            return "not all of its values are finite"
    except (KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
