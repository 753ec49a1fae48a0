"""What the sweep asks of Optuna: samplers, pruners, storages, and the state of trials."""

import contextlib
import json
import os
import re
import secrets
import sqlite3
import time

from sda.files.cells import printable
from sda.files.opening import Damaged, refusal
from sda.streams import spawn

# The SQLite file in a sweep's folder.
DATABASE = "sweep.db"

# A point of a sweep at which so many workers died is left alone.
ATTEMPTS = 10
# What SQLite would compute at each row that is written, and Optuna never asks for.
COMPUTED = re.compile(r"\b(DEFAULT|GENERATED|VIRTUAL|USING|COLLATE)\b", re.IGNORECASE)


def load_optuna():
    """Return the package; a sweep alone needs it, not `import sda`."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "Expected the package `optuna`, which keeps the sweep, to be installed. "
            "Run `pip install optuna`."
        ) from error
    return optuna


def state(name):
    """Return Optuna's state of a trial by its name, such as "RUNNING"."""
    return load_optuna().trial.TrialState[name]


@contextlib.contextmanager
def quiet(optuna):
    """Let Optuna say nothing but warnings: a sweep has lines of its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def make(module, name, seed=None):
    """Return Optuna's sampler or pruner of a name; an object is returned as it is."""
    optuna = load_optuna()
    found = getattr(optuna, module)
    kind = module.removesuffix("s").capitalize()
    # Those that count combinations themselves know nothing of runs that are done again.
    left_out = ("BaseSampler", "BasePruner", "GridSampler", "BruteForceSampler")
    known = {
        n.removesuffix(kind).lower(): n
        for n in found.__all__
        if n.endswith(kind) and n not in left_out
    }
    if not isinstance(name, str):
        base = getattr(found, f"Base{kind}")
        if isinstance(name, base) and type(name).__name__ not in left_out:
            return name
    elif name in known:
        made = getattr(found, known[name])
        try:
            return made() if seed is None else made(seed=spawn(seed, 0))
        except TypeError as error:
            raise ValueError(
                f"Expected `{kind.lower()}` to be an Optuna object where one needs arguments. "
                f"Received: {kind.lower()}={name!r}: {error}"
            ) from error
    raise ValueError(
        f"Expected `{kind.lower()}` to be one of {', '.join(sorted(known))}, or one of Optuna's. "
        f"Received: {kind.lower()}={name!r}"
    )


def open_storage(storage, path):
    """Return Optuna's storage: SQLite in the folder `path`, or what `storage` says."""
    optuna = load_optuna()
    if storage is not None and not isinstance(storage, str):
        return storage
    if storage is None:
        storage = _address(path / DATABASE)
    if storage.startswith("journal:"):
        return optuna.storages.JournalStorage(_journal(storage.removeprefix("journal:")))
    if storage.startswith("sqlite:"):
        _check_schema(storage)
    # Workers that write at the same time wait for each other.
    patience = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite:") else {}
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for seconds in (1, 2, 4, None):
        try:
            return optuna.storages.RDBStorage(storage, engine_kwargs=patience)
        except (IntegrityError, ProgrammingError):
            # A server refuses the second of two workers that make Optuna's tables at once.
            if seconds is None:
                raise
            time.sleep(seconds)


def _address(path):
    """Return SQLAlchemy's address of an SQLite file, whatever characters are in its path."""
    from sqlalchemy import URL

    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise Damaged(f"Expected {path} to be a database. Received: no regular file")
    return URL.create("sqlite", database=os.fspath(path)).render_as_string(hide_password=False)


def _journal(path):
    """Return Optuna's journal in a file, in which no half of a line stays."""
    journal = load_optuna().storages.journal
    lock = journal.JournalFileSymlinkLock(path)

    class Journal(journal.JournalFileBackend):
        def append_logs(self, logs):
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            lock.acquire()
            try:
                with open(path, "rb+") as file:
                    _append(file, lines.encode())
            finally:
                lock.release()

    return Journal(path, lock)


def _append(file, lines):
    """Write lines to the end of a journal: all of them or none."""
    # Nobody has read what a worker that was killed, or ran out of disk, wrote of a line.
    end = _end_of_lines(file)
    try:
        file.truncate(end)
        file.seek(end)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    except BaseException:
        os.truncate(file.fileno(), end)
        raise


