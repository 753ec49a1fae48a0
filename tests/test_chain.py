"""Models that are plain chains of layers, and PyTorch's steps on them beside those of Keras."""

import keras
import numpy as np
import pytest
from keras import layers

import sda
from sda.layers import chain as chains
from sda.models.denoising import Denoising

ROWS, VISIBLE, CLASSES = 23, 12, 3
only_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="only the PyTorch driver takes chains"
)


def denoising(
    corruption=0.0,
    loss=None,
    optimizer="sgd",
    activation="sigmoid",
    preprocessing=(),
    **settings,
):
    decoder = settings.pop("decoder_activation", "sigmoid")
    if isinstance(corruption, sda.Corruption):
        corruption = corruption.copy(seed=3)  # whose draws start anew
    layer = sda.DenoisingAutoencoder(7, corruption, activation, decoder, seed=1, **settings)
    model = Denoising(layer, loss or sda.losses.CrossEntropy(), preprocessing)
    model.build((None, VISIBLE))
    model.compile(optimizer)
    return model


def classifier(hidden=(), loss="sparse_categorical_crossentropy", optimizer="sgd", **settings):
    keras.utils.set_random_seed(3)
    hidden = hidden or [layers.Dense(6, "sigmoid"), layers.Dense(5, "relu")]
    output = layers.Dense(CLASSES, "softmax")
    model = keras.Sequential([keras.Input((VISIBLE,)), *hidden, output])
    model.compile(optimizer, loss, **settings)
    return model


@pytest.fixture
def data():
    generator = np.random.default_rng(5)
    x = generator.random((ROWS, VISIBLE)).astype("float32")
    return x, generator.integers(CLASSES, size=ROWS).astype("int32")


# What is a chain


def test_a_tied_dA_is_a_chain_of_two():
    chain = chains.find_chain(denoising(0.3))
    first, last = chain.layers
    assert first.kernel is last.kernel
    assert (first.transposed, last.transposed) == (False, True)
    assert chain.corruption.rate == 0.3


def test_without_noise_nothing_is_drawn():
    assert chains.find_chain(denoising(0.0)).corruption is None
    emphasised = sda.losses.CrossEntropy(alpha=1.0, beta=0.5)
    assert chains.find_chain(denoising(0.0, emphasised)).corruption is not None


def test_a_classifier_is_a_chain():
    hidden = [layers.Dropout(0.2), layers.Dense(6, "tanh"), layers.Dropout(0.5)]
    chain = chains.find_chain(classifier(hidden))
    assert [la.activation for la in chain.layers] == ["tanh", "softmax"]
    assert [la.dropout.rate for la in chain.layers] == [0.2, 0.5]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_noise_on_the_input_and_smoothed_labels_belong_to_a_chain(smoothing):
    hidden = [layers.GaussianNoise(0.2, seed=1), layers.Dropout(0.2), layers.Dense(6, "tanh")]
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    chain = chains.find_chain(classifier(hidden, loss))
    assert chain.corruption is hidden[0]
    assert (chain.loss, chain.smoothing) == ("categorical_crossentropy", smoothing)


class Doubled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


