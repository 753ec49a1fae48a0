"""Forked processes: a fork has none of the threads that a backend computes with."""

import os
import threading


def _native_threads():
    """The threads that are not Python's, or 0 where the system does not list them."""
    try:
        return len(os.listdir("/proc/self/task")) - threading.active_count()
    except OSError:
        return 0


# How many there are without a backend's: other libraries have some that survive a fork.
_threads = {"at import": _native_threads(), "at fork": 0}
_lost = threading.Event()


def _before_fork():
    _threads["at fork"] = _native_threads()


def _in_child():
    if _threads["at fork"] > _threads["at import"]:
        _lost.set()
    _threads["at import"] = _native_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def check_process():
    """Raise `RuntimeError` in a fork of a process whose backend was at work: it would wait forever.

    TensorFlow, JAX and PyTorch compute with threads of their own, and a forked process waits for
    threads that only its parent has. A process that was forked before any tensor was made is fine.
    """
    if _lost.is_set():
        raise RuntimeError(
            "Expected a process with a backend of its own. Received: a fork of a process that had "
            "used the backend already, whose threads do not exist here. Start workers with "
            'multiprocessing.get_context("spawn"), or fork before the first tensor is made'
        )
