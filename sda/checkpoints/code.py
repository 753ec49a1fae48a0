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
import dataclasses
import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
import pathlib
import platform
import re
import site
import sys
import sysconfig
import types
import uuid
import warnings

import keras
import numpy as np
from keras import ops

from sda.layers.corruption import Corruption

# The kinds of dtype whose bytes are their values, as NumPy's letters.
KINDS = "?biufcSUmM"
SCALARS = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented))
# Objects of no state but what their `repr` says.
SPOKEN = (
    range,
    slice,
    np.dtype,
    pathlib.PurePath,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    decimal.Decimal,
    fractions.Fraction,
    re.Pattern,
    uuid.UUID,
)
CONTAINERS = (list, dict, set, collections.deque, bytearray, np.ndarray)
KERAS = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.optimizers.Optimizer,
    keras.optimizers.OptimizerMap,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.dtype_policies.DTypePolicy,
    keras.random.SeedGenerator,
)
# Objects within objects that are followed: Python's stack ends somewhere.
DEEPEST = 60
# Python's own that are nothing but their attributes: settings, as a rule.
NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
# Methods that change the container they belong to.
FILLING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "fill", "insert",
    "pop", "popitem", "popleft", "put", "remove", "resize", "reverse", "setdefault", "sort",
    "update",
}  # fmt: skip
# Of a class: what Python writes into it, which is no code of the user's.
OF_PYTHON = re.compile(
    r"__(abstractmethods|annotate\w*|annotations|dataclass_\w+|dict|doc|firstlineno|module"
    r"|orig_bases|parameters|qualname|slots|static_attributes|weakref)__|_abc_impl"
)
# Packages whose versions a run compares by itself.
COMPARED = ("keras", "numpy", "sda", "tensorflow", "jax", "jaxlib", "torch")
BUILT_IN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
LISTED = (list, tuple, dict, set, frozenset)
MUTABLE = (
    list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict,
    collections.Counter,
)  # fmt: skip
# What callbacks and models get when training begins.
GIVEN = ("params", "_model", "history", "_sda_driver")


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
            return _short(value)
        if isinstance(value, np.generic):
            return f"{value.dtype} {value.item()!r}"
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, logging.Logger):  # what is written changes no numbers
            return "logger"
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, SPOKEN) or _is_word_of_a_backend(value):
            return repr(value)
        array = _array(value)
        if array is not None:
            return self._array(array, value, where)
        if _goes_by_name(value):
            return _named(value)
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
            return self._unknown(value, where)
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, functools.partial):
            return self._partial(value, where)
        if type(value) in MUTABLE:
            return self._container(value, where)
        if isinstance(value, KERAS):
            return {"config": anonymous(config_of(value, self)), **self.unsaid(value, where)}
        if isinstance(value, keras.callbacks.Callback):
            return self._callback(value, where)
        if not is_installed(type(value)) or type(value) in NAMESPACES:
            return self._instance(value, where)
        wrapped = getattr(value, "__wrapped__", getattr(value, "python_function", None))
        if callable(value) and callable(wrapped):  # compiled or cached: the same numbers
            return {"wrapper": _named(type(value)), "of": self.read(wrapped, where)}
        return self._unknown(value, where)

    def _unknown(self, value, where):
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
            return self._unknown(value, where)
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
            "code": hashlib.sha256(_instructions(code).encode()).hexdigest(),
            "defaults": self._items(function.__defaults__ or (), f"{where} default"),
            "keywords": self._named_values(function.__kwdefaults__ or {}, where),
        }
        closure = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # nothing in it yet
                closure[name] = cell.cell_contents
        changed = _changed_by(code)
        found["closure"] = self._captured(closure, changed, changed.variables, where)
        if is_installed(function):
            return {"name": _named(function), **found}
        there, attributes = function.__globals__, dict(vars(function))
        attributes.pop("__wrapped__", None)  # it is in the closure
        named = {name: there[name] for name in _global_names(code) if name in there}
        found["globals"] = self._captured(named, changed, changed.variables, where)
        if attributes:
            found["attributes"] = self._named_values(attributes, where)
        return found

    def _captured(self, values, changed, set_, where):
        """Return what names stand for; what code changes is left out where that is allowed."""
        found = {}
        for name, value in sorted(values.items()):
            place = f"{where} {name}".strip()
            filled = name in changed.filled and isinstance(value, CONTAINERS)
            if not self.strict and (filled or name in set_):
                found[name] = self._unknown(value, place)
            else:
                found[name] = self.read(value, place)
        return found

    def _named_values(self, values, where):
        return {n: self.read(v, f"{where} {n}".strip()) for n, v in sorted(values.items())}

    def _partial(self, partial, where):
        return {
            "partial": self.read(partial.func, where),
            "bound": self._items(partial.args, where),
            "keywords": self._named_values(partial.keywords, where),
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
        changed, members = _changed_by_class(cls), {}
        for name, member in sorted(vars(cls).items()):
            # What methods set is no setting.
            is_state = not self.strict and name in changed.attributes
            if OF_PYTHON.fullmatch(name) or isinstance(member, DESCRIPTORS) or is_state:
                continue
            functions = _functions_of(member)
            place = f"{cls.__qualname__}.{name}"
            if functions:
                kind = type(member).__name__
                members[name] = {kind: [self.read(function, place) for function in functions]}
            else:
                members.update(self._captured({name: member}, changed, (), cls.__qualname__))
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
        changed = _changed_by_class(type(thing))
        found["attributes"] = self._captured(attributes, changed, changed.attributes, where)
        return found

    def _callback(self, callback, where):
        return {"callback": _named(type(callback)), **self.arguments(callback, where)}

    def arguments(self, callback, where="", everything=False):
        """Return the arguments that a callback was made with, and its class if that is a user's.

        An argument is what the attribute of its name holds, with or without an underscore.

        Args:
            callback: A `keras.callbacks.Callback`.
            where: String, where it was found, for messages.
            everything: Whether to return all attributes, not only those of arguments.
        """
        cls, attributes, found = type(callback), vars(callback), {}
        changed = _changed_by_class(cls)
        names = attributes if everything else _arguments(cls)
        for name in names:
            attribute = name if name in attributes else f"_{name}"
            if attribute not in attributes or name in (*GIVEN, "model", "verbose"):
                continue
            value = attributes[attribute]
            if name == "min_delta" and hasattr(callback, "monitor_op"):
                value = abs(value)  # its sign turns when Keras first looks at the logs
            place = f"{where}.{name}" if where else name
            if not self.strict and name in changed.filled and isinstance(value, CONTAINERS):
                found[name] = self._unknown(value, place)
            elif _is_plain(value):
                found[name] = value
            else:
                found[name] = self.read(value, place)
        if not is_installed(cls):
            found["code"] = self.read(cls, where)
        return found

    # Keras's objects

    def unsaid(self, thing, where="", members=True):
        """Return what the config of a Keras object does not say: users' functions and classes.

        Args:
            thing: A Keras object, or anything that a config mentions.
            where: String, where it was found.
            members: Whether to read the layers of a layer, too.
        """
        if isinstance(thing, LISTED):
            items = thing.items() if isinstance(thing, dict) else enumerate(thing)
            found = {
                str(name): self.unsaid(value, f"{where}[{name!r}]")
                for name, value in items
                if not isinstance(value, keras.layers.Layer)
            }
            return {name: value for name, value in found.items() if value}
        if not isinstance(thing, KERAS):
            if not callable(thing) or _array(thing) is not None:
                return {}
            found = self.read(thing, where)
            return {} if isinstance(found, str) else found
        if isinstance(thing, keras.random.SeedGenerator):
            return {}
        of_layer = isinstance(thing, keras.layers.Layer)
        before = self.strict
        if isinstance(thing, STRICT):
            self.strict = True
        elif of_layer:
            self.strict = False
        try:
            return self._unsaid(thing, where, members and of_layer)
        finally:
            self.strict = before

    def _unsaid(self, thing, where, members):
        cls, attributes, found = type(thing), vars(thing), {}
        of_layer = isinstance(thing, keras.layers.Layer)
        config = get_config(thing)
        if config is None:
            config = dict.fromkeys(_arguments(cls))
        strict = self.strict
        for key in config:
            value = _attribute(thing, key)
            if value is thing or (of_layer and isinstance(value, keras.layers.Layer)):
                continue  # among the members
            self.strict = strict or "activation" in key or "initializer" in key
            inner = self.unsaid(value, f"{where}.{key}" if where else key)
            self.strict = strict
            if inner:
                found[key] = inner
        # Some of Keras's own losses leave these out of their config.
        keywords = {n: v for n, v in attributes.get("_fn_kwargs", {}).items() if n not in config}
        if keywords:
            found["keywords"] = self._named_values(keywords, where)
        if not is_installed(cls):
            found["code"] = self.read(cls, where)
            own = self._own_attributes(thing, get_config(thing) or {}, found)
            if own:
                changed = _changed_by_class(cls)
                found["attributes"] = self._captured(own, changed, changed.attributes, where)
        if members:
            for i, layer in enumerate(thing._flatten_layers(include_self=False)):
                inner = self.unsaid(layer, layer.name, members=False)
                if inner:
                    found[f"layer {i}"] = inner
        return found

    def _own_attributes(self, thing, config, found):
        """Return the attributes of an object of a user's class that its config does not say."""
        classes = type(thing).__mro__
        theirs = set().union(*(_set_by(cls) for cls in classes if is_installed(cls)))
        kept = [keras.Variable, keras.random.SeedGenerator]
        if isinstance(thing, keras.layers.Layer):
            kept.append(keras.layers.Layer)
        own = {
            name: value
            for name, value in vars(thing).items()
            if not {name, name.removeprefix("_")} & {*config, *found}
            and name not in {*theirs, *GIVEN}
            and not _are(value, tuple(kept))
        }
        if any("get_config" in vars(cls) for cls in classes if not is_installed(cls)):
            # Whoever writes a config says with it what matters: the rest is read where it can be.
            own = {name: value for name, value in own.items() if _is_plain(value)}
        return own


# Users' objects of these kinds have to say all that they are.
STRICT = (
    Corruption,
    *(kind for kind in KERAS if kind not in (keras.layers.Layer, keras.optimizers.Optimizer)),
)
# What a user's class may be a kind of.
VALUES = (dict, list, tuple, set, frozenset, str, bytes, int, float)
# What Python or C puts into a class for each of its slots and C members.
DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, collections._tuplegetter)


