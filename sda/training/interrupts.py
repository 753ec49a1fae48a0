"""Ctrl-C in a training that can go on: it stops after a dispatch, and what was done is saved."""

import contextlib
import signal
import threading

from sda.distribution import processes


@contextlib.contextmanager
def ctrl_c(checkpoints):
    """Yield a list that is no longer empty once Ctrl-C was pressed; a second one is immediate.

    Only where there are checkpoints and in the main thread, where Python handles signals, and not
    where the process was told to ignore it, or trains with others, who were not told.
    """
    pressed = []
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    alone = processes.count() == 1
    if checkpoints is None or not (alone and in_main_thread) or before in (signal.SIG_IGN, None):
        yield pressed
        return

    def press(*_):
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(checkpoints, epoch, step=0):
    """Return the error that says what was saved, and how to carry on."""
    done = f"{epoch} epochs" + (f" and {step} steps" if step else "")
    return KeyboardInterrupt(
        f"Stopped after {done}, which are saved in {str(checkpoints.path)!r}. To carry on, call "
        "`fit` again with the same data and settings and this `checkpoint_dir`"
    )
