"""Locks: files that one process at a time holds, until it lets go or ends, in whatever way."""

import contextlib
import os
import pathlib
import shutil
import stat
import tempfile
import time

import filelock

from sda.files.opening import refusal

# Seconds between two looks at a lock that another process holds.
PATIENCE = 0.2
# What the lock in a scratch folder is called.
LOCK = "lock"


class Lock:
    """A lock file. It stays where it is: another process may be about to take it.

    Args:
        path: Path of the file, which is made if it does not exist.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self._lock = filelock.FileLock(self.path, thread_local=False)
        self._held = None

    def take(self):
        """Take the lock; return whether nobody else holds it.

        Raises:
            ValueError: If there is a link, or no regular file.
            OSError: If the file cannot be made, or the file system knows no locks.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise refusal("lock", "a regular file", self.path)
        while True:
            try:
                self._lock.acquire(blocking=False)
            except filelock.Timeout:
                return False
            except NotImplementedError as error:
                raise OSError(f"no locks at {self.path}") from error
            try:
                self._held = self.path.lstat()
                return True
            except FileNotFoundError:  # deleted meanwhile, and perhaps made anew by another
                self._lock.release()

    def is_held(self):
        """Return whether what was taken is still there.

        Where somebody has emptied the folder, another process may hold a new file of that name.
        """
        try:
            return self._held is not None and os.path.samestat(self._held, self.path.lstat())
        except FileNotFoundError:
            return False

    def release(self):
        self._held = None
        self._lock.release()


@contextlib.contextmanager
def alone(path):
    """Hold the lock at `path` for this process; wait while another does.

    In a folder that may only be read, and where the file system knows no locks, nobody waits.
    """
    lock = Lock(path)
    with contextlib.suppress(OSError):
        while not lock.take():
            time.sleep(PATIENCE)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def scratch_folder(prefix):
    """Yield the path of a new folder for temporary files (in TMPDIR), deleted at the end.

    First, those of processes that were killed are deleted: a lock in each tells whose owner lives.
    """
    _clear(prefix)
    folder, lock = _locked_folder(prefix)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(prefix):
    # Another process may take the new folder for one that was left behind, before it is locked.
    for _ in range(10):
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
        lock = Lock(folder / LOCK)
        try:
            if lock.take():
                break
        except OSError:  # without locks nobody deletes it either
            if folder.exists():
                break
    return folder, lock


def _clear(prefix):
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, ValueError):
            found = folder.lstat()
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if not mine or not stat.S_ISDIR(found.st_mode):
                continue
            if not (folder / LOCK).exists():
                # Empty: from between its making and its locking, which takes no minute.
                if time.time() - found.st_mtime > 60:
                    folder.rmdir()
                continue
            lock = Lock(folder / LOCK)
            if lock.take():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
