"""What is said of layers, against NumPy in float64, closed forms and scikit-learn."""

import keras
import numpy as np
import pytest

import sda
from sda import diagnostics


@pytest.fixture
def rows():
    return np.random.default_rng(1).random((60, 12)).astype("float32")


@pytest.fixture
def stack():
    stack = sda.StackedDenoisingAutoencoder([7, 4], corruption=[0.4, 0.2], seed=2)
    stack.build((None, 12))
    return stack


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def cross_entropy(x, p):
    return float(np.mean(np.sum(-x * np.log(p) - (1 - x) * np.log(1 - p), axis=1)))


def weights(dA):
    values = (dA.encoder.kernel, dA.encoder.bias, dA.visible_bias)
    return [keras.ops.convert_to_numpy(v).astype("float64") for v in values]


# Reconstruction


def test_losses_are_those_of_the_equations(stack, rows):
    dA = stack.autoencoders[0]
    noise = dA.corruption.copy(5)
    corrupted = keras.ops.convert_to_numpy(noise(rows, training=True)).astype("float64")
    kernel, bias, visible_bias = weights(dA)
    x = rows.astype("float64")

    def rebuild(x):
        return sigmoid(sigmoid(x @ kernel + bias) @ kernel.T + visible_bias)

    found = diagnostics.reconstruction(dA, rows, sda.losses.CrossEntropy(), seed=5)
    identity = np.clip(corrupted, 1e-7, 1 - 1e-7)
    expected = {
        "loss": cross_entropy(x, rebuild(corrupted)),
        "clean_loss": cross_entropy(x, rebuild(x)),
        "identity_loss": cross_entropy(x, identity),
        "error": float(np.mean(np.sum((x - rebuild(corrupted)) ** 2, axis=1))),
        "identity_error": float(np.mean(np.sum((x - corrupted) ** 2, axis=1))),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < found["clean_loss"] < found["identity_loss"]


def test_masking_costs_the_identity_its_share_of_the_squares():
    x = np.random.default_rng(1).random((4000, 5)).astype("float32")
    dA = sda.DenoisingAutoencoder(3, corruption=0.25, decoder_activation="linear", seed=1)
    dA.build((None, 5))
    found = diagnostics.reconstruction(dA, x, sda.losses.SquaredError())
    # A masked entry costs its square: a quarter of Σ x².
    expected = 0.25 * np.sum(x.astype("float64") ** 2) / len(x)
    assert found["identity_loss"] == pytest.approx(found["identity_error"], rel=1e-6)
    assert found["identity_error"] == pytest.approx(expected, rel=0.05)


def test_a_loss_of_keras_is_averaged_over_all_rows(rows):
    x = np.tile(rows, (20, 1))  # more than a piece
    dA = sda.DenoisingAutoencoder(3, corruption=0.0, decoder_activation="linear", seed=1)
    dA.build((None, 12))
    found = diagnostics.reconstruction(dA, x, keras.losses.get("mse"))
    kernel, bias, visible_bias = weights(dA)
    z = sigmoid(x.astype("float64") @ kernel + bias) @ kernel.T + visible_bias
    assert found["loss"] == pytest.approx(np.mean((z - x) ** 2), rel=1e-5)


def test_emphasis_counts_for_the_identity_too(rows):
    dA = sda.DenoisingAutoencoder(3, corruption=0.5, decoder_activation="linear", seed=1)
    dA.build((None, 12))
    plain = diagnostics.reconstruction(dA, rows, sda.losses.SquaredError())
    doubled = diagnostics.reconstruction(dA, rows, sda.losses.SquaredError(alpha=2.0))
    # The identity errs on corrupted features only.
    assert doubled["identity_loss"] == pytest.approx(2 * plain["identity_loss"], rel=1e-6)


def test_noise_is_drawn_from_the_seed_and_leaves_the_stack_alone(stack, rows):
    before = stack.get_weights()
    loss = sda.losses.CrossEntropy()
    first, again, other = (
        diagnostics.reconstruction(stack.autoencoders[0], rows, loss, seed)["loss"]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    for one, two in zip(before, stack.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_identity_of_a_table_has_the_units_of_each_column(rate):
    rng = np.random.default_rng(2)
    x = np.column_stack(
        [30 * rng.normal(size=50), rng.integers(2, size=50), np.eye(3)[rng.integers(3, size=50)]]
    ).astype("float32")
    kinds = ["numeric", "binary", 3]
    noise = sda.SwapNoise(rate, groups=[1, 1, 3], seed=4)
    dA = sda.DenoisingAutoencoder(3, noise, decoder_activation=sda.losses.ColumnActivation(kinds))
    dA.build((None, 5))
    noisy = keras.ops.convert_to_numpy(dA.corruption.copy(0)(x, training=True)).astype("float64")
    assert (noisy != x).any() == (rate > 0)
    found = diagnostics.reconstruction(dA, x, sda.losses.ColumnLoss(kinds))
    p = np.clip(noisy[:, 1:], 1e-7, 1 - 1e-7)
    cross = -x[:, 1] * np.log(p[:, 0]) - (1 - x[:, 1]) * np.log(1 - p[:, 0])
    group = -(x[:, 2:] * np.log(p[:, 1:])).sum(axis=1)
    expected = np.mean((x[:, 0] - noisy[:, 0]) ** 2 + cross + group)
    assert found["identity_loss"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_missing_values_count_nowhere():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 6)).astype("float32")
    x[rng.random(x.shape) < 0.2] = np.nan
    known = ~np.isnan(x)
    noise = sda.SwapNoise(0.5)
    stack = sda.StackedDenoisingAutoencoder(
        [4, 3], [noise, 0.1], decoder_activation=["linear", None], fill_value=0.5, seed=1
    )
    stack.build((None, 6))
    dA = stack.autoencoders[0]
    first = diagnostics.diagnose(stack, x, y=np.arange(40) // 2 % 2, seed=4)[1]
    filled = np.where(known, x, 0.5)
    noisy = keras.ops.convert_to_numpy(dA.corruption.copy(4)(filled, training=True))
    noisy = np.where(known, noisy, 0.5).astype("float64")
    kernel, bias, visible_bias = weights(dA)

    def squares(seen):
        z = sigmoid(seen @ kernel + bias) @ kernel.T + visible_bias
        return np.sum((z - filled) ** 2, where=known) / 40

    assert (noisy != filled).any()
    identity = np.sum((noisy - filled) ** 2, where=known) / 40
    for name, value in {
        "loss": squares(noisy),
        "clean_loss": squares(filled.astype("float64")),
        "error": squares(noisy),
        "identity_loss": identity,
        "identity_error": identity,
    }.items():
        assert getattr(first, name) == pytest.approx(value, rel=1e-5), name
    before = diagnostics.diagnose(stack, x)[0]
    assert before.effective_rank == pytest.approx(diagnostics.effective_rank(filled))
    _, shown, rebuilt = diagnostics.denoised(stack, x, 0, seed=4)
    np.testing.assert_allclose(shown, noisy, rtol=1e-6)
    assert np.isfinite(rebuilt).all()


def test_what_is_not_finite_is_refused(stack, rows):
    codes = rows.copy()
    codes[3, 2] = np.nan
    said = r"^Expected `{}` to hold finite values\. Received: nan in row 3"
    dA, loss = stack.autoencoders[0], sda.losses.CrossEntropy()
    for name, function in {
        "x": lambda: diagnostics.diagnose(stack, codes),
        "train": lambda: diagnostics.diagnose(stack, rows, np.arange(60), (codes, np.arange(60))),
        "x ": lambda: diagnostics.reconstruction(dA, codes, loss),
        "codes": lambda: diagnostics.effective_rank(codes),
        "codes ": lambda: diagnostics.idle_units(codes, keras.activations.sigmoid),
    }.items():
        with pytest.raises(ValueError, match=said.format(name.strip())):
            function()
    dA = sda.DenoisingAutoencoder(3, fill_value=0.0)
    dA.build((None, 12))
    with pytest.raises(ValueError, match=r"^Expected `loss` to be a loss of sda\.losses"):
        diagnostics.reconstruction(dA, codes, keras.losses.get("mse"))


# Units


def test_dead_and_saturated_units():
    rows = np.linspace(0, 1, 100)
    codes = np.stack(
        [
            rows,  # lively
            np.full(100, 0.3),  # dead
            0.5 + 0.004 * rows,  # dead: spans less than 1 %
            0.5 + 0.02 * rows,  # hardly alive
            np.round(rows),  # saturated: always 0 or 1
            np.where(rows < 0.93, 0.99, 0.5),  # 93 % are not enough
            np.where(rows < 0.97, 0.99, 0.5),  # 97 % are
            np.ones(100),  # dead, and so not counted as saturated
        ],
        axis=1,
    )
    assert diagnostics.idle_units(codes, keras.activations.sigmoid) == (3, 2)
    assert diagnostics.idle_units(2 * codes - 1, keras.activations.tanh) == (3, 2)


def test_units_without_ends_do_not_saturate():
    codes = np.array([[0.0, 0.0, 5.0], [0.0, 0.04, 9.0], [0.0, 0.0, 1.0]])
    # Spans 0, 0.04 and 8; 1 % of 8 is 0.08.
    assert diagnostics.idle_units(codes, keras.activations.relu) == (2, None)
    assert diagnostics.idle_units(np.zeros((3, 4)), keras.activations.relu) == (4, None)


# Effective rank


@pytest.mark.parametrize("k", [1, 2, 5])
def test_effective_rank_of_k_equal_directions_is_k(k):
    generator = np.random.default_rng(3)
    left = np.linalg.qr(np.column_stack([np.ones(40), generator.normal(size=(40, k))]))[0][:, 1:]
    right = np.linalg.qr(generator.normal(size=(9, 9)))[0][:, :k]
    codes = 3 * left @ right.T + generator.normal(size=9)
    assert diagnostics.effective_rank(codes) == pytest.approx(k, rel=1e-9)


def test_effective_rank_is_the_entropy_of_the_singular_values():
    codes = np.random.default_rng(4).normal(size=(50, 6)) * [5, 3, 2, 1, 0.5, 0.1]
    # Singular values by way of the covariance's eigenvalues.
    values = np.sqrt(np.linalg.eigvalsh(np.cov(codes.T)))
    p = values / values.sum()
    assert diagnostics.effective_rank(codes) == pytest.approx(np.exp(-np.sum(p * np.log(p))))


def test_effective_rank_of_a_constant_is_0():
    assert diagnostics.effective_rank(np.full((20, 4), 0.7, "float32")) == 0


# The whole


def test_a_stack_is_diagnosed_layer_by_layer(stack, rows):
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression

    y = (rows[:, 0] > 0.5).astype(int)
    reports = diagnostics.diagnose(stack, rows, y, seed=7)
    assert [(r.layer, r.units) for r in reports] == [(0, 12), (1, 7), (2, 4)]
    codes = stack.encode(rows, 0)
    second = diagnostics.reconstruction(
        stack.autoencoders[1], codes, sda.losses.CrossEntropy(), seed=7
    )
    assert {name: getattr(reports[2], name) for name in second} == second
    assert reports[1].effective_rank == diagnostics.effective_rank(codes)
    probe = LogisticRegression(C=0.1, max_iter=500).fit(codes[::2], y[::2])
    assert reports[1].probe_accuracy == probe.score(codes[1::2], y[1::2])
    train = rows[:20], y[:20]
    probe.fit(rows[:20], y[:20])
    reports = diagnostics.diagnose(stack, rows[20:], y[20:], train)
    assert reports[0].probe_accuracy == probe.score(rows[20:], y[20:])
    assert reports[0].loss is None
    assert reports[0].dead is None


def test_without_labels_there_is_no_probe(stack, rows):
    assert {r.probe_accuracy for r in diagnostics.diagnose(stack, rows)} == {None}
    assert {r.probe_accuracy for r in diagnostics.diagnose(stack, rows, np.ones(60))} == {None}


def test_input_weights_are_products_of_kernels(stack):
    first, second = (weights(dA)[0] for dA in stack.autoencoders)
    np.testing.assert_allclose(diagnostics.input_weights(stack, 1), first, rtol=1e-6)
    np.testing.assert_allclose(diagnostics.input_weights(stack, 2), first @ second, rtol=1e-4)


def test_denoised_rows_are_rebuilt_from_the_corrupted(stack, rows):
    clean, corrupted, rebuilt = diagnostics.denoised(stack, rows[:5], 0, seed=3)
    np.testing.assert_array_equal(clean, rows[:5])
    changed = corrupted != clean
    assert changed.any()
    assert np.all(corrupted[changed] == 0)
    np.testing.assert_allclose(rebuilt, stack.reconstruct(corrupted, 0), rtol=1e-6)


# Classifiers


def test_classification_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(5)
    y, predicted = generator.integers(3, size=80), generator.integers(3, size=80)
    found = diagnostics.classification(y, predicted, 4)
    expected = metrics.confusion_matrix(y, predicted, labels=range(4))
    assert found["confusion"] == expected.tolist()
    assert found["error"] == pytest.approx(1 - metrics.accuracy_score(y, predicted))


@pytest.mark.parametrize("wrong", [0, 3, 20])
def test_the_interval_is_wilsons(wrong):
    stats = pytest.importorskip("scipy.stats")
    y = np.zeros(20, int)
    found = diagnostics.classification(y, y + (np.arange(20) < wrong), 2)
    expected = stats.binomtest(wrong, 20).proportion_ci(method="wilson")
    assert found["interval"] == pytest.approx([expected.low, expected.high], abs=1e-6)


def test_predictions_in_pieces_are_those_of_the_model(stack):
    x = np.random.default_rng(6).integers(0, 256, size=(2100, 12)).astype("uint8")
    model = stack.classifier(3)
    model.layers[-1].set_weights([np.random.default_rng(1).normal(size=(4, 3)), np.zeros(3)])
    expected = model.predict(x.astype("float32"), verbose=0)
    np.testing.assert_allclose(diagnostics.predict(model, x), expected, rtol=1e-5)
