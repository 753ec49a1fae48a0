"""Where dataset files live on this machine, and how the missing ones are downloaded."""

import http.client
import os
import queue
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import keras

ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
PROBE_SECONDS = 4.0


class DatasetUnavailableError(OSError):
    """A dataset is neither on this machine nor within reach of it.

    The message says where the files were looked for, why the download failed, and where to put
    them by hand. An `OSError`, so that a program may catch it and go on with other data.

    Example:

    >>> try:
    ...     data = sda.datasets.load("mnist")
    ... except sda.datasets.DatasetUnavailableError:
    ...     data = sda.datasets.load("digits")
    """


def user_folders():
    """Returns the folder that `SDA_DATA` names, as a list of one `Path`, or of none."""
    folder = os.environ.get("SDA_DATA")
    return [Path(folder).expanduser()] if folder else []


def keras_folder():
    """Returns the `Path` of the folder in which Keras keeps its own datasets."""
    # Keras's rule, restated: it has no public name for the folder.
    home = os.environ.get("KERAS_HOME")
    if not home:
        user = os.path.expanduser("~")
        home = os.path.join(user if os.access(user, os.W_OK) else "/tmp", ".keras")
    return Path(home).expanduser() / "datasets"


def download(name, hashes, folder, tried):
    """Downloads the files of a dataset into a folder: all of them, or none.

    Args:
        name: String, the dataset's name, for the message.
        hashes: Dict, file name to its SHA-256 or MD5 in hexadecimal.
        folder: `Path` of the folder to fill. It is created where it is missing.
        tried: Sequence of `Path`, where the files were looked for, for the message.

    Raises:
        DatasetUnavailableError: The host is out of reach (noticed within `PROBE_SECONDS`), or a
            file did not arrive whole.
    """
    try:
        _probe(ORIGIN + next(iter(hashes)))
        folder.mkdir(parents=True, exist_ok=True)
        # Moved into place once complete: another process never sees half a file.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            arrived = [
                keras.utils.get_file(file, ORIGIN + file, file_hash=digest, cache_dir=scratch)
                for file, digest in hashes.items()
            ]
            for path in map(Path, arrived):
                os.replace(path, folder / path.name)
    except Exception as error:  # `get_file` reports a failed transfer as a bare Exception.
        raise DatasetUnavailableError(
            f"Expected the dataset {name!r} on this machine or on the network, and found it on "
            f"neither. Looked for it at: {', '.join(map(str, tried))}. Downloading from {ORIGIN} "
            f"failed: {str(error) or type(error).__name__}. To supply it by hand, put "
            f"{', '.join(hashes)} into {folder}, or have the environment variable SDA_DATA name "
            f"a folder that holds {_under_user_folder(name, hashes)}."
        ) from error


def _under_user_folder(name, hashes):
    if len(hashes) == 1:
        return next(iter(hashes))
    return f"{name}.npz, or these {len(hashes)} files in {name.replace('_', '-')}/"


def _probe(url):
    # Name resolution knows no timeout, so the clock runs outside the thread that may hang in it.
    outcome = queue.SimpleQueue()

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            outcome.put(None)
        except urllib.error.HTTPError as error:
            error.close()
            outcome.put(error)
        except (OSError, http.client.HTTPException) as error:
            outcome.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = outcome.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        error = TimeoutError(f"no answer within {PROBE_SECONDS:g} seconds")
    if error is not None:
        raise error
