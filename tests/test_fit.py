import keras
import numpy as np
import pytest
from keras import layers

import sda
from sda.training import feed


@pytest.fixture
def x():
    return np.random.default_rng(0).random((50, 6), "float32")


@pytest.fixture
def y():
    return np.arange(50) % 3


def classifier(optimizer="sgd", dropout=0.0, metrics=(), hidden=(), **settings):
    """A small compiled classifier; two calls give the same weights."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "tanh", kernel_initializer=keras.initializers.GlorotUniform(1)),
            *hidden,
            *([layers.Dropout(dropout, seed=1)] if dropout else []),
            layers.Dense(3, "softmax", kernel_initializer=keras.initializers.GlorotUniform(2)),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=list(metrics), **settings)
    return model


def weights(model):
    return [w.copy() for w in model.get_weights()]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


class Weights(keras.callbacks.Callback):
    """Keeps the weights at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(weights(self.model))


# The same as `Model.fit`


def assert_fits_as_keras_does(make, *data, **settings):
    ours, keras_own = make(), make()
    assert_same(weights(ours), weights(keras_own))
    history = sda.fit(ours, *data, shuffle=False, verbose=0, **settings)
    expected = keras_own.fit(*data, shuffle=False, verbose=0, **settings)
    assert_close(weights(ours), weights(keras_own))
    assert isinstance(history, keras.callbacks.History)
    assert history.epoch == expected.epoch
    assert set(history.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, atol=1e-5, err_msg=name)
    return ours


def test_weights_and_logs_are_those_of_keras(x, y):
    def make():
        return classifier(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])

    # 50 examples in batches of 16: the last batch is smaller.
    assert_fits_as_keras_does(make, x, y, batch_size=16, epochs=3, validation_data=(x[:20], y[:20]))


def test_adam_takes_the_steps_that_it_takes_under_keras(x, y):
    assert_fits_as_keras_does(lambda: classifier(keras.optimizers.Adam()), x, y, batch_size=25)


def test_sample_weights_count_as_in_keras(x, y):
    def make():
        model = classifier()
        model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
        return model

    weight = np.linspace(0, 2, 50, dtype="float32")
    validation = (x[:20], y[:20], weight[:20])
    assert_fits_as_keras_does(
        make, x, y, batch_size=25, epochs=2, sample_weight=weight, validation_data=validation
    )


def test_the_state_of_batch_normalisation_moves_as_in_keras(x, y):
    def make():
        return classifier(hidden=[layers.BatchNormalization()])

    model = assert_fits_as_keras_does(make, x, y, batch_size=25, epochs=2)
    assert np.any(keras.ops.convert_to_numpy(model.layers[1].moving_mean) != 0)


def test_a_model_with_several_inputs_and_outputs_trains_as_in_keras(x, y):
    def make():
        left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
        both = layers.Concatenate()([left, right])
        start = keras.initializers.GlorotUniform(1)
        outputs = {
            "label": layers.Dense(3, "softmax", kernel_initializer=start, name="label")(both),
            "mean": layers.Dense(1, kernel_initializer=start, name="mean")(both),
        }
        model = keras.Model([left, right], outputs)
        model.compile("sgd", {"label": "sparse_categorical_crossentropy", "mean": "mse"})
        return model

    inputs = {"left": x[:, :4], "right": x[:, 4:]}
    targets = {"label": y, "mean": x.mean(1, keepdims=True)}
    assert_fits_as_keras_does(make, inputs, targets, batch_size=25, epochs=2)


def test_a_learning_rate_schedule_is_heeded(x, y):
    seen = Weights()
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch == 1 else 0.0)
    model = classifier()
    start = weights(model)
    history = sda.fit(model, x, y, 25, 3, verbose=0, callbacks=[rates, seen])
    assert_same(seen.epochs[0], start)
    assert all(np.any(a != b) for a, b in zip(seen.epochs[1], start, strict=True))
    assert_same(seen.epochs[2], seen.epochs[1])
    np.testing.assert_allclose(history.history["learning_rate"], [0.0, 0.1, 0.0], atol=1e-7)


