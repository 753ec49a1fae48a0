import json

import keras
import numpy as np
import pytest
from keras import ops

import sda
from sda.layers import noises

RNG = np.random.default_rng(0)
# Entry (i, j) is i + 1000 j + 1: never 0, and it says where it comes from.
X = (np.arange(100)[:, None] + 1000 * np.arange(200) + 1).astype("float32")
SELECTIVE = {
    "masking": sda.MaskingNoise,
    "salt and pepper": lambda rate, **kwargs: sda.SaltAndPepperNoise(rate, -7.0, -3.0, **kwargs),
    "swap": sda.SwapNoise,
}
NOISES = {
    **{name: lambda seed, n=noise: n(0.5, seed=seed) for name, noise in SELECTIVE.items()},
    "gaussian": lambda seed: sda.GaussianNoise(1.0, seed=seed),
    "composed": lambda seed: sda.ComposedNoise(
        [sda.MaskingNoise(0.5), sda.GaussianNoise(1.0)], seed=seed
    ),
}
selective = pytest.mark.parametrize("noise", SELECTIVE.values(), ids=SELECTIVE)
all_noises = pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)


def corrupt(noise, x):
    """Return the corrupted input and the selection as NumPy arrays."""
    values, selected = noise.corrupt(ops.convert_to_tensor(x))
    selected = None if selected is None else ops.convert_to_numpy(selected)
    return ops.convert_to_numpy(values), selected


def noisy(noise, x):
    return ops.convert_to_numpy(ops.cast(noise(x, training=True), "float32"))


def check_rate(hits, rate):
    """Check a count of independent hits: five standard deviations of the binomial."""
    hits = np.asarray(hits)
    spread = np.sqrt(hits.size * rate * (1 - rate))
    assert abs(hits.sum() - hits.size * rate) < 5 * spread


@selective
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_entries_change_at_the_rate_and_survivors_keep_their_value(noise, rate):
    out = noisy(noise(rate, seed=1), X)
    changed = out != X
    check_rate(changed, rate)
    # Each row and each column has its own share: no entry is safer than another.
    for axis in (0, 1):
        n = X.shape[axis]
        share = changed.sum(axis=axis)
        assert (abs(share - n * rate) < 6 * np.sqrt(n * rate * (1 - rate))).all()
    np.testing.assert_array_equal(out[~changed], X[~changed])
    assert out.dtype == X.dtype


def test_masking_sets_zero():
    out = noisy(sda.MaskingNoise(0.3, seed=1), X)
    assert set(out[out != X]) == {0.0}


def test_salt_and_pepper_are_a_fair_coin_of_the_chosen_values():
    out = noisy(sda.SaltAndPepperNoise(0.3, minimum=-7.0, maximum=-3.0, seed=1), X)
    changed = out[out != X]
    assert set(changed) == {-7.0, -3.0}
    check_rate(changed == -7.0, 0.5)


def test_salt_and_pepper_are_0_and_1_by_default():
    assert set(np.unique(noisy(sda.SaltAndPepperNoise(1.0, seed=1), X))) == {0.0, 1.0}


@pytest.mark.parametrize("stddev", [0.1, 4.0])
def test_gaussian_noise_has_mean_0_and_the_stddev(stddev):
    x = np.full((100, 200), 3.0, "float32")
    noise = noisy(sda.GaussianNoise(stddev, seed=1), x) - x
    n = noise.size
    assert abs(noise.mean()) < 5 * stddev / np.sqrt(n)
    assert abs(noise.var() / stddev**2 - 1) < 5 * np.sqrt(2 / n)
    # A bell, not another shape: the shares within one and two standard deviations.
    check_rate(abs(noise) < stddev, 0.682689)
    check_rate(abs(noise) < 2 * stddev, 0.954500)


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_swap_takes_the_same_column_of_another_row_uniformly(rate):
    rows, columns = 5, 20_000
    x = (np.arange(rows)[:, None] + 5 * np.arange(columns)).astype("float32")
    out, selected = corrupt(sda.SwapNoise(rate, seed=1), x)
    row, column = out.astype(int) % 5, out.astype(int) // 5
    np.testing.assert_array_equal(column, np.broadcast_to(np.arange(columns), x.shape))
    np.testing.assert_array_equal(row != np.arange(rows)[:, None], selected)
    for i in range(rows):
        drawn = row[i, selected[i]]
        for other in set(range(rows)) - {i}:
            check_rate(drawn == other, 1 / 4)


