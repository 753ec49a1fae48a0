"""The callbacks of Keras in pretraining, layer by layer, and in `sda.fit`: what each is for."""

import csv
import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import sda
from sda.models.denoising import Denoising

ROWS, VISIBLE = 40, 12
EPOCHS = 4
with_and_without_validation = pytest.mark.parametrize("validated", [True, False])


def rows():
    return np.random.default_rng(0).random((ROWS, VISIBLE)).astype("float32")


def pretrain(callbacks, validated=False, epochs=EPOCHS, optimizer=None, folder=None, units=(8, 5)):
    """Pretrain layers without noise; return the stack and its Histories."""
    stack = sda.StackedDenoisingAutoencoder(list(units), corruption=0.0, seed=1)
    pretrainer = sda.GreedyPretrainer(
        stack, optimizer or keras.optimizers.SGD(0.1), epochs=epochs, batch_size=10,
        callbacks=callbacks, seed=1, checkpoint_dir=folder,
    )  # fmt: skip
    validation = rows() if validated else None
    return stack, pretrainer.fit(rows(), validation_data=validation, verbose=0)


def finetune(callbacks, validated, epochs=EPOCHS):
    """Train a classifier with `sda.fit`; return it and its History."""
    stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    stack.build((None, VISIBLE))
    model = stack.classifier(3)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    x, y = rows(), np.arange(ROWS) % 3
    history = sda.fit(
        model, x, y, batch_size=10, epochs=epochs, seed=1, verbose=0, callbacks=callbacks,
        validation_data=(x, y) if validated else None,
    )  # fmt: skip
    return model, history


