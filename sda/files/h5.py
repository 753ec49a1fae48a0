"""HDF5 files, checked before the library reads what they hold."""

import itertools
import math
import struct
import zlib

import h5py

from sda.files.opening import SMALL, is_bomb, refusal
from sda.files.zips import COMPRESSIONS

FILTERS = COMPRESSIONS | {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# What the readers of HDF5 raise where a file is broken.
BROKEN_H5 = (OSError, KeyError, RuntimeError, OverflowError, UnicodeError, struct.error)
# Messages in the header of an object: that it goes on elsewhere, and those that only newer objects
# have. HDF5 crashes on damage to the heaps that these lead to.
CONTINUATION, NEWER = 0x10, {0x02, 0x06, 0x0A, 0x15}


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