def test_a_model_may_run_eagerly(x, y):
    eager, compiled = classifier(run_eagerly=True), classifier()
    for model in (eager, compiled):
        sda.fit(model, x[:10], y[:10], 5, 1, verbose=0, seed=1)
    assert_close(weights(eager), weights(compiled))


# Callbacks


class Events(keras.callbacks.Callback):
    """Writes down what it is told, and stops training at the event asked for."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at = stop_at
        self.events = []

    def note(self, *event):
        self.events.append(event)
        if event == self.stop_at:
            self.model.stop_training = True

    def on_train_begin(self, logs=None):
        self.note("train begins", self.params["epochs"], self.params["steps"])

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begins", epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.note("batch begins", batch)

    def on_train_batch_end(self, batch, logs=None):
        self.note("batch ends", batch)
        assert "loss" in logs

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch ends", epoch)
        assert "loss" in logs

    def on_train_end(self, logs=None):
        self.note("train ends")
        assert "loss" in logs


@pytest.mark.parametrize("stop_at", [None, ("batch ends", 2)])
def test_callbacks_hear_the_same_as_in_keras(x, y, stop_at):
    ours, keras_own = Events(stop_at), Events(stop_at)
    settings = {"batch_size": 10, "epochs": 3, "verbose": 0}
    sda.fit(classifier(), x, y, callbacks=[ours], steps_per_execution=1, **settings)
    classifier().fit(x, y, callbacks=[keras_own], **settings)
    assert ours.events == keras_own.events
    assert ours.events[0] == ("train begins", 3, 5)


def test_batch_callbacks_hear_of_dispatches(x, y):
    events = Events()
    sda.fit(classifier(), x, y, 10, 1, verbose=0, callbacks=[events], steps_per_execution=2)
    batches = [event for event in events.events if event[0].startswith("batch")]
    assert [batch for _, batch in batches] == [0, 1, 2, 3, 4, 4]


def test_the_history_has_one_value_an_epoch_of_every_metric(x, y, capsys):
    model = classifier(metrics=["accuracy"])
    history = sda.fit(model, x, y, 25, 2, verbose=0, validation_data=(x, y))
    assert capsys.readouterr().out == ""  # verbose=0
    assert set(history.history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    assert all(len(values) == 2 for values in history.history.values())
    assert model.history is history


def test_progress_is_shown_like_that_of_keras(x, y, capsys):
    sda.fit(classifier(), x, y, 25, 2, verbose=2)
    shown = capsys.readouterr().out
    assert "Epoch 1/2" in shown
    assert "Epoch 2/2" in shown
    assert "loss:" in shown


# What the result depends on, and what not


def test_the_result_does_not_depend_on_the_steps_a_dispatch(x, y):
    def train(steps):
        model = classifier(keras.optimizers.SGD(0.1, 0.9), dropout=0.5)
        sda.fit(model, x, y, 5, 2, verbose=0, seed=1, steps_per_execution=steps)
        return weights(model)

    one = train(1)
    for steps in (3, 7, 10):  # 10 are all
        assert_same(train(steps), one)


def test_steps_per_execution_of_compile_is_heeded(x, y, monkeypatch):
    model = classifier()
    # PyTorch models cannot be compiled with more than one.
    monkeypatch.setattr(model, "steps_per_execution", 4)
    events = Events()
    sda.fit(model, x, y, 10, 1, verbose=0, callbacks=[events])
    assert [event for event in events.events if event[0] == "batch begins"] == [
        ("batch begins", 0),
        ("batch begins", 4),
    ]


@pytest.mark.parametrize("source", ["array", "h5py"])
def test_data_streamed_in_pieces_give_the_same_weights(x, y, tmp_path, monkeypatch, source):
    resident, streamed = classifier(dropout=0.5), classifier(dropout=0.5)
    sda.fit(resident, x, y, 10, 2, verbose=0, seed=1)
    if source == "h5py":
        h5py = pytest.importorskip("h5py")
        file = h5py.File(tmp_path / "x.h5", "w")
        x = file.create_dataset("x", data=x, chunks=(8, 6), compression="gzip")
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 1000)
    sda.fit(streamed, x, y, 10, 2, verbose=0, seed=1)
    assert_same(weights(resident), weights(streamed))


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    @property
    def num_batches(self):
        return 8

    def __getitem__(self, i):
        return tuple(array[7 * i : 7 * (i + 1)] for array in self.arrays)


def test_a_dataset_that_is_read_once_gives_the_weights_and_logs_that_arrays_give(x, y):
    weight = np.linspace(0, 2, 50, dtype="float32")
    arrays, batches = classifier(), classifier()
    histories = [
        sda.fit(
            arrays, x, y, 25, sample_weight=weight, validation_data=(x, y), verbose=0, seed=1
        ),
        sda.fit(
            batches, Batches(x, y, weight), batch_size=25, validation_data=Batches(x, y),
            verbose=0, seed=1, read_once=True,
        ),
    ]  # fmt: skip
    assert_same(weights(arrays), weights(batches))
    assert histories[0].history == histories[1].history


def test_a_run_is_a_function_of_its_seed(x, y):
    def train(seed):
        model = classifier(dropout=0.5)
        sda.fit(model, x, y, 10, 2, verbose=0, seed=seed)
        return weights(model)

    first = train(seed=1)
    assert_same(train(seed=1), first)
    assert any(np.any(a != b) for a, b in zip(train(seed=2), first, strict=True))


def test_examples_come_in_a_new_order_each_epoch():
    orders = [sda.rows.orders.Permutation(1).indices(epoch, 50) for epoch in (0, 1, 0)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert np.any(orders[0] != orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])


def test_a_run_goes_on_from_its_initial_epoch(x, y):
    whole, halves = classifier(dropout=0.5), classifier(dropout=0.5)
    sda.fit(whole, x, y, 10, 3, verbose=0, seed=1)
    sda.fit(halves, x, y, 10, 1, verbose=0, seed=1)
    history = sda.fit(halves, x, y, 10, 3, verbose=0, seed=1, initial_epoch=1)
    assert history.epoch == [1, 2]
    assert_same(weights(whole), weights(halves))


def test_the_data_are_left_as_they_are(x, y):
    for array in (x, y):
        array.setflags(write=False)
    before = x.copy(), y.copy()
    sda.fit(classifier(dropout=0.5), x, y, 10, 1, verbose=0)
    assert_same((x, y), before)


# Errors


def spoiled(array, value):
    array = array.astype("float32")
    array.flat[7] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: {"x": x[:, :5]}, r"`x` of shape \(None, 6\).*\(50, 5\)"),
        (lambda x, y: {"x": x[:, :, None]}, r"`x` of shape \(None, 6\).*\(50, 6, 1\)"),
        (lambda x, y: {"x": x[:0], "y": y[:0]}, r"`x` to hold at least one example"),
        (lambda x, y: {"x": x.astype(str)}, "`x` to hold numbers"),
        (lambda x, y: {"x": spoiled(x, np.nan)}, "`x` to hold finite values.*nan in row 1"),
        (lambda x, y: {"x": spoiled(x, np.inf)}, "`x` to hold finite values.*inf in row 1"),
        (lambda x, y: {"y": spoiled(y, np.nan)}, "`y` to hold finite values.*nan in row 7"),
        (lambda x, y: {"y": spoiled(y, 3)}, "`y` to hold labels from 0 to 2.*3"),
        (lambda x, y: {"y": spoiled(y, -1)}, "`y` to hold labels from 0 to 2.*-1"),
        (lambda x, y: {"y": spoiled(y, 0.5)}, "`y` to hold labels from 0 to 2.*0.5"),
        (lambda x, y: {"y": y[:49]}, "`y` to have 50 examples.*49 examples"),
        (lambda x, y: {"sample_weight": np.ones(49)}, "`sample_weight` to have 50 examples"),
        (lambda x, y: {"batch_size": 0}, "`batch_size` to be an integer, at least 1.*=0"),
        (lambda x, y: {"batch_size": 2.5}, "`batch_size` to be an integer"),
        (lambda x, y: {"epochs": -1}, "`epochs` to be an integer"),
        (lambda x, y: {"initial_epoch": -1}, "`initial_epoch` to be an integer, at least 0"),
        (lambda x, y: {"steps_per_execution": 0}, "`steps_per_execution` to be an integer"),
        (lambda x, y: {"seed": -1}, "`seed` to be a non-negative integer"),
        (lambda x, y: {"validation_data": x}, r"`validation_data` to be \(x, y\)"),
        (lambda x, y: {"validation_data": (x[:, :5], y)}, r"`validation_data\[0\]` of shape"),
        (lambda x, y: {"validation_data": (x, y + 1)}, r"`validation_data\[1\]` to hold labels"),
    ],
)
def test_bad_data_and_settings_are_refused_before_anything_changes(x, y, change, message):
    model = classifier("adam", dropout=0.5)
    before = weights(model), [keras.ops.convert_to_numpy(v) for v in model.variables]
    arguments = {"x": x, "y": y, "batch_size": 10, "verbose": 0, **change(x, y)}
    with pytest.raises(ValueError, match=message):
        sda.fit(model, **arguments)
    assert_same(weights(model), before[0])
    assert_same([keras.ops.convert_to_numpy(v) for v in model.variables], before[1])
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "loss", ["huber", "mape", keras.losses.log_cosh, keras.losses.MeanSquaredError(name="mine")]
)
def test_targets_that_would_be_stretched_are_refused(x, loss):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"`y` of shape \(None, 3\).*\(50, 1\)"):
        sda.fit(model, x, x[:, :1], verbose=0)


@pytest.mark.parametrize("form", [lambda loss: [loss, loss], lambda loss: {"b": loss, "a": loss}])
def test_targets_of_one_output_of_several_are_checked(x, form):
    inputs = keras.Input((6,))
    model = keras.Model(
        inputs, [layers.Dense(2, name="a")(inputs), layers.Dense(3, name="b")(inputs)]
    )
    model.compile("sgd", form("mse"))
    with pytest.raises(ValueError, match=r"`y\[1\]` of shape \(None, 3\).*\(50, 1\)"):
        sda.fit(model, x, [x[:, :2], x[:, :1]], verbose=0)


def test_a_loss_of_a_users_own_may_stretch_targets(x, y):
    class Own(keras.losses.MeanSquaredError):
        pass

    def mean_squared_error(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    for loss in (Own(), mean_squared_error):

        def make(loss=loss):
            model = classifier()
            model.compile("sgd", loss)
            return model

        assert_fits_as_keras_does(make, x, x[:, :1], batch_size=25, epochs=1)


def test_an_optimizer_that_trained_another_model_is_refused(x, y):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    sda.fit(classifier(optimizer), x, y, verbose=0)
    again = classifier(optimizer)
    before = weights(again)
    with pytest.raises(ValueError, match="make one per compile"):
        sda.fit(again, x, y, verbose=0)
    assert_same(weights(again), before)


def test_layers_frozen_after_compile_have_to_be_compiled_again(x, y):
    model = classifier()
    model.layers[0].trainable = False
    before = weights(model)
    with pytest.raises(ValueError, match=f"compile again.*{model.layers[0].name}"):
        sda.fit(model, x, y, verbose=0)
    assert_same(weights(model), before)
    model.compile("sgd", "sparse_categorical_crossentropy")
    sda.fit(model, x, y, verbose=0)
    assert_same(weights(model)[:2], before[:2])
    assert np.any(weights(model)[2] != before[2])


@pytest.mark.slow
def test_a_backup_is_restored_where_it_was_made(x, y, tmp_path):
    class Cut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise OSError("the power is cut off")

    def run(fit, folder, *callbacks):
        model = classifier(keras.optimizers.SGD(0.1, momentum=0.9))
        backup = keras.callbacks.BackupAndRestore(folder)
        settings = {"batch_size": 16, "epochs": 4, "shuffle": False, "verbose": 0}
        return model, fit(model, x, y, callbacks=[backup, *callbacks], **settings)

    results = []
    for fit, folder in ((sda.fit, "ours"), (lambda model, *a, **k: model.fit(*a, **k), "keras")):
        with pytest.raises(OSError, match="cut off"):
            run(fit, tmp_path / folder, Cut())
        results.append(run(fit, tmp_path / folder))
    (ours, history), (keras_own, expected) = results
    assert history.epoch == expected.epoch == [2, 3]
    assert_close(weights(ours), weights(keras_own))


@pytest.mark.parametrize("make", [lambda: keras.Sequential([layers.Dense(3)]), lambda: "model"])
def test_a_model_that_is_not_compiled_is_refused(x, y, make):
    with pytest.raises(ValueError, match=r"`model` to be a compiled keras\.Model"):
        sda.fit(make(), x, y)


SPARSE = "sparse_categorical_crossentropy"
VERY_WRONG = {
    "name": (SPARSE, False),
    "one-hot": ("categorical_crossentropy", True),
    "object": (keras.losses.SparseCategoricalCrossentropy(), False),
    "function": (keras.losses.sparse_categorical_crossentropy, False),
    "a list": ([SPARSE], False),
    "one-hot object": (keras.losses.CategoricalCrossentropy(name="mine"), True),
}


@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("name", VERY_WRONG)
def test_a_softmax_that_is_very_wrong_keeps_its_gradient(name, chain):
    loss, one_hot = VERY_WRONG[name]
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(2, "softmax")(inputs)
    # A functional model takes its steps through `train_step` on every backend.
    model = keras.Model(inputs, outputs)
    if chain:
        model = keras.Sequential([inputs, model.layers[1]])
    model.layers[-1].set_weights([np.zeros((2, 2)), np.array([40.0, 0.0])])
    model.compile(keras.optimizers.SGD(1.0), loss)
    y = np.eye(2)[np.ones(4, "int64")] if one_hot else np.ones(4, "int64")
    history = sda.fit(model, np.zeros((4, 2)), y, batch_size=4, verbose=0).history
    # The gradient at p = e⁻⁴⁰ is that of p = 0: (1, -1).
    np.testing.assert_allclose(model.layers[-1].get_weights()[1], [39.0, 1.0], atol=1e-5)
    assert history["loss"][0] == pytest.approx(40.0, rel=1e-5)


@pytest.mark.parametrize("functional", [True, False])
def test_what_keeps_the_gradient_is_seen_by_nobody_else(functional):
    """Relative errors of targets of 0 are divided by the epsilon that is Keras's for all."""
    usual, seen = keras.config.epsilon(), []

    class Epsilon(keras.layers.Layer):
        def call(self, x):
            seen.append(keras.config.epsilon())
            return x

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(keras.config.epsilon())

    def train(fit):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((2,))
        x = Epsilon()(inputs) if functional else inputs
        outputs = keras.layers.Dense(2, "softmax")(x)
        layers_ = [inputs, keras.layers.Dense(2, "softmax")]
        model = keras.Model(inputs, outputs) if functional else keras.Sequential(layers_)
        model.compile("sgd", "categorical_crossentropy", metrics=["mape"])
        x, y = np.linspace(0, 1, 8).reshape(4, 2), np.eye(2)[[0, 1, 1, 0]]
        return fit(
            model, x, y, batch_size=2, epochs=2, shuffle=False, verbose=0, callbacks=[Recorder()]
        ).history

    ours, theirs = train(sda.fit), train(keras.Model.fit)
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        assert values == pytest.approx(theirs[key], rel=1e-5)
    assert set(seen) == {usual}


def test_validation_calls_the_test_callbacks():
    calls = []

    class Recorder(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            calls.append("begin")

        def on_test_end(self, logs=None):
            calls.append(sorted(logs))

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.zeros((4, 2)), np.zeros((4, 1))
    sda.fit(model, x, y, validation_data=(x, y), callbacks=[Recorder()], epochs=2, verbose=0)
    assert calls == ["begin", ["loss", "mae"]] * 2
