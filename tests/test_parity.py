"""`sda.fit` against `Model.fit`, and `GreedyPretrainer` against `Model.fit` of its models."""

import contextlib
import importlib
import os

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, optimizers
from parity import Halving, check_fit, check_pretraining

import sda

ROWS, FEATURES, CLASSES = 22, 4, 3
# Three batches, of which the last one is smaller.
USUAL = {"epochs": 2, "batch_size": 8}
# For runs by hand, of all cases: SDA_PARITY_EXAMPLES=500 pytest tests/test_parity.py
EXAMPLES = int(os.environ.get("SDA_PARITY_EXAMPLES", 15))

X = np.random.default_rng(0).random((ROWS, FEATURES), "float32")
LABELS = np.arange(ROWS) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
MEANS = X @ np.arange(FEATURES, dtype="float32")[:, None] / 4
BITS = (np.stack([X[:, 0], X[:, 1], X[:, 2]], 1) > 0.5).astype("float32")


def dense(units, activation, seed, **kwargs):
    start = keras.initializers.GlorotUniform(seed)
    return layers.Dense(units, activation, kernel_initializer=start, **kwargs)


def chain(between=(), before=(), units=CLASSES, activation="softmax", hidden=5):
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            *before,
            dense(hidden, "tanh", 1),
            *between,
            dense(units, activation, 2, name="out"),
        ]
    )


def functional(model):
    return keras.Model(model.inputs, model.outputs[0])


def branches():
    """Return a model of two inputs and two outputs."""
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    both = dense(4, "tanh", 3)(layers.Concatenate()([left, right]))
    outputs = [
        dense(CLASSES, "softmax", 1, name="label")(both),
        dense(1, None, 2, name="mean")(both),
    ]
    return keras.Model([left, right], outputs)


class Own(keras.Model):
    """A model of a user's own, with a weight that no layer has."""

    def __init__(self):
        super().__init__()
        self.first, self.last = dense(5, "relu", 1), dense(CLASSES, "softmax", 2)
        self.shift = self.add_weight(shape=(5,), initializer="zeros", name="shift")

    def call(self, x):
        return self.last(self.first(x) + self.shift)


def compiled(model, loss="sparse_categorical_crossentropy", optimizer=None, **settings):
    model.compile(optimizer or optimizers.SGD(0.1), loss, **settings)
    return model


def cases(table, compiled):
    """Return the names of a table's cases: all, or those of `compiled` where each is compiled."""
    some = keras.backend.backend() != "torch" and "SDA_PARITY_EXAMPLES" not in os.environ
    return [case for case in table if not some or case in compiled]


# Models

SPARSE = "sparse_categorical_crossentropy"
MODELS = {
    "chain": (lambda: compiled(chain(), metrics=["accuracy"]), LABELS),
    "one unit": (lambda: compiled(chain(units=1, activation=None, hidden=1), "mse"), MEANS),
    "batch normalisation": (lambda: compiled(chain([layers.BatchNormalization()])), LABELS),
    "regression": (
        lambda: compiled(chain(units=1, activation=None), "mse", metrics=["mae"]),
        MEANS,
    ),
    "regression of vectors": (
        lambda: compiled(chain(units=1, activation=None), "mse"),
        MEANS[:, 0],
    ),
    "one-hot": (lambda: compiled(chain(), "categorical_crossentropy"), ONE_HOT),
    "multilabel": (
        lambda: compiled(
            chain(activation="sigmoid"), "binary_crossentropy", metrics=["binary_accuracy"]
        ),
        BITS,
    ),
    "binary": (
        lambda: compiled(
            chain(units=1, activation="sigmoid"), "binary_crossentropy", metrics=["accuracy", "auc"]
        ),
        BITS[:, 0],
    ),
    "subclass": (lambda: compiled(Own(), metrics=["accuracy"]), LABELS),
    "loss in a list": (lambda: compiled(chain(), [SPARSE]), LABELS),
    "loss in a dict": (lambda: compiled(functional(chain()), {"out": SPARSE}), LABELS),
    "loss weights": (lambda: compiled(chain(), SPARSE, loss_weights=[0.3]), LABELS),
    "ignored class": (
        lambda: compiled(chain(), keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)),
        np.where(np.arange(ROWS) % 4 == 1, -1, LABELS),
    ),
    "huber": (lambda: compiled(chain(units=1, activation=None), keras.losses.Huber(0.1)), MEANS),
    "label smoothing": (
        lambda: compiled(chain(), keras.losses.CategoricalCrossentropy(label_smoothing=0.1)),
        ONE_HOT,
    ),
    "a sum of losses": (
        lambda: compiled(
            chain(),
            keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
            optimizers.SGD(0.01),
        ),
        LABELS,
    ),
    "regularised": (
        lambda: compiled(chain([dense(4, "relu", 5, kernel_regularizer="l2")])),
        LABELS,
    ),
}


