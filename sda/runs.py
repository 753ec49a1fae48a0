"""The folder of a run: what was asked for, what happened, what came out.

RUN/pretrain/settings.toml    what `sda pretrain --config` repeats the run from
RUN/pretrain/run.json         seed, versions, machine, when, how long, whether it ended
RUN/pretrain/log.txt          what happened when
RUN/pretrain/curves.csv       one line an epoch of a layer
RUN/pretrain/results.json     what was measured at the end, if anything
RUN/pretrain/stack.keras      the model
RUN/finetune/…                the same of the fine-tuning, with classifier.keras
"""

import contextlib
import csv
import dataclasses
import datetime
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import os
import pathlib
import platform
import secrets
import shutil
import time
import tomllib

import keras
import numpy as np

import sda
from sda import checkpoint, diagnostics
from sda.datasets import sources
from sda.devices import accelerators
from sda.safe_files import open_plain, printable, read_plain, write_plain

# In the order in which they are made.
PHASES = ("pretrain", "finetune")
# The files of a phase, but for those of a training that is under way.
FILES = ("settings.toml", "run.json", "log.txt", "curves.csv", "results.json", "stack.keras")
# Bytes that a text of a run may have.
TEXT_BYTES = 2**24


class Phase:
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
        self.run = pathlib.Path(run)
        self.name = name
        self.path = self.run / name

    @property
    def exists(self):
        return (self.path / "run.json").is_file()

    def file(self, name):
        """Return the path of a file of the phase.

        Raises:
            ValueError: If it is there and no regular file, or if it or the phase is a link, which
                would lead out of the run.
        """
        path = self.path / name
        for there, is_right in ((self.path, self.path.is_dir()), (path, path.is_file())):
            if there.is_symlink() or (there.exists() and not is_right):
                raise _damaged(there, "a link" if there.is_symlink() else "no regular file")
        return path

    def _read(self, name):
        return read_plain(self.file(name), TEXT_BYTES, links=False).decode()

    @property
    def is_finished(self):
        return self.exists and self.record.get("status") == "finished"

    @property
    def checkpoints(self):
        """The folder for `checkpoint_dir`; deleted when the phase has ended well."""
        return self.path / "checkpoints"

    @property
    def record(self):
        """What is in run.json: `circumstances`, started, seconds, status."""
        return self._json("run.json")

    @property
    def settings(self):
        """What is in settings.toml."""
        try:
            return tomllib.loads(self._read("settings.toml"))
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(self.path / "settings.toml", error) from error

    @property
    def results(self):
        """What is in results.json, or an empty dictionary."""
        return self._json("results.json") if (self.path / "results.json").exists() else {}

    @property
    def curves(self):
        """What is in curves.csv: a list of a dictionary of numbers an epoch."""
        try:
            with io.StringIO(self._read("curves.csv"), newline="") as file:
                return [
                    {name: _number(value) for name, value in row.items() if value}
                    for row in csv.DictReader(file)
                ]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise _damaged(self.path / "curves.csv", error) from error

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
            with self._recorded(settings, seed, resume) as log:
                yield log

    @contextlib.contextmanager
    def _alone(self):
        """Hold the run for this process; raise `ValueError` if another one is writing to it.

        One lock for all phases: to begin one anew deletes those made of it. Its file is not
        deleted, since another process may be about to lock it.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        path = self.run / ".lock"
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _damaged(path, "no regular file")
        with open(os.open(path, flags, 0o666), "ab") as file:
            # Without locks in the file system nobody is refused.
            with contextlib.suppress(OSError):
                if not checkpoint.take(file):
                    raise ValueError(
                        f"Expected the folder of a run that nobody is writing to. Received: "
                        f"{self.run}, which another process is using"
                    )
            yield

    @contextlib.contextmanager
    def _recorded(self, settings, seed, resume):
        settings = {name: value for name, value in settings.items() if value is not None}
        before = self.record.get("seconds", 0) if resume else 0
        record = {
            "status": "started",
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": before,
            **circumstances(seed),
        }
        start = time.monotonic()
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
            record["status"] = "finished"
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        except BaseException as error:
            record["status"] = "stopped"
            log.info("stopped by %s: %s", type(error).__name__, error)
            raise
        finally:
            record["seconds"] = round(before + time.monotonic() - start, 1)
            if record["status"] == "finished":
                log.info("finished after %s seconds", record["seconds"])
            handler.close()
            write_json(self.path / "run.json", record)

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
        write_plain(self.path / "curves.csv", text.getvalue())

    def write_results(self, **results):
        """Add to results.json."""
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

    def _json(self, name):
        try:
            content = json.loads(self._read(name))
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(self.path / name, error) from error
        if not isinstance(content, dict):
            raise _damaged(self.path / name, type(content).__name__)
        return content


def _is_text(value):
    return isinstance(value, str)


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


def columns(run):
    """Return the names of the columns that a run was pretrained on, or None if they had none."""
    phase = Phase(run, "pretrain")
    names = phase.results.get("columns") if phase.exists else None
    if names is not None and not (isinstance(names, list) and all(map(_is_text, names))):
        raise _damaged(phase.path / "results.json", "columns without names")
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
    name = settings["data"]
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
    classes = np.asarray(phase.results["classes"])
    if rows.y is None:
        raise ValueError("Expected `labels` to say what the rows are. Received: none")
    model = sda.load(phase.file("classifier.keras"))
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


def circumstances(seed):
    """Return the seed, the versions and the machine as a dictionary for JSON."""
    versions = {"python": platform.python_version(), "keras-sda": sda.__version__}
    for package in ("keras", "numpy", keras.backend.backend()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    machine = {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count()}
    if "OMP_NUM_THREADS" in os.environ:
        machine["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    if found := accelerators():
        machine["accelerators"] = found
    return {
        "seed": seed,
        "backend": keras.backend.backend(),
        "versions": versions,
        "machine": machine,
    }


def write_json(path, content):
    """Write `content` to `path`, through a temporary file, so that no reader sees half of it."""
    write_plain(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _processor():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine_name(machine):
    """Return the machine of `circumstances` in words."""
    words = [machine.get("processor"), f"{machine.get('cores')} cores"]
    return ", ".join([*map(str, words), *machine.get("accelerators", [])])


def _damaged(path, received):
    return ValueError(f"Expected {path} to be as a run left it. Received: {printable(received)}")


def _number(text):
    """Return the number that a text is; the text itself is in no message."""
    try:
        number = float(text)
    except (ValueError, TypeError):
        raise ValueError("something other than numbers") from None
    # Losses are of single precision, or rates.
    if math.isfinite(number) and abs(number) > 1e100:
        raise ValueError("a number beyond all losses")
    return number
