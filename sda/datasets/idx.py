"""The IDX file format, in which MNIST and its successors were published."""

import gzip
import struct
import zlib

import numpy as np

from sda.files.opening import open_plain

UNSIGNED_BYTE = 0x08


def read_idx(path, shape):
    """Reads a gzipped IDX file of unsigned bytes whose shape is known.

    The header is two zero bytes, a type code, the number of axes, and one big-endian 32-bit size
    an axis. It is compared with `shape` before anything is allocated.

    Args:
        path: Path of the `.gz` file.
        shape: Tuple of integers, the shape that the file must have.

    Returns:
        uint8 array of shape `shape`.

    Raises:
        ValueError: The file is not gzipped IDX, has another shape or type, or is cut short.

    Example:

    >>> labels = read_idx("train-labels-idx1-ubyte.gz", (60000,))
    """
    expected = struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTE, len(shape), *shape)
    size = int(np.prod(shape))
    try:
        with open_plain(path) as packed, gzip.open(packed) as file:
            header = file.read(len(expected))
            if header != expected:
                raise _malformed(path, shape, f"the header {header.hex()}, not {expected.hex()}")
            values = file.read(size)
            if len(values) != size or file.read(1):
                raise _malformed(path, shape, f"other than {size} bytes of values")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _malformed(path, shape, error) from error
    return np.frombuffer(values, dtype="uint8").reshape(shape)


def _malformed(path, shape, received):
    return ValueError(
        f"Expected `path` to be a gzipped IDX file of unsigned bytes of shape {shape}. "
        f"Received: path={path} with {received}"
    )
