"""Signs of life: which trials have a worker, and which had one."""

import itertools
import os
import pathlib
import platform
import threading
import time
import uuid

from sda.sweep.studies import load_optuna, state


class Beats:
    """Context in which a thread writes signs of life of this worker into a trial."""

    def __init__(self, asked, seconds):
        self.asked = asked
        self.seconds = seconds
        self.lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self):
        self.asked.set_user_attr("worker", me())
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._end.set()
        self._thread.join()

    def _beat(self):
        optuna = load_optuna()
        for count in itertools.count():
            if self._end.wait(self.seconds):
                return
            try:
                self.asked.set_user_attr("beat", count)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.lost = True
                return
            except Exception:  # the storage may be back at the next beat
                continue


class Watch:
    """Finds the trials whose workers are gone, by this process's own clock.

    Args:
        grace: Seconds without a beat after which a worker is taken for dead.
    """

    def __init__(self, grace):
        self.grace = grace
        self._seen = {}

    def bury(self, study):
        """Tell the study of each trial whose worker is gone that it failed."""
        for found in self.running(study):
            if self._is_gone(found):
                study.tell(found.number, state=state("FAIL"), skip_if_finished=True)

    def running(self, study):
        """Return the trials that somebody is at, or was when it died."""
        return study.get_trials(states=(state("RUNNING"),))

    def _is_gone(self, found):
        if is_gone(found):
            return True
        beat = found.user_attrs.get("beat")
        now = time.monotonic()
        if found.number not in self._seen or self._seen[found.number][0] != beat:
            self._seen[found.number] = (beat, now)
        return now - self._seen[found.number][1] > self.grace


def me():
    """Return what a trial knows its worker by."""
    return [_place(), os.getpid()]


def is_gone(found):
    """Return whether the worker of a trial was a process of this machine that has ended."""
    worker = found.user_attrs.get("worker")
    if not isinstance(worker, list) or len(worker) != 2 or worker[0] != _place():
        return False
    return type(worker[1]) is int and not _is_alive(worker[1])


def _place():
    """Return what tells where a process number means something: the machine, or its container.

    Machines may share a name, but neither a boot nor the address of a network card.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"


def _is_alive(process):
    if os.name != "posix":  # where signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
