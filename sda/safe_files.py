"""Files are data: what is read is checked first, so that reading runs nothing and stays in bounds.

A file that somebody else made may hold code (pickles), point to other files (links, external
storage, virtual datasets, paths in archives) or declare far more than it holds (bombs).
"""

import contextlib
import errno
import html
import io
import itertools
import math
import os
import pathlib
import re
import secrets
import stat
import struct
import warnings
import zipfile
import zlib

import h5py
import numpy as np

# Up to here, in bytes, nobody is hurt by what a file makes of itself.
SMALL = 2**26
# DEFLATE makes at most 1032 bytes of one. Data that shrink nearly as far are nothing but one value.
EXPANSION = 1000

# The kinds of dtype that are numbers.
NUMBERS = "fiub"
# The names of the files that `replacing` begins.
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.\w+)?", re.S)
# Filters that stand damage. SZIP, N-bit and scale-offset are compiled into HDF5 too, but crash on
# it; any other is a library that HDF5 would look for.
COMPRESSIONS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF}
FILTERS = COMPRESSIONS | {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# What the readers of HDF5 raise where a file is broken.
BROKEN_H5 = (OSError, KeyError, RuntimeError, OverflowError, UnicodeError, struct.error)
# Messages in the header of an object: that it goes on elsewhere, and those that only newer objects
# have. HDF5 crashes on damage to the heaps that these lead to.
CONTINUATION, NEWER = 0x10, {0x02, 0x06, 0x0A, 0x15}
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


class Damaged(ValueError):
    """What a file or a storage holds is not what this package writes."""

    # What `sda` in a shell ends with.
    exit_code = 2


def refusal(name, expectation, received):
    """Return the `ValueError` that says what `name` was expected to be, and what it is."""
    return ValueError(f"Expected `{name}` to be {expectation}. Received: {printable(received)}")


def printable(text, kept="\n\t"):
    """Return `text` with what a terminal would obey, control characters and the like, as escapes.

    Args:
        text: String, or what becomes one.
        kept: String of characters that stay as they are.
    """
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def csv_cell(value):
    """Return a value for a CSV file; before a text that a spreadsheet would compute, a quote."""
    if not isinstance(value, str):
        return value
    text = printable(value, kept="")
    return f"'{text}" if text.lstrip(" ")[:1] in tuple("=+-@") else text


def markdown_cell(value):
    """Return a text for a line of Markdown, in which it stays text: no HTML, link or table."""
    text = html.escape(printable(value, kept=""), quote=False)
    return re.sub(r"([\\`*|\[\]])", r"\\\1", text)


# The door


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


@contextlib.contextmanager
def replacing(path):
    """Yield a new file's path beside `path`; at the end, it takes the place of `path`.

    So nobody ever sees half a file, what is there stays where writing fails, and a link at `path`
    is replaced, not followed. The new file has a name that nobody knows, and the suffix of `path`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(temporary, flags, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(folder):
    """Return the files that `replacing` had begun in a folder when its process was killed."""
    found = pathlib.Path(folder).glob(".*.tmp*")
    return [path for path in found if LEFTOVER.fullmatch(path.name) and not path.is_dir()]


def write_plain(path, content):
    """Write a string or bytes to `path`: see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def is_bomb(declared, stored):
    """Return whether `declared` bytes are more than `stored` bytes can honestly stand for."""
    return declared > SMALL and declared > EXPANSION * stored


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
    >>> sda.safe_files.read_npz("rows.npz")["x"].shape
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
    >>> sda.safe_files.read_npy("rows.npy").shape
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


# Text


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
    >>> sda.safe_files.read_text("rows.amat").shape
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


# HDF5


def find(file, path, name):
    """Return what is at `path` in an open `h5py.File`, without following links that lead away.

    Args:
        file: The `h5py.File`.
        path: String, the path in it.
        name: What to call it in the message.

    Raises:
        ValueError: There is nothing, or a soft or an external link is on the way to it.
    """
    found = file
    for part in filter(None, path.split("/")):
        there = isinstance(found, h5py.Group) and part != "."
        link = _link(found, part) if there else None
        if not isinstance(link, h5py.HardLink):
            kind = "nothing" if link is None else f"a {type(link).__name__}"
            raise _bad_dataset(name, f"{kind} at {path!r} in {file.filename}")
        found = found[part]
    return found


def _link(group, name):
    try:
        return group.get(name, getlink=True)
    except TypeError as error:  # a kind of link that somebody defined
        return error


def check_dataset(dataset, name):
    """Raise `ValueError` unless an `h5py.Dataset` keeps its values in its own file, all of them.

    Refused are soft and external links on the way to it, external storage, virtual datasets,
    filters that HDF5 would load a library for, and shapes that the file cannot fill.

    A dataset does not tell that it was reached through an external link; but then its file was
    opened by HDF5, not by the caller. So the caller's `h5py.File` has to be open.

    Args:
        dataset: The dataset.
        name: What to call it in the message.
    """
    try:
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise refusal(name, "a dataset with a shape", f"{name}={dataset!r}")
        number = h5py.h5o.get_info(dataset.id).fileno
        opened = h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
        if number not in [h5py.h5o.get_info(file).fileno for file in opened]:
            raise refusal(
                name,
                "a dataset of an open h5py.File (keep the file open while its rows are used)",
                f"a dataset that was left behind by its file, or that an external link led to: "
                f"{dataset.file.filename}",
            )
        if dataset.name:
            find(dataset.file, dataset.name, name)
        _check_type(dataset, name)
        check_storage(dataset, name)
    except BROKEN_H5 as error:
        raise _bad_dataset(name, error) from error


def _check_type(dataset, name):
    try:
        return dataset.dtype
    # What NumPy has nothing like.
    except (TypeError, ValueError) as error:
        raise _bad_dataset(name, error) from error


def check_storage(dataset, name):
    """Raise `ValueError` unless a dataset's values lie in its own file: see `check_dataset`."""
    if dataset.is_virtual:
        raise _bad_dataset(name, f"a virtual dataset, {dataset.name}")
    if dataset.external:
        raise _bad_dataset(name, f"external storage, {[file for file, *_ in dataset.external]}")
    filters = _filters(dataset)
    others = sorted(set(filters) - FILTERS)
    if others:
        raise _bad_dataset(name, f"the filters {others}, other than gzip, lzf, shuffle, fletcher32")
    # What one makes of a byte, a second one would make of each byte of that.
    if len(filters) != len(set(filters)) or set(filters) >= COMPRESSIONS:
        raise _bad_dataset(name, f"the filters {filters}, which multiply")
    # A chunk is inflated whole, and may be larger than the dataset.
    values = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
    stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    if is_bomb(values * dataset.dtype.itemsize, stored):
        raise _bad_dataset(
            name, f"shape {dataset.shape} of {dataset.dtype} in chunks {dataset.chunks}, "
            f"of which the file holds {stored} bytes",
        )  # fmt: skip


def check_chunks(dataset, band, name):
    """Raise `ValueError` unless chunks unpack to what they are said to hold.

    HDF5 takes it for granted: from a shorter one it reads on, in what else the process has in
    memory.

    Args:
        dataset: An `h5py.Dataset` in chunks.
        band: Integer, which chunks, counted along the first axis.
        name: What to call the dataset in the message.
    """
    size = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    filters = _filters(dataset)
    starts = [range(0, *pair) for pair in zip(dataset.shape, dataset.chunks, strict=True)]
    for start in itertools.product([band * dataset.chunks[0]], *starts[1:]):
        info = dataset.id.get_chunk_info_by_coord(start)
        if info.byte_offset is None:
            continue  # Nobody wrote it.
        applied = [f for i, f in enumerate(filters) if not info.filter_mask >> i & 1]
        found = info.size - 4 * applied.count(h5py.h5z.FILTER_FLETCHER32)
        # What cannot be compressed is stored as it is, or slightly longer.
        if COMPRESSIONS & set(applied) and 0 < info.size <= 2 * size + 64:
            found = _unpacked(dataset.id.read_direct_chunk(start)[1], applied, size)
        if found != size:
            raise _bad_dataset(name, f"a chunk at {start} of {found} bytes, not {size}")


def _unpacked(chunk, applied, size):
    """Return how many bytes a chunk becomes, or more than `size`."""
    at = next(i for i, f in enumerate(applied) if f in COMPRESSIONS)
    sums = [4 * part.count(h5py.h5z.FILTER_FLETCHER32) for part in (applied[:at], applied[at:])]
    chunk = chunk[: len(chunk) - sums[1]]
    if applied[at] == h5py.h5z.FILTER_DEFLATE:
        try:
            return len(zlib.decompressobj().decompress(chunk, size + sums[0] + 1)) - sums[0]
        except zlib.error as error:
            raise OSError(error) from error
    length = i = 0
    while i < len(chunk):
        # A run of literals, or a copy of what went before, by LZF's control bytes.
        control = chunk[i]
        if control < 32:
            length, i = length + control + 1, i + control + 2
        else:
            is_long = control >> 5 == 7
            more = chunk[i + 1 : i + 2][0] if is_long and i + 1 < len(chunk) else 0
            length, i = length + (control >> 5) + 2 + more, i + 2 + is_long
    return length - sums[0]


def _filters(dataset):
    creation = dataset.id.get_create_plist()
    return [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]


def _bad_dataset(name, received):
    return refusal(name, "an HDF5 dataset whose values are in its own file", received)


def check_h5(content, path):
    """Raise `ValueError` unless an HDF5 file is groups and plain arrays of its own.

    Nothing but what Keras writes: groups of the older kind, and arrays in one piece, as they are.

    Args:
        content: The file, binary and open.
        path: Its path, for the message.

    Returns:
        Pair of integers: the values in all its arrays, and the bytes that they take.
    """
    try:
        root = _root(content, path)
        _check_header(content, root, path)
        content.seek(0)
        with h5py.File(content, "r") as file:
            return _check_members(file, content, root, path)
    except BROKEN_H5 as error:
        raise _bad_h5(path, error) from error


def _check_members(file, content, root, path):
    values, size, groups, seen = 0, 0, [file], {root}
    while groups:
        group = groups.pop()
        for name in group:
            link = _link(group, name)
            if not isinstance(link, h5py.HardLink):
                raise _bad_h5(path, f"a {type(link).__name__} at {group.name}, {name!r}")
            address = group.id.links.get_info(name.encode()).u
            if address in seen:
                raise _bad_h5(path, f"two paths to {group.name}, {name!r}")
            seen.add(address)
            _check_header(content, address, path)
            child = group[name]
            if isinstance(child, h5py.Group):
                groups.append(child)
                continue
            # Keras stores bfloat16 as bytes without a meaning: kind V.
            plain = isinstance(child, h5py.Dataset) and _check_type(child, "path").kind in "fiubV"
            if not plain or child.dtype.hasobject or child.shape is None:
                raise _bad_h5(path, f"{child!r} at {child.name}")
            check_storage(child, "path")
            if child.chunks or _filters(child):
                raise _bad_h5(path, f"an array in chunks at {child.name}")
            values += math.prod(child.shape)
            size += math.prod(child.shape) * child.dtype.itemsize
    if is_bomb(size, file.id.get_filesize()):
        raise _bad_h5(path, f"{size} bytes out of {file.id.get_filesize()}")
    return values, size


def _root(content, path):
    """Return where the first group's header is, by the oldest superblock, as h5py writes it."""
    start = _read(content, 0, 72)
    if start[:9] != b"\x89HDF\r\n\x1a\n\0" or start[13:15] != b"\x08\x08" or any(start[24:32]):
        raise _bad_h5(path, "another beginning")
    return struct.unpack_from("<Q", start, 64)[0]


def _check_header(content, address, path):
    """Raise `ValueError` unless an object is of the older kind; HDF5 has not seen it then."""
    version, length = struct.unpack("<B7xI4x", _read(content, address, 16))
    if version != 1:
        raise _bad_h5(path, "an object of a newer kind")
    blocks, seen = [(address + 16, length)], set()
    while blocks:
        start, length = blocks.pop()
        if start in seen:
            raise _bad_h5(path, "a header without end")
        seen.add(start)
        block, i = _read(content, start, length), 0
        while i + 8 <= length:
            kind, size = struct.unpack_from("<HH", block, i)
            if kind in NEWER:
                raise _bad_h5(path, "an object of a newer kind")
            if kind == CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", block, i + 8))
            i += 8 + size


def _read(content, start, length):
    content.seek(start)
    block = content.read(min(length, SMALL))
    if len(block) != length:
        raise OSError("a header that is cut short")
    return block


def _bad_h5(path, received):
    return refusal("path", "an HDF5 file of plain arrays", f"path={path} with {received}")
