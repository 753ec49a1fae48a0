"""Several processes that run one program together: which one this is, and what the first one says.

Only JAX has them (`keras.distribution.initialize`); on other backends a process is the only one.
"""

import contextlib
import hashlib
import re

import keras
import numpy as np


def count():
    """Return how many processes run this program together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def rank():
    """Return the number of this process: 0 is the one that writes files and talks."""
    if keras.backend.backend() != "jax":
        return 0
    import jax

    return jax.process_index()


@contextlib.contextmanager
def together():
    """Say so where what failed is the connection to another process; a decorator of a training.

    Raises:
        RuntimeError: If another process has ended, or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        # What XLA raises begins with the name of its status, whatever the class of it.
        if count() == 1 or not re.match("[A-Z_]+: ", str(error)):
            raise
        raise RuntimeError(
            f"Expected all {count()} processes to train together. Received: one of them has ended "
            "or cannot be reached. Start all of them again by the same command, as many as there "
            "are now; with a `checkpoint_dir` they go on from the last checkpoint. Process "
            f"{rank()} was told: {error}"
        ) from error


def from_first(make):
    """Return, in every process, the bytes that `make()` returns in the first one.

    All processes must call it; only the first calls `make`. What that raises, the others raise as a
    `ValueError`.
    """
    if count() == 1:
        return make()
    content, error = b"", None
    if rank() == 0:
        try:
            content = make()
        # The others wait: they must hear of it, whatever it is.
        except Exception as raised:
            error = raised
            content = str(raised).encode()
    failed, size = _broadcast(np.array([error is not None, len(content)]))
    if size:
        content = _broadcast(np.frombuffer(content.ljust(size), "uint8")).tobytes()
    if error is not None:
        raise error
    if failed:
        raise ValueError(content.decode())
    return content


def check_together(data, batch_sizes, strategy=None, **settings):
    """Raise `ValueError` unless this process, its devices and all other processes can train.

    Args:
        data: Source of rows: that of the first input.
        batch_sizes: List of integers, of which each must be a multiple of the number of devices.
        strategy: TensorFlow's distribution strategy, if there is one.
        settings: What else must be the same in every process.
    """
    devices = 1 if strategy is None else strategy.num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is not None:
        devices = distribution.device_mesh.devices.size
    elif count() > 1:
        raise ValueError(
            "Expected keras.distribution.set_distribution(keras.distribution.DataParallel("
            "auto_shard_dataset=False)) before the model is made. Received: "
            f"{count()} processes, each of which would train alone"
        )
    rows = len(data)
    for batch_size in batch_sizes:
        if min(batch_size, rows) % devices:
            raise ValueError(
                f"Expected `batch_size` to be a multiple of the {devices} devices that share a "
                f"batch. Received: batch_size={min(batch_size, rows)}"
            )
    if count() == 1:
        return
    from jax.experimental import multihost_utils

    ends = hashlib.sha256(np.asarray(data[:1]).tobytes() + np.asarray(data[rows - 1 :]).tobytes())
    settings = {
        "rows": rows,
        "first and last": ends.hexdigest()[:8],
        "batch_size": batch_sizes,
        **settings,
    }
    mine = ", ".join(f"{name}={value!r}" for name, value in settings.items()).encode()
    sizes = multihost_utils.process_allgather(np.array(len(mine)))
    padded = np.frombuffer(mine.ljust(int(sizes.max())), "uint8")
    of_all = [row.tobytes().decode().rstrip() for row in multihost_utils.process_allgather(padded)]
    if len(set(of_all)) > 1:
        raise ValueError(
            "Expected every process to train on the same data by the same settings. Received: "
            + "; ".join(f"process {rank}: {said}" for rank, said in enumerate(of_all))
        )


def _broadcast(array):
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))
