import json

import keras
import numpy as np
import pytest
from gradients import central_differences, gradient
from keras import ops

import sda
from sda.losses.columns import ColumnActivation, ColumnLoss
from sda.losses.cross_entropy import CrossEntropy
from sda.losses.squared_error import SquaredError
from sda.models.layer_loss import for_decoder

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(5, 4))
LOGITS = RNG.normal(size=(5, 4)) * 3
SELECTED = RNG.uniform(size=(5, 4)) < 0.4


def cross_entropy(x, a):
    """The formula as printed, ℓ = -x log σ(a) - (1 - x) log(1 - σ(a)), in float64."""
    mean = 1 / (1 + np.exp(-a))
    return -x * np.log(mean) - (1 - x) * np.log(1 - mean)


def squared_error(x, z):
    return (x - z) ** 2


LOSSES = {"cross-entropy": (CrossEntropy, cross_entropy), "squared": (SquaredError, squared_error)}
both_losses = pytest.mark.parametrize(("loss", "formula"), LOSSES.values(), ids=LOSSES)


def single(array):
    return ops.convert_to_tensor(np.asarray(array, "float32"))


@both_losses
def test_value_is_the_sum_over_features_and_the_mean_over_the_batch(loss, formula):
    expected = formula(X, LOGITS).sum(axis=1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(loss().call(single(X), single(LOGITS))), expected, rtol=1e-5
    )
    assert float(loss()(X, LOGITS)) == pytest.approx(expected.mean(), rel=1e-5)


@both_losses
def test_features_of_all_axes_are_summed(loss, formula):
    shape = (5, 2, 2)
    flat, deep = loss()(X, LOGITS), loss()(X.reshape(shape), LOGITS.reshape(shape))
    assert float(deep) == pytest.approx(float(flat), rel=1e-6)


@both_losses
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.0, 0.5), (1.0, 0.0), (0.3, 2.0)])
def test_gradient_is_that_of_the_formula(loss, formula, alpha, beta):
    weights = np.where(SELECTED, alpha, beta)
    expected = central_differences(
        lambda z: (weights * formula(X, z)).sum(axis=1).mean(), LOGITS.copy()
    )
    loss = loss(alpha, beta)
    slope = gradient(
        lambda z: ops.mean(loss.call(single(X), z, ops.convert_to_tensor(SELECTED))), single(LOGITS)
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logit", [-90.0, 0.0, 90.0])
@pytest.mark.parametrize("x", [0.0, 0.25, 1.0])
def test_cross_entropy_is_right_at_any_logit(logit, x):
    loss = CrossEntropy()
    # log(1 + exp(a)) is max(a, 0) + log1p(exp(-|a|)).
    value = max(logit, 0) + np.log1p(np.exp(-abs(logit))) - x * logit
    assert float(loss([[x]], [[logit]])) == pytest.approx(value, rel=1e-6, abs=1e-30)
    slope = gradient(lambda a: loss(single([[x]]), a), single([[logit]]))
    np.testing.assert_allclose(slope, [[1 / (1 + np.exp(-logit)) - x]], rtol=1e-6, atol=1e-30)


@both_losses
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (1.0, 0.0), (0.0, 1.0), (3.0, 3.0)])
def test_emphasis_weighs_selected_features_by_alpha_and_others_by_beta(loss, formula, alpha, beta):
    values = formula(X, LOGITS)
    expected = [
        sum((alpha if s else beta) * v for v, s in zip(*row, strict=True))
        for row in zip(values, SELECTED, strict=True)
    ]
    loss = loss(alpha, beta)
    assert loss.emphasised == (alpha != beta)
    actual = loss.call(single(X), single(LOGITS), ops.convert_to_tensor(SELECTED))
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, rtol=1e-5)


@both_losses
@pytest.mark.parametrize("beta", [5.0, 0.5])
def test_without_a_selection_every_feature_weighs_alpha(loss, formula, beta):
    plain = formula(X, LOGITS).sum(axis=1).mean()
    assert float(loss(alpha=5.0, beta=beta)(X, LOGITS)) == pytest.approx(5 * plain, rel=1e-5)


@both_losses
def test_gradient_without_a_selection_is_that_of_the_formula(loss, formula):
    expected = central_differences(lambda z: 3 * formula(X, z).sum(axis=1).mean(), LOGITS.copy())
    slope = gradient(lambda z: loss(3.0, 0.5)(single(X), z), single(LOGITS))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_gradient_of_the_cross_entropy_in_its_targets_is_minus_the_logits():
    slope = gradient(lambda x: CrossEntropy()(x, single(LOGITS)), single(X))
    np.testing.assert_allclose(slope, -LOGITS / len(X), rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 by default")
@both_losses
def test_a_dtype_is_that_of_the_sum(loss, formula):
    loss = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss(2.0, 0.5, dtype="float64"))
    )
    weights = np.where(SELECTED, 2.0, 0.5)
    z = ops.convert_to_tensor(LOGITS, "float64")
    actual = loss.call(ops.convert_to_tensor(X, "float64"), z, ops.convert_to_tensor(SELECTED))
    expected = (weights * formula(X, LOGITS)).sum(axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, rtol=1e-13)