MORE_THAN_A_CHAIN = {
    "untied": lambda: denoising(tied=False),
    "missing values": lambda: denoising(fill_value=0.0),
    "missing targets": lambda: denoising(loss=sda.losses.CrossEntropy(missing_values=True)),
    "loss of Keras": lambda: denoising(loss=keras.losses.MeanSquaredError()),
    "unknown activation": lambda: denoising(activation="gelu"),
    "penalty": lambda: classifier([layers.Dense(4, "relu", kernel_regularizer="l2")]),
    "activity penalty": lambda: classifier([layers.Dense(4, "relu", activity_regularizer="l2")]),
    "constraint": lambda: classifier([layers.Dense(4, "relu", kernel_constraint="max_norm")]),
    "subclass of Dense": lambda: classifier([Doubled(4, "relu")]),
    "no bias": lambda: classifier([layers.Dense(4, "relu", use_bias=False)]),
    "another layer": lambda: classifier([layers.Dense(4, "relu"), layers.LayerNormalization()]),
    "frozen layer": lambda: classifier([layers.Dense(4, "relu", trainable=False)]),
    "weighted loss": lambda: classifier(loss_weights=2.0),
    "sparsity": lambda: denoising(sparsity="l1"),
    "contraction": lambda: denoising(contraction=0.1),
    "another loss": lambda: classifier(loss="mse"),
    "logits": lambda: classifier(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "eager": lambda: classifier(run_eagerly=True),
    "bfloat16": lambda: classifier([layers.Dense(4, "relu", dtype="mixed_bfloat16")]),
    "focal loss": lambda: classifier(loss="categorical_focal_crossentropy"),
    "another axis": lambda: classifier(loss=keras.losses.CategoricalCrossentropy(axis=0)),
    "noise in between": lambda: classifier([layers.Dense(4, "relu"), layers.GaussianNoise(0.1)]),
    "two dropouts": lambda: classifier([layers.Dropout(0.1), layers.Dropout(0.1)]),
}


@pytest.mark.parametrize("name", MORE_THAN_A_CHAIN)
def test_anything_more_is_no_chain(name):
    assert chains.find_chain(MORE_THAN_A_CHAIN[name]()) is None


# PyTorch's steps on a chain


def trained(model, data, chain=True, **settings):
    """Train a chain, or as Keras does; return weights, the optimizer's variables and the logs."""
    assert chains.find_chain(model) is not None
    fit = sda.fit if chain else keras.Model.fit
    settings = {"batch_size": 5, "epochs": 3, "shuffle": False, "verbose": 0, **settings}
    history = fit(model, *data, **settings)
    variables = [np.array(w) for w in model.get_weights()]
    return variables, [np.array(v) for v in model.optimizer.variables], history.history


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.3),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "clipped": lambda: keras.optimizers.SGD(0.3, clipnorm=0.01),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.3, 10)),
    "adam": lambda: keras.optimizers.Adam(0.01),
}
GAUSSIAN = sda.GaussianNoise(0.1, seed=3)
SALT = sda.SaltAndPepperNoise(0.4, seed=3)
AUTOENCODERS = {
    "cross-entropy": {},
    "squared error": {"loss": sda.losses.SquaredError(), "decoder_activation": "linear"},
    "squared error, sigmoid": {"loss": sda.losses.SquaredError()},
    "tanh": {"activation": "tanh"},
    "relu": {"activation": "relu"},
    "linear": {"activation": "linear"},
    "gaussian": {"corruption": GAUSSIAN},
    "salt and pepper": {"corruption": SALT},
    "emphasis": {
        "corruption": SALT,
        "loss": sda.losses.CrossEntropy(alpha=1.0, beta=0.5),
    },
    "emphasis, squared error": {
        "corruption": SALT,
        "loss": sda.losses.SquaredError(alpha=2.0, beta=0.0),
        "decoder_activation": "tanh",
    },
    "masking": {"corruption": 0.3},
    "emphasis without noise": {"loss": sda.losses.CrossEntropy(alpha=1.0, beta=0.5)},
    "masking, emphasis": {"corruption": 0.3, "loss": sda.losses.CrossEntropy(alpha=1.0, beta=0.0)},
    "all masked": {"corruption": 1.0},
    "a rate a column": {"corruption": sda.MaskingNoise([0.1, 0.6] * 6, seed=3)},
    "groups": {"corruption": sda.MaskingNoise(0.5, seed=3, groups=[4, 1, 7])},
}


def check_same(ours, theirs):
    for a, b in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert ours[2].keys() == theirs[2].keys()
    for name, values in ours[2].items():
        np.testing.assert_allclose(values, theirs[2][name], rtol=1e-4)


@only_torch
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_dA_learns_what_the_train_step_of_keras_teaches(name, data):
    runs = [trained(denoising(**AUTOENCODERS[name]), data[:1], chain) for chain in (True, False)]
    check_same(*runs)


