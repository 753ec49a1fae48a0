"""`sda.fit` and Keras's `Model.fit` on chains of layers, whose steps PyTorch has written out."""

import keras
import numpy as np
import pytest
from gradients import central_differences
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
    # As Keras does at the end of `fit`: the averages of an EMA become the weights.
    model.optimizer.finalize_variable_values(model.trainable_variables)
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


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_layer_that_comes_twice_is_trained_as_by_keras(activation):
    def make():
        start = keras.initializers.Orthogonal(seed=1)
        twice = layers.Dense(VISIBLE, activation, kernel_initializer=start)
        momentum = keras.optimizers.SGD(0.1, momentum=0.9)
        return classifier([lambda: twice, lambda: twice], momentum)

    check_parity(make)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that cannot be saved."""

    def __call__(self, step):
        return 0.3 * 0.5 ** keras.ops.cast(step, "float32")


SGD = keras.optimizers.SGD
OPTIMIZERS = {
    "plain": lambda: SGD(0.3),
    "momentum": lambda: SGD(0.1, momentum=0.9),
    "Nesterov's momentum": lambda: SGD(0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda: SGD(0.3, weight_decay=0.1),
    "clipnorm": lambda: SGD(0.3, clipnorm=0.01),
    "global clipnorm": lambda: SGD(0.3, global_clipnorm=0.01),
    "clipvalue": lambda: SGD(0.3, clipvalue=0.001),
    "loss scale": lambda: SGD(0.3, loss_scale_factor=8.0),
    "loss scale with momentum": lambda: SGD(0.1, momentum=0.9, loss_scale_factor=8.0),
    "loss scale of another": lambda: keras.optimizers.Adam(0.01, loss_scale_factor=8.0),
    "changing loss scale": lambda: keras.optimizers.LossScaleOptimizer(SGD(0.3)),
    "growing loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        SGD(0.3), initial_scale=4.0, dynamic_growth_steps=3
    ),
    "loss scale that is too large": lambda: keras.optimizers.LossScaleOptimizer(
        SGD(0.3), initial_scale=3e38
    ),
    "accumulation": lambda: SGD(0.3, gradient_accumulation_steps=2),
    "overwriting EMA": lambda: SGD(0.3, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "schedule": lambda: SGD(keras.optimizers.schedules.CosineDecay(0.3, 10)),
    "schedule of one's own": lambda: SGD(Halving(), momentum=0.5),
    "function": lambda: SGD(lambda: 0.3),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw, clipped": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.01),
}


@only_torch
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_that_of_keras(name):
    check_parity(lambda: classifier(optimizer=OPTIMIZERS[name]()))


def excluding():
    optimizer = SGD(0.3, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@only_torch
def test_variables_without_weight_decay_are_those_of_keras():
    check_parity(lambda: classifier(optimizer=excluding()))


class Between(keras.callbacks.Callback):
    """Changes the optimizer at the beginning of the second epoch."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.change(self.model.optimizer)


def _set(name, value):
    return lambda optimizer: setattr(optimizer, name, value)


CHANGES = {
    "momentum": _set("momentum", 0.5),
    "rate": _set("learning_rate", 0.01),
    "schedule": _set("learning_rate", keras.optimizers.schedules.CosineDecay(0.3, 10)),
    "schedule of one's own": _set("learning_rate", Halving()),
    "clipvalue": _set("clipvalue", 0.001),
    "loss scale": _set("loss_scale_factor", 4.0),
}


@only_torch
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_a_callback_sets_acts_from_then_on(name, momentum):
    if name == "momentum" and not momentum:
        pytest.skip("the optimizer has no velocities then")

    def fit_and_change(fit):
        model = classifier(optimizer=SGD(0.1, momentum=momentum))
        callbacks = [Between(CHANGES[name])]
        return trained(fit, model, callbacks=callbacks)

    ours, theirs = fit_and_change(sda.fit), fit_and_change(keras.Model.fit)
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@only_torch
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_schedule_set_after_compile_acts(momentum):
    def make():
        model = classifier(optimizer=SGD(0.1, momentum=momentum))
        model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.3, 10)
        return model

    check_parity(make)


