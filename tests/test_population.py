"""Populations: member i is what it would be alone."""

import keras
import numpy as np
import pytest

import sda
from sda.rows import orders

BACKEND = keras.backend.backend()


def rows(count=60):
    return np.random.default_rng(0).random((count, 12)).astype("float32")


def members(levels=(0.3, 0.6), units=(8,), noise=sda.MaskingNoise, preprocessing=None, **settings):
    """Pretrainers that differ in corruption level, learning rate and seeds."""
    made = []
    for i, level in enumerate(levels):
        stack = sda.StackedDenoisingAutoencoder(
            list(units), noise(level), seed=i, preprocessing=preprocessing
        )
        own = {"optimizer": keras.optimizers.SGD(0.1 * (i + 1)), "epochs": 2, "seed": 7 + i}
        made.append(sda.GreedyPretrainer(stack, **{**own, **settings}))
    return made


def assert_as_alone(make, x, **settings):
    together, alone = make(), make()
    results = sda.population.fit(together, x, **settings)
    for result, pretrainer, other in zip(results, together, alone, strict=True):
        histories = other.fit(x, verbose=0, **settings)
        for a, b in zip(pretrainer.stack.get_weights(), other.stack.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        for history, expected in zip(result, histories, strict=True):
            np.testing.assert_allclose(history.history["loss"], expected.history["loss"], rtol=1e-5)
            assert history.epoch == expected.epoch
    kernels = [keras.ops.convert_to_numpy(p.stack.autoencoders[0].encoder.kernel) for p in together]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1  # they are not one and the same


def test_each_member_is_what_it_is_alone(monkeypatch):
    made = []
    if BACKEND == "jax":
        from sda.training import jax_population

        class Watched(jax_population.Population):
            def __init__(self, *args):
                super().__init__(*args)
                made.append(self)

        monkeypatch.setattr(jax_population, "Population", Watched)
    assert_as_alone(lambda: members((0.0, 0.3, 0.6)), rows())
    # On JAX, in one program; and nothing that was traced is left behind.
    for population in made:
        assert len(population.drivers) == 3
        assert population._train._cache_size() == 1
        assert population.noise.rate == 0.0
    assert len(made) == (BACKEND == "jax")


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone has keras.distribution")
def test_on_devices_that_share_batches_members_train_one_after_the_other():
    alone = members((0.3, 0.6))
    expected = [pretrainer.fit(rows(), verbose=0) for pretrainer in alone]
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        shared = members((0.3, 0.6))
        results = sda.population.fit(shared, rows())
    for result, histories, a, b in zip(results, expected, shared, alone, strict=True):
        assert result[0].history["loss"] == pytest.approx(histories[0].history["loss"], rel=1e-6)
        for ours, theirs in zip(a.stack.get_weights(), b.stack.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_layers_momentum_emphasis_pixels_a_fixed_order_and_a_smaller_last_batch():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 12)).astype("uint8")

    def make():
        loss = sda.losses.CrossEntropy(alpha=1.0, beta=0.5)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        # The second layer has other rows for each member.
        scaling = keras.layers.Rescaling(1 / 255)
        return members(
            units=(8, 5), optimizer=optimizer, loss=loss, epochs=1, preprocessing=scaling
        )

    assert_as_alone(make, pixels, shuffle=False)


def test_an_order_in_blocks(monkeypatch):
    monkeypatch.setattr(orders, "BLOCK", 4)
    monkeypatch.setattr(orders, "WINDOW", 2)
    assert_as_alone(lambda: members((0.0, 0.3), epochs=1), rows(30), shuffle="blocks")


@pytest.mark.parametrize("noise", [sda.GaussianNoise, sda.SwapNoise])
def test_other_noises(noise):
    assert_as_alone(lambda: members(noise=noise, epochs=1), rows(20))


