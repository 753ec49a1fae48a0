import csv
import datetime
import tempfile
import time

import h5py
import keras
import numpy as np
import pytest

import sda
from sda.rows.orders import Permutation
from sda.streams import stream


@pytest.fixture
def x():
    return data()


def data():
    """Examples on a grid of 255ths, so that they can be uint8 pixels too."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 12))
    return (pixels / 255).astype("float32")


def stacked(units=(6,), seed=1, **settings):
    return sda.StackedDenoisingAutoencoder(list(units), seed=seed, **settings)


def pretrain(stack, x, validation_data=None, shuffle=True, verbose=0, **settings):
    settings = {"optimizer": keras.optimizers.SGD(0.1), "epochs": 2, "seed": 1, **settings}
    pretrainer = sda.GreedyPretrainer(stack, **settings)
    return pretrainer.fit(x, validation_data=validation_data, shuffle=shuffle, verbose=verbose)


def weights(model):
    return [w.copy() for w in model.get_weights()]


def trained_weights(x, units=(6,), preprocessing=None, **settings):
    stack = stacked(units, preprocessing=preprocessing)
    pretrain(stack, x, **settings)
    return weights(stack)


@pytest.fixture(scope="module")
def one_layer():
    """The weights of one layer, pretrained on the array in memory."""
    return trained_weights(data())


@pytest.fixture(scope="module")
def two_layers():
    """The weights of two layers, pretrained with the codes on the device."""
    return trained_weights(data(), (8, 5), codes_storage="device")


def differ(some, others):
    return [bool(np.any(a != b)) for a, b in zip(some, others, strict=True)]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def of_numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def cross_entropy(x, z):
    """The loss of each feature."""
    return -x * np.log(z) - (1 - x) * np.log1p(-z)


def reconstruction(autoencoder, x):
    kernel, bias = (w.astype("float64") for w in autoencoder.encoder.get_weights())
    return sigmoid(sigmoid(x @ kernel + bias) @ kernel.T + of_numpy(autoencoder.visible_bias))


class Watch(keras.callbacks.Callback):
    """Runs a function of the layer's model when its training begins."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def on_train_begin(self, logs=None):
        self.look(self.model)


# The algorithm


