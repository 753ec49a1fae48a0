"""What tells one function or object from another: its code, and what the code captures.

A value becomes nested plain values that are the same in every process that runs the same code:
numbers and texts as they are, arrays by digest, functions by their bytecode, constants, defaults,
closure and the globals that they name, users' classes by their methods, Keras objects by their
config, and what an installed package defines by its name and the package's version. No line
numbers, no names of files.
"""

import argparse
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import json
import logging
import pathlib
import re
import types
import uuid

import keras
import numpy as np

from sda.checkpoints.arrays import array_of, digest, is_word_of_a_backend, short
from sda.checkpoints.bytecode import (
    changed_by,
    changed_by_class,
    functions_of,
    global_names,
    instructions,
    python_version,
)
from sda.checkpoints.configs import anonymous, config_of
from sda.checkpoints.installed import goes_by_name, is_installed, named
from sda.checkpoints.keras_objects import KERAS, arguments, unsaid

# The kinds of dtype whose bytes are their values, as NumPy's letters.
KINDS = "?biufcSUmM"
SCALARS = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented))
# Objects of no state but what their `repr` says.
SPOKEN = (
    range, slice, np.dtype, pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta,
    datetime.tzinfo, decimal.Decimal, fractions.Fraction, re.Pattern, uuid.UUID,
)  # fmt: skip
CONTAINERS = (list, dict, set, collections.deque, bytearray, np.ndarray)
# Objects within objects that are followed: Python's stack ends somewhere.
DEEPEST = 60
# Python's own that are nothing but their attributes: settings, as a rule.
NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
# Of a class: what Python writes into it, which is no code of the user's.
OF_PYTHON = re.compile(
    r"__(abstractmethods|annotate\w*|annotations|dataclass_\w+|dict|doc|firstlineno|module"
    r"|orig_bases|parameters|qualname|slots|static_attributes|weakref)__|_abc_impl"
)
BUILT_IN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
MUTABLE = (
    list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict,
    collections.Counter,
)  # fmt: skip
# What a user's class may be a kind of.
VALUES = (dict, list, tuple, set, frozenset, str, bytes, int, float)
# What Python or C puts into a class for each of its slots and C members.
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, collections._tuplegetter)