def test_swap_draws_the_row_for_each_entry():
    out = noisy(sda.SwapNoise(1.0, seed=1), X)
    rows = (out - 1) % 1000
    assert min(len(set(row)) for row in rows) > 50


def test_swap_of_one_row_leaves_it():
    np.testing.assert_array_equal(noisy(sda.SwapNoise(1.0, seed=1), X[:1]), X[:1])


def test_swap_of_two_rows_exchanges_them():
    np.testing.assert_array_equal(noisy(sda.SwapNoise(1.0, seed=1), X[:2]), X[1::-1])


def test_swap_on_rank_3_keeps_the_place_within_the_example():
    x = (np.arange(4)[:, None, None] + 4 * np.arange(3000).reshape(500, 6)).astype("float32")
    out, selected = corrupt(sda.SwapNoise(0.5, seed=1), x)
    np.testing.assert_array_equal(out // 4, x // 4)
    np.testing.assert_array_equal(out != x, selected)
    check_rate(selected, 0.5)


@selective
def test_each_column_has_its_rate(noise):
    rates = [0.0, 0.1, 0.5, 1.0]
    x = X.reshape(-1, 4)  # where every value occurs once
    out, selected = corrupt(noise(rates, seed=1), x)
    np.testing.assert_array_equal(selected, out != x)
    assert not selected[:, 0].any()
    assert selected[:, 3].all()
    for column in (1, 2):
        check_rate(selected[:, column], rates[column])
    # One rate for all, said for each, is the same noise.
    one, many = (corrupt(noise(r, seed=1), x) for r in (0.3, [0.3] * 4))
    np.testing.assert_array_equal(one[0], many[0])


@pytest.mark.parametrize("rate", [0.4, [0.0, 0.4, 1.0]])
@selective
def test_the_features_of_a_group_are_selected_together(noise, rate):
    x = X.reshape(-1, 5)
    out, selected = corrupt(noise(rate, seed=1, groups=[1, 3, 1]), x)
    np.testing.assert_array_equal(selected, out != x)
    assert (selected[:, 1:4] == selected[:, [1]]).all()
    check_rate(selected[:, 1], 0.4)
    if rate == 0.4:
        check_rate(selected[:, 0] & selected[:, 1], 0.4**2)  # groups are apart
    else:
        assert not selected[:, 0].any()
        assert selected[:, 4].all()


def test_swap_takes_a_group_from_one_row():
    category = RNG.integers(4, size=1000)
    x = np.hstack([np.arange(1000)[:, None], np.eye(4)[category], category[:, None]])
    out, _ = corrupt(sda.SwapNoise(0.5, seed=1, groups=[1, 4, 1]), x.astype("float32"))
    np.testing.assert_array_equal(out[:, 1:5].sum(axis=1), 1)  # one-hot still
    assert (out[:, 1:5].argmax(axis=1) != category).any()
    rows = (np.arange(50)[:, None] + 50 * np.arange(6)).astype("float32")
    out, _ = corrupt(sda.SwapNoise(1.0, seed=1, groups=[3, 3]), rows)
    source = out % 50
    assert (source[:, :3] == source[:, [0]]).all()
    assert (source[:, 3:] == source[:, [3]]).all()
    assert (source[:, 0] != source[:, 3]).any()


@selective
def test_rates_and_groups_are_kept(noise):
    original = noise([0.1, 0.2], seed=1, groups=[1, 3])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(original)))
    again = keras.saving.deserialize_keras_object(config)
    assert (again.rate, again.groups) == ([0.1, 0.2], [1, 3])
    assert again.get_config() == original.get_config()
    assert noise(np.array([0.1, 0.2])).rate == [0.1, 0.2]
    assert original.copy(5).rate == [0.1, 0.2]


