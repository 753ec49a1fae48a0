"""Regular files, opened once and bounded in size; the errors of those that are damaged."""

import errno
import io
import os
import re
import stat
import warnings

import numpy as np

from sda.files.cells import printable

# Up to here, in bytes, nobody is hurt by what a file makes of itself.
SMALL = 2**26
# DEFLATE makes at most 1032 bytes of one. Data that shrink nearly as far are nothing but one value.
EXPANSION = 1000
# The kinds of dtype that are numbers.
NUMBERS = "fiub"


class Damaged(ValueError):
    """What a file or a storage holds is not what this package writes."""

    # What `sda` in a shell ends with.
    exit_code = 2


def refusal(name, expectation, received):
    """Return the `ValueError` that says what `name` was expected to be, and what it is."""
    return ValueError(f"Expected `{name}` to be {expectation}. Received: {printable(received)}")


def open_plain(path, links=True):
    """Open a regular file for reading, as binary.

    A device may have no end, and a FIFO no beginning: these are refused at once, folders too.

    Args:
        path: Path of the file.
        links: Whether `path` may be a symbolic link. A path that the user gives may; one in a
            folder that somebody else made may lead to any file of the user's.

    Raises:
        ValueError: If it is something else than a regular file.
        OSError: If it cannot be opened.
    """
    flags = os.O_RDONLY
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", *(() if links else ("O_NOFOLLOW",))):
        flags |= getattr(os, name, 0)
    if not links and os.path.islink(path):
        raise _no_file(path, "a link")
    if os.path.isdir(path):
        raise _no_file(path, "a folder")
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _no_file(path, "no regular file") from error
        raise
    # What was opened, whatever has become of the name.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path, "no regular file")
    return open(descriptor, "rb")


def read_plain(path, most, links=True):
    """Return the content of a regular file of at most so many bytes: see `open_plain`."""
    with open_plain(path, links) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _no_file(path, f"more than {most} bytes")
    return content


def _no_file(path, received):
    return refusal("path", "a regular file", f"path={path}, {received}")


def is_bomb(declared, stored):
    """Return whether `declared` bytes are more than `stored` bytes can honestly stand for."""
    return declared > SMALL and declared > EXPANSION * stored


def read_text(path):
    """Read a table of numbers from text, one row a line, such as an `.amat` file.

    Args:
        path: Path of the file, uncompressed.

    Returns:
        float32 array of shape `(rows, columns)`.

    Raises:
        ValueError: A line holds something other than numbers, or not as many as the others.

    Example:

    >>> np.savetxt("rows.amat", np.zeros((2, 3)))
    >>> sda.files.opening.read_text("rows.amat").shape
    (2, 3)
    """
    # Opened here: NumPy would fetch an address and inflate what is called .gz.
    with io.TextIOWrapper(open_plain(path), encoding="ascii") as file:
        try:
            with warnings.catch_warnings(action="ignore"):  # That there is nothing is said below.
                rows = np.loadtxt(file, dtype="float32", ndmin=2, comments=None)
        except ValueError as error:
            # NumPy quotes what it read: it need not be for whoever sees the message.
            words = re.sub(r"string .* to float32", "a string to float32", str(error), flags=re.S)
            raise _bad_text(path, words) from None
    if not rows.size:
        raise _bad_text(path, "no numbers")
    return rows


def _bad_text(path, received):
    return refusal(
        "path", "a text file with as many numbers on each line", f"path={path} with {received}"
    )
