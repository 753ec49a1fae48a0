"""What every result carries: versions, machine, seed; and how long it took."""

import contextlib
import time

from sda.runs import circumstances, matmul_precision, write_json

__all__ = ["circumstances", "matmul_precision", "timed", "write_json"]


@contextlib.contextmanager
def timed(seconds, phase, clock=time.perf_counter):
    """Add the seconds that the block takes to the dictionary `seconds`, under `phase`.

    With `time.process_time` as the clock they are those of all cores that worked for it together,
    whatever else the machine did in the meantime.
    """
    start = clock()
    yield
    seconds[phase] = round(clock() - start, 1)