@selective
def test_rates_and_groups_of_another_length(noise):
    for make, message in (
        (
            lambda: noise([0.1, 0.2]).corrupt(ops.ones((3, 4))),
            r"`rate` .* list of 4, one a feature",
        ),
        (lambda: noise([0.1, 0.2]).build((None, 3)), r"`rate` .* list of 3, one a feature"),
        (
            lambda: noise(0.1, groups=[1, 2]).build((None, 4)),
            r"`groups` to add up to the 4 features",
        ),
        (lambda: noise([0.1] * 3, groups=[1, 2]), r"`rate` .* one a column, 2 of them"),
        (lambda: sda.DenoisingAutoencoder(2, noise([0.1] * 3)).build((None, 4)), r"list of 4"),
    ):
        with pytest.raises(ValueError, match=rf"Expected {message}|Expected .*{message}"):
            make()


@pytest.mark.parametrize("groups", [[], 3, [0], [1.5], [True], "12"])
def test_bad_groups(groups):
    with pytest.raises(ValueError, match=r"Expected `groups` to be .*Received: groups="):
        sda.SwapNoise(0.1, groups=groups)


@selective
def test_rate_0_changes_nothing_and_selects_nothing(noise):
    out, selected = corrupt(noise(0, seed=1), X)
    np.testing.assert_array_equal(out, X)
    assert selected.dtype == bool
    assert selected.shape == X.shape
    assert not selected.any()


@selective
def test_rate_1_changes_everything(noise):
    out, selected = corrupt(noise(1, seed=1), X)
    assert (out != X).all()
    assert selected.all()


def test_stddev_0_changes_nothing():
    np.testing.assert_array_equal(noisy(sda.GaussianNoise(0, seed=1), X), X)


@selective
def test_selected_is_where_the_noise_acted_even_if_the_values_coincide(noise):
    out, selected = corrupt(noise(0.3, seed=1), X)
    np.testing.assert_array_equal(selected, out != X)
    # Zeros for the mask, one value for the swap, pepper for salt and pepper.
    for constant in (0.0, -7.0):
        _, again = corrupt(noise(0.3, seed=1), np.full_like(X, constant))
        np.testing.assert_array_equal(again, selected)


def test_gaussian_noise_selects_nothing_in_particular():
    noise = sda.GaussianNoise(1.0, seed=1)
    assert corrupt(noise, X)[1] is None
    assert not noise.selects


def test_composed_noise_applies_each_in_turn_and_selects_the_union():
    def parts():
        return [
            sda.MaskingNoise(0.3, seed=1),
            sda.GaussianNoise(0.1, seed=2),
            sda.SaltAndPepperNoise(0.2, -7.0, -3.0, seed=3),
        ]

    composed = sda.ComposedNoise(parts())
    out, selected = corrupt(composed, X)
    expected, union = X, np.zeros(X.shape, bool)
    for part in parts():
        expected, chosen = corrupt(part, expected)
        union |= False if chosen is None else chosen
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(selected, union)
    assert composed.selects
    check_rate(selected, 1 - 0.7 * 0.8)  # The two draws are independent.


def test_composed_gaussian_noise_does_not_select():
    composed = sda.ComposedNoise([sda.GaussianNoise(1.0), sda.GaussianNoise(2.0)], seed=1)
    assert corrupt(composed, X)[1] is None
    assert not composed.selects


def test_composed_noise_seeds_the_unseeded_and_leaves_the_others():
    mine = sda.MaskingNoise(0.5, seed=5)
    composed = sda.ComposedNoise([mine, sda.MaskingNoise(0.5), sda.MaskingNoise(0.5)], seed=1)
    assert composed.noises[0] is mine
    seeds = [noise.seed for noise in composed.noises]
    assert seeds[0] == 5
    assert None not in seeds
    assert len(set(seeds)) == 3
    masks = [corrupt(noise, X)[1] for noise in composed.noises]
    check_rate(masks[1] == masks[2], 0.5)


