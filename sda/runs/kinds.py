"""What the files of a phase may hold: each value that others read, and what checks it."""

import json
import math
import re
import tomllib

from sda.files.cells import printable
from sda.files.opening import Damaged

# A command has some thirty.
MOST_SETTINGS = 200


def damaged(path, received):
    return Damaged(f"Expected {path} to be as a run left it. Received: {printable(received)}")


def place(error):
    """Return what is wrong with a file, and where, but nothing that is in it."""
    if isinstance(error, OSError) or not isinstance(error, ValueError):
        return error.strerror if isinstance(error, OSError) else type(error).__name__
    if isinstance(error, (json.JSONDecodeError, UnicodeError, tomllib.TOMLDecodeError)):
        found = re.search(r"\(at [^()]*\)$", str(error)) or [getattr(error, "msg", "")]
        return f"{type(error).__name__} {found[0]}".strip()
    return error


def checked(path, content, kinds):
    """Return the content of a file; raise `Damaged` unless what has a name in `kinds` is such."""
    for name, is_right in kinds.items():
        if name in content and not is_right(content[name]):
            raise damaged(path, f"`{name}`, which is something else")
    return content


def is_text(value):
    return isinstance(value, str)


def _is_number(value, low, high):
    return type(value) in (int, float) and low <= value <= high


def is_count(value):
    return _is_number(value, 1, 2**53) and value == int(value)


def are_settings(values):
    """Return whether these are as many as a command has, of the kinds that it takes."""
    return len(values) <= MOST_SETTINGS and all(map(_is_setting, values))


def _is_setting(value):
    if isinstance(value, list):
        return all(isinstance(item, (str, int, float)) for item in value)
    return isinstance(value, (str, int, float))


def _is_facts(value):
    """Return whether a value is a dictionary of texts, numbers, and lists of texts."""
    return isinstance(value, dict) and all(
        item is None
        or isinstance(item, (str, int))
        or (isinstance(item, list) and all(map(is_text, item)))
        for item in value.values()
    )


def _is_labels(value):
    return isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value)


def _is_scores(value):
    """Return whether a value is as `diagnostics.classification` gives it."""
    if not isinstance(value, dict):
        return False
    interval, confusion = value.get("interval"), value.get("confusion")
    return (
        _is_number(value.get("error"), 0, 1)
        and _is_number(value.get("rows"), 0, 2**53)
        and is_text(value.get("data", ""))
        and isinstance(interval, list)
        and len(interval) == 2
        and all(_is_number(end, 0, 1) for end in interval)
        and isinstance(confusion, list)
        and all(isinstance(row, list) and len(row) == len(confusion) for row in confusion)
        and all(type(n) is int and 0 <= n <= 2**53 for row in confusion for n in row)
    )


def _is_image_shape(value):
    return is_text(value) and bool(re.fullmatch(r"none|\d{1,9}x\d{1,9}(x3)?", value))


# What the files of a phase hold under names that others read, each by a function that checks it.
RECORD = {
    "status": is_text,
    "started": is_text,
    "seconds": lambda value: _is_number(value, 0, 1e12),
    "seed": lambda value: value is None or type(value) is int,
    "backend": is_text,
    "versions": lambda value: _is_facts(value) and all(map(is_text, value.values())),
    "machine": _is_facts,
}
RESULTS = {"classes": _is_labels, "validation": _is_scores, "test": _is_scores}
SETTINGS = {
    "data": is_text,
    "labels": is_text,
    "image_shape": _is_image_shape,
    "validation_split": lambda value: _is_number(value, 0, 1) and value < 1,
    "loss": lambda value: all(map(is_text, value if isinstance(value, list) else [value])),
    "backend": is_text,
}


def number_of(text):
    """Return the number that a text is; the text itself is in no message."""
    try:
        number = float(text)
    except (ValueError, TypeError):
        raise ValueError("something other than numbers") from None
    # Losses are of single precision, or rates.
    if math.isfinite(number) and abs(number) > 1e100:
        raise ValueError("a number beyond all losses")
    return number