def test_two_layers_learn_what_they_learn_in_numpy(x):
    rate, epochs, batch, corruption = 0.1, 3, 20, [0.4, 0.0]
    stack = stacked((8, 5), corruption=corruption)
    # The same noise, drawn by a stack of its own: a function of (seed, layer, step).
    noise = stacked((8, 5), corruption=corruption)
    for s in (stack, noise):
        s.build((None, 12))
    expected = []
    below = x.astype("float64")
    for k, autoencoder in enumerate(stack.autoencoders):
        w, b = (v.astype("float64") for v in autoencoder.encoder.get_weights())
        v = np.zeros(below.shape[1])
        for _ in range(epochs):
            for start in range(0, len(x), batch):
                clean = below[start : start + batch]
                ones = keras.ops.ones(clean.shape)
                mask = of_numpy(noise.autoencoders[k].corruption(ones, training=True))
                h = sigmoid(mask * clean @ w + b)
                delta = (sigmoid(h @ w.T + v) - clean) / batch
                delta_h = delta @ w * h * (1 - h)
                w = w - rate * ((mask * clean).T @ delta_h + delta.T @ h)
                b = b - rate * delta_h.sum(0)
                v = v - rate * delta.sum(0)
        expected.append((w, b, v))
        below = sigmoid(below @ w + b)

    pretrain(stack, x, shuffle=False, epochs=epochs, batch_size=batch)

    for autoencoder, arrays in zip(stack.autoencoders, expected, strict=True):
        ours = [*autoencoder.encoder.get_weights(), of_numpy(autoencoder.visible_bias)]
        for a, b in zip(ours, arrays, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_examples_come_in_the_order_of_seed_layer_and_epoch(x):
    order = Permutation(stream(3, "order", 0))
    orders = [order.indices(epoch, 60) for epoch in range(2)]
    in_order, shuffled = stacked(corruption=0.0), stacked(corruption=0.0)
    pretrain(shuffled, x, seed=3)
    rows = np.concatenate([x[order] for order in orders])
    pretrain(in_order, rows, epochs=1, shuffle=False)
    for a, b in zip(weights(in_order), weights(shuffled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_training_a_layer_leaves_the_weights_and_the_noise_of_the_others_alone(x):
    stack = stacked((8, 5, 4))
    snapshots = []

    def look(_=None):
        variables = [of_numpy(v) for a in stack.autoencoders for v in a.trainable_variables]
        counters = [int(of_numpy(a.corruption.seed_generator.state)[1]) for a in stack.autoencoders]
        snapshots.append((variables, counters))

    pretrain(stack, x, epochs=2, batch_size=20, callbacks=lambda k: [Watch(look)])
    look()
    assert [counters for _, counters in snapshots] == [[0, 0, 0], [6, 0, 0], [6, 6, 0], [6, 6, 6]]
    for k in range(3):
        changed = differ(snapshots[k + 1][0], snapshots[k][0])
        assert changed == [layer == k for layer in range(3) for _ in ("W", "b", "b'")]


# Settings


def test_settings_may_differ_between_layers(x):
    seen = []

    def look(model):
        seen.append((type(model.optimizer).__name__, float(model.optimizer.learning_rate)))

    watches = [Watch(look), Watch(look)]
    histories = pretrain(
        stacked((8, 5)), x, epochs=[1, 3], batch_size=[20, 30],
        optimizer=[keras.optimizers.SGD(0.5), keras.optimizers.Adam(0.25)],
        loss=["cross_entropy", "squared_error"], callbacks=lambda k: [watches[k]],
    )  # fmt: skip
    assert seen == [("SGD", 0.5), ("Adam", 0.25)]
    assert [len(history.history["loss"]) for history in histories] == [1, 3]
    assert [watch.params["steps"] for watch in watches] == [3, 2]
    # A sigmoid's squared error is below 1 a feature, its cross-entropy near log 2.
    assert histories[0].history["loss"][0] > 12 * 0.6
    assert histories[1].history["loss"][0] < 8 * 0.5


@pytest.mark.parametrize("name", ["optimizer", "loss", "epochs", "batch_size"])
def test_a_list_of_the_wrong_length_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` to be one value or a list of 2"):
        sda.GreedyPretrainer(stacked((8, 5)), **{name: [1, 1, 1]})


def test_each_layer_gets_a_fresh_optimizer_and_callbacks_of_its_own(x):
    template = keras.optimizers.Adam(0.01)
    optimizers, made = [], []

    def look(model):
        optimizer = model.optimizer
        state = [of_numpy(v) for v in optimizer.variables if v is not optimizer.learning_rate]
        assert not any(np.any(v) for v in state)
        optimizers.append(optimizer)

    def callbacks(k):
        made.append(Watch(look))
        return [made[-1]]

    pretrain(stacked((8, 5)), x, optimizer=template, epochs=1, callbacks=callbacks)
    assert len(made) == len(optimizers) == 2
    assert len({id(optimizer) for optimizer in (*optimizers, template)}) == 3
    assert [int(optimizer.iterations) for optimizer in optimizers] == [3, 3]
    assert int(template.iterations) == 0
    assert not template.built


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        keras.optimizers.Adam(0.01),
        keras.optimizers.RMSprop(keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.9)),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_optimizers_take_the_steps_that_they_take_under_keras(x, optimizer):
    ours = stacked(corruption=0.0, decoder_activation="linear")
    history = pretrain(ours, x, shuffle=False, optimizer=optimizer, epochs=2)[0]
    theirs = stacked(corruption=0.0, decoder_activation="linear")
    model = keras.Sequential([keras.Input((12,)), *theirs.autoencoders])
    own = type(optimizer).from_config(optimizer.get_config())
    model.compile(own, sda.losses.SquaredError())
    expected = model.fit(x, x, batch_size=20, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        history.history["loss"], expected.history["loss"], rtol=1e-4, atol=1e-4
    )
    theirs.build((None, 12))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_no_epochs_change_nothing(x):
    stack = stacked()
    stack.build((None, 12))
    before = weights(stack)
    assert pretrain(stack, x, epochs=0)[0].history == {}
    assert_same(weights(stack), before)


# What is logged


def test_losses_are_logged_under_noise_drawn_anew_under_noise_kept_and_without_noise(x, capsys):
    # At a rate of 0 the weights stay, and only the noise can make two losses differ.
    stack = stacked(corruption=0.4)
    (history,) = pretrain(
        stack, x[:40], x[40:], optimizer=keras.optimizers.SGD(0.0), epochs=3, shuffle=False
    )
    assert isinstance(history, keras.callbacks.History)
    assert set(history.history) == {"loss", "val_loss", "val_clean_loss"}
    assert len(set(history.history["loss"])) == 3
    kept = history.history["val_loss"]
    assert kept == [kept[0]] * 3
    clean = cross_entropy(x[40:], reconstruction(stack.autoencoders[0], x[40:])).sum(1).mean()
    np.testing.assert_allclose(history.history["val_clean_loss"], [clean] * 3, rtol=1e-5)
    assert abs(kept[0] - clean) > 0.01
    assert capsys.readouterr().out == ""  # verbose=0


def arrays_in(path):
    arrays = []
    with h5py.File(path) as file:
        file.visititems(lambda _, v: arrays.append(v[()]) if hasattr(v, "dtype") else None)
    return arrays


def test_keras_callbacks_work_layer_by_layer(x, tmp_path):
    def callbacks(k):
        # A loss that falls is taken for one that should rise, and patience runs out.
        upside_down = {"monitor": "val_loss", "mode": "max"}
        return [
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, **upside_down),
            keras.callbacks.CSVLogger(tmp_path / f"layer_{k}.csv"),
            keras.callbacks.ModelCheckpoint(
                tmp_path / f"layer_{k}.weights.h5", save_weights_only=True
            ),
            keras.callbacks.EarlyStopping(patience=2, **upside_down),
        ]

    stack = stacked((8, 5), corruption=0.0)
    histories = pretrain(stack, x, x, epochs=5, callbacks=callbacks)
    for k, (autoencoder, history) in enumerate(zip(stack.autoencoders, histories, strict=True)):
        assert history.epoch == [0, 1, 2]  # EarlyStopping
        rates = history.history["learning_rate"]
        np.testing.assert_allclose(rates, [0.1, 0.1, 0.05], rtol=1e-6)
        with open(tmp_path / f"layer_{k}.csv") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["val_loss"]) for row in rows] == history.history["val_loss"]
        saved = arrays_in(tmp_path / f"layer_{k}.weights.h5")
        for w in [*autoencoder.encoder.get_weights(), of_numpy(autoencoder.visible_bias)]:
            assert any(np.array_equal(w, s) for s in saved)


def test_progress_names_the_layer_the_epoch_the_loss_and_the_time_left(x, capsys):
    pretrain(stacked((8, 5)), x, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    for layer, sizes in (("1/2", "12 -> 8"), ("2/2", "8 -> 5")):
        for epoch in ("1/2", "2/2"):
            title = f"Layer {layer} ({sizes}), epoch {epoch}"
            (line,) = [i for i, text in enumerate(lines) if title in text]
            assert any("loss:" in text for text in lines[line + 1 : line + 4])
            first = (layer, epoch) == ("1/2", "1/2")
            assert first or " left" in lines[line]


class Seconds(keras.callbacks.Callback):
    """Moves a clock on at the end of each epoch, and may end the training of a layer."""

    def __init__(self, clock, seconds, last=None):
        super().__init__()
        self.clock, self.seconds, self.last = clock, seconds, last

    def on_epoch_end(self, epoch, logs=None):
        self.clock.append(self.clock[-1] + self.seconds)
        self.model.stop_training = epoch == self.last


def test_the_time_left_is_that_of_the_epochs_and_layers_to_come(x, capsys, monkeypatch):
    """Where an epoch takes a second for each weight and bias of its layer."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[-1])
    first, second = 8 * 12 + 8 + 12, 5 * 8 + 5 + 8
    pretrain(
        stacked((8, 5)),
        x,
        epochs=[5, 3],
        # The first layer ends early, after its second epoch.
        callbacks=lambda k: [Seconds(clock, [first, second][k], 1 if k == 0 else None)],
        verbose=1,
    )
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Layer")]
    left = [4 * first + 3 * second, 3 * second, 2 * second, second]
    expected = [f", about {datetime.timedelta(seconds=seconds)} left" for seconds in left]
    assert [line.partition(", about ")[1:] for line in told[:1]] == [("", "")]
    assert [line[line.index(", about") :] for line in told[1:]] == expected


@pytest.mark.parametrize("noise", [0.3, sda.GaussianNoise(0.3)])
def test_validation_has_a_noise_of_its_own(x, noise):
    """Of one batch, at weights that stay: the loss and the score differ by their noise alone."""
    stack = stacked((8, 5), corruption=[noise, noise])
    histories = pretrain(
        stack, x, x, False, optimizer=keras.optimizers.SGD(0.0), epochs=3, batch_size=len(x)
    )
    for history in (h.history for h in histories):
        values = [*history["loss"], history["val_loss"][0]]
        # The same noise after each epoch; that of the layer goes on.
        assert len(set(history["val_loss"])) == 1
        assert len(set(np.round(values, 4))) == 4
        np.testing.assert_allclose(values, np.mean(values), rtol=0.05)


# What the result depends on, and what not


def test_the_result_is_a_function_of_the_seeds(x, one_layer):
    assert_same(trained_weights(x), one_layer)
    assert any(differ(trained_weights(x, seed=2), one_layer))
    other = stacked(seed=2)
    pretrain(other, x)
    assert any(differ(weights(other), one_layer))


@pytest.mark.parametrize(("codes", "budget"), [("ram", None), ("disk", None), ("auto", 0)])
def test_the_result_does_not_depend_on_where_the_codes_live(
    x, two_layers, tmp_path, monkeypatch, codes, budget
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert_same(trained_weights(x, (8, 5), codes_storage=codes, codes_budget=budget), two_layers)
    assert not list(tmp_path.iterdir())


def test_recomputed_codes_give_the_same_up_to_rounding(x, two_layers):
    recomputed = trained_weights(x, (8, 5), codes_storage="recompute")
    for a, b in zip(recomputed, two_layers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("codes", ["device", "ram"])
def test_codes_above_their_budget_are_refused(x, codes):
    stack = stacked((8, 5))
    with pytest.raises(ValueError, match=r"to fit `codes_budget`.*1920 bytes"):
        pretrain(stack, x, codes_storage=codes, codes_budget=1919)


def test_scratch_files_do_not_outlive_an_interrupted_run(x, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = []

    def interrupt(_):
        found.extend(tmp_path.rglob("*.h5"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(
            stacked((8, 5)), x, epochs=[0, 1], codes_storage="disk",
            callbacks=lambda k: [Watch(interrupt)] * k,
        )  # fmt: skip
    assert len(found) == 1
    assert not list(tmp_path.iterdir())


# Sources


def as_memmap(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


OPEN = []  # A dataset is read while its file is open.


def as_h5(x, folder):
    OPEN[:] = [h5py.File(folder / "x.h5", "w")]
    return OPEN[0].create_dataset("x", data=x)


def as_compressed_h5(x, folder):
    OPEN[:] = [h5py.File(folder / "x.h5", "w")]
    return OPEN[0].create_dataset("x", data=x, chunks=(8, 6), compression="gzip")


def as_tensorflow_dataset(x, folder):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(x).batch(7)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, batches=9):
        super().__init__()
        self.x = x
        self.batches = batches

    @property
    def num_batches(self):
        return self.batches

    def __getitem__(self, i):
        return self.x[7 * i : 7 * (i + 1)], np.zeros(7)


def as_py_dataset(x, folder):
    return Batches(x)


@pytest.mark.parametrize(
    "source",
    [
        as_memmap,
        as_h5,
        as_compressed_h5,
        as_tensorflow_dataset,
        as_py_dataset,
    ],
)
def test_every_source_gives_the_weights_that_the_array_gives(x, one_layer, tmp_path, source):
    assert_same(trained_weights(source(x, tmp_path)), one_layer)


def test_uint8_pixels_are_trained_on_after_a_rescaling(x, two_layers):
    pixels = np.round(x * 255).astype("uint8")
    np.testing.assert_array_equal((pixels / 255).astype("float32"), x)
    found = trained_weights(pixels, (8, 5), preprocessing=keras.layers.Rescaling(1 / 255))
    # A product with 1/255 is not the same as a division by 255.
    for ours, expected in zip(found, two_layers, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_the_callers_array_is_only_read(x, one_layer):
    before = x.copy()
    x.setflags(write=False)
    assert_same(trained_weights(x), one_layer)
    np.testing.assert_array_equal(x, before)


# Losses and precision


def test_the_emphasised_loss_weighs_corrupted_features_apart(x):
    stack, noise = stacked(corruption=0.4), stacked(corruption=0.4)
    stack.build((None, 12))
    keep = of_numpy(noise.autoencoders[0].corruption(keras.ops.ones(x.shape), training=True))
    z = reconstruction(stack.autoencoders[0], x * keep)
    weight = np.where(keep == 0, 1.0, 0.25)
    loss = sda.losses.CrossEntropy(alpha=1.0, beta=0.25)
    (history,) = pretrain(stack, x, loss=loss, epochs=1, batch_size=60, shuffle=False)
    expected = (weight * cross_entropy(x, z)).sum(1).mean()
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)
    step = -0.1 * (weight * (z - x)).mean(0)
    np.testing.assert_allclose(of_numpy(stack.autoencoders[0].visible_bias), step, atol=1e-6)


def test_an_emphasised_loss_needs_a_noise_that_selects():
    stack = stacked((8, 5), corruption=[0.3, sda.GaussianNoise(0.1)])
    with pytest.raises(ValueError, match=r"that selects features.*layer 1 with GaussianNoise"):
        sda.GreedyPretrainer(stack, loss=sda.losses.CrossEntropy(alpha=1.0, beta=0.5))


def test_losses_of_keras_are_minimised(x):
    loss = keras.losses.Huber()
    stack = stacked(corruption=0.0)
    stack.build((None, 12))
    expected = of_numpy(loss(x, stack.reconstruct(x)))
    (history,) = pretrain(stack, x, loss=loss, epochs=3, batch_size=60)
    np.testing.assert_allclose(history.history["loss"][0], expected, rtol=1e-5)
    assert history.history["loss"][2] < history.history["loss"][0]


def test_a_stack_in_mixed_precision_learns_in_float32_variables(x):
    stack = stacked(corruption=0.0, dtype="mixed_bfloat16")
    (history,) = pretrain(stack, x, epochs=4)
    (autoencoder,) = stack.autoencoders
    assert autoencoder.compute_dtype == "bfloat16"
    assert {v.dtype for v in autoencoder.trainable_variables} == {"float32"}
    assert np.all(np.isfinite(history.history["loss"]))
    assert history.history["loss"][-1] < history.history["loss"][0]


# Errors


def spoiled(x, value):
    x = x.copy()
    x[2, 3] = value
    return x


def endless_tensorflow_dataset(x):
    return as_tensorflow_dataset(x, None).repeat()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:0], r"`x` to hold at least one example.*\(0, 12\)"),
        (lambda x: x[0], r"`x` of shape \(n, 12\).*\(12,\)"),
        (lambda x: x[:, :, None], r"`x` of shape \(n, 12\).*\(60, 12, 1\)"),
        (lambda x: x[:, :5], r"`x` of shape \(n, 12\).*\(60, 5\)"),
        (lambda x: x.astype(str), "`x` to hold numbers"),
        (lambda x: spoiled(x, np.nan), "`x` to hold finite values.*nan in row 2"),
        (lambda x: spoiled(x, np.inf), "`x` to hold finite values.*inf in row 2"),
        (
            lambda x: spoiled(x, 1.5),
            r'`x` to lie in \[0, 1\].*decoder_activation="linear".*loss="squared_error".* to 1\.5',
        ),
        (lambda x: spoiled(x, -0.5), r"`x` to lie in \[0, 1\].*from -0\.5"),
        (lambda x: Batches(x, None), "`x` to end"),
        (endless_tensorflow_dataset, "`x` to end"),
    ],
)
def test_bad_data_are_refused_before_anything_changes(x, change, message):
    stack = stacked((8, 5))
    stack.build((None, 12))
    before = weights(stack)
    with pytest.raises(ValueError, match=message):
        pretrain(stack, change(x))
    with pytest.raises(ValueError, match=message.replace("`x`", "`validation_data`")):
        pretrain(stack, x, validation_data=change(x))
    assert_same(weights(stack), before)


def test_a_stack_that_was_not_built_takes_rows_of_features_only(x):
    stack = stacked()
    with pytest.raises(ValueError, match=r"`x` of shape \(n, features\).*\(60, 3, 4\)"):
        pretrain(stack, x.reshape(60, 3, 4))
    assert not stack.built


def test_real_valued_data_train_a_linear_decoder(x):
    stack = stacked(decoder_activation="linear")
    (history,) = pretrain(stack, 4 * x - 2, optimizer=keras.optimizers.SGD(0.01), epochs=3)
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize(
    ("stack", "settings", "message"),
    [
        ({}, {"epochs": -1}, "`epochs` to be an integer, at least 0.*epochs=-1"),
        ({}, {"epochs": 1.5}, "`epochs` to be an integer"),
        ({}, {"batch_size": 0}, "`batch_size` to be an integer, at least 1.*batch_size=0"),
        ({}, {"callbacks": []}, r"`callbacks` to be a function.*callbacks=\[\]"),
        ({}, {"codes_storage": "cloud"}, "`codes_storage` to be one of.*codes_storage='cloud'"),
        ({}, {"codes_budget": -1}, "`codes_budget` to be an integer, at least 0.*codes_budget=-1"),
        ({}, {"loss": "cosine"}, "`loss` to be one of.*loss='cosine'"),
        ({}, {"seed": -1}, "`seed` to be a non-negative integer"),
        (
            {"decoder_activation": "linear"},
            {"loss": "cross_entropy"},
            "a sigmoid decoder under cross-entropy.*layer 0 with decoder_activation='linear'",
        ),
        (
            {"activation": "relu", "decoder_activation": "sigmoid"},
            {},
            r"codes in \[0, 1\] under cross-entropy.*layer 1 above 'relu' codes",
        ),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(stack, settings, message):
    stack = stacked((8, 5), **stack)
    stack.build((None, 12))
    before = weights(stack)
    with pytest.raises(ValueError, match=message):
        sda.GreedyPretrainer(stack, **settings)
    assert_same(weights(stack), before)


def test_something_that_is_no_stack_is_refused():
    with pytest.raises(ValueError, match=r"`stack` to be an sda\.StackedDenoisingAutoencoder"):
        sda.GreedyPretrainer(sda.DenoisingAutoencoder(5))


def test_callbacks_of_every_layer_are_checked_before_one_is_trained():
    stack = sda.StackedDenoisingAutoencoder([4, 3], seed=1)
    stack.build((None, 5))
    before = stack.get_weights()
    pretrainer = sda.GreedyPretrainer(stack, epochs=1, callbacks=lambda k: ["loud"] * k)
    with pytest.raises(ValueError, match=r"Expected `callbacks`.* Received: callbacks=\['loud'\]"):
        pretrainer.fit(np.full((10, 5), 0.5, "float32"), verbose=0)
    for a, b in zip(before, stack.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Unwritten(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that does not say how it was made."""

    def __call__(self, step):
        return 0.1


def test_an_optimizer_that_cannot_be_copied_is_found_before_anything_is_trained():
    stack = sda.StackedDenoisingAutoencoder([4, 3], seed=1)
    with pytest.raises(ValueError, match="`optimizer` to be a template"):
        sda.GreedyPretrainer(stack, ["sgd", keras.optimizers.SGD(Unwritten())])