@pytest.mark.parametrize("case", cases(MODELS, ["batch normalisation", "binary", "ignored class"]))
def test_models_are_trained_as_by_keras(case):
    make, y = MODELS[case]
    check_fit(make, X, y, **USUAL)


def test_dropout_is_that_of_keras():
    def make():
        return compiled(chain([layers.Dropout(0.5, seed=2)], [layers.Dropout(0.2, seed=1)]))

    check_fit(make, X, LABELS, **USUAL)


@pytest.mark.parametrize("form", cases(["list", "dict"], ["dict"]))
def test_several_inputs_and_outputs_are_trained_as_by_keras(form):
    def make():
        losses, weights = [SPARSE, "mse"], [1.0, 0.5]
        if form == "dict":
            losses = dict(zip(("label", "mean"), losses, strict=True))
            weights = dict(zip(("label", "mean"), weights, strict=True))
        return compiled(branches(), losses, loss_weights=weights)

    # On TensorFlow Keras does not know the size of a batch, and its mean of the loss of one output
    # counts the last batch like the others: batches of one size.
    size = 11 if keras.backend.backend() == "tensorflow" else 8
    check_fit(make, [X[:, :2], X[:, 2:]], [LABELS, MEANS], epochs=2, batch_size=size)


# Optimizers

OPTIMIZERS = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda: optimizers.SGD(0.1, weight_decay=0.1),
    "clipnorm": lambda: optimizers.SGD(0.1, clipnorm=0.1),
    "global_clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.1),
    "clipvalue": lambda: optimizers.SGD(0.1, clipvalue=0.01),
    "moving average": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "moving average, written back": lambda: optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "loss scale": lambda: optimizers.SGD(0.1, loss_scale_factor=64.0),
    "loss scale optimizer": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1), dynamic_growth_steps=2
    ),
    "averages under a loss scale": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    ),
    "accumulation": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "schedule": lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.2, 2, 0.5)),
    "own schedule": lambda: optimizers.SGD(Halving()),
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: excluding(optimizers.AdamW(0.01, weight_decay=1.0)),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.5),
}


def excluding(optimizer):
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


OF_COMPILED = ["moving average", "averages under a loss scale", "accumulation", "adamw"]


@pytest.mark.parametrize("case", cases(OPTIMIZERS, OF_COMPILED))
def test_optimizers_take_the_steps_that_they_take_under_keras(case):
    check_fit(lambda: compiled(chain(), optimizer=OPTIMIZERS[case]()), X, LABELS, **USUAL)


# Weights of examples, and callbacks


def test_sample_weights_count_as_under_keras():
    check_fit(
        lambda: compiled(chain(), weighted_metrics=["accuracy"]),
        X,
        LABELS,
        sample_weight=np.linspace(0, 2, ROWS, dtype="float32"),
        validation_data=(X[:9], LABELS[:9], np.linspace(1, 2, 9, dtype="float32")),
        **USUAL,
    )


def test_callbacks_act_as_under_keras():
    def callbacks():
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
            keras.callbacks.EarlyStopping("loss", min_delta=9.0, restore_best_weights=True),
        ]

    check_fit(lambda: compiled(chain()), X, LABELS, 1e-5, callbacks, epochs=5, batch_size=8)


# Pretraining

TEMPLATES = ["momentum", "moving average", "loss scale", "loss scale optimizer", "own schedule"]


def stack():
    return sda.StackedDenoisingAutoencoder([5, 3], corruption=0.3, seed=1)


@pytest.mark.parametrize("case", cases(TEMPLATES, ["loss scale optimizer"]))
def test_a_layer_is_pretrained_as_keras_trains_its_model(case):
    check_pretraining(stack, lambda stack: OPTIMIZERS[case](), X, **USUAL)


