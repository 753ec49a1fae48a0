"""`sda.fit` and Keras's `Model.fit` on chains of layers, whose steps PyTorch has written out."""

import keras
import numpy as np
import pytest
from keras import layers

import sda

only_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only the PyTorch driver writes steps out"
)
ROWS, VISIBLE, CLASSES = 23, 12, 3
GENERATOR = np.random.default_rng(5)
X = GENERATOR.random((ROWS, VISIBLE)).astype("float32")
LABELS = GENERATOR.integers(CLASSES, size=ROWS).astype("int32")


def classifier(hidden=(), optimizer="sgd", loss="sparse_categorical_crossentropy", **settings):
    keras.utils.set_random_seed(3)
    hidden = [make() for make in hidden] or [layers.Dense(6, "tanh")]
    model = keras.Sequential([keras.Input((VISIBLE,)), *hidden, layers.Dense(CLASSES, "softmax")])
    model.compile(optimizer, loss, **settings)
    return model


def trained(fit, model, y=LABELS, **settings):
    """Train in the order of the rows; return weights, optimizer's variables and logs."""
    settings = {"epochs": 3, "batch_size": 5, **settings}
    history = fit(model, X, y, shuffle=False, verbose=0, **settings)
    variables = [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]
    return variables, history.history


def check_parity(make, tolerance=1e-5, **settings):
    ours, theirs = (trained(fit, make(), **settings) for fit in (sda.fit, keras.Model.fit))
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert ours[1].keys() == theirs[1].keys()
    for name, values in ours[1].items():
        np.testing.assert_allclose(values, theirs[1][name], rtol=10 * tolerance)


def dense():
    return layers.Dense(6, "tanh")


def noise(stddev=0.5, **settings):
    return lambda: layers.GaussianNoise(stddev, seed=4, **settings)


def dropout(rate, seed=1, **settings):
    return lambda: layers.Dropout(rate, seed=seed, **settings)


HIDDEN = {
    "noise, then dropout": [noise(), dropout(0.3), dense],
    "dropout, then noise": [dropout(0.3), noise(), dense],
    "noise, dropout and dropout of codes": [noise(), dropout(0.3), dense, dropout(0.5, 2)],
    "noise, dropout, noise": [noise(), dropout(0.3), noise(), dense],
    "two noises": [noise(), noise(), dense],
    "noise of codes": [noise(), dense, noise()],
    "no noise": [noise(0.0), dropout(0.3), dense],
    "dropout of nothing": [dropout(0.0), dense, dropout(0.0, 2)],
    "dropout of nothing and of some": [dropout(0.0), dropout(0.3, 2), dense],
    "dropout of all inputs": [dropout(1.0), dense],
    "dropout of all inputs, noisy": [noise(), dropout(1.0), dense],
    "dropout of all that some leave": [dropout(0.3), dropout(1.0, 2), dense],
    "dropout in bfloat16": [dropout(0.3, dtype="mixed_bfloat16"), dense],
    "penalised dropout": [dropout(0.3, activity_regularizer="l2"), dense],
    "penalised dropout of nothing": [dropout(0.0, activity_regularizer="l2"), dense],
    "penalised noise": [noise(activity_regularizer="l2"), dense],
}


@only_torch
@pytest.mark.parametrize("name", HIDDEN)
def test_noise_and_dropout_are_those_of_keras(name):
    check_parity(lambda: classifier(HIDDEN[name], keras.optimizers.SGD(0.3)))
