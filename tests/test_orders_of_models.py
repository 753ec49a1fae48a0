"""A model's own order of its rows, and the driver that is kept for it."""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest

import sda
from sda.rows.orders import Order, Permutation


class EachTwice(Order):
    """Rows as they come, the first `often` of them `times` times."""

    def __init__(self, often, times=2, seed=None):
        super().__init__(seed)
        self.often, self.times = often, times

    def length(self, rows):
        return rows + self.often * (self.times - 1)

    def indices(self, epoch, rows):
        return np.concatenate([np.arange(rows), *[np.arange(self.often)] * (self.times - 1)])

    def get_config(self):
        return {**super().get_config(), "often": self.often, "times": self.times}


class Shuffled(EachTwice):
    """The same rows, in a random order."""

    def indices(self, epoch, rows):
        order = super().indices(epoch, rows)
        return order[Permutation(self.seed).indices(epoch, len(order))]


class Wrong(EachTwice):
    def indices(self, epoch, rows):
        return super().indices(epoch, rows) + self.often


class Brings(keras.Sequential):
    """A model that brings its own order."""

    order = EachTwice

    def training_order(self, shuffle, seed):
        self.asked = shuffle
        return self.order(3, seed=seed)


def model(kind=keras.Sequential, order=EachTwice):
    keras.utils.set_random_seed(1)
    made = kind([keras.Input((4,)), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(0.1), "mse")
    made.order = order
    return made


@pytest.fixture
def data():
    generator = np.random.default_rng(1)
    return generator.random((10, 4), "float32"), generator.random((10, 1), "float32")


def test_a_model_may_see_its_rows_in_an_order_of_its_own(data):
    x, y = data
    own = model(Brings)
    history = sda.fit(own, x, y, 4, 3, 0, seed=1)
    assert own.asked is True
    # As if the rows lay so: 10 rows and 3 of them again, in 4 steps.
    rows = [*range(10), 0, 1, 2]
    plain = model()
    expected = plain.fit(x[rows], y[rows], 4, 3, 0, shuffle=False)
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], rtol=1e-5)
    for found, there in zip(own.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(found, there, rtol=1e-5, atol=1e-7)


def test_an_own_order_gets_the_seed_of_the_run(data):
    losses = []
    for seed in (1, 2, 1):
        history = sda.fit(model(Brings, Shuffled), *data, 4, 2, 0, seed=seed)
        losses.append(history.history["loss"])
    assert losses[0] == losses[2] != losses[1]


def test_the_settings_of_an_own_order_are_part_of_a_run(data, tmp_path):
    settings = {"batch_size": 4, "epochs": 2, "verbose": 0, "seed": 1, "checkpoint_dir": tmp_path}
    first = sda.fit(model(Brings), *data, **settings)
    assert sda.fit(model(Brings), *data, **settings).history == first.history
    for other in (lambda *a, **k: EachTwice(*a, times=3, **k), Shuffled):
        with pytest.raises(ValueError, match="order"):
            sda.fit(model(Brings, other), *data, **settings)
    with pytest.raises(ValueError, match="order"):
        sda.fit(model(), *data, **settings)


def test_rows_that_are_not_there_are_refused(data):
    with pytest.raises(ValueError, match=r"integers from 0 to 9.*Wrong"):
        sda.fit(model(Brings, Wrong), *data, 4, 1, 0)
    with pytest.raises(ValueError, match=r"`training_order` to return an sda\.rows\.orders\.Order"):
        sda.fit(model(Brings, lambda *a, **k: range(10)), *data, 4, 1, 0)
    for times in (-3, 1.5):  # 10 - 4 * 3 rows, or 11.5 of them
        order = functools.partial(EachTwice, times=times)
        with pytest.raises(ValueError, match="`length` to return the number of rows"):
            sda.fit(model(Brings, order), *data, 4, 1, 0)


# Drivers


class Traced(keras.layers.Layer):
    """Counts how often its call is traced, or run where nothing is compiled."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def call(self, x):
        self.calls.append(len(self.calls))
        return x


def test_a_second_fit_compiles_nothing_again(data):
    traced = Traced()
    counted = keras.Sequential([keras.Input((4,)), traced, keras.layers.Dense(1)])
    counted.compile(keras.optimizers.SGD(0.1), "mse")
    attributes = set(vars(counted))
    steps = []
    for _ in range(3):
        before = len(traced.calls)
        sda.fit(counted, *data, 5, 1, 0, seed=1)
        steps.append(len(traced.calls) - before)
    # On PyTorch each step calls the layers, and each fit takes two; a call before that builds.
    again = 2 if keras.backend.backend() == "torch" else 0
    assert steps[1:] == [again, again]
    # `history` is Keras's, as `stop_training` is.
    assert not [n for n in set(vars(counted)) - attributes if "sda" in n]


def test_a_model_is_freed_with_what_was_compiled_for_it(data, tmp_path):
    made = keras.Sequential([keras.Input((4,)), sda.DenoisingAutoencoder(1)])
    made.compile(keras.optimizers.SGD(0.1), "mse")
    sda.fit(made, data[0], data[0], 5, 1, 0, validation_split=0.2, checkpoint_dir=tmp_path / "fit")
    stack = sda.StackedDenoisingAutoencoder([3], seed=1)
    pretrainer = sda.GreedyPretrainer(stack, epochs=1, checkpoint_dir=tmp_path / "layers")
    pretrainer.fit(data[0], verbose=0)
    dead = [weakref.ref(made), weakref.ref(stack)]
    del made, stack, pretrainer
    keras.backend.clear_session(free_memory=True)
    gc.collect()
    assert [ref() for ref in dead] == [None, None]