@both_losses
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_inputs_are_summed_in_float32(loss, formula, dtype):
    # Halves of 1: exact in either dtype, but their sum over 4097 features is not.
    x = ops.cast(np.zeros((1, 4097)), dtype)
    z = ops.cast(np.full((1, 4097), 0.5), dtype)
    value = loss().call(x, z)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(
        ops.convert_to_numpy(value), 4097 * formula(0.0, 0.5), rtol=1e-5
    )  # fmt: skip
    assert float(loss()(x, z)) == pytest.approx(4097 * formula(0.0, 0.5), rel=1e-5)


@both_losses
def test_config_round_trip(loss, formula):
    original = loss(alpha=0.7, beta=0.2, name="mine", reduction="sum")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(original)))
    assert config["registered_name"] == f"sda>{loss.__name__}"
    copied = keras.saving.deserialize_keras_object(config)
    assert type(copied) is loss
    assert copied.get_config() == original.get_config()
    assert (copied.alpha, copied.beta, copied.name) == (0.7, 0.2, "mine")
    assert float(copied(X, LOGITS)) == pytest.approx(0.7 * formula(X, LOGITS).sum(), rel=1e-5)


@both_losses
def test_losses_train_a_plain_keras_model(loss, formula):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("sgd", loss())
    before = formula(X, ops.convert_to_numpy(model(X)).astype("float64")).sum(axis=1).mean()
    history = model.fit(X, X, batch_size=5, epochs=2, verbose=0).history["loss"]
    assert history[0] == pytest.approx(before, rel=1e-4)
    assert history[1] < history[0]


def test_get_knows_our_names_and_keras():
    assert type(sda.losses.get("cross_entropy")) is CrossEntropy
    assert type(sda.losses.get("squared_error")) is SquaredError
    mine = CrossEntropy(1.0, 0.5)
    assert sda.losses.get(mine) is mine
    config = keras.saving.serialize_keras_object(mine)
    assert sda.losses.get(config).get_config() == mine.get_config()
    assert isinstance(sda.losses.get(keras.losses.Huber()), keras.losses.Huber)
    assert float(ops.mean(sda.losses.get("mse")(X, LOGITS))) == pytest.approx(
        ((X - LOGITS) ** 2).mean(), rel=1e-5
    )


@pytest.mark.parametrize("identifier", [None, "cross entropy", 3])
def test_get_refuses(identifier):
    with pytest.raises(
        ValueError, match=r"Expected `loss` to be one of .*Received: loss="
    ) as error:
        sda.losses.get(identifier)
    assert "cross_entropy" in str(error.value)
    assert repr(identifier) in str(error.value)


@pytest.mark.parametrize("key", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "1", None, True])
@both_losses
def test_bad_weights(loss, formula, key, value):
    with pytest.raises(ValueError, match=rf"Expected `{key}` to be .*Received: {key}=") as error:
        loss(**{key: value})
    assert repr(value) in str(error.value)


@both_losses
def test_weights_that_leave_nothing(loss, formula):
    with pytest.raises(ValueError, match=r"Expected `alpha` or `beta` above 0\. Received: alpha=0"):
        loss(alpha=0.0, beta=0.0)


# A loss for each kind of column

COLUMNS = ["numeric", 3, "binary", 2, "numeric"]
FEATURES = 8
CATEGORIES = [slice(1, 4), slice(5, 7)]


def table():
    """Rows of `COLUMNS`: numbers, and categories in one-hot code; the last has none known."""
    x = RNG.normal(size=(6, FEATURES))
    x[:, 4] = RNG.integers(2, size=6)
    for place in CATEGORIES:
        size = place.stop - place.start
        x[:, place] = np.eye(size)[RNG.integers(size, size=6)]
    x[5, 1:4] = 0
    return x


