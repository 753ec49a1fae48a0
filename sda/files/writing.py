"""Files written beside their place and then put there."""

import contextlib
import errno
import json
import os
import pathlib
import re
import secrets

# The names of the files that `replacing` begins.
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.\w+)?", re.S)


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


def write_json(path, content):
    """Write `content` to `path` as JSON: see `replacing`."""
    write_plain(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