@only_torch
def test_a_schedule_set_between_two_fits_acts():
    def make_and_fit(fit):
        model = classifier(optimizer=SGD(0.1, momentum=0.9))
        trained(fit, model)
        model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.3, 40)
        return trained(fit, model)

    ours, theirs = make_and_fit(sda.fit), make_and_fit(keras.Model.fit)
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@only_torch
@pytest.mark.parametrize(
    "name", ["loss scale", "loss scale with momentum", "growing loss scale", "accumulation"]
)
def test_a_dA_is_trained_by_the_optimizer_as_keras_does(name):
    results = []
    for fit in (sda.fit, keras.Model.fit):
        stack = sda.StackedDenoisingAutoencoder([7], 0.3, seed=1)
        stack.build((None, VISIBLE))
        model = sda.GreedyPretrainer(stack, OPTIMIZERS[name]()).layer_model(0)
        results.append(trained(fit, model, y=None))
    ours, theirs = results
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours[1]["loss"], theirs[1]["loss"], rtol=1e-5)


# Losses of a dA: the first step of plain SGD against central differences of the printed formula


NOISES = {
    "nothing masked": lambda: sda.MaskingNoise(0.0, seed=3),
    "masked": lambda: sda.MaskingNoise(0.4, seed=3),
    "all masked": lambda: sda.MaskingNoise(1.0, seed=3),
    "salt and pepper": lambda: sda.SaltAndPepperNoise(0.4, seed=3),
    "gaussian": lambda: sda.GaussianNoise(0.1, seed=3),
}
RATE = 1e-2
KINDS = [sda.losses.CrossEntropy, sda.losses.SquaredError]
if keras.backend.backend() != "torch":
    # Where one step is that of all, whatever the loss: two noises, and one loss.
    NOISES = {name: NOISES[name] for name in ("nothing masked", "gaussian")}
    KINDS = KINDS[:1]


def formula(weights, noisy, factors, loss, reduce):
    """The loss of a batch, of a tied dA with sigmoid units, in float64."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    w, b, visible = weights
    z = sigmoid(sigmoid(noisy @ w + b) @ w.T + visible)
    if isinstance(loss, sda.losses.CrossEntropy):
        values = -X * np.log(z) - (1 - X) * np.log(1 - z)
    else:
        values = (X - z) ** 2
    return reduce((factors * values).sum(axis=1))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("alpha", "beta", "reduction"),
    [(2.0, 2.0, "sum_over_batch_size"), (2.0, 0.5, "mean"), (0.5, 0.5, "sum"), (1.0, 1.0, "sum")],
)
def test_the_step_of_a_dA_is_that_of_the_formula(noise, kind, alpha, beta, reduction):
    if noise == "gaussian" and alpha != beta:
        pytest.skip("emphasis needs a noise that selects")
    loss = kind(alpha, beta, reduction=reduction)
    stack = sda.StackedDenoisingAutoencoder(
        [7], NOISES[noise](), decoder_activation="sigmoid", seed=1
    )
    stack.build((None, VISIBLE))
    model = sda.GreedyPretrainer(stack, SGD(RATE), loss=loss).layer_model(0)
    dA = stack.autoencoders[0]
    # The noise of the first step, from another layer of the same seed.
    drawn, selected = dA.corruption.copy(dA.corruption.seed).corrupt(keras.ops.convert_to_tensor(X))
    noisy = keras.ops.convert_to_numpy(drawn).astype("float64")
    chosen = True if selected is None else keras.ops.convert_to_numpy(selected)
    factors = np.where(chosen, alpha, beta)
    reduce = np.sum if reduction == "sum" else np.mean

    def variables():
        return [
            keras.ops.convert_to_numpy(v.value).astype("float64")
            for v in (dA.encoder.kernel, dA.encoder.bias, dA.visible_bias)
        ]

    before = variables()
    history = sda.fit(model, X, batch_size=ROWS, shuffle=False, verbose=0).history
    after = variables()
    assert history["loss"][0] == pytest.approx(
        formula(before, noisy, factors, loss, reduce), rel=1e-5
    )
    for k in range(3):
        expected = central_differences(
            lambda w, k=k: formula(
                [*before[:k], w, *before[k + 1 :]], noisy, factors, loss, reduce
            ),
            before[k].copy(),
        )
        np.testing.assert_allclose((before[k] - after[k]) / RATE, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reduction", [None, "none"])
@pytest.mark.parametrize("kind", [sda.losses.SquaredError, keras.losses.MeanSquaredError])
def test_a_loss_without_a_reduction_is_refused(reduction, kind):
    stack = sda.StackedDenoisingAutoencoder([7], 0.3, seed=1)
    with pytest.raises(ValueError, match=r"`loss` to have a reduction.*Received: layer 0"):
        sda.GreedyPretrainer(stack, loss=kind(reduction=reduction))