@only_torch
def test_examples_of_more_axes_go_the_way_of_keras(data):
    x = data[0].reshape(ROWS, 2, VISIBLE // 2)

    def made():
        layer = sda.DenoisingAutoencoder(7, 0.3, seed=1)
        model = Denoising(layer, sda.losses.CrossEntropy())
        model.build((None, 2, VISIBLE // 2))
        model.compile("sgd")
        return model

    check_same(trained(made(), (x,)), trained(made(), (x,), chain=False))


@only_torch
@pytest.mark.parametrize("kind", [denoising, classifier])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gives_what_it_gives_in_keras(name, kind, data):
    data = data if kind is classifier else data[:1]
    runs = [trained(kind(optimizer=OPTIMIZERS[name]()), data, chain) for chain in (True, False)]
    check_same(*runs)


@only_torch
@pytest.mark.parametrize(
    "metrics", [[], ["accuracy"], ["accuracy", "sparse_categorical_crossentropy"]]
)
def test_a_classifier_keeps_its_metrics(metrics, data):
    check_same(*(trained(classifier(metrics=metrics), data, chain) for chain in (True, False)))


@only_torch
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_dropout_is_that_of_keras(activation, data):
    def model():
        keras.utils.set_random_seed(3)
        return classifier(
            [
                layers.Dropout(0.25, seed=1),
                layers.Dense(6, activation),
                layers.Dropout(0.5, seed=2),
            ]
        )

    check_same(*(trained(model(), data, chain) for chain in (True, False)))


@only_torch
@pytest.mark.parametrize(
    "loss",
    [
        "categorical_crossentropy",
        keras.losses.CategoricalCrossentropy(label_smoothing=0.2, name="smoothed"),
    ],
)
@pytest.mark.parametrize("total", [1.0, 0.5])
def test_one_hot_targets_and_noise_on_the_input_are_those_of_keras(loss, total, data):
    x, labels = data
    y = total * np.eye(CLASSES, dtype="float32")[labels]

    def made():
        keras.utils.set_random_seed(3)
        hidden = [layers.GaussianNoise(0.2, seed=4), layers.Dense(6, "sigmoid")]
        return classifier(hidden, loss, keras.optimizers.SGD(0.3), metrics=["accuracy"])

    check_same(trained(made(), (x, y)), trained(made(), (x, y), chain=False))


@only_torch
def test_one_hot_targets_for_a_loss_of_labels_go_the_way_of_keras(data):
    """And the other way round: what Keras says of them, it says still."""
    x, labels = data
    model = classifier(loss="categorical_crossentropy")
    with pytest.raises(ValueError, match="Expected `y` of shape"):
        trained(model, (x, labels))


@only_torch
def test_dropout_without_a_seed_draws_from_the_global_state(data):
    def weights(seed):
        keras.utils.set_random_seed(3)
        model = classifier([layers.Dropout(0.5), layers.Dense(6, "tanh")])
        keras.utils.set_random_seed(seed)
        return trained(model, data)[0][0]

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


@only_torch
@pytest.mark.parametrize(
    "preprocessing",
    [
        [layers.Rescaling(1 / 255)],
        [layers.Rescaling(1 / 255, 0.25)],
        [layers.Rescaling(1 / 255), layers.Normalization(mean=0.5, variance=0.1)],
    ],
)
def test_uint8_pixels_go_through_the_preprocessing(data, preprocessing):
    pixels = (255 * data[0]).astype("uint8")
    models = [denoising(preprocessing=preprocessing) for _ in range(2)]
    check_same(
        *(trained(m, (pixels,), chain=c) for m, c in zip(models, (True, False), strict=True))
    )


@only_torch
def test_the_steps_of_a_dispatch_make_no_difference(data):
    def run(steps):
        return trained(denoising(0.3), data[:1], steps_per_execution=steps)

    one, many = run(1), run(4)
    for a, b in zip(one[0] + one[1], many[0] + many[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[2] == many[2]


@only_torch
def test_sample_weights_go_the_way_of_keras(data):
    weights = np.linspace(0, 1, ROWS).astype("float32")
    results = []
    for fit in (sda.fit, keras.Model.fit):
        model = classifier()
        fit(model, *data, batch_size=5, epochs=2, shuffle=False, sample_weight=weights, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@only_torch
def test_dropout_scales_codes_and_gradients():
    """Checked by finite differences of the loss that the same step logs."""
    model = classifier(
        [layers.Dropout(0.25, seed=1), layers.Dense(6, "tanh"), layers.Dropout(0.5, seed=2)]
    )
    generator = np.random.default_rng(0)
    x, y = generator.random((4, VISIBLE)).astype("float32"), np.array([0, 1, 2, 1], "int32")
    start = [w.astype("float64") for w in model.get_weights()]
    rate = 1e-3

    def step(weights):
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        model.set_weights(weights)
        for layer in model.layers:
            if isinstance(layer, layers.Dropout):
                layer.seed_generator.state.assign([layer.seed, 0])
        history = sda.fit(model, x, y, batch_size=4, shuffle=False, verbose=0)
        return history.history["loss"][0], [np.array(w) for w in model.get_weights()]

    _, after = step(start)
    for k, weight in enumerate(start):
        index = tuple(n // 2 for n in weight.shape)
        losses = []
        for shift in (2e-2, -2e-2):
            shifted = [w.copy() for w in start]
            shifted[k][index] += shift
            losses.append(step(shifted)[0])
        slope = (losses[0] - losses[1]) / 4e-2
        assert (weight - after[k])[index] / rate == pytest.approx(slope, rel=2e-2, abs=2e-3)
