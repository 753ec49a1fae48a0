"""The driver of a model: the backend's, made once for what was compiled."""

import importlib

import keras
from keras import ops

from sda.layers.corruption import Corruption
from sda.training import feed
from sda.training.feed import host, leaves, map_leaves


def driver_for(model, data):
    """Return the backend's driver, with everything built that a step would build.

    A model keeps its driver, and with it what was compiled, until something changes that a step
    was compiled for. `compile` does: it makes new metrics.
    """
    made_for = _made_for(model, data)
    kept = getattr(model, "_sda_driver", None)
    if kept is not None and identical(kept.made_for, made_for):
        return kept.driver
    first = map_leaves(lambda a: ops.convert_to_tensor(host(a[:1])), data)
    x, y, weight = (*first, None, None)[:3]
    try:
        y_pred = model(x, training=False)
        model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=False)
        model.compute_metrics(x, y, y_pred, sample_weight=weight)
    # What a backend raises where shapes or types do not fit.
    except Exception as error:
        raise ValueError(
            "Expected `x` and `y` to be what the model, its loss and its metrics take. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    model.optimizer.build(model.trainable_variables)
    # What was just built is part of it.
    driver = _backend().Driver(model)
    model._sda_driver = _Kept(driver, _made_for(model, data), kept and kept.begun)
    return driver


def feed_for(driver, data):
    """Return what brings `data` to the driver."""
    return getattr(_backend(), "Feed", feed.Feed)(driver, data)


def _backend():
    """Return the module with the driver: the backend's, or that of a mesh of devices."""
    name = keras.backend.backend()
    if name == "jax" and keras.distribution.distribution() is not None:
        name = "jax_mesh"
    return importlib.import_module(f"sda.training.{name}")


def _made_for(model, data):
    """Return what a driver is made for: objects, and words for what is no object."""
    words = [str(model.run_eagerly), str(model.jit_compile), keras.config.floatx()]
    words += [f"{host(a[:1]).dtype} {a.shape[1:]}" for a in leaves(data)]
    words.append(noise_levels(model))
    return [*words, model.optimizer, *model.metrics, *model.trainable_variables]


def noise_levels(model):
    """Return the levels of all noises in a model, in words."""
    layers = model._flatten_layers()
    return str([layer.level for layer in layers if isinstance(layer, Corruption)])


class _Kept:
    """A driver and what it was made for; in a list, Keras would count that as the model's own."""

    def __init__(self, driver, made_for, begun):
        self.driver = driver
        self.made_for = made_for
        self.begun = begun  # the `identity.Begun` of the last run with checkpoints


def identical(some, others):
    """Whether two lists hold the same objects; strings are compared by their characters."""
    return len(some) == len(others) and all(
        a == b if isinstance(a, str) and isinstance(b, str) else a is b
        for a, b in zip(some, others, strict=True)
    )
