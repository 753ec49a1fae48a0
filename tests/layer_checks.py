"""The contract that every layer of the package passes."""

import json

import keras
import numpy as np
from keras import ops


def check_layer(make, x, tmp_path, clean, noisy=True, untrained=()):
    """Check one layer.

    Args:
        make: Function from keyword arguments of `keras.layers.Layer` to a new layer. Each layer it
            makes has the same seed; `training=True` matters to it if `noisy`.
        x: Float32 NumPy array of shape `(batch, ...)`.
        tmp_path: A folder to save in.
        clean: Function from (layer, x) to what the layer returns at inference, as a NumPy array.
        noisy: Whether the layer adds noise in training.
        untrained: Names of the variables that training on the layer's output leaves alone.
    """
    before = x.copy()
    check_config(make)
    check_output_shape(make, x)
    check_clean_at_inference(make, x, clean)
    check_functional(make, x)
    check_training_in_a_sequential(make, x, untrained)
    check_save_and_reload(make, x, tmp_path)
    check_mixed_precision(make, x, noisy)
    if noisy:
        check_noise(make, x)
    np.testing.assert_array_equal(x, before)


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def check_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def config_of(layer):
    """Return the config as JSON gives it back, without tuples."""
    return json.loads(json.dumps(layer.get_config()))


def check_config(make):
    layer = make()
    given = config_of(layer)
    copied = type(layer).from_config(given)
    assert config_of(copied) == config_of(layer)
    assert given == config_of(layer), "from_config changed its argument"


def check_output_shape(make, x):
    layer = make()
    foretold = layer.compute_output_shape(x.shape)
    assert tuple(layer(x).shape) == tuple(foretold)


def check_clean_at_inference(make, x, clean):
    layer = make()
    first = array(layer(x))
    check_close(first, clean(layer, x))
    np.testing.assert_array_equal(array(layer(x)), first)
    if layer._call_has_training_arg:
        np.testing.assert_array_equal(array(layer(x, training=False)), first)


def functional(layer, x):
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, layer(inputs))


def check_functional(make, x):
    layer = make()
    model = functional(layer, x)
    assert model.output_shape == tuple(layer.compute_output_shape((None, *x.shape[1:])))
    check_close(array(model(x)), array(layer(x)))
    check_close(model.predict(x, verbose=0), array(layer(x)))


def check_training_in_a_sequential(make, x, untrained):
    layer = make()
    model = keras.Sequential([keras.Input(x.shape[1:]), layer, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    clean, kernel = array(layer(x)), model.layers[-1].get_weights()[0]
    check_close(array(model(x)), clean @ kernel)
    before = [array(v.value) for v in model.trainable_variables]
    model.fit(x, np.ones(model.compute_output_shape(x.shape)), epochs=1, verbose=0)
    pairs = zip(model.trainable_variables, before, strict=True)
    assert {v.name for v, old in pairs if np.array_equal(array(v.value), old)} == set(untrained)


def check_save_and_reload(make, x, tmp_path):
    model = functional(make(), x)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded.layers[-1]) is type(model.layers[-1])
    assert config_of(loaded.layers[-1]) == config_of(model.layers[-1])
    assert len(loaded.weights) == len(model.weights)
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


def check_mixed_precision(make, x, noisy):
    for policy, dtype in (("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")):
        layer = make(dtype=policy)
        for kwargs in ({}, {"training": True}) if noisy else ({},):
            y = layer(x, **kwargs)
            assert keras.backend.standardize_dtype(y.dtype) == dtype
            assert np.isfinite(array(y)).all()
        assert {v.dtype for v in layer.weights} <= {"float32"}
        np.testing.assert_allclose(array(layer(x)), array(make()(x)), rtol=0.02, atol=0.02)


class InTraining(keras.Model):
    """Calls its layer in training mode, in `predict` too."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x, training=True)


def check_noise(make, x):
    layer = make()
    first, second = array(layer(x, training=True)), array(layer(x, training=True))
    assert not np.array_equal(first, array(layer(x)))
    assert not np.array_equal(first, second)
    # Compiled, the same seed draws the same noise, and goes on drawing.
    model = InTraining(make())
    for expected in (first, second):
        check_close(model.predict(x, batch_size=len(x), verbose=0), expected)