@all_noises
def test_active_in_training_only(make):
    noise = make(1)
    for kwargs in ({}, {"training": False}, {"training": None}):
        np.testing.assert_array_equal(ops.convert_to_numpy(noise(X, **kwargs)), X)
    assert (noisy(noise, X) != X).any()


@all_noises
def test_same_seed_repeats_and_another_differs(make):
    noise, twin = make(1), make(1)
    draws = [noisy(noise, X) for _ in range(2)]
    for draw in draws:
        np.testing.assert_array_equal(draw, noisy(twin, X))
    assert not np.array_equal(draws[0], noisy(make(2), X))


@pytest.mark.parametrize("seed", [2**31, 2**32, 2**70])
def test_seeds_of_any_size(seed):
    noise = sda.MaskingNoise(0.5, seed=seed)
    assert noise.seed == seed
    draw = noisy(noise, X)
    np.testing.assert_array_equal(draw, noisy(sda.MaskingNoise(0.5, seed=seed), X))
    assert not np.array_equal(draw, noisy(sda.MaskingNoise(0.5, seed=seed + 1), X))


@all_noises
def test_unseeded_layers_differ(make):
    assert not np.array_equal(noisy(make(None), X), noisy(make(None), X))


@all_noises
def test_copy_has_the_settings_and_another_seed(make):
    noise = make(1)
    copied = noise.copy(2)
    assert type(copied) is type(noise)
    assert copied.seed == 2
    np.testing.assert_array_equal(noisy(copied, X), noisy(make(2), X))
    assert not np.array_equal(noisy(noise.copy(3), X), noisy(make(2), X))
    np.testing.assert_array_equal(noisy(noise, X), noisy(make(1), X))  # Itself untouched.


@all_noises
def test_each_row_and_column_has_its_own_draw(make):
    draws = noisy(make(1), X) - X
    assert len({row.tobytes() for row in draws}) == len(X)
    assert len({column.tobytes() for column in draws.T}) == X.shape[1]


@selective
def test_draws_of_entries_and_batches_are_independent(noise):
    noise = noise(0.5, seed=1)
    first, second = (noisy(noise, X) != X for _ in range(2))
    check_rate(first == second, 0.5)
    check_rate(first[1:] == first[:-1], 0.5)
    check_rate(first[:, 1:] == first[:, :-1], 0.5)


def test_gaussian_draws_of_entries_and_batches_are_independent():
    noise = sda.GaussianNoise(1.0, seed=1)
    first, second = (noisy(noise, np.zeros_like(X)) > 0 for _ in range(2))
    check_rate(first == second, 0.5)
    check_rate(first[1:] == first[:-1], 0.5)
    check_rate(first[:, 1:] == first[:, :-1], 0.5)