def softmax(a):
    e = np.exp(a - a.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_column(x, a):
    """The formulas as printed, a column at a time, in float64."""
    values = squared_error(x, a)
    values[:, 4] = cross_entropy(x[:, 4], a[:, 4])
    for place in CATEGORIES:
        values[:, place] = -x[:, place] * np.log(softmax(a[:, place]))
    return values


TABLE, OUTPUTS = table(), RNG.normal(size=(6, FEATURES)) * 3
CHOSEN, MISSING = RNG.uniform(size=(2, 6, FEATURES)) < 0.3


def test_each_column_has_the_loss_of_its_kind():
    loss = ColumnLoss(COLUMNS)
    expected = by_column(TABLE, OUTPUTS)
    values = loss.per_feature(single(TABLE), single(OUTPUTS))
    np.testing.assert_allclose(ops.convert_to_numpy(values), expected, rtol=1e-4, atol=1e-6)
    assert float(loss(TABLE, OUTPUTS)) == pytest.approx(expected.sum(axis=1).mean(), rel=1e-5)
    per_column = loss.layout.per_column(expected)
    sums = [expected[:, [0]], expected[:, 1:4].sum(1, keepdims=True), expected[:, [4]]]
    sums += [expected[:, 5:7].sum(1, keepdims=True), expected[:, [7]]]
    np.testing.assert_allclose(per_column, np.hstack(sums))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize("missing", [False, True])
def test_gradient_of_a_column_loss_is_that_of_the_formulas(alpha, beta, missing):
    weights = np.where(CHOSEN, alpha, beta) * (~MISSING if missing else 1.0)
    expected = central_differences(
        lambda a: (weights * by_column(TABLE, a)).sum(axis=1).mean(), OUTPUTS.copy()
    )
    x = np.where(MISSING, np.nan, TABLE) if missing else TABLE
    loss = ColumnLoss(COLUMNS, alpha, beta, missing_values=missing)
    slope = gradient(
        lambda a: ops.mean(loss.call(single(x), a, ops.convert_to_tensor(CHOSEN))), single(OUTPUTS)
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", [CrossEntropy, SquaredError])
def test_a_loss_without_missing_values_is_the_gradient_of_what_is_there(loss):
    formula = {CrossEntropy: cross_entropy, SquaredError: squared_error}[loss]
    there = ~SELECTED
    expected = central_differences(
        lambda z: (there * formula(X, z)).sum(axis=1).mean(), LOGITS.copy()
    )
    x = np.where(SELECTED, np.nan, X)
    loss = loss(missing_values=True)
    value = (there * formula(X, LOGITS)).sum(axis=1).mean()
    assert float(loss(x, LOGITS)) == pytest.approx(value, rel=1e-5)
    slope = gradient(lambda z: ops.mean(loss.call(single(x), z)), single(LOGITS))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    assert (slope[SELECTED] == 0).all()


@pytest.mark.parametrize("logit", [-90.0, 90.0])
def test_a_category_is_right_at_any_logit(logit):
    loss = ColumnLoss([2, 3])
    x = [[0.0, 1.0, 0.0, 0.0, 1.0]]
    a = np.array([[logit, 0.0, 0.0, 0.0, 0.0]])
    value = np.logaddexp(logit, 0) + np.log(3)
    assert float(loss(x, a)) == pytest.approx(value, rel=1e-6)
    slope = gradient(lambda a: loss(single(x), a), single(a))
    p = 1 / (1 + np.exp(-logit))
    expected = [[p, -p, 1 / 3, 1 / 3, -2 / 3]]
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


def test_kinds_alone_are_the_losses_that_have_names():
    for kind, loss in (("numeric", SquaredError()), ("binary", CrossEntropy())):
        assert float(ColumnLoss([kind] * 4)(X, LOGITS)) == pytest.approx(
            float(loss(X, LOGITS)), rel=1e-6
        )
    category = keras.losses.CategoricalCrossentropy(from_logits=True)
    x = np.eye(4)[[0, 1, 2, 3, 0]]
    assert float(ColumnLoss([4])(x, LOGITS)) == pytest.approx(float(category(x, LOGITS)), rel=1e-5)


def test_the_activation_of_columns_gives_values_and_probabilities():
    z = ops.convert_to_numpy(ColumnActivation(COLUMNS)(single(OUTPUTS)))
    expected = OUTPUTS.copy()
    expected[:, 4] = 1 / (1 + np.exp(-OUTPUTS[:, 4]))
    for place in CATEGORIES:
        expected[:, place] = softmax(OUTPUTS[:, place])
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-7)
    half = ColumnActivation(COLUMNS)(ops.cast(single(OUTPUTS), "bfloat16"))
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"


def test_column_configs_round_trip():
    loss = ColumnLoss(COLUMNS, 0.7, 0.2, name="mine", missing_values=True)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is ColumnLoss
    assert again.get_config() == loss.get_config()
    assert (again.columns, again.alpha, again.missing_values) == (COLUMNS, 0.7, True)
    activation = ColumnActivation(COLUMNS)
    config = json.loads(json.dumps(keras.activations.serialize(activation)))
    again = keras.activations.get(config)
    assert type(again) is ColumnActivation
    assert again.columns == COLUMNS


def test_a_decoder_has_its_loss():
    assert type(for_decoder(keras.activations.sigmoid)) is CrossEntropy
    assert type(for_decoder(keras.activations.linear)) is SquaredError
    loss = for_decoder(ColumnActivation(COLUMNS))
    assert type(loss) is ColumnLoss
    assert loss.columns == COLUMNS


@pytest.mark.parametrize("columns", [[], None, "numeric", ["real"], [1], [True], [2.0], {"a": 2}])
def test_bad_columns(columns):
    for make in (ColumnLoss, ColumnActivation):
        with pytest.raises(ValueError, match=r"Expected `columns` to be .*Received: columns="):
            make(columns)


def test_columns_of_another_width():
    expected = r"Expected 4 features in `columns`.*Received: columns=.* with 8"
    with pytest.raises(ValueError, match=expected):
        ColumnLoss(COLUMNS)(X, LOGITS)
    with pytest.raises(ValueError, match=expected):
        ColumnActivation(COLUMNS)(single(X))


def test_missing_values_is_a_flag():
    with pytest.raises(ValueError, match=r"Expected `missing_values` to be True or False"):
        SquaredError(missing_values="yes")
