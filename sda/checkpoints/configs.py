"""The configs of Keras objects, in plain values that are the same in every process."""

import inspect
import json
import warnings

import keras
import numpy as np


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
                held = {name: attribute_of(thing, name) for name in arguments_of(type(thing))}
                config["config"] = {name: v for name, v in held.items() if is_plain(v)}

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


def arguments_of(cls):
    """Return the names of the arguments that objects of a class are made with."""
    return list(inspect.signature(cls.__init__).parameters)


def attribute_of(thing, argument):
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


def is_plain(value):
    """Return whether JSON has the value: numbers, strings, and lists and dictionaries of these."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)