def test_what_the_template_excludes_from_decay_is_excluded_in_each_layer():
    def template(stack):
        optimizer = optimizers.AdamW(0.01, weight_decay=1.0)
        biases = [dA.encoder.bias for dA in stack.autoencoders]
        optimizer.exclude_from_weight_decay(biases, ["visible_bias"])
        return optimizer

    # Without an oracle in Keras, which trains a copy too: what is not decayed stays where it was.
    for excluded in (True, False):
        trained = stack()
        trained.build((None, FEATURES))
        for dA in trained.autoencoders:
            dA.encoder.bias.assign(np.ones(dA.units))
        optimizer = template(trained) if excluded else optimizers.AdamW(0.01, weight_decay=1.0)
        # Adam's own steps become tiny, its decay, rate * weight_decay, does not.
        optimizer.epsilon = 1e6
        pretrainer = sda.GreedyPretrainer(trained, optimizer, epochs=1, batch_size=ROWS)
        pretrainer.fit(X, verbose=0)
        for dA in trained.autoencoders:
            bias = keras.ops.convert_to_numpy(dA.encoder.bias.value)
            np.testing.assert_allclose(bias, 1.0 if excluded else 0.99, atol=1e-4)


# Precision

PRECISIONS = {
    "mixed_float16": 1e-2,
    "float16": 1e-2,
    "mixed_bfloat16": 1e-2,
    "bfloat16": 1e-2,
    "float64": 1e-5,
}


