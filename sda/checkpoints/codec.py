"""A checkpoint as bytes of a file."""

import collections
import hashlib
import io
import json
import os
import random
import secrets

import keras
import numpy as np
from keras import ops

from sda.files.cells import printable
from sda.files.opening import open_plain
from sda.files.zips import read_npz

# The header of a checkpoint: this, the version of the format, and the SHA-256 of what follows.
MAGIC = b"sda-checkpoint"
VERSION = b"1"
# The kinds of dtype that may be in one, as NumPy's letters: numbers and text.
KINDS = "biufcSU"


# The generators of NumPy that may be in one.
BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}


class Damaged(Exception):
    """The bytes are not those that were written."""


def write(path, saved):
    """Write settings, versions, context and progress to a file, whole or not at all.

    It is written under another name, synced to the disk and then renamed: whatever happens
    meanwhile, what is under `path` is whole. Nobody else's write has the same other name.
    """
    content = _packed(saved)
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}{path.suffix}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(b"%s %s %s\n" % (MAGIC, VERSION, _digest(VERSION, content)))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read(path):
    """Return what `write` wrote; raise `Damaged` if it is no longer that.

    Raises:
        ValueError: If it is a link or no regular file, such as a FIFO, which would be waited for.
    """
    with open_plain(path, links=False) as file:
        return unpacked(verified(file.read()))


def _digest(version, content):
    return hashlib.sha256(version + b"\n" + content).hexdigest().encode()


def verified(file):
    """Return the content of a checkpoint's bytes after its header, if it is what was written."""
    header, _, content = file.partition(b"\n")
    parts = header.split(b" ")
    if len(parts) != 3 or parts[0] != MAGIC:
        raise Damaged("it has no header")
    if parts[2] != _digest(parts[1], content):
        raise Damaged("its digest is wrong")
    if parts[1] != VERSION:
        raise ValueError(
            f"Expected checkpoints of format {VERSION.decode()}. Received: one of format "
            f"{parts[1].decode(errors='replace')}, of another version of keras-sda"
        )
    return content


def _packed(value):
    """Return nested plain values and arrays as bytes: an .npz of the arrays and one JSON text."""
    arrays = []
    text = json.dumps(_to_json(value, arrays))
    buffer = io.BytesIO()
    named = {f"array_{i}": array for i, array in enumerate(arrays)}
    np.savez(buffer, json=np.frombuffer(text.encode(), "uint8"), **named)
    return buffer.getvalue()


def unpacked(content):
    # A digest shows damage, not malice: what is in the file is still not trusted.
    try:
        arrays = read_npz(io.BytesIO(content), kinds=KINDS)
        saved = _from_json(json.loads(arrays["json"].tobytes()), arrays)
        return {name: saved[name] for name in ("settings", "versions", "context", "progress")}
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected checkpoints that keras-sda has written. Received: one with "
            f"{type(error).__name__}: {printable(error)}"
        ) from error


def _to_json(value, arrays):
    """Return the value for JSON, with dictionaries as tags, and its arrays moved to `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        # NumPy has no bfloat16 of its own; in float32 its values are the same.
        array = value.astype("float32") if value.dtype.kind == "V" else np.asarray(value)
        if array.dtype.kind in KINDS:
            arrays.append(array)
            return {"array": len(arrays) - 1}
    if isinstance(value, keras.Variable) or ops.is_tensor(value):
        array = ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(value)))
        dtype = keras.backend.standardize_dtype(value.dtype)
        return {"tensor": [_to_json(array, arrays), dtype]}
    if type(value) is np.random.Generator:
        return {"generator": _to_json(value.bit_generator.state, arrays)}
    if type(value) is random.Random:
        return {"random": _to_json(value.getstate(), arrays)}
    if type(value) is collections.deque:
        return {"deque": [[_to_json(item, arrays) for item in value], value.maxlen]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_to_json(item, arrays) for item in value]}
    if type(value) in (dict, collections.defaultdict, collections.OrderedDict):
        return {"dict": [[_to_json(k, arrays), _to_json(v, arrays)] for k, v in value.items()]}
    raise TypeError(f"no place for a {type(value).__name__} in a checkpoint")


def _from_json(value, arrays):
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = value.items()
    if tag == "array":
        # A number of NumPy's comes back as one.
        return arrays[f"array_{inner}"][()]
    if tag == "dict":
        return {_from_json(k, arrays): _from_json(v, arrays) for k, v in inner}
    if tag == "tensor":
        array, dtype = inner
        return ops.convert_to_tensor(_from_json(array, arrays), dtype=dtype)
    if tag == "generator":
        state = _from_json(inner, arrays)
        generator = BIT_GENERATORS[state["bit_generator"]](0)
        generator.state = state
        return np.random.Generator(generator)
    if tag == "random":
        generator = random.Random()
        generator.setstate(_from_json(inner, arrays))
        return generator
    if tag == "deque":
        items, maxlen = inner
        return collections.deque((_from_json(item, arrays) for item in items), maxlen)
    return {"list": list, "tuple": tuple}[tag](_from_json(item, arrays) for item in inner)


def can_pack(value):
    try:
        json.dumps(_to_json(value, []))
    except (TypeError, RecursionError):
        return False
    return True


def _sync_folder(path):
    """Let the folder's new names reach the disk, where the system can open a folder."""
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
