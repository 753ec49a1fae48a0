"""One training of a run, while it writes its folder."""

import contextlib
import csv
import datetime
import hashlib
import io
import logging
import os
import pathlib
import re
import secrets
import shutil
import time

from sda.checkpoints import folder
from sda.files.locks import Lock
from sda.files.opening import open_plain
from sda.files.writing import leftovers, write_json, write_plain
from sda.runs.kinds import damaged
from sda.runs.machine import circumstances
from sda.runs.record import Record

# In the order in which they are made.
PHASES = ("pretrain", "finetune")
# The files of a phase, but for those of a training that is under way.
FILES = ("settings.toml", "run.json", "log.txt", "curves.csv", "results.json", "stack.keras")


class Phase(Record):
    """One training of a run: a folder that it alone writes.

    Args:
        run: Path of the run's folder.
        name: String, what the folder in it is called: "pretrain", "finetune", …

    Example:

    >>> phase = sda.runs.Phase("runs/first", "pretrain")
    >>> with phase.begin({"units": [500, 500]}, seed=1) as log:
    ...     log.info("nothing was trained")
    >>> phase.settings, phase.record["seed"], phase.is_finished
    ({'units': [500, 500]}, 1, True)
    """

    def __init__(self, run, name):
        super().__init__(run, name)
        self._lock = None

    @contextlib.contextmanager
    def begin(self, settings, seed, resume=False, overwrite=False):
        """Write the settings and circumstances; yield the log; at the end, say how it ended.

        Args:
            settings: Dictionary of strings, numbers, booleans and lists of these. What is None is
                left out. A run that is resumed keeps those that it has.
            seed: Integer, the seed of the run.
            resume: Whether to go on in the folder of a run that was cut off.
            overwrite: Whether to begin anew in a folder that is in use. This phase and those that
                build on it are deleted first.

        Returns:
            A `logging.Logger` that writes to log.txt.

        Raises:
            ValueError: If the folder is in use, by another process too, or if there is nothing to
                resume. Nothing has changed then.
        """
        with self._alone():
            self.check(resume, overwrite)
            if self.exists and not resume:
                self._delete()
            self.path.mkdir(parents=True, exist_ok=True)
            self._clear()
            with self._recorded(settings, seed, resume) as log:
                yield log

    @contextlib.contextmanager
    def _alone(self):
        """Hold the run for this process; raise `ValueError` if another one is writing to it.

        One lock for all phases: to begin one anew deletes those made of it.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.run / ".lock")
        try:
            if not self._lock.take():
                raise ValueError(
                    f"Expected the folder of a run that nobody is writing to. Received: "
                    f"{self.run}, which another process is using"
                )
        except OSError:  # without locks in the file system nobody is refused
            self._lock = None
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.release()
            self._lock = None

    def _check_held(self):
        """Raise `ValueError` if the run's folder was emptied while this process wrote to it."""
        if self._lock is not None and not self._lock.is_held():
            raise ValueError(
                "Expected the folder of a run to stay as it is while it is written to. Received: "
                f"{self.run}, which was emptied or replaced"
            )

    def _clear(self):
        """Delete what processes that were killed had begun to write; refuse what leads away."""
        if self.checkpoints.is_symlink():
            raise damaged(self.checkpoints, "a link")
        for path in leftovers(self.path):
            path.unlink(missing_ok=True)
        for path in self.run.glob(".*.tmp"):
            if re.fullmatch(rf"\.({'|'.join(PHASES)})\.[0-9a-f]{{16}}\.tmp", path.name):
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _recorded(self, settings, seed, resume):
        settings = {name: value for name, value in settings.items() if value is not None}
        before = self._seconds() if resume else 0
        record = {
            "status": "started",
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": before,
            **circumstances(seed),
        }
        start = time.monotonic()

        def leave(status):
            self._check_held()
            record.update(status=status, seconds=round(before + time.monotonic() - start, 1))
            write_json(self.path / "run.json", record)

        if not resume:
            self._write_settings(settings)
        write_json(self.path / "run.json", record)
        handler = logging.FileHandler(self.file("log.txt"), encoding="utf-8")
        handler.setFormatter(logging.Formatter("{asctime} {message}", style="{"))
        log = logging.Logger(self.name)
        log.addHandler(handler)
        log.info("%s of %s", "resumed" if resume else "start", self.name)
        try:
            yield log
            # Before its checkpoints go: without either, a run that is killed would train again.
            leave("finished")
            log.info("finished after %s seconds", record["seconds"])
        except BaseException as error:
            log.info("stopped by %s: %s", type(error).__name__, error)
            if self._lock is None or self._lock.is_held():
                leave("stopped")
            raise
        finally:
            handler.close()
        folder.discard(self.checkpoints)

    def _seconds(self):
        """Return how long the phase has taken; if it was killed, until its last sign of life."""
        record = self.record
        seconds = record.get("seconds", 0)
        if record.get("status") != "started":
            return seconds
        signs = [self.path / "run.json", self.path / "log.txt", *self.checkpoints.glob("*")]
        times = [path.lstat().st_mtime for path in signs if path.exists()]
        return round(seconds + max(times) - times[0], 1)

    def check(self, resume=False, overwrite=False):
        """Raise `ValueError` unless a phase may begin here, before anything is read or written."""
        if resume and overwrite:
            raise ValueError("Expected `resume` or `overwrite`. Received: both")
        if resume and not self.exists:
            raise ValueError(
                f"Expected `resume` to go on with a run that was cut off. Received: {self.path}, "
                "where none has begun"
            )
        # An attempt that came to nothing, such as one with the wrong data, is nothing to lose.
        nothing = not self.is_finished and not any(self.checkpoints.glob("*"))
        if resume or overwrite or nothing:
            return
        how = "ended" if self.is_finished else "was cut off, and which `--resume` carries on"
        raise ValueError(
            f"Expected the folder of a new run. Received: {self.path}, of a run that {how}; "
            "`--overwrite` deletes it"
        )

    def write_curves(self, histories):
        """Write curves.csv from `keras.callbacks.History` objects, one a layer."""
        rows = [
            {"layer": k, "epoch": epoch + 1, **dict(zip(history.history, values, strict=True))}
            for k, history in enumerate(histories, start=1)
            for epoch, *values in zip(history.epoch, *history.history.values(), strict=True)
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
        self._check_held()
        write_plain(self.path / "curves.csv", text.getvalue())

    def write_results(self, **results):
        """Add to results.json."""
        self._check_held()
        write_json(self.path / "results.json", {**self.results, **results})

    def check_copy(self, run):
        """Raise `ValueError` if `run` has this phase of another training: no run has two."""
        there = Phase(run, self.name)
        if not os.path.lexists(there.path) or _is_same(there.path, self.path):
            return
        if not there.is_finished or there._digest() != self._digest():
            raise ValueError(
                f"Expected the folder of a new run, or of one with the `{self.name}` of {self.run}."
                f" Received: {there.path}, of another training"
            )

    def copy_to(self, run):
        """Give another run this phase: all of its files, or none where that is cut off.

        Raises:
            ValueError: If it has another one, or if a file is a link.
        """
        self.check_copy(run)
        target = pathlib.Path(run) / self.name
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{self.name}.{secrets.token_hex(8)}.tmp")
        aside.mkdir()
        try:
            for name in FILES:
                path = self.file(name)
                if path.exists():
                    with open_plain(path, links=False) as file, open(aside / name, "xb") as copy:
                        shutil.copyfileobj(file, copy)
            os.rename(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _digest(self):
        with open_plain(self.file("stack.keras"), links=False) as file:
            return hashlib.file_digest(file, "sha256").digest()

    def _delete(self):
        # Later phases are made of this one's model.
        later = PHASES[PHASES.index(self.name) + 1 :] if self.name in PHASES else ()
        for name in (self.name, *later):
            phase = Phase(self.run, name)
            if phase.exists:
                phase.file("run.json")  # Not what a link leads to.
                shutil.rmtree(phase.path)

    def _write_settings(self, settings):
        import tomli_w

        head = f"# To repeat: sda {self.name} --config settings.toml --out ANOTHER_RUN\n"
        text = head + tomli_w.dumps(settings)
        write_plain(self.path / "settings.toml", text)


def _is_same(path, other):
    return os.path.exists(path) and os.path.samefile(path, other)


def phases(run):
    """Return a dictionary of the names to the `Phase`s that a run's folder has, in their order.

    Raises:
        ValueError: If there is none.
    """
    found = {name: Phase(run, name) for name in PHASES if Phase(run, name).exists}
    if not found:
        raise ValueError(
            f"Expected the folder of a run, as `sda pretrain` makes it. Received: {run}"
        )
    return found


def finished(run, name):
    """Return the `Phase` of a run, which has to have ended well.

    Raises:
        ValueError: If it has not.
    """
    phase = phases(run).get(name)
    if phase is None or not phase.is_finished:
        state = "there is none" if phase is None else f"its status is {phase.record['status']!r}"
        raise ValueError(f"Expected {run} to have ended `{name}`. Received: {state}")
    return phase
