"""Zip archives and the arrays of NumPy, checked before they are unpacked."""

import contextlib
import math
import os
import struct
import zipfile
import zlib

import h5py
import numpy as np

from sda.files.opening import NUMBERS, is_bomb, open_plain, refusal

# Filters that stand damage. SZIP, N-bit and scale-offset are compiled into HDF5 too, but crash on
# it; any other is a library that HDF5 would look for.
COMPRESSIONS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF}
# What the readers of Python and NumPy raise where a file is broken.
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    UnicodeError,
)
BROKEN_HEADER = (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError)


# Archives


def check_zip(archive, path):
    """Raise `ValueError` unless every member of an open `zipfile.ZipFile` is safe to read.

    Refused are names that leave a folder, names given twice, encryption, methods other than DEFLATE
    (no other has its limit), members that overlap, and bombs.

    Args:
        archive: The `zipfile.ZipFile`.
        path: Its path, for the message.
    """
    members = archive.infolist()
    seen = set()
    for member in members:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or parts[0].endswith(":") or parts[0] == "":
            raise _bad_zip(path, f"a member named {name!r}")
        if name in seen:
            raise _bad_zip(path, f"two members named {name!r}")
        seen.add(name)
        if member.flag_bits & 1:
            raise _bad_zip(path, f"an encrypted member, {name!r}")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad_zip(path, f"{name!r}, compressed by method {member.compress_type}")
        if is_bomb(member.file_size, member.compress_size):
            raise _bad_zip(
                path, f"{name!r}, {member.file_size} bytes out of {member.compress_size}"
            )
    if sum(member.compress_size for member in members) > archive.fp.seek(0, os.SEEK_END):
        raise _bad_zip(path, "members that overlap")


def _bad_zip(path, received):
    return refusal("path", "an archive of plain members", f"path={path} with {received}")


# NumPy arrays


def read_npz(path, names=None, kinds=NUMBERS):
    """Read arrays from an `.npz` file.

    The header of each array is compared with the size of its member before anything is inflated.

    Args:
        path: Path of the file, or a binary file that is open.
        names: The arrays to read, or None for all.
        kinds: The kinds of dtype that may be in it, as NumPy's letters.

    Returns:
        Dict of NumPy arrays.

    Raises:
        ValueError: The file is no archive of arrays, lacks one of `names`, or holds Python objects
            (pickles), bombs or tricks with paths.

    Example:

    >>> np.savez("rows.npz", x=np.zeros((2, 3)))
    >>> sda.files.zips.read_npz("rows.npz")["x"].shape
    (2, 3)
    """
    try:
        # Opened here: NumPy leaves a broken file open.
        with contextlib.nullcontext(path) if hasattr(path, "read") else open_plain(path) as file:
            with zipfile.ZipFile(file) as archive:
                check_zip(archive, path)
                if names is None:
                    names = [name.removesuffix(".npy") for name in archive.namelist()]
                for name in names:
                    _check_member(archive, name, path, kinds)
            # NumPy goes by the first bytes, `zipfile` by the last ones.
            file.seek(0)
            if file.read(4) != b"PK\3\4":
                raise _bad_npz(path, names, "something before the archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in names}
    except BROKEN_ZIP as error:
        raise _bad_npz(path, names, error) from error


def _check_member(archive, name, path, kinds):
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise _bad_npz(path, [name], f"the arrays {archive.namelist()}") from None
    with archive.open(member) as file:
        _check_npy(file, member.file_size, path, name, kinds)


def read_npy(path):
    """Read an array of numbers from an `.npy` file.

    Args:
        path: Path of the file.

    Returns:
        NumPy array.

    Raises:
        ValueError: The file is no `.npy` file, holds Python objects (pickles), or is not as long as
            its header says.

    Example:

    >>> np.save("rows.npy", np.zeros((2, 3)))
    >>> sda.files.zips.read_npy("rows.npy").shape
    (2, 3)
    """
    with open_plain(path) as file:
        _check_npy(file, os.fstat(file.fileno()).st_size, path, "the array", NUMBERS)
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _check_npy(file, size, path, name, kinds):
    """Raise `ValueError` unless a file of `size` bytes holds the array that its header names."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = readers[version](file)
    except KeyError:
        # The third version is for field names beyond Latin-1.
        raise _bad_npy(path, name, f"format version {version}") from None
    except BROKEN_HEADER as error:
        raise _bad_npy(path, name, error) from error
    if dtype.kind not in kinds:
        raise _bad_npy(path, name, f"dtype {dtype}")
    if min(shape, default=0) < 0 or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise _bad_npy(path, name, f"shape {shape} of {dtype} in {size} bytes")


def _bad_npz(path, names, received):
    arrays = f"with the arrays {', '.join(names)}" if names else "of arrays"
    return refusal("path", f"an .npz file {arrays}", f"path={path} with {received}")


def _bad_npy(path, name, received):
    return refusal("path", "a file of plain NumPy arrays", f"path={path}: {name} with {received}")
