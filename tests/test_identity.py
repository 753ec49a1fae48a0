"""What tells one function, object or weight from another, and one run from the next."""

import argparse
import collections
import dataclasses
import enum
import json
import logging
import math
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import threading
import types

import keras
import numpy as np
import pytest
from keras import ops

import sda
from sda.checkpoints import code, identity, installed

BACKEND = keras.backend.backend()


def told(value, **settings):
    """What tells a value from others, as text."""
    return json.dumps(code.Reader("loss", **settings).read(value))


def of(source, name="f", file="<cell>", **names):
    """What a cell of a notebook defines."""
    space = {"np": np, "keras": keras, "__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), file, "exec"), space)
    return space[name]


# Functions


SAME = {
    "another line and file": ("\n\n\ndef f(x):\n\n    return x * 2", {"file": "<other cell>"}),
    "another comment and docstring": ('def f(x):\n    """Twice."""\n    return x * 2  # so', {}),
    "a local of another name": ("def f(x):\n    return x * 2", {}),
    "a global that is not named": ("y = 7\ndef f(x): return x * 2", {}),
    "an attribute of the name of a global": ("def f(x): return x * 2", {"real": 3}),
}


@pytest.mark.parametrize("case", SAME)
def test_what_does_not_change_numbers_does_not_tell(case):
    source, settings = SAME[case]
    assert told(of("def f(x): return x * 2")) == told(of(source, **settings))
    reads_attribute = "def f(x): return x.real * 2"
    assert told(of(reads_attribute)) == told(of(reads_attribute, real=3))


OTHERS = {
    "bytecode": ("def f(x): return x * 2", "def f(x): return x + 2"),
    "constants": ("def f(x): return x * 2", "def f(x): return x * 3"),
    "constants of an inner function": (
        "def f(x): return (lambda y: y * 2)(x)",
        "def f(x): return (lambda y: y * 3)(x)",
    ),
    "a constant set": ("def f(x): return x in {1, 2}", "def f(x): return x in {1, 3}"),
    "names": ("def f(x): return np.sum(x)", "def f(x): return np.prod(x)"),
    "defaults": ("def f(x, by=2): return x * by", "def f(x, by=3): return x * by"),
    "keywords": ("def f(x, *, by=2): return x * by", "def f(x, *, by=3): return x * by"),
    "a closure": (
        "def g(by): return lambda x: x * by\nf = g(2)",
        "def g(by): return lambda x: x * by\nf = g(3)",
    ),
    "a function of a closure": (
        "def g(h): return lambda x: h(x)\nf = g(lambda x: x * 2)",
        "def g(h): return lambda x: h(x)\nf = g(lambda x: x * 3)",
    ),
    "a global": ("by = 2\ndef f(x): return x * by", "by = 3\ndef f(x): return x * by"),
    "a global of an inner function": (
        "by = 2\ndef f(x): return [by * y for y in x]",
        "by = 3\ndef f(x): return [by * y for y in x]",
    ),
    "a global of a global": (
        "by = 2\ndef g(x): return x * by\ndef f(x): return g(x)",
        "by = 3\ndef g(x): return x * by\ndef f(x): return g(x)",
    ),
    "what is in a container": (
        "by = {'a': [1, (2, 3)]}\ndef f(x): return x * by['a'][1][1]",
        "by = {'a': [1, (2, 4)]}\ndef f(x): return x * by['a'][1][1]",
    ),
    "its type": ("by = 2\ndef f(x): return x / by", "by = '2'\ndef f(x): return x / by"),
    "an attribute of the function": (
        "def f(x): return x * f.by\nf.by = 2",
        "def f(x): return x * f.by\nf.by = 3",
    ),
    "an array": (
        "by = np.array([1., 2.])\ndef f(x): return x * by",
        "by = np.array([1., 3.])\ndef f(x): return x * by",
    ),
    "the type of an array": (
        "by = np.ones(2)\ndef f(x): return x * by",
        "by = np.ones(2, 'float32')\ndef f(x): return x * by",
    ),
    "an array of objects": (
        "by = np.array([1, '2'], object)\ndef f(x): return x * by",
        "by = np.array([1, '3'], object)\ndef f(x): return x * by",
    ),
    "a tensor": (
        "by = keras.ops.array([1., 2.])\ndef f(x): return x * by",
        "by = keras.ops.array([1., 3.])\ndef f(x): return x * by",
    ),
    "a variable": (
        "by = keras.Variable([1., 2.])\ndef f(x): return x * by",
        "by = keras.Variable([1., 3.])\ndef f(x): return x * by",
    ),
    "a Keras object": (
        "by = keras.losses.Huber(0.5)\ndef f(x, y): return by(x, y)",
        "by = keras.losses.Huber(0.7)\ndef f(x, y): return by(x, y)",
    ),
    "a partial function": (
        "import functools\nf = functools.partial(lambda x, y: x * y, 2)",
        "import functools\nf = functools.partial(lambda x, y: x * y, 3)",
    ),
    "a keyword of a partial function": (
        "import functools\nf = functools.partial(lambda x, y: x * y, y=2)",
        "import functools\nf = functools.partial(lambda x, y: x * y, y=3)",
    ),
    "the function of a partial function": (
        "import functools\nf = functools.partial(lambda x, y: x * y, 2)",
        "import functools\nf = functools.partial(lambda x, y: x + y, 2)",
    ),
    "the owner of a method": (
        "class A:\n def __init__(self, by): self.by = by\n def f(self, x): return x * self.by\n"
        "f = A(2).f",
        "class A:\n def __init__(self, by): self.by = by\n def f(self, x): return x * self.by\n"
        "f = A(3).f",
    ),
    "the function of a method": (
        "class A:\n def f(self, x): return x * 2\nf = A().f",
        "class A:\n def f(self, x): return x * 3\nf = A().f",
    ),
    "a method of a class": (
        "class A:\n def by(self): return 2\ndef f(x): return x * A().by()",
        "class A:\n def by(self): return 3\ndef f(x): return x * A().by()",
    ),
    "an attribute of a class": (
        "class A:\n by = 2\ndef f(x): return x * A.by",
        "class A:\n by = 3\ndef f(x): return x * A.by",
    ),
    "a method of a base": (
        "class B:\n def by(self): return 2\nclass A(B): pass\ndef f(x): return x * A().by()",
        "class B:\n def by(self): return 3\nclass A(B): pass\ndef f(x): return x * A().by()",
    ),
    "a property and a static method": (
        "class A:\n by = property(lambda s: 2)\n @staticmethod\n def c(): return 1\n"
        "def f(x): return x * A().by",
        "class A:\n by = property(lambda s: 2)\n @staticmethod\n def c(): return 2\n"
        "def f(x): return x * A().by",
    ),
    "a slot": (
        "class A:\n __slots__ = ('by',)\na = A()\na.by = 2\ndef f(x): return x * a.by",
        "class A:\n __slots__ = ('by',)\na = A()\na.by = 3\ndef f(x): return x * a.by",
    ),
    "a set": ("s = {'a', 'b'}\ndef f(x): return x in s", "s = {'a', 'c'}\ndef f(x): return x in s"),
    "a factory of a package": (
        "import operator\nf = operator.itemgetter and keras.utils.get_custom_objects",
        "import operator\nf = operator.itemgetter",
    ),
    "a function compiled or cached": (
        "import functools\nf = functools.lru_cache(lambda x: x * 2)",
        "import functools\nf = functools.lru_cache(lambda x: x * 3)",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_changes_numbers_tells(case):
    one, other = OTHERS[case]
    assert told(of(one)) == told(of("\n\n" + one))
    assert told(of(one)) != told(of(other))


def test_each_object_is_read_once():
    source = """
    def f(n): return g(n - 1) if n else shared
    def g(n): return f(n), shared
    shared = [1]
    shared.append(shared)
    """
    assert told(of(source)) == told(of(source))
    with pytest.raises(ValueError, match="Expected `loss` to be made of"):
        told(of("a = [1]\nfor _ in range(1000): a = [a]\ndef f(x): return a"))
    deep = "a = [1]\nfor _ in range(40): a = [a, a]\ndef f(x): return a"
    assert len(told(of(deep))) < 10_000


def test_modules_go_by_name_and_installed_things_by_name_and_version(monkeypatch):
    module = types.ModuleType("mine")
    assert '"m": "module mine"' in told(of("def f(x): return m.g(x)", m=module))
    for thing, name in (
        (keras.ops.relu, "keras.src.ops.nn.relu"),
        (math.sqrt, "math.sqrt"),
        (np.tanh, "numpy.tanh"),
        (collections.OrderedDict, "collections.OrderedDict"),
        (sda.losses.CrossEntropy, f"{sda.losses.CrossEntropy.__module__}.CrossEntropy"),
    ):
        assert told(thing) == json.dumps(name)
    # Of what a run does not compare by itself the version counts.
    version = installed.importlib.metadata.version("pytest")
    assert told(pytest.approx).endswith(f'approx of pytest {version}"')
    before = told(of("def f(x): return g(x)", g=pytest.approx))
    installed._version.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(installed.importlib.metadata, "version", lambda name: "0.1")
        assert told(of("def f(x): return g(x)", g=pytest.approx)) != before
    installed._version.cache_clear()


def test_functions_of_the_backend_are_known():
    if BACKEND == "torch":
        import torch

        functions = [torch.tanh, torch.nn.functional.relu]
    elif BACKEND == "jax":
        import jax

        functions = [jax.numpy.tanh, jax.nn.relu]
        jitted = [jax.jit(lambda x: x * 2), jax.jit(lambda x: x * 2), jax.jit(lambda x: x * 3)]
        assert told(jitted[0]) == told(jitted[1]) != told(jitted[2])
    else:
        import tensorflow as tf

        functions = [tf.nn.relu, tf.math.tanh]
        made = [tf.function(lambda x: x * 2), tf.function(lambda x: x * 2)]
        assert told(made[0]) == told(made[1]) != told(tf.function(lambda x: x * 3))
    for function in functions:
        assert function.__name__ in told(function)
    assert told(functions[0]) != told(functions[1])


@dataclasses.dataclass
class Settings:
    by: float


class Colour(enum.Enum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize("kind", [types.SimpleNamespace, argparse.Namespace])
def test_settings_in_a_namespace_tell(kind):
    def loss(**settings):
        return of("def f(y, z): return set.by * (y - z)", set=kind(**settings))

    assert told(loss(by=2.0, n=[1])) == told(loss(n=[1], by=2.0))
    assert told(loss(by=2.0, n=[1])) != told(loss(by=3.0, n=[1]))
    assert told(loss(by=2.0, n=[1])) != told(loss(by=2.0, n=[2]))


def test_common_values_of_notebooks_are_known():
    for one, other in (
        (Settings(1.0), Settings(2.0)),
        (Pair(1, 2), Pair(1, 3)),
        (pathlib.PurePath("a"), pathlib.PurePath("b")),
        (re.compile("a"), re.compile("b")),
        (np.dtype("int8"), np.dtype("int16")),
        (range(3), range(4)),
        (collections.deque([1]), collections.deque([2])),
        (collections.defaultdict(list, a=1), collections.defaultdict(list, a=2)),
        (np.float32(1), np.float64(1)),
        (b"a", b"b"),
        (1 + 2j, 1 + 3j),
        (frozenset({1}), frozenset({2})),
    ):
        assert told(one) == told(one)
        assert told(one) != told(other)
    assert told(Colour.RED) == '"Colour.RED"'
    assert told(logging.getLogger("a")) == told(logging.getLogger("b"))  # which change no numbers


UNKNOWN = [threading.Lock(), iter([1]), np.random.default_rng(0), open(os.devnull)]  # noqa: SIM115


@pytest.mark.parametrize("value", UNKNOWN, ids=lambda value: type(value).__name__)
def test_what_cannot_be_known_is_refused_or_left_out_and_named(value):
    function = of("def f(x): return g(x)\ndef g(x): return thing", thing=value)
    with pytest.raises(ValueError, match=r"Expected `loss` to be made of .*g thing of type .*Make"):
        told(function)
    left_out = []
    assert "left out" in told(function, strict=False, left_out=left_out)
    assert left_out == ["g thing of loss"]


# Keras objects


class Weighted(keras.losses.Loss):
    """A loss whose config says nothing of what it was made with."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def call(self, y_true, y_pred):
        return self.by * ops.mean(ops.square(y_true - y_pred), -1)


class Shifted(sda.Corruption):
    def __init__(self, by, **kwargs):
        super().__init__(**kwargs)
        self._by = by

    def corrupt(self, x):
        return x + self._by, None


class Half(keras.initializers.Initializer):
    def __init__(self, by):
        self.by = by

    def __call__(self, shape, dtype=None):
        return self.by * ops.ones(shape, dtype)


class Falls(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, by):
        self.by = by

    def __call__(self, step):
        return self.by / (1 + ops.cast(step, "float32"))


class Scaled(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def times(by):
    return lambda x: x * by


def dense(**settings):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, **settings)])


def settings_of(thing):
    if isinstance(thing, keras.Model):
        return identity.model_settings(thing)
    return identity.object_settings(thing, "loss")


@pytest.mark.parametrize(
    "made",
    [
        Weighted,
        Shifted,
        Half,
        Falls,
        lambda by: sda.ComposedNoise([sda.MaskingNoise(0.1), Shifted(by)]),
        lambda by: keras.optimizers.SGD(Falls(by)),
        lambda by: dense(activation=times(by)),
        lambda by: dense(kernel_initializer=Half(by)),
        lambda by: dense(kernel_initializer=lambda shape, dtype=None: by * ops.ones(shape)),
        lambda by: keras.Sequential([keras.Input((3,)), Scaled(times(by))]),
        lambda by: keras.Sequential([keras.Input((3,)), Shifted(by)]),
        lambda by: sda.StackedDenoisingAutoencoder([3], 0.1, activation=times(by)),
        keras.losses.Huber,  # whose config says nothing of it either
    ],
)
def test_users_classes_and_functions_in_keras_objects_tell(made):
    assert settings_of(made(2)) == settings_of(made(2))
    assert settings_of(made(2)) != settings_of(made(3))


def test_the_code_of_a_users_class_tells():
    source = """
    class f(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return 2 * (y_true - y_pred)
    """
    one, same = of(source)(), of(source)()
    assert settings_of(one) == settings_of(same)
    assert settings_of(one) != settings_of(of(source.replace("2 *", "3 *"))())


def test_keras_own_objects_are_known_by_their_config_alone():
    for thing in (dense(activation="relu"), keras.optimizers.Adam(), sda.MaskingNoise(0.2)):
        assert "code" not in settings_of(thing)


def test_what_methods_of_a_callback_set_is_no_setting():
    source = """
    class f(keras.callbacks.Callback):
        count, by = {}, {}
        def on_epoch_end(self, epoch, logs=None):
            f.count += self.by
    """

    def settings(*values):
        left_out = []
        (found,) = identity.callback_settings([of(source.format(*values))()], left_out)
        assert left_out == []
        return found

    assert settings(0, 2) == settings(7, 2)
    assert settings(0, 2) != settings(0, 3)


def test_training_does_not_change_what_a_model_is():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(2)
            self.by = 2

        def call(self, x):
            return self.by * self.inner(x)

    model = Own()
    before = identity.model_settings(model)
    model.compile("sgd", "mse")
    sda.fit(model, np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert identity.model_settings(model) == before
    model.by = 3
    assert identity.model_settings(model) != before


def test_names_like_those_of_layers_stay():
    """A layer that is called as its activation does not stand for another one."""

    def settings(name, activation):
        layers = [keras.Input((3,)), keras.layers.Dense(2, activation, name=name)]
        return identity.model_settings(keras.Sequential(layers))

    assert settings("relu", "relu") == settings("first", "relu")
    assert settings("relu", "relu") != settings("tanh", "tanh")


# In every process

SCRIPT = """
import functools, json, keras, numpy as np, sda
from sda.checkpoints import code
words = {"one", "two", "three", "four"}
class A:
    def f(self, x): return x * 2 if x in words else 3
def outer(by):
    def f(x): return functools.partial(A().f, by)(x) + np.sum(table) + noise(x)
    return f
table, noise = np.arange(3), sda.MaskingNoise(0.2)
print(json.dumps(code.Reader("loss").read(outer(2))))
"""


@pytest.mark.slow
def test_another_process_reads_the_same():
    here = {"__name__": "__main__"}
    exec(compile(SCRIPT.replace("print", "found = "), "<cell>", "exec"), here)
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there.strip() == here["found"]
    assert "SHA-256" in there
