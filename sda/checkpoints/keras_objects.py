"""What the config of a Keras object does not say: the code of users' functions and classes.

Each function reads by a `sda.checkpoints.code.Reader`.
"""

import keras

from sda.checkpoints.arrays import array_of
from sda.checkpoints.bytecode import changed_by_class, set_by
from sda.checkpoints.configs import arguments_of, attribute_of, get_config, is_plain
from sda.checkpoints.installed import is_installed
from sda.layers.corruption import Corruption
from sda.rows.orders import Order

# What says by a config how it was made.
KERAS = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.dtype_policies.DTypePolicy,
    keras.random.SeedGenerator,
    Order,
)
# Users' objects of these kinds have to say all that they are.
STRICT = (
    Corruption,
    *(kind for kind in KERAS if kind not in (keras.layers.Layer, keras.optimizers.Optimizer)),
)
LISTED = (list, tuple, dict, set, frozenset)
# What callbacks and models get when training begins.
GIVEN = ("params", "_model", "history")


def arguments(reader, callback, where="", everything=False):
    """Return the arguments that a callback was made with, and its class if that is a user's.

    An argument is what the attribute of its name holds, with or without an underscore.

    Args:
        reader: A `Reader`.
        callback: A `keras.callbacks.Callback`.
        where: String, where it was found, for messages.
        everything: Whether to return all attributes, not only those of arguments.
    """
    cls, attributes, found = type(callback), vars(callback), {}
    changed = changed_by_class(cls)
    names = attributes if everything else arguments_of(cls)
    for name in names:
        attribute = name if name in attributes else f"_{name}"
        if attribute not in attributes or name in (*GIVEN, "model", "verbose"):
            continue
        value = attributes[attribute]
        if name == "min_delta" and hasattr(callback, "monitor_op"):
            value = abs(value)  # its sign turns when Keras first looks at the logs
        place = f"{where}.{name}" if where else name
        if not reader.strict and reader.is_filled(value, name, changed):
            found[name] = reader.unknown(value, place)
        elif is_plain(value):
            found[name] = value
        else:
            found[name] = reader.read(value, place)
    if not is_installed(cls):
        found["code"] = reader.read(cls, where)
    return found


def unsaid(reader, thing, where="", members=True):
    """Return what the config of a Keras object does not say: users' functions and classes.

    Args:
        reader: A `Reader`.
        thing: A Keras object, or anything that a config mentions.
        where: String, where it was found.
        members: Whether to read the layers of a layer, too.
    """
    if isinstance(thing, LISTED):
        items = thing.items() if isinstance(thing, dict) else enumerate(thing)
        found = {
            str(name): unsaid(reader, value, f"{where}[{name!r}]")
            for name, value in items
            if not isinstance(value, keras.layers.Layer)
        }
        return {name: value for name, value in found.items() if value}
    if not isinstance(thing, KERAS):
        if not callable(thing) or array_of(thing) is not None:
            return {}
        found = reader.read(thing, where)
        return {} if isinstance(found, str) else found
    if isinstance(thing, keras.random.SeedGenerator):
        return {}
    of_layer = isinstance(thing, keras.layers.Layer)
    before = reader.strict
    if isinstance(thing, STRICT):
        reader.strict = True
    elif of_layer:
        reader.strict = False
    try:
        return _unsaid(reader, thing, where, members and of_layer)
    finally:
        reader.strict = before


def _unsaid(reader, thing, where, members):
    cls, attributes, found = type(thing), vars(thing), {}
    of_layer = isinstance(thing, keras.layers.Layer)
    config = get_config(thing)
    if config is None:
        config = dict.fromkeys(arguments_of(cls))
    strict = reader.strict
    for key in config:
        value = attribute_of(thing, key)
        if value is thing or (of_layer and isinstance(value, keras.layers.Layer)):
            continue  # among the members
        reader.strict = strict or "activation" in key or "initializer" in key
        inner = unsaid(reader, value, f"{where}.{key}" if where else key)
        reader.strict = strict
        if inner:
            found[key] = inner
    # Some of Keras's own losses leave these out of their config.
    keywords = {n: v for n, v in attributes.get("_fn_kwargs", {}).items() if n not in config}
    if keywords:
        found["keywords"] = reader.named_values(keywords, where)
    if not is_installed(cls):
        found["code"] = reader.read(cls, where)
        own = _own_attributes(thing, get_config(thing) or {}, found)
        if own:
            changed = changed_by_class(cls)
            found["attributes"] = reader.captured(own, changed, changed.attributes, where)
    if members:
        for i, layer in enumerate(thing._flatten_layers(include_self=False)):
            inner = unsaid(reader, layer, layer.name, members=False)
            if inner:
                found[f"layer {i}"] = inner
    return found


def _own_attributes(thing, config, found):
    """Return the attributes of an object of a user's class that its config does not say."""
    classes = type(thing).__mro__
    theirs = set().union(*(set_by(cls) for cls in classes if is_installed(cls)))
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
        own = {name: value for name, value in own.items() if is_plain(value)}
    return own


def _are(value, kinds):
    """Return whether a value is of these kinds, or a structure of nothing else."""
    if type(value) in (list, tuple, dict) and value:
        return all(_are(v, kinds) for v in (value.values() if type(value) is dict else value))
    return isinstance(value, kinds)
