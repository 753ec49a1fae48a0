"""Loading a model that somebody else saved: what is in the file is checked before Keras sees it."""

import contextlib
import io
import json
import math
import os
import pathlib
import shutil
import tempfile
import zipfile

import keras

from sda.files.h5 import check_h5
from sda.files.opening import SMALL, is_bomb, open_plain, refusal
from sda.files.zips import BROKEN_ZIP, check_zip

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = {CONFIG, WEIGHTS, "metadata.json"}
# A layer takes about 1.5 kB of config.
CONFIG_BYTES = 2**22

# Whatever these modules hold is a function of tensors or a small object, but for three names.
MODULES = {
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.regularizers",
}
# PyTorch's own steps have classes of their own, under the names of Keras's.
TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers.torch_"
RESOLVERS = {"get", "serialize", "deserialize"}
# Each call of a layer is traced, and one of a model as many times as its layers are called.
MOST_CALLS = 10**4

OTHERS = {
    ("keras", "DTypePolicy"),
    ("keras", "Sequential"),
    ("keras.src.models.functional", "Functional"),
    # What fills in missing values.
    ("keras.src.ops.numpy", "Isnan"),
    ("keras.src.ops.numpy", "NanToNum"),
    ("keras.src.ops.numpy", "Where"),
}
# Layers without weights that keep the size of an example.
WEIGHTLESS = {
    "Activation",
    "AlphaDropout",
    "Dropout",
    "ELU",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "InputLayer",
    "LeakyReLU",
    "Permute",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Softmax",
    "UnitNormalization",
}
# Layers with at most four weights an entry of an example.
ELEMENTWISE = {"BatchNormalization", "LayerNormalization", "Normalization", "PReLU"}
WITH_KERNEL = {"Dense", "sda>DenoisingAutoencoder"}


