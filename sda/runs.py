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
import re
import secrets
import shutil
import time
import tomllib

import keras
import numpy as np

from sda import diagnostics
from sda.checkpoints import folder
from sda.datasets import sources
from sda.distribution.devices import accelerators
from sda.files.cells import printable
from sda.files.locks import Lock
from sda.files.opening import Damaged, open_plain, read_plain
from sda.files.writing import leftovers, write_plain
from sda.models.stack import StackedDenoisingAutoencoder
from sda.saving.load import load_model
from sda.version import __version__

# In the order in which they are made.
PHASES = ("pretrain", "finetune")
# The files of a phase, but for those of a training that is under way.
FILES = ("settings.toml", "run.json", "log.txt", "curves.csv", "results.json", "stack.keras")
# A command has some thirty.
MOST_SETTINGS = 200
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
        self._lock = None

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
        return self._json("run.json", RECORD)

    @property
    def settings(self):
        """What is in settings.toml."""
        path = self.path / "settings.toml"
        try:
            settings = tomllib.loads(self._read("settings.toml"))
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(path, _place(error)) from error
        if len(settings) > MOST_SETTINGS or not all(map(_is_setting, settings.values())):
            raise _damaged(path, f"{len(settings)} values, or some that are no settings")
        return _checked(path, settings, SETTINGS)

    @property
    def results(self):
        """What is in results.json, or an empty dictionary."""
        return self._json("results.json", RESULTS) if (self.path / "results.json").exists() else {}

    @property
    def curves(self):
        """What is in curves.csv: a list of a dictionary of numbers an epoch."""
        try:
            with io.StringIO(self._read("curves.csv"), newline="") as file:
                rows = [
                    {name: _number(value) for name, value in row.items() if value}
                    for row in csv.DictReader(file)
                ]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise _damaged(self.path / "curves.csv", error) from error
        if not all(_is_count(row.get(name)) for row in rows for name in ("layer", "epoch")):
            raise _damaged(self.path / "curves.csv", "rows without a layer and an epoch")
        return rows

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
            raise _damaged(self.checkpoints, "a link")
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

    def _json(self, name, kinds):
        path = self.path / name
        try:
            content = json.loads(self._read(name))
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(path, _place(error)) from error
        if not isinstance(content, dict):
            raise _damaged(path, type(content).__name__)
        return _checked(path, content, kinds)


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


def load_stack(phase):
    """Return the stack of a `Phase` that pretrained one."""
    path = phase.file("stack.keras")
    stack = load_model(path)
    if not isinstance(stack, StackedDenoisingAutoencoder):
        raise _damaged(path, f"a {type(stack).__name__}")
    return stack


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
        raise _damaged(path, f"a model from {shapes[0]} to {shapes[1]}")
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


def circumstances(seed):
    """Return the seed, the versions and the machine as a dictionary for JSON."""
    versions = {"python": platform.python_version(), "keras-sda": __version__}
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
    return Damaged(f"Expected {path} to be as a run left it. Received: {printable(received)}")


def _place(error):
    """Return what is wrong with a file, and where, but nothing that is in it."""
    if isinstance(error, OSError) or not isinstance(error, ValueError):
        return error.strerror if isinstance(error, OSError) else type(error).__name__
    if isinstance(error, (json.JSONDecodeError, UnicodeError, tomllib.TOMLDecodeError)):
        place = re.search(r"\(at [^()]*\)$", str(error)) or [getattr(error, "msg", "")]
        return f"{type(error).__name__} {place[0]}".strip()
    return error


def _checked(path, content, kinds):
    """Return the content of a file; raise `Damaged` unless what has a name in `kinds` is such."""
    for name, is_right in kinds.items():
        if name in content and not is_right(content[name]):
            raise _damaged(path, f"`{name}`, which is something else")
    return content


def _is_text(value):
    return isinstance(value, str)


def _is_number(value, low, high):
    return type(value) in (int, float) and low <= value <= high


def _is_count(value):
    return _is_number(value, 1, 2**53) and value == int(value)


def _is_setting(value):
    if isinstance(value, list):
        return all(isinstance(item, (str, int, float)) for item in value)
    return isinstance(value, (str, int, float))


def _is_facts(value):
    """Return whether a value is a dictionary of texts, numbers, and lists of texts."""
    return isinstance(value, dict) and all(
        item is None
        or isinstance(item, (str, int))
        or (isinstance(item, list) and all(map(_is_text, item)))
        for item in value.values()
    )


def _is_labels(value):
    return isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value)


def _is_scores(value):
    """Return whether a value is as `diagnostics.classification` gives it."""
    if not isinstance(value, dict):
        return False
    interval, confusion = value.get("interval"), value.get("confusion")
    return (
        _is_number(value.get("error"), 0, 1)
        and _is_number(value.get("rows"), 0, 2**53)
        and _is_text(value.get("data", ""))
        and isinstance(interval, list)
        and len(interval) == 2
        and all(_is_number(end, 0, 1) for end in interval)
        and isinstance(confusion, list)
        and all(isinstance(row, list) and len(row) == len(confusion) for row in confusion)
        and all(type(n) is int and 0 <= n <= 2**53 for row in confusion for n in row)
    )


def _is_image_shape(value):
    return _is_text(value) and bool(re.fullmatch(r"none|\d{1,9}x\d{1,9}(x3)?", value))


# What the files of a phase hold under names that others read, each by a function that checks it.
RECORD = {
    "status": _is_text,
    "started": _is_text,
    "seconds": lambda value: _is_number(value, 0, 1e12),
    "seed": lambda value: value is None or type(value) is int,
    "backend": _is_text,
    "versions": lambda value: _is_facts(value) and all(map(_is_text, value.values())),
    "machine": _is_facts,
}
RESULTS = {"classes": _is_labels, "validation": _is_scores, "test": _is_scores}
SETTINGS = {
    "data": _is_text,
    "labels": _is_text,
    "image_shape": _is_image_shape,
    "validation_split": lambda value: _is_number(value, 0, 1) and value < 1,
    "loss": lambda value: all(map(_is_text, value if isinstance(value, list) else [value])),
    "backend": _is_text,
}


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
