import keras
import numpy as np
import pytest

import sda
from sda.callbacks import GeometricPatience


class Weightless:
    """What a callback needs of a model; its weights tell the epoch they are from."""

    stop_training = False

    def __init__(self):
        self.epoch = None

    def get_weights(self):
        return [self.epoch]

    def set_weights(self, weights):
        (self.epoch,) = weights


def drive(callback, logs, steps):
    """Run the callback through the epochs; return the epochs that were validated, and the model."""
    model = Weightless()
    callback.set_model(model)
    callback.set_params({"steps": steps, "epochs": len(logs)})
    callback.on_train_begin()
    validated = []
    for epoch, entry in enumerate(logs):
        model.epoch = epoch
        callback.on_epoch_end(epoch, entry)
        validated.append(epoch)
        if model.stop_training:
            break
    callback.on_train_end()
    return validated, model


def tutorial(errors, n_batches, patience, increase, threshold):
    """The loop of the Theano tutorial's SdA.py over given validation errors, one an epoch.

    Returns the best epoch and the last one whose end was validated.
    """
    patience = patience * n_batches
    best_error, best_epoch, last = np.inf, None, None
    done, epoch = False, 0
    while epoch < len(errors) and not done:
        for minibatch in range(n_batches):
            iteration = epoch * n_batches + minibatch
            if (iteration + 1) % n_batches == 0:
                error, last = errors[epoch], epoch
                if error < best_error:
                    if error < best_error * threshold:
                        patience = max(patience, iteration * increase)
                    best_error, best_epoch = error, epoch
            if patience <= iteration:
                done = True
                break
        epoch += 1
    return best_epoch, last


@pytest.mark.parametrize("trial", range(40))
def test_geometric_patience_stops_where_the_tutorial_stops(trial):
    generator = np.random.default_rng(trial)
    stopped_early = 0
    for _ in range(25):
        n_batches = int(generator.integers(1, 8))
        patience = int(generator.integers(2, 12))
        increase = float(generator.choice([1.0, 1.5, 2.0, 3.0]))
        threshold = float(generator.choice([0.9, 0.995, 1.0]))
        slope = generator.choice([0.0, -0.004, -0.02])
        errors = np.exp(slope * np.arange(60) + generator.normal(0, 0.02, 60))
        callback = GeometricPatience("val_error", patience, increase, threshold)
        validated, model = drive(callback, [{"val_error": e} for e in errors], n_batches)
        best, last = tutorial(errors, n_batches, patience, increase, threshold)
        assert (callback.best_epoch, validated[-1]) == (best, last)
        assert callback.best == errors[best]
        assert model.epoch == best  # the best weights are back
        stopped_early += last < 59
    assert stopped_early > 0


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("n_batches", [1, 2, 5])
def test_a_tie_is_no_improvement(threshold, n_batches):
    """Halves and doubles are exact: errors that equal the best so far, or just the threshold."""
    generator = np.random.default_rng(n_batches)
    repeated = 0
    for _ in range(100):
        errors = generator.choice([1.0, 0.5, 0.25, 0.125], 12)
        patience = int(generator.integers(1, 5))
        callback = GeometricPatience("val_error", patience, 2.0, threshold)
        validated, model = drive(callback, [{"val_error": e} for e in errors], n_batches)
        best, last = tutorial(errors, n_batches, patience, 2.0, threshold)
        assert (callback.best_epoch, model.epoch, validated[-1]) == (best, best, last)
        repeated += np.sum(errors[: last + 1] == errors[best]) > 1
    assert repeated > 10


def test_the_tutorials_own_numbers_are_the_defaults():
    errors = np.concatenate([np.linspace(0.1, 0.02, 15), np.full(60, 0.02)])
    validated, _ = drive(GeometricPatience("val_error"), [{"val_error": e} for e in errors], 5)
    _, last = tutorial(errors, 5, patience=10, increase=2, threshold=0.995)
    assert validated[-1] == last < 74


def test_an_accuracy_counts_as_the_error_that_is_left():
    errors = [0.5, 0.4, 0.45, 0.41, 0.6, 0.6, 0.6, 0.6]
    by_error, by_accuracy = GeometricPatience("val_error", 2), GeometricPatience("val_accuracy", 2)
    stopped = [
        drive(by_error, [{"val_error": e} for e in errors], 5)[0],
        drive(by_accuracy, [{"val_accuracy": 1 - e} for e in errors], 5)[0],
    ]
    assert stopped[0] == stopped[1]
    assert len(stopped[0]) < len(errors)
    assert by_error.best_epoch == by_accuracy.best_epoch == 1


def test_the_last_weights_stay_if_the_best_are_not_wanted():
    logs = [{"val_loss": e} for e in (0.5, 0.4, 0.6)]
    _, model = drive(GeometricPatience("val_loss", 10, restore_best_weights=False), logs, 5)
    assert model.epoch == 2


def test_a_callback_can_be_used_again():
    callback = GeometricPatience("val_loss", 2)
    logs = [{"val_loss": e} for e in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert drive(callback, logs, 5)[0] == drive(callback, logs, 5)[0]


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([0.5, 0.6, 0.7, 0.8], "Epoch 2: out of patience. Best val_loss in epoch 1."),
        ([np.nan] * 4, "Epoch 2: out of patience. No val_loss was ever a number."),
    ],
)
def test_verbose_tells_when_and_why_training_stopped(capsys, errors, message):
    drive(GeometricPatience("val_loss", 2, verbose=1), [{"val_loss": e} for e in errors], 5)
    assert capsys.readouterr().out == f"{message}\n"


def test_a_log_that_is_missing_is_named():
    callback = GeometricPatience("val_accuracy")
    with pytest.raises(ValueError, match=r"`monitor` to be one of the logs \['loss'\].*val_acc"):
        drive(callback, [{"loss": 0.1}], 5)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("patience", 0),
        ("patience", 0.5),
        ("patience", "10"),
        ("patience", True),
        ("increase", 0.9),
        ("increase", float("nan")),
        ("improvement_threshold", 0),
        ("improvement_threshold", 1.1),
        ("improvement_threshold", -0.5),
        ("improvement_threshold", "0.995"),
        ("improvement_threshold", float("nan")),
    ],
)
def test_arguments_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"Expected `{argument}`.*Received: {argument}="):
        GeometricPatience(**{argument: value})


@pytest.mark.parametrize("fit", [sda.fit, keras.Model.fit], ids=["sda.fit", "Model.fit"])
def test_training_stops_and_ends_with_the_best_weights(fit):
    x = np.random.default_rng(0).random((20, 4), "float32")
    y = np.arange(20) % 2
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    # Steps this large only make it worse.
    model.compile(keras.optimizers.SGD(50.0), "sparse_categorical_crossentropy")
    seen = []
    snapshots = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], model.get_weights()))
    )
    callback = GeometricPatience("val_loss", patience=3)
    history = fit(
        model, x, y, batch_size=10, epochs=30, verbose=0,
        validation_data=(x, y), callbacks=[snapshots, callback],
    )  # fmt: skip
    assert len(history.history["loss"]) < 30
    best = min(seen, key=lambda item: item[0])[1]
    for a, b in zip(model.get_weights(), best, strict=True):
        np.testing.assert_array_equal(a, b)