def config_of(thing, reader):
    """Return the config of a Keras object, or of a structure of such, in plain values.

    Functions are in it by name, and so say nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of lambdas
        try:
            config = keras.saving.serialize_keras_object(_with_names(thing))
        # A class that does not say how it was made, or holds what Keras does not know.
        except (NotImplementedError, OSError, TypeError, ValueError):
            config = {"class_name": type(thing).__name__, "config": get_config(thing)}
            if config["config"] is None:
                held = {name: _attribute(thing, name) for name in _arguments(type(thing))}
                config["config"] = {name: v for name, v in held.items() if _is_plain(v)}

    def plain(value):
        return value.item() if isinstance(value, np.generic) else reader.read(value, "config")

    return _without_dumps(json.loads(json.dumps(config, default=plain)))


def anonymous(config):
    """Return settings with the names of Keras objects replaced by numbers, in order of appearance.

    Keras counts names up in a process ("dense", "dense_1"), and the second model of a process is
    no other model for that. How often it was built tells nothing either.
    """
    numbers = {}

    def find(value):
        # What a dtype policy has for a name is what it is.
        if isinstance(value, dict) and str(value.get("class_name")).endswith("Policy"):
            return
        for key, inner in items_of(value):
            if key == "name" and isinstance(inner, str):
                numbers.setdefault(inner, f"#{len(numbers)}")
            find(inner)

    def replace(value):
        if isinstance(value, dict):
            if str(value.get("class_name")).endswith("Policy"):
                return value
            left_out = ("build_config", "compile_config", "shared_object_id")
            return {
                k: numbers[v] if k == "name" and isinstance(v, str) else replace(v)
                for k, v in value.items()
                if k not in left_out
            }
        if isinstance(value, list):
            # The layer whose output is meant: (name, call, output).
            if [type(v) for v in value] == [str, int, int] and value[0] in numbers:
                return [numbers[value[0]], *value[1:]]
            return [replace(v) for v in value]
        return value

    find(config)
    return replace(config)


def items_of(value):
    """Return the (key, value) pairs of a dictionary or a list; none of anything else."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _with_names(thing):
    """Return a structure with the names of functions in their place."""
    if isinstance(thing, dict):
        return {key: _with_names(value) for key, value in thing.items()}
    if type(thing) in (list, tuple):
        return [_with_names(value) for value in thing]
    if callable(thing) and not hasattr(thing, "get_config"):
        return getattr(thing, "__name__", type(thing).__name__)
    return thing