@pytest.fixture
def precision(request):
    """Set the dtype policy, and where it is float64 the type of all numbers; return how exact."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    with contextlib.ExitStack() as settings:
        if request.param == "float64":
            keras.config.set_floatx("float64")
            if keras.backend.backend() == "jax":
                # JAX has float64 where it is told to.
                settings.enter_context(importlib.import_module("jax").enable_x64(True))
        keras.config.set_dtype_policy(request.param)
        yield PRECISIONS[request.param]
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


precisions = pytest.mark.parametrize("precision", PRECISIONS, indirect=True)


@precisions
@pytest.mark.parametrize("case", cases(["plain", "momentum"], ["momentum"]))
def test_a_model_of_any_precision_is_trained_as_by_keras(precision, case):
    def make():
        between, before = [layers.Dropout(0.5, seed=2)], [layers.GaussianNoise(0.1, seed=1)]
        model = chain(between, before)
        momentum = 0.9 if case == "momentum" else 0.0
        return compiled(model, SPARSE, optimizers.SGD(0.1, momentum), metrics=["accuracy"])

    x = X.astype(keras.config.floatx())
    check_fit(make, x, LABELS, precision, validation_data=(x[:9], LABELS[:9]), **USUAL)


@precisions
@pytest.mark.parametrize("loss", cases(["cross_entropy", "squared_error"], ["cross_entropy"]))
def test_a_layer_of_any_precision_is_pretrained_as_by_keras(precision, loss):
    def template(stack):
        return optimizers.SGD(0.05, momentum=0.5)

    x = X.astype(keras.config.floatx())
    check_pretraining(stack, template, x, precision, loss, **USUAL)


# Products


@st.composite
def trainings(draw):
    """Draw a model, its targets and an optimizer, as functions, and the settings of `fit`."""
    case = draw(st.sampled_from([*MODELS, "dropout"]))
    options = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "weight_decay": st.sampled_from([0.01, 0.3]),
                "loss_scale_factor": st.just(16.0),
                "gradient_accumulation_steps": st.just(2),
                "ema": st.sampled_from([None, 2]),
            },
        )
    )
    if "ema" in options:
        options.update(use_ema=True, ema_overwrite_frequency=options.pop("ema"))
    clip = draw(st.sampled_from([None, "clipnorm", "global_clipnorm", "clipvalue"]))
    options.update({clip: 0.05} if clip else {})
    rate = draw(st.sampled_from([0.02, Halving]))
    kind = draw(st.sampled_from(["SGD", "momentum", "nesterov", "Adam", "RMSprop"]))
    if kind in ("momentum", "nesterov"):
        options.update(momentum=0.9, nesterov=kind == "nesterov")
    scaled = draw(st.booleans()) and "loss_scale_factor" not in options

    def optimizer():
        maker = getattr(optimizers, kind, optimizers.SGD)
        made = excluding(maker(rate() if callable(rate) else rate, **options))
        return optimizers.LossScaleOptimizer(made, 2.0**10, 2) if scaled else made

    # At least two steps: accumulated gradients are used once.
    settings = {"epochs": draw(st.integers(1, 2)), "batch_size": draw(st.integers(5, ROWS - 1))}
    if draw(st.booleans()):
        settings["sample_weight"] = np.linspace(0, 2, ROWS, dtype="float32")
    if draw(st.booleans()):
        rows = draw(st.integers(1, ROWS))
        settings["validation"] = rows
    return case, optimizer, settings


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(trainings())
def test_what_keras_trains_is_trained_alike(training):
    case, optimizer, arguments = training

    def make():
        if case == "dropout":
            model = compiled(chain([layers.Dropout(0.5, seed=2)], [layers.Dropout(0.2, seed=1)]))
        else:
            model = MODELS[case][0]()
        config = model.get_compile_config()
        return compiled(model, model.loss, optimizer(), loss_weights=config["loss_weights"])

    y = LABELS if case == "dropout" else MODELS[case][1]
    rows = arguments.pop("validation", None)
    if rows is not None:
        arguments["validation_data"] = (X[:rows], y[:rows])
    check_fit(make, X, y, 5e-5, **arguments)


# What is validated


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_split": 0.3},
        {"validation_split": 0.3, "class_weight": {0: 0.5, 2: 3.0}},
        {"validation_split": 0.25, "sample_weight": np.linspace(0, 2, ROWS, dtype="float32")},
        {"validation_data": (X, LABELS), "validation_freq": 2},
        {"validation_data": (X, LABELS), "validation_freq": [1, 3], "validation_batch_size": 5},
    ],
)
def test_validation_is_that_of_keras(settings):
    def make():
        return compiled(chain(), metrics=["accuracy"])

    check_fit(make, X, LABELS, epochs=3, batch_size=8, **settings)


@pytest.mark.parametrize("y", [LABELS[:, None], ONE_HOT])
def test_classes_have_the_weights_that_they_have_in_keras(y):
    loss = SPARSE if y.shape[-1] == 1 else "categorical_crossentropy"
    check_fit(lambda: compiled(chain(), loss), X, y, class_weight={1: 4.0, 0: 0.0}, **USUAL)


def depends_on_its_batch(y, p):
    return keras.ops.max(y) + 0 * keras.ops.sum(p)


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (keras.losses.MeanSquaredError(reduction="sum"), {}),
        (lambda y, p: keras.ops.max(keras.ops.abs(y - p)), {}),
        ("mse", {"metrics": [depends_on_its_batch]}),
    ],
)
def test_a_validation_whose_batches_matter_has_those_of_keras(loss, settings):
    def make():
        return compiled(chain(units=1, activation=None), loss, **settings)

    check_fit(make, X, MEANS, validation_data=(X[:11], MEANS[:11]), **USUAL)


def test_many_rows_are_validated_as_by_keras():
    """More than one large batch of them, and the last one is smaller."""
    many, labels = np.tile(X, (40, 1)), np.tile(LABELS, 40)
    assert len(many) % 500 != 0
    assert len(many) > 500
    check_fit(
        lambda: compiled(chain(), metrics=["accuracy"]), X, LABELS,
        validation_data=(many, labels), **USUAL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"validation_split": 1.0}, "validation_split"),
        ({"validation_split": 0.999}, "validation_split"),
        ({"validation_freq": 0, "validation_data": (X, LABELS)}, "validation_freq"),
        ({"validation_batch_size": 0}, "validation_batch_size"),
        ({"class_weight": [1, 2]}, "class_weight"),
        ({"class_weight": {0: float("nan")}}, "class_weight"),
        ({"class_weight": {0: 1.0}, "sample_weight": np.ones(ROWS)}, "class_weight"),
    ],
)
def test_settings_of_validation_out_of_range_are_refused(settings, word):
    model = compiled(chain())
    before = model.get_weights()
    x, y = (X[:1], LABELS[:1]) if settings.get("validation_split") == 0.999 else (X, LABELS)
    with pytest.raises(ValueError, match=f"Expected.*`{word}`"):
        sda.fit(model, x, y, verbose=0, **settings)
    for some, others in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(some, others)