def test_a_member_that_diverges_does_not_stop_the_others():
    def made():
        return [
            sda.GreedyPretrainer(
                sda.StackedDenoisingAutoencoder(
                    [6], 0.2, "relu", decoder_activation="linear", seed=1
                ),
                keras.optimizers.SGD(rate),
                epochs=2,
                seed=1,
            )
            for rate in (0.01, 1e30)
        ]

    together, alone = made(), made()
    good, bad = sda.population.fit(together, rows())
    assert isinstance(bad, sda.TrainingDivergedError)
    assert [len(h.history["loss"]) for h in good] == [2]
    alone[0].fit(rows(), verbose=0)
    with pytest.raises(sda.TrainingDivergedError):
        alone[1].fit(rows(), verbose=0)
    for p, other in zip(together, alone, strict=True):
        for a, b in zip(p.stack.get_weights(), other.stack.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 5}, "epochs"),
        ({"batch_size": 7}, "batch_size"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"loss": "squared_error"}, "loss"),
        ({"units": (9,)}, "autoencoders"),
        ({"noise": sda.SwapNoise}, "autoencoders"),
    ],
)
def test_members_that_differ_in_more_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"differ in corruption level.*Received: {message}"):
        sda.population.fit([*members(), members(**settings)[0]], rows())


class TwoLevels(sda.SelectiveNoise):
    """Replaces values, and adds noise to all."""

    def __init__(self, rate, stddev=0.1, **kwargs):
        super().__init__(rate, **kwargs)
        self.stddev = stddev

    def replacement(self, x, v):
        return keras.ops.zeros_like(x)

    def corrupt(self, x):
        x, selected = super().corrupt(x)
        return x + self.stddev, selected

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev}


class Halved(sda.MaskingNoise):
    """Has a level of which it makes another one."""

    def __init__(self, rate, **kwargs):
        super().__init__(rate, **kwargs)
        self.half = rate / 2

    def corrupt(self, x):
        return x * self.half, None


def composed(level):
    return sda.ComposedNoise([sda.MaskingNoise(level), sda.GaussianNoise(0.1)])


def scheduled(rate):
    return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(rate, 10, 0.9))


def loss_of(by):
    return lambda x, z: by * keras.ops.mean(keras.ops.square(x - z), -1)


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ({"noise": composed}, {}, "noises"),
        ({"noise": Halved}, {}, "half"),
        (
            {"noise": lambda level: TwoLevels(0.2, 0.1)},
            {"noise": lambda level: TwoLevels(0.2, 0.4)},
            "stddev",
        ),
        ({"optimizer": scheduled(0.1)}, {"optimizer": scheduled(0.5)}, "learning_rate"),
        ({"loss": loss_of(1.0)}, {"loss": loss_of(2.0)}, r"loss\[0\]"),
        (
            {"noise": lambda level: sda.MaskingNoise([0.1] * 12)},
            {"noise": lambda level: sda.MaskingNoise(0.1)},
            "rate",
        ),
    ],
)
def test_what_the_mapping_does_not_vary_has_to_be_equal(one, other, named):
    made = [members((0.3,), **one)[0], members((0.6,), **{**one, **other})[0]]
    before = [p.stack.autoencoders[0].corruption.level for p in made]
    with pytest.raises(ValueError, match=f"differ in corruption level.*{named}"):
        sda.population.fit(made, rows())
    assert [p.stack.autoencoders[0].corruption.level for p in made] == before
    assert not made[0].stack.built


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": lambda level: sda.MaskingNoise([level] * 12)},
        {"noise": lambda level: TwoLevels(level, 0.2)},
        {"noise": lambda level: composed(0.3), "optimizer": scheduled(0.3)},
    ],
)
def test_what_is_equal_or_mapped_trains_as_alone(settings):
    assert_as_alone(lambda: members(epochs=1, **settings), rows(20))


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected `pretrainers` to be a list"):
        sda.population.fit([], rows())
    one = members()[0]
    with pytest.raises(ValueError, match="a stack of its own"):
        sda.population.fit([one, one], rows())
    for settings in (
        {"callbacks": lambda k: []},
        {"checkpoint_dir": tmp_path},
        {"cache": sda.LayerCache(tmp_path)},
    ):
        with pytest.raises(
            ValueError, match=f"Expected `pretrainers` without `{next(iter(settings))}`"
        ):
            sda.population.fit(members(**settings), rows())
    with pytest.raises(ValueError, match="Expected `x` to hold finite values"):
        sda.population.fit(members(), rows() * np.nan)