def _without_dumps(config):
    """Return a config without the dumps of lambdas, which know their lines."""
    if isinstance(config, list):
        return [_without_dumps(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "__lambda__":
        return {"class_name": "__lambda__"}
    return {key: _without_dumps(value) for key, value in config.items()}


def _are(value, kinds):
    """Return whether a value is of these kinds, or a structure of nothing else."""
    if type(value) in (list, tuple, dict) and value:
        return all(_are(v, kinds) for v in (value.values() if type(value) is dict else value))
    return isinstance(value, kinds)


def _arguments(cls):
    """Return the names of the arguments that objects of a class are made with."""
    return list(inspect.signature(cls.__init__).parameters)


def _attribute(thing, argument):
    """Return what an object holds under the name of an argument, or None."""
    attributes = getattr(thing, "__dict__", {})
    return attributes.get(argument, attributes.get(f"_{argument}"))


def get_config(thing):
    """Return the config of a Keras object, or None where it has none."""
    if not hasattr(thing, "get_config"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return thing.get_config()
        except (NotImplementedError, OSError, TypeError, ValueError):
            return None


def python_version():
    """Return the version of Python as far as its bytecode depends on it."""
    return ".".join(platform.python_version_tuple()[:2])


def digest(array):
    """Return the SHA-256 of the values of an array."""
    found = hashlib.sha256()
    # Piece by piece: an array may be a mapped file.
    for start in range(0, len(array), 2**14) if array.ndim else ():
        found.update(np.ascontiguousarray(array[start : start + 2**14]).tobytes())
    if not array.ndim:
        found.update(array.tobytes())
    return found.hexdigest()


def _short(value):
    text = repr(value)
    if len(text) <= 200:
        return text
    return f"{type(value).__name__}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


def _is_plain(value):
    """Return whether JSON has the value: numbers, strings, and lists and dictionaries of these."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


def _array(value):
    """Return an array or a tensor as NumPy's, or None if it is neither."""
    if type(value) in (np.ndarray, np.memmap):
        return value
    if isinstance(value, (keras.KerasTensor, type)):
        return None
    try:
        if isinstance(value, keras.Variable) or ops.is_tensor(value):
            value = ops.stop_gradient(ops.convert_to_tensor(value))
            return np.asarray(ops.convert_to_numpy(ops.cast(value, _plain_dtype(value.dtype))))
    except Exception:  # one that is traced, or was deleted
        return None
    return None


def _plain_dtype(dtype):
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name.startswith(("bfloat", "float8")) else name


def _is_word_of_a_backend(value):
    """Return whether it is a dtype, a shape or a device of the backend."""
    kind = type(value)
    root = str(kind.__module__).split(".")[0]
    words = ("DType", "Device", "Size", "TensorShape", "device", "dtype")
    return root in COMPARED and kind.__name__ in words


# What is installed


@functools.cache
def _homes():
    """Return the folders of what is installed, this package's among them."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    found.add(str(pathlib.Path(__file__).parent.parent))
    return tuple(os.path.join(os.path.realpath(path), "") for path in found)


def is_installed(thing):
    """Return whether a function, class or module is of Python or of an installed package."""
    if isinstance(thing, types.FunctionType):
        file = thing.__code__.co_filename
        if file.startswith("<frozen"):
            return True
        if not file.startswith("<"):
            return _is_in_homes(file)
    return _is_installed_module(getattr(thing, "__module__", None))


def _is_installed_module(name):
    if name == "__main__":  # what a notebook or a script defines
        return False
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if name == "builtins" or getattr(spec, "origin", None) in ("built-in", "frozen"):
        return True
    file = getattr(module, "__file__", None)
    return file is not None and _is_in_homes(file)


@functools.cache
def _is_in_homes(file):
    return os.path.realpath(file).startswith(_homes())


def _goes_by_name(value):
    """Return whether it is what an installed package defines under a name."""
    name = getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not isinstance(name, str) or "<" in name:
        return False
    if isinstance(value, (type, types.FunctionType)):
        return is_installed(value)
    return callable(value) and _home(value) is not None


def _home(value):
    """Return the installed module that has a callable under its own name, or None."""
    owner = type(getattr(value, "__self__", None))
    modules = (getattr(value, "__module__", None), str(owner.__module__), "numpy", "scipy.special")
    for module in modules:
        found = getattr(sys.modules.get(module), value.__name__, None)
        # Methods in C are made anew each time, and equal.
        if _is_installed_module(module) and type(found) is type(value) and found == value:
            return module
    return None


def _named(value):
    """Return the qualified name of what is installed, with the version of a package."""
    by_home = not isinstance(value, (type, types.FunctionType))
    module = (_home(value) if by_home else None) or getattr(value, "__module__", None)
    name = f"{module}.{getattr(value, '__qualname__', value.__name__)}"
    version = _version(str(module).split(".")[0])
    return f"{name} of {version}" if version else name


@functools.cache
def _version(root):
    """Return the distribution and version of a top-level module; nothing where a run compares it.

    Nothing for Python's own too: of another Python a run warns.
    """
    if root in COMPARED or root in sys.stdlib_module_names:
        return ""
    found = importlib.metadata.packages_distributions().get(root, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(found)))


# Bytecode


def _instructions(code):
    """Return the instructions, constants and names of compiled code, without its place."""
    constants = list(code.co_consts)
    # Up to Python 3.12 the first one is the docstring; later there is a flag for it.
    documented = sys.version_info < (3, 13) or code.co_flags & 0x4000000
    if documented and constants and type(constants[0]) is str and code.co_name[:1] != "<":
        constants[0] = None
    return repr(
        (
            code.co_code,
            [
                _instructions(value) if isinstance(value, types.CodeType) else _constant(value)
                for value in constants
            ],
            code.co_names,
            code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            (code.co_freevars, code.co_cellvars, getattr(code, "co_exceptiontable", b"")),
        )
    )


def _constant(value):
    # The order of a set differs from process to process.
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _all_codes(code):
    """Yield compiled code and all that is compiled within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _all_codes(value)


def _global_names(code):
    """Return the names of globals that code reads."""
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    names = {
        instruction.argval
        for inner in _all_codes(code)
        for instruction in dis.get_instructions(inner)
        if instruction.opname in loads
    }
    return {name for name in names if not name.startswith("__")}


@dataclasses.dataclass(frozen=True)
class Changed:
    """The names that code changes: variables and attributes that it sets, containers it fills."""

    variables: frozenset = frozenset()
    attributes: frozenset = frozenset()
    filled: frozenset = frozenset()

    def __or__(self, other):
        return Changed(
            self.variables | other.variables,
            self.attributes | other.attributes,
            self.filled | other.filled,
        )


@functools.lru_cache(1000)
def _changed_by(code):
    """Return the `Changed` of a function's code: of its globals, closure and attributes."""
    variables, attributes, filled = set(), set(), set()
    for inner in _all_codes(code):
        steps = list(dis.get_instructions(inner))
        loaded = {s.argval for s in steps if s.opname.startswith("LOAD_")}
        for i, step in enumerate(steps):
            if step.opname in ("STORE_GLOBAL", "STORE_DEREF"):
                variables.add(step.argval)
            elif step.opname == "STORE_ATTR":
                attributes.add(step.argval)
            elif step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in FILLING:
                filled |= _name_of(steps, i - 1) or loaded
            elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"):
                filled |= _name_of(steps, _before_key(steps, i)) or loaded
    filled = {name for name in filled if isinstance(name, str)}
    return Changed(*map(frozenset, (variables, attributes, filled)))


def _name_of(steps, i):
    """Return the name that is loaded last of a container's, in a set; empty if it is a local's."""
    named = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_ATTR")
    return {steps[i].argval} if i >= 0 and steps[i].opname in named else set()


def _before_key(steps, i):
    """Return the index of the step that loads the container whose item step `i` sets."""
    left = -1 if steps[i].opname != "STORE_SLICE" else -2
    while i > 0 and left < 0:
        i -= 1
        if steps[i].opname in ("COPY", "SWAP", "ROT_TWO", "ROT_THREE", "DUP_TOP_TWO"):
            return -1  # `a[i] += 1`
        jump = False if steps[i].opcode in dis.hasjrel + dis.hasjabs else None
        left += dis.stack_effect(steps[i].opcode, steps[i].arg, jump=jump)
    return i - 1


def _changed_by_class(cls):
    """Return the `Changed` of all methods of a user's class but those that make an object."""
    found = Changed()
    for kind in cls.__mro__:
        for name, member in () if is_installed(kind) else vars(kind).items():
            if name not in ("__init__", "__new__", "__post_init__"):
                for function in _functions_of(member):
                    found |= _changed_by(function.__code__)
    return found


def _functions_of(member):
    """Return the functions that a member of a class is made of."""
    if isinstance(member, (staticmethod, classmethod)):
        member = [member.__func__]
    elif isinstance(member, property):
        member = [member.fget, member.fset, member.fdel]
    elif isinstance(member, functools.cached_property):
        member = [member.func]
    else:
        member = [member]
    return [one for one in member if isinstance(one, types.FunctionType)]


@functools.cache
def _set_by(cls):
    """Return the names of the attributes that the methods of an installed class set."""
    names = set()
    for member in vars(cls).values():
        for function in _functions_of(member):
            for code in _all_codes(inspect.unwrap(function).__code__):
                names |= {s.argval for s in dis.get_instructions(code) if s.opname == "STORE_ATTR"}
                if "__setattr__" in code.co_names or "setattr" in code.co_names:
                    names |= {value for value in code.co_consts if isinstance(value, str)}
    return frozenset(names)
