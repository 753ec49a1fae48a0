"""What a run needs to resume exactly: a folder of checkpoints, each whole or absent."""

import collections
import contextlib
import os
import pathlib
import re
import time
import warnings

from sda.checkpoints.codec import Damaged, unpacked, verified, write
from sda.checkpoints.identity import differences, versions
from sda.checks import check_number
from sda.distribution import processes
from sda.files.cells import printable
from sda.files.locks import LOCK, Lock

# A folder keeps the newest checkpoint and the one before it.
KEPT = 2
SUFFIX = ".checkpoint"
# The names of its files, and of what a run that was killed had begun to write; others are not ours.
OURS = re.compile(rf"\d{{8,}}{re.escape(SUFFIX)}")
LEFTOVER = re.compile(r"(?:[0-9a-f]{8,64}\.)?[0-9a-f]{8,16}\.[a-z]+\.tmp")


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
        begun: The `sda.checkpoints.starts.Begun` by which the settings were made, or None. It is
            told when the run ends.

    Raises:
        ValueError: If another run uses the folder or left its checkpoints there, or if none of
            them is whole.
    """

    def __init__(self, path, settings, every, begun=None):
        self.path = pathlib.Path(path)
        self.every = every
        self.begun = begun
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
                saved = unpacked(content)
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
                content = verified(path.read_bytes())
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
        if self.begun is not None:
            self.begun.leave()

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
