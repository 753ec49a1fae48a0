"""Levels of noise that change by epoch: from the next epoch on, on every backend."""

import itertools

import keras
import numpy as np
import pytest

import sda
from sda.callbacks import CorruptionSchedule

X = np.random.default_rng(0).random((24, 6), "float32")


def stack(corruption=0.5, units=4):
    return sda.StackedDenoisingAutoencoder(units, corruption=corruption, seed=1)


def pretrain(stack, epochs, make=None, x=X, **settings):
    pretrainer = sda.GreedyPretrainer(
        stack, keras.optimizers.SGD(0.1), epochs=epochs, batch_size=8, seed=1,
        callbacks=make and (lambda k: make(stack.autoencoders[k])), **settings,
    )  # fmt: skip
    return pretrainer.fit(x, verbose=0)


def weights(stack):
    return [keras.ops.convert_to_numpy(v.value) for v in stack.trainable_variables]


def half(epoch):
    return [0.5, 0.25, 0.0, 1.0][epoch]


def test_a_level_acts_from_the_next_epoch_on():
    """Under a rate of 1 the kernel of a dA gets no gradient from its input, which is 0."""
    levels = [1.0, 0.0, 1.0]
    kernels = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernels.append(made.autoencoders[0].encoder.get_weights()[0].copy())

        def on_train_end(self, logs=None):
            kernels.append(made.autoencoders[0].encoder.get_weights()[0].copy())

    made = sda.StackedDenoisingAutoencoder(4, corruption=1.0, tied=False, seed=1)
    pretrain(made, 3, lambda dA: [CorruptionSchedule(dA, lambda e: levels[e]), Keep()])
    moved = [bool(np.any(a != b)) for a, b in itertools.pairwise(kernels)]
    assert moved == [False, True, False]


@pytest.mark.parametrize(
    ("make", "levels"),
    [
        (lambda: 0.5, [0.5, 0.2, 0.0]),
        (lambda: sda.GaussianNoise(0.5), [0.5, 0.0, 2.0]),
        (lambda: sda.SwapNoise([0.1] * 6), [[0.5] * 6, [0.0] * 6, 0.3]),
        (
            lambda: sda.ComposedNoise([sda.MaskingNoise(0.1), sda.GaussianNoise(0.1)]),
            [[0.5, 0.0], [0.0, 0.3], [0.2, 0.1]],
        ),
    ],
)
def test_an_epoch_is_that_of_a_noise_of_its_level(make, levels):
    """Against epochs each trained by a stack of that level, that goes on where the last was."""
    scheduled = stack(make())
    pretrain(scheduled, 3, lambda dA: [CorruptionSchedule(dA, lambda e: levels[e])])
    one = stack(make())
    one.build((None, 6))
    for epoch, level in enumerate(levels):
        other = stack(make())
        other.build((None, 6))
        other.autoencoders[0].corruption.level = level
        for some, value in zip(other.variables, one.variables, strict=True):
            some.assign(value)
        model = sda.GreedyPretrainer(other, keras.optimizers.SGD(0.1)).layer_model(0)
        sda.fit(
            model, X, batch_size=8, epochs=epoch + 1, initial_epoch=epoch, verbose=0,
            seed=sda.streams.stream(1, "order", 0),
        )  # fmt: skip
        one = other
    for some, others in zip(weights(scheduled), weights(one), strict=True):
        np.testing.assert_allclose(some, others, rtol=1e-5, atol=1e-6)
    assert scheduled.autoencoders[0].corruption.level == levels[-1]


def test_a_constant_schedule_changes_nothing():
    scheduled, plain = stack(), stack()
    pretrain(scheduled, 2, lambda dA: [CorruptionSchedule(dA, lambda epoch: 0.5)])
    pretrain(plain, 2)
    for some, others in zip(weights(scheduled), weights(plain), strict=True):
        np.testing.assert_array_equal(some, others)


@pytest.mark.slow
def test_a_run_that_was_cut_off_has_the_level_of_its_epoch(tmp_path):
    class Stop(keras.callbacks.Callback):
        stops = True

        def get_state(self):
            return None

        def set_state(self, state):
            pass

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1 and self.stops:
                raise KeyboardInterrupt

    def go():
        callback = Stop()
        callback.stops = False
        return callback

    whole = stack()
    pretrain(whole, 4, lambda dA: [CorruptionSchedule(dA, half)])
    cut = stack()
    with pytest.raises(KeyboardInterrupt):
        pretrain(cut, 4, lambda dA: [CorruptionSchedule(dA, half), Stop()], checkpoint_dir=tmp_path)
    again = stack()
    pretrain(again, 4, lambda dA: [CorruptionSchedule(dA, half), go()], checkpoint_dir=tmp_path)
    for some, others in zip(weights(whole), weights(again), strict=True):
        np.testing.assert_array_equal(some, others)
    with pytest.raises(ValueError, match="schedule"):
        pretrain(
            stack(), 4, lambda dA: [CorruptionSchedule(dA, lambda e: 0.1), go()],
            checkpoint_dir=tmp_path,
        )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_goes_on_with_the_same_stack_validates_as_it_began(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1 and (tmp_path / "stop").exists():
                raise KeyboardInterrupt

    def make(dA):
        return [CorruptionSchedule(dA, half), Stop()]

    def fit(stack, folder):
        pretrainer = sda.GreedyPretrainer(
            stack, keras.optimizers.SGD(0.1), epochs=4, batch_size=8, seed=1,
            callbacks=lambda k: make(stack.autoencoders[k]), checkpoint_dir=tmp_path / folder,
        )  # fmt: skip
        return pretrainer.fit(X, validation_data=X, verbose=0)[0].history

    expected = fit(stack(), "whole")
    (tmp_path / "stop").touch()
    same = stack()
    with pytest.raises(KeyboardInterrupt):
        fit(same, "run")
    (tmp_path / "stop").unlink()
    assert fit(same, "run") == expected
    # One that has ended gives its last level too.
    again = stack()
    assert fit(again, "run") == expected
    assert again.autoencoders[0].corruption.level == half(3)


@pytest.mark.parametrize(
    ("layer", "schedule"),
    [
        (keras.layers.Dense(2), half),
        (sda.Corruption(), half),
        (sda.MaskingNoise(0.1), 0.5),
    ],
)
def test_what_has_no_level_is_refused(layer, schedule):
    with pytest.raises(ValueError, match=r"Expected `(layer|schedule)`"):
        CorruptionSchedule(layer, schedule)


@pytest.mark.parametrize(
    ("noise", "level"),
    [
        (sda.MaskingNoise(0.1), 1.5),
        (sda.MaskingNoise([0.1, 0.2]), [0.1]),
        (sda.GaussianNoise(0.1), float("nan")),
        (sda.ComposedNoise([sda.GaussianNoise(0.1), sda.MaskingNoise(0.1)]), [0.5, 2.0]),
        (sda.ComposedNoise([sda.GaussianNoise(0.1)]), 0.5),
    ],
)
def test_levels_out_of_range_are_refused_and_change_nothing(noise, level):
    before = noise.level
    with pytest.raises(ValueError, match="Received"):
        noise.level = level
    assert noise.level == before