class Reader:
    """Reads what tells one value from another, each object once.

    Args:
        name: String, what the value is to whoever gets a message, such as "loss".
        left_out: List, to which the names are added of what cannot be known, where that is not
            refused.
        strict: Whether what cannot be known is refused.
    """

    def __init__(self, name, left_out=None, strict=True):
        self.name = name
        self.left_out = [] if left_out is None else left_out
        self.strict = strict
        self._numbers = {}
        self._kept = []  # an `id` belongs to an object as long as that lives
        self._depth = 0

    # Values of any kind

    def read(self, value, where=""):
        """Return nested plain values that tell `value` from others.

        Args:
            value: Anything.
            where: String, where it was found, for messages.

        Raises:
            ValueError: If the reader is strict, and the value, or something that it captures, can
                not be told from others.
        """
        if type(value) in SCALARS:
            return short(value)
        if isinstance(value, np.generic):
            return f"{value.dtype} {value.item()!r}"
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, logging.Logger):  # what is written changes no numbers
            return "logger"
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, SPOKEN) or is_word_of_a_backend(value):
            return repr(value)
        array = array_of(value)
        if array is not None:
            return self._array(array, value, where)
        if goes_by_name(value):
            return named(value)
        if type(value) in (tuple, frozenset):  # what cannot change may be read again
            return self._container(value, where)
        if isinstance(value, (types.MethodType, *BUILT_IN)):
            return self._method(value, where)
        number = self._numbers.setdefault(id(value), len(self._numbers))
        if number < len(self._kept):
            return {"the same as": number}
        self._kept.append(value)
        self._depth += 1
        try:
            return self._object(value, where)
        finally:
            self._depth -= 1

    def _object(self, value, where):
        """Return what tells an object from others that was not met before."""
        if self._depth > DEEPEST:
            return self.unknown(value, where)
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, functools.partial):
            return self._partial(value, where)
        if type(value) in MUTABLE:
            return self._container(value, where)
        if isinstance(value, KERAS):
            return {"config": anonymous(config_of(value, self)), **unsaid(self, value, where)}
        if isinstance(value, keras.callbacks.Callback):
            return self._callback(value, where)
        if not is_installed(type(value)) or type(value) in NAMESPACES:
            return self._instance(value, where)
        wrapped = getattr(value, "__wrapped__", getattr(value, "python_function", None))
        if callable(value) and callable(wrapped):  # compiled or cached: the same numbers
            return {"wrapper": named(type(value)), "of": self.read(wrapped, where)}
        return self.unknown(value, where)

    def unknown(self, value, where):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if self.strict:
            raise ValueError(
                f"Expected `{self.name}` to be made of what tells one run from another: functions, "
                "numbers, strings, arrays, Keras objects, and containers and classes of these. "
                f"Received: {where or self.name} of type {kind}. Make it in the function that uses "
                "it, or import it from a module"
            )
        name = f"{where} of {self.name}" if where else self.name
        if name not in self.left_out:
            self.left_out.append(name)
        return {"left out": kind}

    def _array(self, array, value, where):
        if array.dtype.kind == "O":
            return {"shape": list(array.shape), "items": self._items(array.ravel(), where)}
        if array.dtype.kind not in KINDS:
            return self.unknown(value, where)
        return f"{array.dtype} {array.shape}, SHA-256 {digest(array)}"

    def _items(self, values, where):
        return [self.read(value, f"{where}[{i}]") for i, value in enumerate(values)]

    def _container(self, value, where):
        name = type(value).__name__
        if isinstance(value, dict):
            pairs = [
                [self.read(k, where), self.read(v, f"{where}[{k!r}]")] for k, v in value.items()
            ]
            if isinstance(value, collections.defaultdict):
                pairs.append(["default", self.read(value.default_factory, where)])
            return {name: pairs}
        if not isinstance(value, (set, frozenset)):
            return {name: self._items(value, where)}
        # A set has no order: each of its items is read as if it were the only one.
        items = []
        for item in value:
            reader = Reader(self.name, self.left_out, self.strict)
            reader._numbers, reader._kept = dict(self._numbers), list(self._kept)
            items.append(reader.read(item, where))
        return {name: sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}

    # Functions

    def _function(self, function, where):
        code = function.__code__
        found = {
            "python": python_version(),
            "code": hashlib.sha256(instructions(code).encode()).hexdigest(),
            "defaults": self._items(function.__defaults__ or (), f"{where} default"),
            "keywords": self.named_values(function.__kwdefaults__ or {}, where),
        }
        closure = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # nothing in it yet
                closure[name] = cell.cell_contents
        changed = changed_by(code)
        found["closure"] = self.captured(closure, changed, changed.variables, where)
        if is_installed(function):
            return {"name": named(function), **found}
        there, attributes = function.__globals__, dict(vars(function))
        attributes.pop("__wrapped__", None)  # it is in the closure
        read = {name: there[name] for name in global_names(code) if name in there}
        found["globals"] = self.captured(read, changed, changed.variables, where)
        if attributes:
            found["attributes"] = self.named_values(attributes, where)
        return found

    def captured(self, values, changed, set_, where):
        """Return what names stand for; what code changes is left out where that is allowed."""
        found = {}
        for name, value in sorted(values.items()):
            place = f"{where} {name}".strip()
            if not self.strict and (name in set_ or self.is_filled(value, name, changed)):
                found[name] = self.unknown(value, place)
            else:
                found[name] = self.read(value, place)
        return found

    def is_filled(self, value, name, changed):
        """Return whether code changes what is in a container."""
        return name in changed.filled and isinstance(value, CONTAINERS)

    def named_values(self, values, where):
        return {n: self.read(v, f"{where} {n}".strip()) for n, v in sorted(values.items())}

    def _partial(self, partial, where):
        return {
            "partial": self.read(partial.func, where),
            "bound": self._items(partial.args, where),
            "keywords": self.named_values(partial.keywords, where),
        }

    def _method(self, method, where):
        function = getattr(method, "__func__", None)
        name = method.__name__ if function is None else self.read(function, where)
        owner = getattr(method, "__self__", getattr(method, "__objclass__", None))
        return {"method": name, "of": self.read(owner, where)}

    # Classes and their instances

    def _class(self, cls, where):
        found = {"class": cls.__qualname__}
        if issubclass(cls, enum.Enum):
            return {**found, "members": [[m.name, self.read(m.value, where)] for m in cls]}
        found["bases"] = [self.read(base, where) for base in cls.__bases__ if base is not object]
        changed, members = changed_by_class(cls), {}
        for name, member in sorted(vars(cls).items()):
            # What methods set is no setting.
            is_state = not self.strict and name in changed.attributes
            if OF_PYTHON.fullmatch(name) or isinstance(member, DESCRIPTORS) or is_state:
                continue
            functions = functions_of(member)
            place = f"{cls.__qualname__}.{name}"
            if functions:
                kind = type(member).__name__
                members[name] = {kind: [self.read(function, place) for function in functions]}
            else:
                members.update(self.captured({name: member}, changed, (), cls.__qualname__))
        return {**found, "members": members}

    def _instance(self, thing, where):
        found = {"instance": self.read(type(thing), where)}
        base = next((kind for kind in VALUES if isinstance(thing, kind)), None)
        if base is not None:
            found["value"] = self.read(base(thing), where)
        attributes = dict(getattr(thing, "__dict__", {}))
        for cls in type(thing).__mro__:
            slots = vars(cls).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name):
                    attributes.setdefault(name, getattr(thing, name))
        changed = changed_by_class(type(thing))
        found["attributes"] = self.captured(attributes, changed, changed.attributes, where)
        return found

    def _callback(self, callback, where):
        return {"callback": named(type(callback)), **arguments(self, callback, where)}