def load_model(path, custom_objects=None, compile=True):
    """Load a stack, a classifier or another model of ours from a `.keras` file, whoever made it.

    Nothing in the file is run, and no other file is read. The archive, the weights and the config
    are checked first; then `keras.saving.load_model` reads them in safe mode. A config may name the
    classes of `sda` and those of Keras that a stack, or a model on top of one, is made of; the
    weights that it declares have to be in the file. What this process has registered with Keras is
    refused, unless `custom_objects` names it.

    Args:
        path: Path of the file.
        custom_objects: Dict from registered names to classes or functions of your own that the file
            may use besides. They run: name only what you know.
        compile: Whether to compile the model as it was when it was saved.

    Returns:
        A `sda.StackedDenoisingAutoencoder`, or the `keras.Model` that was saved.

    Raises:
        ValueError: The file is not what `model.save("….keras")` writes, or would run code, read
            another file, or fill the memory.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    >>> stack.build((None, 12))
    >>> stack.save("stack.keras")
    >>> [autoencoder.units for autoencoder in sda.load_model("stack.keras").autoencoders]
    [8, 5]
    """
    path = os.fspath(path)
    if not path.endswith(".keras"):
        raise _bad_model(path, "another suffix")
    # Keras also loads folders, and fetches what is called hf://….
    if not os.path.isfile(path):
        raise _bad_model(path, "no such file")
    # What is checked is what is loaded, whatever becomes of the file.
    with _private_copy(path, "model.keras") as copy:
        config, values = _read(copy, path)
        # Four times, since the config may name a shared layer twice, and an untied kernel is
        # assumed everywhere.
        inspector = _Inspector(path, custom_objects or {}, max(4 * values, SMALL // 4))
        try:
            inspector.check(config)
        # What is not built as configs are.
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise _bad_model(path, f"a config with {type(error).__name__}: {error}") from error
        try:
            return keras.saving.load_model(copy, custom_objects, compile=compile, safe_mode=True)
        # A config that is not what a class expects may raise anything.
        except Exception as error:
            said = str(error).replace(copy, path)
            raise _bad_model(path, f"{type(error).__name__}: {said}") from error


def load_weights(model, path):
    """Load weights that `model.save_weights("….weights.h5")` wrote, whoever wrote them.

    Args:
        model: A built `keras.Model`, such as a stack or a classifier.
        path: Path of the file.

    Raises:
        ValueError: The file is no HDF5 file of plain arrays (see `sda.load_model`), or its weights
            are not those of `model`.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    >>> stack.build((None, 12))
    >>> stack.save_weights("stack.weights.h5")
    >>> sda.load_weights(stack, "stack.weights.h5")
    """
    path = os.fspath(path)
    if not path.endswith(".weights.h5"):
        raise refusal("path", "a .weights.h5 file", f"path={path}")
    with _private_copy(path, "model.weights.h5") as copy:
        with open(copy, "rb") as file:
            check_h5(file, path)
        before = model.get_weights()
        try:
            model.load_weights(copy)
        except Exception as error:
            # Keras assigns what fits before it says what does not.
            model.set_weights(before)
            said = str(error).replace(copy, path)
            raise refusal(
                "path", "a file with the weights of `model`", f"path={path}: {said}"
            ) from (error)


@contextlib.contextmanager
def _private_copy(path, name):
    """Yield the path of a copy of a file that nobody else writes to."""
    with open_plain(path) as file, tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, name)
        with open(copy, "xb") as target:
            shutil.copyfileobj(file, target)
        yield str(copy)


def _read(copy, path):
    """Return the config in a `.keras` file, and how many values its weights are."""
    try:
        with zipfile.ZipFile(copy) as archive:
            check_zip(archive, path)
            members = {member.filename: member for member in archive.infolist()}
            if not {CONFIG, WEIGHTS} <= set(members) <= MEMBERS:
                raise _bad_model(path, f"the members {sorted(members)}")
            if members[CONFIG].file_size > CONFIG_BYTES:
                raise _bad_model(path, f"{members[CONFIG].file_size} bytes of config")
            config, weights = archive.read(CONFIG), archive.read(WEIGHTS)
    except (*BROKEN_ZIP, OSError) as error:
        raise _bad_model(path, error) from error
    values, size = check_h5(io.BytesIO(weights), path)
    made, stored = size + sum(m.file_size for m in members.values()), os.path.getsize(copy)
    if is_bomb(made, stored):
        raise _bad_model(path, f"{made} bytes out of {stored}")
    try:
        config = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise _bad_model(path, error) from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise _bad_model(path, "a config that names no class")
    return config, values


class _Inspector:
    """Goes through the config of a model file, and counts what it declares.

    That is the weights and what metrics keep, together, and how often layers are called.

    Args:
        path: Path of the file, for messages.
        custom_objects: The names that the caller allows besides.
        most: Integer, the values that all weights together, and an example, may have.
    """

    def __init__(self, path, custom_objects, most):
        self.path = path
        self.custom_objects = custom_objects
        self.most = most
        self.weights = 0
        # The weights and units of shared layers by their number.
        self.counted = {}
        self.units = {}
        # The numbers of the layers around what is being looked at.
        self.inside = []

    def check(self, config, key=""):
        """Raise `ValueError` if anything in `config`, at any depth, is not allowed."""
        if isinstance(config, dict):
            number = config.get("shared_object_id")
            # Made within itself, it would be made more than once.
            if number is not None and number in self.inside:
                raise _bad_model(self.path, f"the shared object {number} within itself")
            if "class_name" in config:
                self._check_object(config)
            self.inside.append(number)
            for name, value in config.items():
                self.check(value, name)
            self.inside.pop()
        elif isinstance(config, list):
            if "shape" in key:
                self._size(config)
            for value in config:
                self.check(value, key)
        # Keras takes a string for a function or a class that is registered under it.
        elif isinstance(config, str) and not self._may_be_registered(config):
            raise _bad_model(
                self.path,
                f"{config}, which this program registered for itself; name it in `custom_objects` "
                "if the file may use it",
            )

    def _may_be_registered(self, name):
        if name in self.custom_objects:
            return True
        registered = keras.saving.get_registered_object(name)
        return registered is None or _is_ours(registered)

    def _check_object(self, config):
        module, name, inner = config.get("module"), config["class_name"], config["config"]
        if name == "__keras_tensor__":
            return
        registered = config.get("registered_name", name)
        is_function = name == "function"
        if is_function:
            name = registered = inner
        # What is registered under this name comes before what the module has.
        if registered in self.custom_objects:
            return
        ours = str(registered).startswith("sda>")
        if ours:
            known = _is_ours(keras.saving.get_registered_object(registered))
        elif registered not in (None, name):
            known = False
        elif module == "keras.layers":
            known = name in WEIGHTLESS | ELEMENTWISE | {"Dense"}
        else:
            known = (module, name) in OTHERS or (module in MODULES and name not in RESOLVERS)
            known = known or str(module).startswith(TORCH_OPTIMIZERS)
            # Of other names, Keras looks for one that is registered and ends like it.
            known = known or (is_function and module == "builtins" and _is_builtin(name))
        if not known:
            own = not ours and not str(module).startswith("keras")
            advice = "; if it is your own, register it, and name it in `custom_objects`"
            raise _bad_model(
                self.path, f"{module}.{name}, registered as {registered!r}{own * advice}"
            )
        if module == "keras.metrics" and not is_function:
            self._add(self._values_of(inner), f"{module}.{name}")
        name = registered if ours else name
        if name in ELEMENTWISE | WITH_KERNEL:
            self._add(self._not_yet_counted(config, self._weights_of(name, config)), name)
        if isinstance(inner, dict) and self._calls_of(config) > MOST_CALLS:
            raise _bad_model(self.path, f"layers that are called more than {MOST_CALLS} times")

    def _add(self, values, name):
        self.weights += values
        if self.weights > self.most:
            raise _bad_model(
                self.path, f"{self.weights} weights declared and not there, {name} the last of them"
            )

    def _values_of(self, settings):
        """Return at most how many values a metric keeps that has these settings."""
        # An AUC keeps four values a threshold.
        return 4 * math.prod(
            # A matrix of classes has as many rows as columns.
            abs(value) ** 2 if name == "num_classes" else abs(value)
            for name, value in settings.items()
            if isinstance(value, (int, float)) and abs(value) > 1
        )

    def _calls_of(self, config):
        """Return how many layers are called in a call of a model, at most."""
        layers = config["config"].get("layers", []) if isinstance(config["config"], dict) else []
        return 1 + sum(
            max(1, len(layer.get("inbound_nodes", []))) * self._calls_of(layer) for layer in layers
        )

    def _not_yet_counted(self, config, weights):
        """Return the weights of a layer but for those that another config of it has declared."""
        number = config.get("shared_object_id")
        # A config without a module is read by Keras's older reader, which shares nothing.
        if number is None or not isinstance(config.get("module"), str):
            return weights
        # Keras makes one layer from the first config that it comes to: the largest counts.
        before = self.counted.get(number, 0)
        self.counted[number] = max(before, weights)
        return self.counted[number] - before

    def _weights_of(self, name, config):
        # A layer that is not built here would be built by another's shape.
        shape = config.get("build_config", {}).get("input_shape")
        if not isinstance(shape, list):
            raise _bad_model(self.path, f"a {name} that was saved before it was built")
        if name in ELEMENTWISE:
            return 4 * self._size(shape)
        settings = config["config"]
        inputs = self._size(shape[-1:])
        if "encoder" in settings:
            # The encoder is counted by itself: what is left is the decoder.
            units = self._units(settings["encoder"])
            return inputs if settings.get("tied") is True else inputs * units + inputs
        units = self._units(config)
        rank = self._size([settings.get("lora_rank")])
        # Kernel, an untied decoder's kernel, biases, and the low-rank factors.
        return 2 * inputs * units + (1 + rank) * (inputs + units)

    def _units(self, config):
        units = self._size([config["config"]["units"]])
        number = config.get("shared_object_id")
        # Keras would take the first, whatever else a config says.
        if number is not None and self.units.setdefault(number, units) != units:
            raise _bad_model(self.path, f"the shared object {number} with two numbers of units")
        return units

    def _size(self, shape):
        """Return the entries of `shape` but for its unknown axes."""
        axes = [abs(axis) for axis in shape if isinstance(axis, (int, float))]
        if not math.prod(axes) <= self.most:
            raise _bad_model(self.path, f"a shape of {shape}")
        return math.prod(axes)


def _is_ours(registered):
    return getattr(registered, "__module__", "").split(".")[0] == "sda"


def _is_builtin(name):
    parents = [getattr(keras, module.split(".")[1]) for module in MODULES]
    return name not in RESOLVERS and any(hasattr(parent, name) for parent in parents)


def _bad_model(path, received):
    return refusal(
        "path",
        "a .keras file with a stack, or a model of the layers that sda builds on "
        "(keras.saving.load_model loads others, from sources that you trust)",
        f"path={path} with {received}",
    )
