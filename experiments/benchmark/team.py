"""The parent's side of the worker processes: one a backend, of which one works at a time."""

import contextlib
import importlib.util
import json
import os
import pathlib
import select
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = ("tensorflow", "jax", "torch", "numpy")


class WorkerError(RuntimeError):
    """A worker has failed, has died, or does not answer."""


class WorkerProcess:
    """A worker of one backend.

    Args:
        backend: One of `BACKENDS`.
        data: Path of the file with the digits.
        log: Path of the file for what it prints.
        seed: Integer for the initial weights.
    """

    def __init__(self, backend, data, log, seed):
        self.backend = backend
        self.log = pathlib.Path(log)
        command = [sys.executable, "-m", "experiments.benchmark.worker", backend, data, seed]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=ROOT,
                env=_environment(backend),
            )

    def call(self, method, timeout=600, **arguments):
        """Return the worker's answer; raise `WorkerError` if there is none in `timeout` seconds."""
        try:
            self.process.stdin.write(json.dumps([method, arguments]) + "\n")
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], timeout)
            line = self.process.stdout.readline() if ready else None
        except OSError:
            line = ""
        if line is None:
            self._fail(method, f"no answer in {timeout} seconds")
        if not line:
            self._fail(method, "the process has ended")
        answer = json.loads(line)
        if "error" in answer:
            self._fail(method, answer["error"])
        return answer["result"]

    def _fail(self, method, reason):
        tail = self.log.read_text(errors="replace")[-2000:]
        raise WorkerError(f"{self.backend} worker, {method}: {reason}\n{tail}")

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
        self.process.stdout.close()


@contextlib.contextmanager
def team(backends, data, folder, seed):
    """Start the workers, {backend: WorkerProcess}; end them with the block, however it ends."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for backend in backends:
            log = pathlib.Path(folder) / f"{backend}.log"
            workers[backend] = WorkerProcess(backend, data, log, seed)
            stack.callback(workers[backend].close)
        yield workers


def installed():
    """Return the backends that are installed here."""
    return [backend for backend in BACKENDS if importlib.util.find_spec(backend)]


def _environment(backend):
    threads = str(len(os.sched_getaffinity(0)))
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Several workers may share one GPU.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
