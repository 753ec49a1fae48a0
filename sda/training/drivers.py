"""The driver of a model: the backend's, made once for what was compiled."""

import importlib
import weakref

import keras
from keras import ops

from sda.layers.corruption import Corruption
from sda.rows.base import host
from sda.training import feed
from sda.training.feed import leaves, map_leaves

# The driver of each model that lives, and what that was made for: of a second `fit` nothing is
# compiled again. No value here may hold its model, which would then never be freed.
_KEPT = weakref.WeakKeyDictionary()


class BaseDriver:
    """Base of the backends' drivers, each of which runs the steps of one compiled model.

    Between dispatches the model's variables are up to date.
    """

    def __init__(self, model):
        self._model = weakref.ref(model)

    @property
    def model(self):
        return self._model()

    def put(self, array):
        """Return `array` on the device."""
        raise NotImplementedError

    def train(self, data, batches, steps):
        """Take one step on each of the first `steps` rows of indices in `batches`."""
        raise NotImplementedError

    def test(self, data, batches, steps):
        """Update the metrics on the same rows, without training."""
        raise NotImplementedError


def driver_for(model, data):
    """Return the backend's driver, with everything built that a step would build.

    It is the one that there is until something changes that a step was compiled for. `compile`
    does: it makes new metrics.
    """
    driver, made_for = _KEPT.get(model, (None, ()))
    if driver is not None and identical([_object(part) for part in made_for], _parts(model, data)):
        return driver
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
    parts = _parts(model, data)
    _KEPT[model] = driver, [part if isinstance(part, str) else weakref.ref(part) for part in parts]
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


def _parts(model, data):
    """Return what a driver is made for: objects, and words for what is no object."""
    words = [str(model.run_eagerly), str(model.jit_compile), keras.config.floatx()]
    words += [f"{host(a[:1]).dtype} {a.shape[1:]}" for a in leaves(data)]
    words.append(noise_levels(model))
    return [*words, model.optimizer, *model.metrics, *model.trainable_variables]


def _object(part):
    """Return what a part of those that were kept refers to; None for what is gone."""
    return part() if isinstance(part, weakref.ref) else part


def noise_levels(model):
    """Return the levels of all noises in a model, in words."""
    layers = model._flatten_layers()
    return str([layer.level for layer in layers if isinstance(layer, Corruption)])


def identical(some, others):
    """Whether two lists hold the same objects; strings are compared by their characters."""
    return len(some) == len(others) and all(
        a == b if isinstance(a, str) and isinstance(b, str) else a is b
        for a, b in zip(some, others, strict=True)
    )