def _end_of_lines(file, block=2**16):
    """Return where the last whole line of a binary file ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


@contextlib.contextmanager
def reading(storage):
    """Raise `Damaged` where a storage does not hold what Optuna and sweeps write."""
    import sqlalchemy.exc

    optuna = load_optuna()
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        raise
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        AssertionError,
        AttributeError,
        LookupError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        of_text = isinstance(error, (UnicodeError, json.JSONDecodeError))
        if isinstance(error, ValueError) and not (of_text or _is_of_storage(error)):
            raise
        # SQLAlchemy adds the statement, Optuna a guess, to what the database says.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.OptunaError) else error
        said = str(getattr(cause, "orig", cause)).partition("\n")[0]
        raise Damaged(
            "Expected `storage` to hold what sweeps write, and to take more. Received: storage="
            f"{_shown(storage)} with {type(cause).__name__}: {printable(said)[:200]}"
        ) from error


def _is_of_storage(error):
    """Whether Optuna raised an error where it reads a storage: others are about arguments."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "")
    return name.startswith(("optuna.distributions", "optuna.storages"))


def _shown(storage):
    """Return a storage as text, without the password that its address may have."""
    return re.sub(r"://[^@/]*@", "://…@", storage) if isinstance(storage, str) else repr(storage)


def _check_schema(storage):
    """Raise `ValueError` if an SQLite file has more than tables and indices.

    A trigger, or a column that is computed, could do anything at a row that is written, such as to
    fill the disk.
    """
    from sqlalchemy import make_url

    path = make_url(storage).database
    if not path or path == ":memory:" or not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise refusal("storage", "a file of SQLite", f"{path}, no regular file")
    # What is no database is for Optuna to say.
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(path, timeout=60)) as connection,
    ):
        for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master"):
            if kind not in ("table", "index") or COMPUTED.search(text or ""):
                raise refusal("storage", "the tables that Optuna makes", f"the {kind} {name!r}")


def check_sampler(sampler, storage, study):
    """Raise `ValueError` if a sampler would run what others may have left in the storage.

    Optuna's CMA-ES keeps its state there as a pickle, and a pickle is code.

    Args:
        sampler: Optuna's sampler.
        storage: What was asked for as such: None for a file in the sweep's own folder.
        study: The study, as it is before this process does anything.
    """
    optuna = load_optuna()
    if not isinstance(sampler, optuna.samplers.CmaEsSampler):
        return
    mine = storage is None or isinstance(storage, optuna.storages.InMemoryStorage)
    if not mine or study.get_trials(deepcopy=False):
        raise refusal(
            "sampler",
            "one that keeps no pickles in the storage, such as tpe, except of the one worker of a "
            "new sweep in a folder of its own",
            f"CmaEsSampler with {'trials of another process' if mine else 'another storage'}",
        )


def claim(study, point, params, distributions, worker):
    """Return a new trial of given values at a point of the sweep, which `worker` is at.

    All of it is one step, so that no other can come between. (Optuna's queue of waiting trials
    gives one to two workers now and then: SQLite locks no rows.)
    """
    optuna = load_optuna()
    token = secrets.token_hex(8)
    attributes = {"point": point, "worker": worker, "token": token}
    study.add_trial(
        optuna.trial.create_trial(
            state=state("RUNNING"),
            params=params,
            distributions=distributions,
            user_attrs=attributes,
        )
    )
    (found,) = [
        t
        for t in study.get_trials(deepcopy=False, states=(state("RUNNING"),))
        if t.user_attrs.get("token") == token
    ]
    return optuna.trial.Trial(study, found._trial_id)


def counted(study):
    """Return the trials of a study but for those that were no sooner begun than given up."""
    return [t for t in study.get_trials() if "withdrawn" not in t.user_attrs]


def point(found):
    """Return which point of the sweep a trial is at."""
    return found.user_attrs.get("point", found.number)


def facts_of(found):
    """Return what a worker wrote about a trial at its end."""
    return found.user_attrs.get("facts", {})


def is_lost(found):
    """Return whether a trial ended without a result: its worker died or was stopped."""
    return found.state.name == "FAIL" and "error" not in facts_of(found)
