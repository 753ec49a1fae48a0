"""Runs that were cut off at any write go on, and end as if nothing had happened."""

import keras
import numpy as np
import pytest
from keras import layers

import sda
from sda import checkpoint

BACKEND = keras.backend.backend()


class Stopped(BaseException):
    """Ends a run as a kill does: nobody catches it."""


@pytest.fixture
def stop_after(monkeypatch):
    """A function that lets a run end after its n-th write; returns what a call returned, if any."""
    real = checkpoint.write

    def run(n, function):
        writes = []

        def write(path, saved):
            real(path, saved)
            writes.append(path)
            if len(writes) == n:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write", write)
            try:
                return function()
            except Stopped:
                return None

    return run


def rows():
    generator = np.random.default_rng(0)
    return generator.random((20, 6), "float32"), generator.integers(3, size=20)


def values(model):
    optimizer = getattr(model, "optimizer", None)
    return checkpoint.values([*model.variables, *(optimizer.variables if optimizer else [])])


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def classifier(*more):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, "tanh", kernel_initializer=keras.initializers.GlorotUniform(1)),
            *more,
            layers.Dense(3, "softmax", kernel_initializer=keras.initializers.GlorotUniform(2)),
        ]
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    return model


def finetune(model, folder=None, callbacks=(), **settings):
    settings = {"epochs": 2, "steps_per_execution": 1, "checkpoint_every": 0, **settings}
    x, y = rows()
    return sda.fit(
        model, x, y, 10, verbose=0, seed=1, validation_data=(x, y), callbacks=list(callbacks),
        checkpoint_dir=folder, **settings,
    )  # fmt: skip


def plain(histories):
    return [(h.epoch, h.history, h.params) for h in histories]


# At every write


def test_a_fit_that_ends_after_any_write_goes_on(tmp_path, stop_after):
    def run(folder):
        model = classifier()
        callbacks = [
            sda.callbacks.GeometricPatience("val_loss", patience=5),
            keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        ]
        history = finetune(model, folder, callbacks)
        state = [callbacks[0].best, callbacks[0].best_epoch, callbacks[1].best]
        return values(model), plain([history]), state

    weights, histories, state = run(None)
    for n in range(1, 100):
        whole = stop_after(n, lambda n=n: run(tmp_path / str(n)))
        for _ in range(2):  # what goes on, and what has finished
            again = run(tmp_path / str(n))
            assert_same(again[0], weights)
            assert again[1:] == (histories, state)
        if whole:
            break
    assert n - 1 == 8  # the begin, two dispatches and the end of two epochs, and the run's end


@pytest.mark.parametrize("store", [False, True])
def test_a_schedule_that_ends_after_any_write_goes_on(tmp_path, stop_after, store):
    def run(folder):
        stack = sda.StackedDenoisingAutoencoder([5, 4], corruption=0.2, seed=1)
        pretrainer = sda.GreedyPretrainer(
            stack, "adam", epochs=2, batch_size=10, seed=1, checkpoint_dir=folder,
            callbacks=lambda k: [sda.callbacks.GeometricPatience("loss", patience=5)],
            prefixes=sda.PrefixStore(folder / "store") if store and folder else None,
        )  # fmt: skip
        histories = pretrainer.fit(rows()[0], verbose=0)
        return values(stack), plain(histories)

    weights, histories = run(None)
    for n in range(1, 100):
        whole = stop_after(n, lambda n=n: run(tmp_path / str(n)))
        for _ in range(2):
            again = run(tmp_path / str(n))
            assert_same(again[0], weights)
            assert again[1] == histories
        if whole:
            break
    # In each of two layers: its begin, two epochs, its training's end, its own; and in the store.
    assert n - 1 == (12 if store else 10)
