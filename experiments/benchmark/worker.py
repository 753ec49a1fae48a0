"""The worker process of one backend: answers requests, one JSON line each, until its input ends.

A request is `[method, arguments]`, an answer `{"result": ...}` or `{"error": traceback}`.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import resource
import statistics
import sys
import time
import traceback

import numpy as np

from experiments.benchmark.work import MOST_ROWS, Work


class Worker:
    """Builds contestants, checks them and times them.

    Args:
        backend: "tensorflow", "jax", "torch" or "numpy".
        data: Path of the `.npz` file with the digits.
        seed: Integer for the initial weights.
    """

    def __init__(self, backend, data, seed):
        self.backend = backend
        with np.load(data) as file:
            self.x, self.y = file["x"], file["y"]
        self.seed = seed
        self.ready = {}
        if backend == "torch":
            import torch

            torch.set_num_threads(len(os.sched_getaffinity(0)))

    def contestants(self, work):
        """Return the names of the contestants on this backend."""
        return list(self._contestants(Work(**work)))

    def _contestants(self, work):
        found = {}
        if self.backend != "numpy":
            from experiments.benchmark import keras_models

            found = keras_models.contestants(work)
        loops = importlib.import_module(f"experiments.benchmark.loops.{self.backend}")
        return {**found, **loops.contestants(work)}

    def _build(self, name, work, steps):
        """Return a contestant that has trained once, its loss, and the seconds that took."""
        x, y = work.data(self.x, self.y, steps)
        start = time.perf_counter()
        contestant = self._contestants(work)[name](work, x, y, work.initial_weights(self.seed))
        loss = contestant.run(1, shuffle=False)
        return contestant, loss, time.perf_counter() - start

    def first_loss(self, name, work, steps):
        """Return the mean loss over the first `steps` steps, in the order of the data."""
        return self._build(name, Work(**work), steps)[1]

    def prepare(self, name, work, steps, seconds):
        """Make ready a contestant whose runs take about `seconds`.

        Returns:
            Dictionary with `steps` a pass, `passes` a run, `compile_seconds`, what the first pass
            took longer than the next, and `first_loss`, over the first `steps` of the arguments.
        """
        work = Work(**work)
        contestant, loss, first = self._build(name, work, steps)
        again = _timed(contestant, 1)
        wanted = max(1, round(seconds / (again / steps)))
        if wanted > steps:
            steps = min(wanted, max(1, MOST_ROWS // work.batch))
            contestant, _, first = self._build(name, work, steps)
            again = _timed(contestant, 1)
        passes = max(1, round(wanted / steps))
        self.ready[name] = contestant, passes
        return {
            "steps": steps,
            "passes": passes,
            "compile_seconds": max(0.0, first - again),
            "first_loss": loss,
        }

    def time(self, name):
        """Run a contestant that has been prepared; return the seconds."""
        return _timed(*self.ready[name])

    def epoch_seconds(self, name, work, steps, rounds):
        """Return the median time of an epoch of `steps` steps, after warm-up."""
        contestant, _, _ = self._build(name, Work(**work), steps)
        return statistics.median(_timed(contestant, 1) for _ in range(rounds))

    def clear(self):
        """Let go of the contestants."""
        self.ready.clear()

    def peak_memory(self):
        """Return the most memory this process has held so far, in bytes."""
        with contextlib.suppress(OSError):
            # ru_maxrss also counts the process that this one was started from.
            for line in pathlib.Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def pretrain(self, examples, visible, units):
        """Pretrain a stack for one epoch a layer; return the peak memory in bytes."""
        import sda

        x = np.random.default_rng(self.seed).random((examples, visible), "float32")
        stack = sda.StackedDenoisingAutoencoder(units, seed=1)
        sda.GreedyPretrainer(stack, epochs=1, batch_size=512, seed=1).fit(x, verbose=0)
        return self.peak_memory()

    def versions(self):
        """Return the versions of what works here."""
        return {name: importlib.metadata.version(name) for name in ("numpy", self.backend)}

    def device(self):
        """Return the kind of device that the backend takes by itself."""
        if self.backend == "torch":
            import torch

            return "gpu" if torch.cuda.is_available() else "cpu"
        if self.backend == "numpy":
            return "cpu"
        import keras

        return keras.distribution.list_devices()[0].split(":")[0]


def _timed(contestant, passes):
    """Return the seconds that some passes of a contestant take, by its own clock if it has one."""
    start = time.perf_counter()
    contestant.run(passes)
    seconds = time.perf_counter() - start
    return contestant.seconds() if hasattr(contestant, "seconds") else seconds


def main():
    # What libraries print goes to the log; only answers go to the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            answer = {"result": getattr(worker, method)(**arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