class Kernels(keras.callbacks.Callback):
    """Keeps the kernel of the last layer after each batch."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def on_train_batch_end(self, batch, logs=None):
        self.kernels.append(self.model.get_weights()[0][:, 0].copy())


FITS = {
    "Model.fit": lambda model, *args, **kwargs: model.fit(*args, **kwargs),
    "sda.fit": lambda *args, **kwargs: sda.fit(*args, steps_per_execution=1, **kwargs),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_alone_in_a_model_every_batch_and_epoch_has_its_own_draw(fit):
    """The gradient of a sum of outputs is the input: each update shows the mask of its batch."""
    layers = [sda.MaskingNoise(0.5, seed=1), keras.layers.Dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, z: z)
    layers[1].kernel.assign(np.zeros((64, 1)))
    kept = Kernels()
    x = np.ones((6, 64), "float32")
    fit(model, x, np.zeros(6), batch_size=1, epochs=2, shuffle=False, verbose=0, callbacks=[kept])
    masks = -np.diff([np.zeros(64), *kept.kernels], axis=0)
    assert set(np.unique(masks)) == {0.0, 1.0}
    assert len({mask.tobytes() for mask in masks}) == 12
    check_rate(masks, 0.5)
    # At inference the model is clean.
    kernel = layers[1].get_weights()[0]
    np.testing.assert_allclose(model.predict(x, verbose=0), x @ kernel, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integers_survive_masking(dtype):
    x = (X % 200 + 1).astype(dtype)
    out = ops.convert_to_numpy(sda.MaskingNoise(0.5, seed=1)(x, training=True))
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[out != 0], x[out != 0])
    check_rate(out == 0, 0.5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@selective
def test_half_precision_does_not_bias_the_rate(noise, dtype):
    # A draw in bfloat16 would select 0.3047 of the entries: ten standard deviations more.
    x = np.broadcast_to(np.arange(8, dtype="float32")[:, None] + 1, (8, 125_000))
    check_rate(noisy(noise(0.3, dtype=dtype, seed=1), x) != x, 0.3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_the_coin_fair(dtype):
    x = np.ones((1000, 1000), "float32")
    out = noisy(sda.SaltAndPepperNoise(0.3, -7.0, -3.0, dtype=dtype, seed=1), x)
    check_rate(out[out != x] == -7.0, 0.5)


@all_noises
def test_the_callers_array_is_untouched(make):
    x = X.copy()
    noisy(make(1), x)
    corrupt(make(1), x)
    np.testing.assert_array_equal(x, X)


def test_a_level_means_masking_noise():
    for level in (0.25, np.float32(0.25)):
        noise = noises.get(level)
        assert type(noise) is sda.MaskingNoise
        assert noise.rate == 0.25
    assert noises.get(1).rate == 1.0
    noise = sda.SwapNoise(0.1)
    assert noises.get(noise) is noise
    again = noises.get(keras.saving.serialize_keras_object(noise))
    assert type(again) is sda.SwapNoise
    assert again.rate == 0.1


def test_a_subclass_needs_only_corrupt():
    class Doubling(sda.Corruption):
        def corrupt(self, x):
            return 2 * x, None

    np.testing.assert_array_equal(noisy(Doubling(), X), 2 * X)
    with pytest.raises(NotImplementedError, match=r"Corruption must implement `corrupt\(x\)`"):
        sda.Corruption()(X, training=True)


BAD_NUMBERS = [float("nan"), float("inf"), "0.5", None, True, [0.5]]
BAD = {
    "masking rate": (lambda v: sda.MaskingNoise(v), "rate", [-0.1, 1.5, [], *BAD_NUMBERS[:-1]]),
    "salt and pepper rate": (lambda v: sda.SaltAndPepperNoise(v), "rate", [-0.1, 1.5, None]),
    "swap rate": (lambda v: sda.SwapNoise(v), "rate", [-0.1, 1.5, None]),
    "stddev": (lambda v: sda.GaussianNoise(v), "stddev", [-1, *BAD_NUMBERS]),
    "minimum": (lambda v: sda.SaltAndPepperNoise(0.1, minimum=v), "minimum", BAD_NUMBERS),
    "maximum": (lambda v: sda.SaltAndPepperNoise(0.1, 0.5, v), "maximum", [0.4, *BAD_NUMBERS]),
    "noises": (lambda v: sda.ComposedNoise(v), "noises", [[], [0.3], [keras.layers.Dropout(0.5)]]),
    "seed": (lambda v: sda.MaskingNoise(0.3, seed=v), "seed", [-1, 1.5, "1", True]),
    "corruption": (noises.get, "corruption", [None, "masking", True, keras.layers.ReLU()]),
    "level": (noises.get, "rate", [-0.1, 1.5]),
}


@pytest.mark.parametrize(
    ("make", "argument", "value"),
    [(make, name, value) for make, name, values in BAD.values() for value in values],
    ids=[f"{key} {value}" for key, (*_, values) in BAD.items() for value in values],
)
def test_bad_arguments(make, argument, value):
    expected = f"Expected `{argument}` to be .*Received: {argument}="
    with pytest.raises(ValueError, match=expected) as error:
        make(value)
    assert str(error.value).endswith(f"{argument}={value!r}")
