"""Missing values: NaN in the input is never seen by the network nor counted in the loss."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from gradients import central_differences
from keras import ops
from test_finetuning import WITHOUT_SDA

import sda
from sda.layers.chain import find_chain
from sda.models.denoising import Denoising

ROWS, VISIBLE, UNITS = 12, 5, 3
COLUMNS = ["numeric", "numeric", "binary", 2]
FILLS = {"one fill": 0.25, "a fill each": [0.5, -1.0, 0.0, 2.0, 0.125]}
fills = pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)


def whole_table():
    """Two numbers, a yes or no, and a category of two in one-hot code."""
    generator = np.random.default_rng(3)
    category = np.eye(2)[generator.integers(2, size=ROWS)]
    binary = generator.integers(2, size=(ROWS, 1))
    return np.hstack([generator.normal(size=(ROWS, 2)), binary, category]).astype("float32")


@pytest.fixture
def x():
    x = whole_table()
    x[0, 0] = x[1, :2] = x[2, 2] = x[3, 3:] = x[4] = x[5:7, 1] = np.nan
    return x


def new_stack(units=UNITS, corruption=0.0, decoder="linear", fill_value=0.25, **settings):
    decoder = [decoder] + [None] * (len(units) - 1) if isinstance(units, list) else decoder
    stack = sda.StackedDenoisingAutoencoder(
        units, corruption, activation="tanh", decoder_activation=decoder, seed=1,
        fill_value=fill_value,
        **settings,
    )  # fmt: skip
    stack.build((None, VISIBLE))
    stack.autoencoders[0].visible_bias.assign([0.1, -0.2, 0.3, -0.4, 0.5])
    return stack


def pretrain(stack, x, rate=1.0, epochs=1, batch_size=ROWS, loss=None, **data):
    pretrainer = sda.GreedyPretrainer(
        stack, keras.optimizers.SGD(rate), loss, epochs=epochs, batch_size=batch_size, seed=1
    )
    return [history.history for history in pretrainer.fit(x, verbose=0, **data)]


def weights(dA):
    return [
        ops.convert_to_numpy(v.value).astype("float64")
        for v in (dA.encoder.kernel, dA.encoder.bias, dA.visible_bias)
    ]


def array(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


# The formula


def squared(x, a):
    return (x - a) ** 2


def by_column(x, a):
    """The loss of each feature of `COLUMNS`, in float64."""
    values = (x - a) ** 2
    mean = 1 / (1 + np.exp(-a[:, 2]))
    values[:, 2] = -x[:, 2] * np.log(mean) - (1 - x[:, 2]) * np.log(1 - mean)
    p = np.exp(a[:, 3:]) / np.exp(a[:, 3:]).sum(axis=1, keepdims=True)
    values[:, 3:] = -x[:, 3:] * np.log(p)
    return values


def loss_of(parameters, x, seen, formula):
    """The loss of a tied dA that sees `seen`, over what is observed of `x`, averaged over rows."""
    kernel, bias, visible_bias = parameters
    a = np.tanh(seen @ kernel + bias) @ kernel.T + visible_bias
    values = formula(np.nan_to_num(x.astype("float64")), a)
    return values[~np.isnan(x)].sum() / len(x)


DECODERS = {
    "squared error": ("linear", squared, 0.25),
    "columns": (sda.losses.ColumnActivation(COLUMNS), by_column, FILLS["a fill each"]),
}


@pytest.mark.parametrize(("decoder", "formula", "fill"), DECODERS.values(), ids=DECODERS)
def test_a_step_of_pretraining_follows_the_gradient_over_what_is_observed(
    x, decoder, formula, fill
):
    corruption = sda.SwapNoise(0.5, seed=4)
    stack = new_stack(UNITS, corruption, decoder, fill)
    dA = stack.autoencoders[0]
    filled = np.where(np.isnan(x), np.array(fill, "float32"), x)
    # The first draw is that of an equal noise.
    noisy = array(dA.corruption.copy(dA.corruption.seed)(filled, training=True))
    before = weights(dA)
    (history,) = pretrain(stack, x, shuffle=False)
    seen = np.where(np.isnan(x), np.array(fill, "float32"), noisy)
    assert (seen != filled).any()
    assert history["loss"][0] == pytest.approx(loss_of(before, x, seen, formula), rel=1e-5)
    for i, (old, new) in enumerate(zip(before, weights(dA), strict=True)):
        expected = central_differences(
            lambda w, i=i: loss_of([*before[:i], w, *before[i + 1 :]], x, seen, formula), old.copy()
        )
        np.testing.assert_allclose(old - new, expected, rtol=2e-3, atol=2e-5)


NOISES = {
    "masking": lambda: sda.MaskingNoise(0.5, seed=1),
    "salt and pepper": lambda: sda.SaltAndPepperNoise(0.5, -1, 1, seed=1),
    "gaussian": lambda: sda.GaussianNoise(0.5, seed=1),
    "swap": lambda: sda.SwapNoise(0.5, seed=1),
    "both": lambda: sda.ComposedNoise([sda.SwapNoise(0.5), sda.GaussianNoise(0.5)], seed=1),
}
noises = pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)


@fills
@noises
def test_noise_leaves_missing_values_alone(x, make, fill):
    dA = new_stack(corruption=make(), fill_value=fill).autoencoders[0]
    missing, filled = np.isnan(x), np.where(np.isnan(x), np.array(fill, "float32"), x)
    alike = dA.corruption.copy(dA.corruption.seed)
    corrupted, selected = dA.corrupt(ops.convert_to_tensor(x))
    noisy, chosen = alike.corrupt(ops.convert_to_tensor(filled))
    np.testing.assert_array_equal(array(corrupted), np.where(missing, filled, array(noisy)))
    assert (array(corrupted) != filled).any()
    if selected is not None:
        chosen = ops.convert_to_numpy(chosen)
        np.testing.assert_array_equal(ops.convert_to_numpy(selected), chosen & ~missing)


@noises
def test_a_column_that_is_never_there_teaches_nothing(x, make):
    x[:, 1] = np.nan
    stack = new_stack(corruption=make(), fill_value=0.0)
    kernel, _, visible_bias = weights(stack.autoencoders[0])
    pretrain(stack, x, rate=0.1, epochs=3, batch_size=4)
    new_kernel, _, new_bias = weights(stack.autoencoders[0])
    # Neither through the encoder, that sees 0, nor through the decoder.
    np.testing.assert_array_equal(new_kernel[1], kernel[1])
    assert new_bias[1] == visible_bias[1]
    assert (new_kernel[[0, 2, 3, 4]] != kernel[[0, 2, 3, 4]]).all()


def test_a_row_that_is_never_there_teaches_nothing(x):
    def kernel(x):
        stack = new_stack(fill_value=0.5)
        # A sum over rows in place of their mean.
        pretrain(stack, x, rate=0.01 * len(x), batch_size=len(x), shuffle=False)
        return weights(stack.autoencoders[0])[0]

    there = ~np.isnan(x).all(axis=1)
    assert there.sum() == ROWS - 1
    np.testing.assert_allclose(kernel(x), kernel(x[there]), rtol=1e-5)


def test_where_nothing_is_missing_nothing_changes():
    x = whole_table()
    losses = [pretrain(new_stack(UNITS, 0.3, fill_value=m), x, 0.1, 2, 4)[0] for m in (0.5, None)]
    np.testing.assert_allclose(losses[0]["loss"], losses[1]["loss"], rtol=1e-5)


def test_emphasis_counts_selected_and_observed_cells(x):
    loss = sda.losses.SquaredError(alpha=2.0, beta=0.5, missing_values=True)
    z = np.ones_like(x)
    selected = np.arange(x.size).reshape(x.shape) % 3 == 0
    values = np.where(selected, 2.0, 0.5) * (x - 1) ** 2
    np.testing.assert_allclose(
        array(loss.call(x, z, ops.convert_to_tensor(selected))),
        np.nansum(values, axis=1),
        rtol=1e-6,
    )


def test_emphasised_pretraining_with_missing_values(x):
    stack = new_stack(corruption=sda.SwapNoise(0.5, seed=4), fill_value=0.0)
    dA = stack.autoencoders[0]
    noisy, selected = dA.corrupt(ops.convert_to_tensor(x), dA.corruption.copy(dA.corruption.seed))
    z = array(dA.decode(dA.encode(noisy)))
    selected = ops.convert_to_numpy(selected)
    expected = np.nansum(np.where(selected, 1.0, 0.25) * (x - z) ** 2) / ROWS
    (history,) = pretrain(stack, x, loss=sda.losses.SquaredError(1.0, 0.25), shuffle=False)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_the_scores_of_validation_count_what_is_observed(x):
    stack = new_stack(corruption=0.5, fill_value=0.5)
    (history,) = pretrain(stack, x, rate=0.1, validation_data=x[:7])
    z = stack.reconstruct(x[:7])
    expected = np.nansum((x[:7] - z) ** 2) / 7
    assert history["val_clean_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(history["val_loss"][0])


def test_only_the_first_layer_knows_of_missing_values(x):
    stack = new_stack([4, UNITS], fill_value=0.5)
    assert [dA.fill_value for dA in stack.autoencoders] == [0.5, None]
    pretrainer = sda.GreedyPretrainer(stack)
    assert [loss.missing_values for loss in pretrainer.loss] == [True, False]
    histories = pretrain(stack, x, 0.1, epochs=2, batch_size=4)
    assert all(np.isfinite(history["loss"]).all() for history in histories)
    assert np.isfinite(stack.encode(x, layer=0)).all()


# Models that are trained on


HEADS = {
    "classifier": lambda stack: stack.classifier(3),
    "classifier, dropout, copy": lambda stack: stack.classifier(3, dropout=0.3, copy=True),
    "multilabel": lambda stack: stack.multilabel_classifier(2),
    "regressor": lambda stack: stack.regressor(1),
    "unrolled": lambda stack: stack.unrolled(),
}


@pytest.mark.parametrize("head", HEADS)
def test_models_of_the_stack_see_the_fill(x, head):
    fill = 0.25 if head == "unrolled" else FILLS["a fill each"]
    stack = new_stack([4, UNITS], fill_value=fill)
    filled = np.where(np.isnan(x), np.array(fill, "float32"), x)
    np.testing.assert_allclose(array(stack(x)), array(stack(filled)), rtol=1e-6)
    model = HEADS[head](stack)
    if head != "unrolled":
        model.layers[-1].kernel.assign(np.ones(model.layers[-1].kernel.shape))
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(predicted, array(model(filled)), rtol=1e-5)
    assert np.std(predicted) > 0
    if head == "unrolled":
        np.testing.assert_allclose(predicted, stack.reconstruct(x), rtol=1e-5)


def test_fine_tuning_with_missing_values(x):
    y = np.arange(ROWS) % 3
    states = []
    for data in (x, np.where(np.isnan(x), np.float32(0.25), x)):
        classifier = new_stack([4, UNITS]).classifier(3)
        classifier.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        history = sda.fit(
            classifier,
            data,
            y,
            batch_size=4,
            epochs=2,
            verbose=0,
            seed=1,
            validation_data=(data, y),
        ).history
        assert np.isfinite(history["val_loss"]).all()
        states.append(classifier.get_weights())
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_the_unrolled_autoencoder_is_fine_tuned_on_what_is_observed(x):
    stack = new_stack(fill_value=0.0)
    unrolled = stack.unrolled()
    expected = np.nansum((x - stack.reconstruct(x)) ** 2) / ROWS
    unrolled.compile(keras.optimizers.SGD(0.01), sda.losses.SquaredError(missing_values=True))
    history = sda.fit(unrolled, x, x, batch_size=ROWS, epochs=2, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
def test_a_classifier_fills_in_where_there_is_no_sda(x, tmp_path):
    # A fill for each feature takes one layer more than one for all.
    classifier = new_stack(fill_value=FILLS["a fill each"]).classifier(3)
    classifier.layers[-1].kernel.assign(np.ones((UNITS, 3)) * [0.0, 1.0, 2.0])
    classifier.save(tmp_path / "classifier.keras")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SDA, str(tmp_path)],
        cwd=tmp_path, timeout=120, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predicted = np.load(tmp_path / "predictions.npy")
    np.testing.assert_allclose(predicted, classifier.predict(x, verbose=0), atol=1e-6)


def test_saved_and_loaded_with_every_check(x, tmp_path):
    fill = FILLS["a fill each"]
    stack = new_stack([4, UNITS], decoder=sda.losses.ColumnActivation(COLUMNS), fill_value=fill)
    for model in (stack, stack.classifier(3), stack.unrolled()):
        path = tmp_path / f"{model.name}.keras"
        model.save(path)
        np.testing.assert_array_equal(array(sda.load_model(path)(x)), array(model(x)))
    loaded = sda.load_model(tmp_path / f"{stack.name}.keras")
    assert loaded.fill_value == fill
    np.testing.assert_array_equal(loaded.reconstruct(x), stack.reconstruct(x))


def test_a_dA_of_ones_own_takes_missing_values(x):
    dA = sda.DenoisingAutoencoder(UNITS, sda.MaskingNoise(1.0), "tanh", "linear", fill_value=0.5)
    inputs = keras.Input((VISIBLE,))
    model = keras.Model(inputs, dA(inputs))
    filled = np.where(np.isnan(x), 0.5, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), array(model(filled)), rtol=1e-5)
    # All is masked but for what is missing, where 0.5 stays.
    seen = np.where(np.isnan(x), 0.5, 0).astype("float32")
    np.testing.assert_allclose(array(dA(x, training=True)), array(dA(seen)), rtol=1e-6)


def test_pytorch_takes_no_shortcut_that_knows_nothing_of_it():
    def chain(fill_value):
        stack = new_stack(fill_value=fill_value)
        model = Denoising(stack.autoencoders[0], sda.losses.SquaredError())
        model.compile("sgd")
        classifier = stack.classifier(3)
        classifier.compile("sgd", "sparse_categorical_crossentropy")
        return find_chain(model), find_chain(classifier)

    assert chain(0.0) == (None, None)
    assert None not in chain(None)


# What is asked of a stack


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_impute_keeps_what_is_there(x, dtype):
    stack = new_stack([4, UNITS])
    x = x.astype(dtype) + np.finfo(dtype).eps
    before, missing = x.copy(), np.isnan(x)
    once, twice = stack.impute(x), stack.impute(x, iterations=2)
    assert once.dtype == x.dtype
    for filled in (once, twice):
        np.testing.assert_array_equal(filled[~missing], x[~missing])
    np.testing.assert_allclose(once[missing], stack.reconstruct(x)[missing], rtol=1e-6)
    np.testing.assert_allclose(twice[missing], stack.reconstruct(once)[missing], rtol=1e-6)
    assert (once[missing] != twice[missing]).all()
    bottom = stack.impute(x, layer=0)
    np.testing.assert_allclose(bottom[missing], stack.reconstruct(x, 0)[missing], rtol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_impute_gives_probabilities_of_a_category(x):
    filled = new_stack(decoder=sda.losses.ColumnActivation(COLUMNS)).impute(x)
    np.testing.assert_allclose(filled[:, 3:].sum(axis=1), 1, rtol=1e-6)
    assert 0 < filled[2, 2] < 1


ERRORS = {
    "squared error": ("linear", squared, None),
    "cross-entropy": (
        "sigmoid",
        lambda x, a: np.log1p(np.exp(a)) - x * a,
        sda.losses.CrossEntropy(),
    ),
    "columns": (sda.losses.ColumnActivation(COLUMNS), by_column, None),
    "squared, of columns": (sda.losses.ColumnActivation(COLUMNS), squared, "squared_error"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_reconstruction_errors_are_those_of_the_formula(x, name):
    decoder, formula, loss = ERRORS[name]
    stack = new_stack([4, UNITS], decoder=decoder)
    dA = stack.autoencoders[0]
    below = array(stack.autoencoders[1].decode(stack.encode(x)))
    logits = loss != "squared_error"
    a = array(dA.decode(below, logits=logits)).astype("float64")
    expected = np.where(np.isnan(x), np.nan, formula(np.nan_to_num(x.astype("float64")), a))
    rows = stack.reconstruction_error(x, loss=loss)
    assert rows.shape == (ROWS,)
    np.testing.assert_allclose(rows, np.nansum(expected, axis=1), rtol=1e-4)
    if name == "columns":  # the two features of the category are one column
        expected = np.column_stack([expected[:, :3], expected[:, 3:].sum(axis=1)])
    cells = stack.reconstruction_error(x, per_column=True, loss=loss, batch_size=5)
    np.testing.assert_allclose(cells, expected, rtol=1e-4, atol=1e-6)


def test_the_mean_of_the_errors_of_one_layer_is_its_clean_loss(x):
    stack = new_stack(decoder=sda.losses.ColumnActivation(COLUMNS))
    (history,) = pretrain(stack, x, rate=0.1, validation_data=x)
    mean = stack.reconstruction_error(x).mean()
    assert mean == pytest.approx(history["val_clean_loss"][0], rel=1e-5)


# What is refused


def test_nan_is_an_error_unless_asked_for(x):
    plain = new_stack(fill_value=None)
    classifier = plain.classifier(3)
    classifier.compile("sgd", "sparse_categorical_crossentropy")
    before = weights(plain.autoencoders[0])
    y = np.zeros(ROWS, int)
    for function in (
        lambda: pretrain(plain, x),
        lambda: plain.reconstruction_error(x),
        lambda: sda.fit(classifier, x, y, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"Expected `x` to hold finite values\. Received: nan"):
            function()
    with pytest.raises(ValueError, match=r"Expected a stack that was made with `fill_value`.*None"):
        plain.impute(x)
    for old, new in zip(before, weights(plain.autoencoders[0]), strict=True):
        np.testing.assert_array_equal(old, new)


def test_infinity_is_an_error_all_the_same(x):
    x[8, 0] = np.inf
    stack = new_stack()
    classifier = stack.classifier(3)
    classifier.compile("sgd", "sparse_categorical_crossentropy")
    for function in (
        lambda: pretrain(stack, x),
        lambda: stack.impute(x),
        lambda: stack.reconstruction_error(x),
        lambda: sda.fit(classifier, x, np.zeros(ROWS, int), verbose=0),
    ):
        with pytest.raises(ValueError, match=r"Expected `x` to hold finite values\. Received: inf"):
            function()


def test_targets_are_missing_only_under_a_loss_that_knows(x):
    regressor = new_stack().regressor(1)
    y = np.where(np.arange(ROWS) == 2, np.nan, 1.0)[:, None]
    regressor.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Expected `y` to hold finite values\. Received: nan"):
        sda.fit(regressor, x, y, verbose=0)
    regressor.compile("sgd", sda.losses.SquaredError(missing_values=True))
    history = sda.fit(regressor, x, y, batch_size=ROWS, verbose=0).history
    assert history["loss"][0] == pytest.approx((ROWS - 1) / ROWS, rel=1e-5)  # it predicts 0


def test_values_outside_the_unit_interval_are_found_beside_missing_ones(x):
    stack = new_stack(decoder="sigmoid")
    with pytest.raises(ValueError, match=r"Expected `x` to lie in \[0, 1\].*values from -\d"):
        pretrain(stack, x)
    columns = new_stack(decoder=sda.losses.ColumnActivation(COLUMNS))
    x[7, 2] = 3.0
    with pytest.raises(ValueError, match=r"Expected `x` to lie in \[0, 1\].*values from 0 to 3"):
        pretrain(columns, x)


def test_a_loss_that_cannot_leave_features_out_is_refused():
    for loss in ("mse", keras.losses.Huber()):
        with pytest.raises(ValueError, match=r"Expected a loss of sda\.losses.*layer 0 with loss="):
            sda.GreedyPretrainer(new_stack(), loss=loss)
    with pytest.raises(ValueError, match=r"Expected `loss` to be a loss of sda\.losses"):
        new_stack().reconstruction_error(whole_table(), loss="mse")


@pytest.mark.parametrize("fill_value", ["0", float("nan"), float("inf"), True, [0.0, None]])
def test_bad_fills(fill_value):
    with pytest.raises(ValueError, match=r"Expected `fill_value` to be a number, finite"):
        sda.DenoisingAutoencoder(3, fill_value=fill_value)


def test_a_fill_for_each_feature():
    dA = sda.DenoisingAutoencoder(3, fill_value=np.zeros(4))
    assert dA.get_config()["fill_value"] == [0.0] * 4
    with pytest.raises(ValueError, match=r"Expected `fill_value` to be a number or a list of 5"):
        dA.build((None, VISIBLE))


def test_a_dA_of_a_version_that_said_it_otherwise_is_refused():
    config = sda.DenoisingAutoencoder(3, fill_value=0.5).get_config()
    config["missing"] = config.pop("fill_value")
    with pytest.raises(ValueError, match=r"Expected a dA that sda 0\.2 or later saved"):
        sda.DenoisingAutoencoder.from_config(config)