def lines(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def events(folder):
    """What TensorBoard finds in a folder: name -> {step: value, or an array}."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = accumulators.EventAccumulator(str(folder)).Reload()
    return {
        tag: {e.step: make_ndarray(e.tensor_proto) for e in accumulator.Tensors(tag)}
        for tag in accumulator.Tags()["tensors"]
    }


def values(model):
    return [np.array(w) for w in model.get_weights()]


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def observers(folder, monitor):
    """Callbacks that write: a table, events, every model, and the weights of the best epoch."""
    return [
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.TensorBoard(folder, histogram_freq=1),
        keras.callbacks.ModelCheckpoint(folder / "epoch_{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5", monitor, save_best_only=True, save_weights_only=True
        ),
    ]


def check_written(folder, model, history, validated):
    """Check what `observers` wrote; the last epoch was the best, and `model` is as it left it."""
    logs = history.history
    assert history.epoch == list(range(EPOCHS))
    written = lines(folder / "log.csv")
    assert [int(line["epoch"]) for line in written] == history.epoch
    for name, series in logs.items():
        assert [float(line[name]) for line in written] == pytest.approx(series)

    names = {"epoch_loss", "epoch_learning_rate"}
    train = events(folder / "train")
    assert names <= set(train)
    np.testing.assert_allclose(list(train["epoch_loss"].values()), logs["loss"], rtol=1e-6)
    histograms = [name for name in train if name.endswith("histogram")]
    assert len(histograms) == len(model.trainable_variables)
    assert all(list(train[name]) == history.epoch for name in histograms)
    assert (folder / "validation").exists() == validated
    if validated:
        validation = events(folder / "validation")["epoch_loss"]
        np.testing.assert_allclose(list(validation.values()), logs["val_loss"], rtol=1e-6)

    paths = sorted(folder.glob("epoch_*.keras"))
    assert len(paths) == EPOCHS
    assert_same(values(sda.load_model(paths[-1])), values(model))
    assert any((a != b).any() for a, b in zip(
        values(sda.load_model(paths[0])), values(model), strict=True
    ))  # fmt: skip
    monitor = "val_loss" if validated else "loss"
    assert min(logs[monitor]) == logs[monitor][-1]
    expected = values(model)
    model.set_weights([np.zeros_like(w) for w in expected])
    sda.load_weights(model, folder / "best.weights.h5")
    assert_same(values(model), expected)


class Keep(keras.callbacks.Callback):
    """Keeps the model, and its weights after each epoch."""

    def on_train_begin(self, logs=None):
        self.kept, self.weights = self.model, []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(values(self.model))


@with_and_without_validation
def test_logs_events_and_models_are_written_for_each_layer(tmp_path, validated):
    keep = [Keep(), Keep()]

    def callbacks(k):
        monitor = "val_loss" if validated else "loss"
        return [*observers(tmp_path / f"layer_{k}", monitor), keep[k]]

    for k in range(2):
        (tmp_path / f"layer_{k}").mkdir()
    stack, histories = pretrain(callbacks, validated)
    for k, history in enumerate(histories):
        check_written(tmp_path / f"layer_{k}", keep[k].kept, history, validated)
    # What was saved is the layer with its loss; its encoder is that of the stack.
    saved = sda.load_model(tmp_path / "layer_1" / f"epoch_{EPOCHS}.keras")
    assert type(saved) is Denoising
    codes = saved.autoencoder.encode(stack.encode(rows(), layer=0))
    np.testing.assert_allclose(ops.convert_to_numpy(codes), stack.encode(rows()), rtol=1e-6)


def test_logs_events_and_models_are_written_in_fine_tuning(tmp_path):
    model, history = finetune(observers(tmp_path, "val_loss"), validated=True)
    check_written(tmp_path, model, history, validated=True)


def spoiling(monitor, keep):
    """Two epochs that improve, then steps so large that things get worse."""
    return [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 if epoch < 2 else 50.0),
        keep,
        keras.callbacks.EarlyStopping(monitor, patience=2, restore_best_weights=True),
    ]


@with_and_without_validation
def test_early_stopping_gives_the_best_weights_back_before_the_next_layer(validated):
    monitor = "val_loss" if validated else "loss"
    keep = Keep()

    def callbacks(k):
        if k == 0:
            return spoiling(monitor, keep)
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0),
            # Sums in another order differ in their last bits.
            keras.callbacks.EarlyStopping(monitor, patience=1, min_delta=0.01),
        ]

    stack, (first, second) = pretrain(callbacks, validated, epochs=9)
    # Of the loss of an epoch, the one with the large steps is the first that is worse.
    assert first.epoch == [0, 1, 2, 3]
    np.testing.assert_allclose(first.history["learning_rate"], [0.1, 0.1, 50, 50], rtol=1e-6)
    assert np.argmin(first.history[monitor]) == 1
    assert_same(values(keep.kept), keep.weights[1])
    # The second layer, which does not move, saw the codes of these weights.
    assert second.epoch == [0, 1]
    h = stack.encode(rows(), layer=0).astype("float64")
    z = ops.convert_to_numpy(stack.autoencoders[1](h.astype("float32"))).astype("float64")
    expected = -(h * np.log(z) + (1 - h) * np.log(1 - z)).sum(axis=1).mean()
    np.testing.assert_allclose(second.history[monitor], expected, rtol=1e-4)


def test_early_stopping_gives_the_best_weights_back_in_fine_tuning():
    keep = Keep()
    model, history = finetune(spoiling("loss", keep), validated=False, epochs=9)
    assert history.epoch == [0, 1, 2, 3]
    assert_same(values(model), keep.weights[1])


@with_and_without_validation
def test_a_plateau_lowers_the_rate_and_weights_stop_moving(validated):
    keep = Keep()
    # A loss that falls is taken for one that should rise: after one epoch, no rate is left.
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss" if validated else "loss", factor=0.0, patience=1, mode="max"
    )
    _, (history,) = pretrain(lambda k: [plateau, keep], validated, units=[8])
    rates = history.history["learning_rate"]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.0, 0.0], rtol=1e-6)
    kernels = [weights[0] for weights in keep.weights]
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(kernels)]
    assert changed == [True, False, False]


def test_terminate_on_nan_ends_the_schedule():
    """Stopped quietly, the next layer would learn the codes of a broken one."""
    keep = [Keep(), Keep()]
    optimizers = [keras.optimizers.SGD(1e38), keras.optimizers.SGD(0.1)]
    with pytest.raises(sda.TrainingDivergedError, match=r"'autoencoder_1' diverged"):
        pretrain(lambda k: [keras.callbacks.TerminateOnNaN(), keep[k]], optimizer=optimizers)
    assert all(np.isfinite(w).all() for w in values(keep[0].kept))
    assert not hasattr(keep[1], "kept")


class CutOff(keras.callbacks.Callback):
    """Ends the run at the beginning of an epoch, while `armed`."""

    armed = False

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        if self.armed and epoch == self.at:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_schedule_that_is_cut_off_goes_on_with_all_of_them(tmp_path):
    def run(name, armed=False):
        folder = tmp_path / name

        def callbacks(k):
            (folder / str(k)).mkdir(parents=True, exist_ok=True)
            cut_off = CutOff(2 if k else 9)
            cut_off.armed = armed
            upside_down = {"monitor": "val_loss", "mode": "max"}
            return [
                keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, **upside_down),
                *observers(folder / str(k), "val_loss"),
                keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True, **upside_down),
                cut_off,
            ]

        stack, histories = pretrain(
            callbacks, True, epochs=9, folder=tmp_path / f"{name}_checkpoints"
        )
        found = []
        for k, history in enumerate(histories):
            scalars = {}
            for part in ("train", "validation"):
                scalars[part] = events(folder / str(k) / part)["epoch_loss"]
            found.append((lines(folder / str(k) / "log.csv"), history.history, scalars))
            assert history.epoch == [0, 1, 2]
        last = sda.load_model(folder / "1" / "epoch_3.keras")
        sda.load_weights(last, folder / "1" / "best.weights.h5")
        return values(stack), found, values(last)

    expected = run("whole")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not saved in checkpoints")
        with pytest.raises(KeyboardInterrupt):
            run("cut", armed=True)
        found = run("cut")
    assert_same(found[0], expected[0])
    assert found[1] == expected[1]
    assert_same(found[2], expected[2])
