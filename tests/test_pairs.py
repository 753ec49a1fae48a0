"""Layers that learn clean rows from noisy ones: `fit(noisy, targets=clean)`."""

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from parity import check_close, check_history, weights

import sda

ROWS, VISIBLE = 23, 8
USUAL = {"epochs": 2, "batch_size": 5}
SGD = keras.optimizers.SGD
slow = pytest.mark.slow


def halves(missing=False):
    """Return noisy and clean rows, which tell the right half from the wrong one."""
    generator = np.random.default_rng(3)
    clean = generator.random((ROWS, VISIBLE)).astype("float32")
    noisy = (clean + 0.4 * generator.normal(size=clean.shape)).astype("float32")
    if missing:
        noisy[generator.random(noisy.shape) < 0.2] = np.nan
        clean[generator.random(clean.shape) < 0.2] = np.nan
    return noisy, clean


def stack_of(**settings):
    settings = {"corruption": [0.3, 0.2], **settings}
    stack = sda.StackedDenoisingAutoencoder([6, 4], seed=7, **settings)
    stack.build((None, VISIBLE))
    return stack


def trained(x, loss=None, fit=None, pretrainer=None, **settings):
    """Pretrain a stack in the order of the rows; return it and its Histories."""
    stack = stack_of(**settings)
    pretrainer = sda.GreedyPretrainer(
        stack, SGD(0.1), loss, seed=1, **{**USUAL, **(pretrainer or {})}
    )
    return stack, pretrainer.fit(x, shuffle=False, verbose=0, **(fit or {}))


REAL = {"decoder_activation": "linear"}
SQUARED = sda.losses.SquaredError
CASES = {
    "tied": ({}, None),
    "no noise of its own": ({"corruption": 0.0}, None),
    "emphasised": ({}, sda.losses.CrossEntropy(1.0, 0.5)),
    "linear decoder": ({**REAL, "corruption": sda.GaussianNoise(0.3)}, None),
    "emphasised squares": (REAL, SQUARED(1.0, 0.25)),
    "untied": ({"tied": False}, None),
    "penalties": ({"contraction": 0.1, "sparsity": keras.regularizers.L1(0.01)}, None),
    "a loss of Keras": (REAL, keras.losses.MeanAbsoluteError()),
    "sum": (REAL, SQUARED(reduction="sum")),
    "values missing": ({**REAL, "fill_value": 0.5}, None),
    "values missing, emphasised": ({**REAL, "fill_value": 0.5}, SQUARED(1.0, 0.25)),
}


# The others PyTorch alone trains, which need not compile.
QUICK = ("tied", "values missing, emphasised")


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=slow) for case in CASES]
)
def test_the_first_layer_learns_pairs_as_in_keras_and_the_next_the_codes_of_clean_rows(case):
    settings, loss = CASES[case]
    noisy, clean = halves("fill_value" in settings)
    stack, histories = trained(noisy, loss, {"targets": clean}, **settings)

    other = stack_of(**settings)
    pretrainer = sda.GreedyPretrainer(other, SGD(0.1), loss, **USUAL)
    first, second = pretrainer.layer_model(0), pretrainer.layer_model(1)
    expected = [first.fit(noisy, clean, shuffle=False, verbose=0, **USUAL)]
    codes = ops.convert_to_numpy(other.autoencoders[0].encode(ops.convert_to_tensor(clean)))
    expected.append(second.fit(codes, shuffle=False, verbose=0, **USUAL))

    check_close(weights(stack), weights(other), 1e-5)
    for history, keras_history in zip(histories, expected, strict=True):
        check_history(history, keras_history, 1e-5)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_the_pairs_are_what_is_learned_in_float64():
    """A tied dA without noise of its own, by its equations: the loss of the clean half."""
    noisy, clean = (half.astype("float64") for half in halves(missing=True))
    rate, size = 0.1, USUAL["batch_size"]
    settings = {**REAL, "fill_value": 0.5, "corruption": 0.0}
    w, b, b2 = (np.array(v, "float64") for v in _parameters(stack_of(**settings).autoencoders[0]))
    for _ in range(USUAL["epochs"]):
        losses = []
        for start in range(0, ROWS, size):
            x = np.nan_to_num(noisy[start : start + size], nan=0.5)
            t = clean[start : start + size]
            known = ~np.isnan(t)
            y = sigmoid(x @ w + b)
            z = y @ w.T + b2
            error = np.where(known, z - np.where(known, t, 0), 0)
            losses.append((error**2).sum(1))
            delta = 2 * error / len(x)
            delta_y = delta @ w * y * (1 - y)
            w = w - rate * (x.T @ delta_y + delta.T @ y)
            b, b2 = b - rate * delta_y.sum(0), b2 - rate * delta.sum(0)
    noisy, clean = halves(missing=True)
    stack, histories = trained(noisy, fit={"targets": clean}, **settings)
    for value, right in zip(_parameters(stack.autoencoders[0]), (w, b, b2), strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        histories[0].history["loss"][-1], np.concatenate(losses).mean(), rtol=1e-5
    )


def _parameters(autoencoder):
    encoder = autoencoder.encoder
    variables = (encoder.kernel, encoder.bias, autoencoder.visible_bias)
    return [ops.convert_to_numpy(v) for v in variables]


@slow
def test_validation_compares_with_clean_rows():
    noisy, clean = halves()
    stack, histories = trained(
        noisy, fit={"targets": clean, "validation_data": (noisy[:9], clean[:9])},
        corruption=[0.0, 0.2],
    )  # fmt: skip
    w, b, b2 = (np.array(v, "float64") for v in _parameters(stack.autoencoders[0]))
    a = sigmoid(noisy[:9] @ w + b) @ w.T + b2
    right = (np.logaddexp(0, a) - clean[:9] * a).sum(1).mean()
    # Without noise of the layer's own, both are the loss of the last weights.
    for name in ("val_loss", "val_clean_loss"):
        np.testing.assert_allclose(histories[0].history[name][-1], right, rtol=1e-5)
    codes = stack.encode(clean[:9], 0)
    w, b, b2 = (np.array(v, "float64") for v in _parameters(stack.autoencoders[1]))
    a = sigmoid(codes @ w + b) @ w.T + b2
    right = (np.logaddexp(0, a) - codes * a).sum(1).mean()
    np.testing.assert_allclose(histories[1].history["val_clean_loss"][-1], right, rtol=1e-5)


# Where the halves come from


def _batches(*arrays):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            found = tuple(a[5 * i : 5 * i + 5] for a in arrays)
            return found if len(found) > 1 else found[0]

    return Batches()


@slow
def test_of_a_dataset_the_second_half_is_the_target_if_it_is_asked_for():
    noisy, clean = halves()
    expected, logs = trained(noisy, fit={"targets": clean, "validation_data": (noisy, clean)})
    pairs = {"pairs": True, "validation_data": _batches(noisy, clean)}
    stack, histories = trained(_batches(noisy, clean), fit=pairs)
    check_close(weights(stack), weights(expected), 0)
    assert [h.history for h in histories] == [h.history for h in logs]
    # Arrays to train on, a dataset to validate on.
    stack, histories = trained(noisy, fit={**pairs, "targets": clean})
    assert [h.history for h in histories] == [h.history for h in logs]

    # Otherwise it may be labels, and is left out.
    noisy = np.clip(noisy, 0, 1)
    check_close(weights(trained(_batches(noisy, clean))[0]), weights(trained(noisy)[0]), 0)


def around_a_model(*before):
    """Return a stack around the layers of a model, which has other layers below them."""
    hidden = [
        keras.layers.Dense(n, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(n))
        for n in (6, 4)
    ]
    model = keras.Sequential([keras.Input((VISIBLE,)), *before, *hidden, keras.layers.Dense(2)])
    return sda.StackedDenoisingAutoencoder.from_model(model, corruption=[0.3, 0.2], seed=7)


@slow
@pytest.mark.parametrize("place", ["device", "ram", "disk", "recompute"])
def test_codes_may_live_anywhere(place, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    noisy, clean = halves()
    fit = {"targets": clean, "validation_data": (noisy, clean)}
    expected = trained(noisy, fit=fit)[0]
    stack = trained(noisy, fit=fit, pretrainer={"codes_storage": place})[0]
    check_close(weights(stack), weights(expected), 0)
    # Both halves go through what a model has below its first dA.
    plain, scaling = around_a_model(), around_a_model(keras.layers.Rescaling(0.5))
    for stack, factor, where in [(plain, 1, "device"), (scaling, 2, place)]:
        x, y = factor * noisy, factor * clean
        sda.GreedyPretrainer(stack, SGD(0.1), codes_storage=where, seed=1, **USUAL).fit(
            x, targets=y, validation_data=(x, y), shuffle=False, verbose=0
        )
    check_close(weights(scaling), weights(plain), 1e-6)
    assert not list(tmp_path.iterdir())


@slow
def test_halves_of_other_kinds(tmp_path, monkeypatch):
    """Bytes, HDF5 and rows that travel in pieces: what the same arrays give."""
    generator = np.random.default_rng(1)
    noisy, clean = generator.integers(256, size=(2, ROWS, VISIBLE)).astype("uint8")
    floats = noisy.astype("float32") / 255, clean.astype("float32") / 255
    expected = trained(floats[0], fit={"targets": floats[1]})[0]
    scaled = noisy.astype("float32"), clean.astype("float32")
    for x, targets in [(noisy, clean), (noisy, scaled[1]), (scaled[0], clean)]:
        stack = trained(x, preprocessing=keras.layers.Rescaling(1 / 255), fit={"targets": targets})[
            0
        ]
        check_close(weights(stack), weights(expected), 1e-6)
    monkeypatch.setattr("sda.training.feed.RESIDENT_BYTES", 2**10)
    with h5py.File(tmp_path / "halves.h5", "w") as file:
        file["noisy"], file["clean"] = floats
        stack = trained(file["noisy"], fit={"targets": file["clean"]})[0]
    check_close(weights(stack), weights(expected), 1e-6)


@slow
def test_a_shuffled_order_keeps_the_pairs_together():
    noisy, clean = halves()
    order = np.random.default_rng(2).permutation(ROWS)
    stack = stack_of()
    pretrainer = sda.GreedyPretrainer(stack, SGD(0.1), epochs=1, batch_size=ROWS, seed=1)
    histories = pretrainer.fit(noisy, targets=clean, verbose=0)
    apart = sda.GreedyPretrainer(stack_of(), SGD(0.1), epochs=1, batch_size=ROWS, seed=1)
    others = apart.fit(noisy, targets=clean[order], verbose=0)
    silent = sda.GreedyPretrainer(
        stack_of(corruption=0.0), SGD(0.1), epochs=1, batch_size=ROWS, seed=1
    ).fit(noisy, targets=clean, verbose=0)
    w, b, b2 = (np.array(v, "float64") for v in _parameters(stack_of().autoencoders[0]))
    a = sigmoid(noisy @ w + b) @ w.T + b2
    right = (np.logaddexp(0, a) - clean * a).sum(1).mean()
    np.testing.assert_allclose(silent[0].history["loss"][0], right, rtol=1e-5)
    assert histories[0].history["loss"] != others[0].history["loss"]


# A run that is cut off, and layers that are shared


LEFT = []


class Stop(keras.callbacks.Callback):
    """Stops the process, as far as Python can, at the end of the epoch that is wanted."""

    def on_epoch_end(self, epoch, logs=None):
        if LEFT and LEFT.pop() == "stop":
            raise KeyboardInterrupt


@slow
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_with_targets_resumes(tmp_path, epochs):
    noisy, clean = halves()
    fit = {"targets": clean, "validation_data": (noisy, clean)}
    settings = {"checkpoint_dir": tmp_path, "callbacks": lambda k: [Stop()]}
    expected, logs = trained(noisy, fit=fit)
    LEFT[:] = ["stop", *["go"] * (epochs - 1)]
    with pytest.raises(KeyboardInterrupt):
        trained(noisy, fit=fit, pretrainer=settings)
    assert not LEFT
    stack, histories = trained(noisy, fit=fit, pretrainer=settings)
    check_close(weights(stack), weights(expected), 0)
    assert [h.history for h in histories] == [h.history for h in logs]


@slow
def test_a_run_is_refused_under_other_targets(tmp_path):
    noisy, clean = halves()
    clean, settings = np.clip(clean, 0, 1), {"pretrainer": {"checkpoint_dir": tmp_path}}
    trained(noisy, fit={"targets": clean}, **settings)
    other = clean.copy()
    other[4, 2] = 0.5
    for x, fit in [(noisy, {"targets": other}), (clean, {}), (clean, {"targets": clean})]:
        with pytest.raises(ValueError, match="checkpoint_dir"):
            trained(x, fit=fit, **settings)
    fit = {"targets": clean, "validation_data": (noisy, clean)}
    with pytest.raises(ValueError, match="checkpoint_dir"):
        trained(noisy, fit=fit, **settings)


@slow
def test_shared_layers_are_told_apart_by_their_targets(tmp_path):
    noisy, clean = halves()
    store = sda.LayerCache(tmp_path)
    pretrainer = {"cache": store}
    for targets, hits in [(clean, 0), (clean, 2), (clean[::-1].copy(), 2)]:
        stack = trained(noisy, fit={"targets": targets}, pretrainer=pretrainer)[0]
        check_close(weights(stack), weights(trained(noisy, fit={"targets": targets})[0]), 0)
        assert store.hits == hits
    # A layer that is not there yet, above one that is.
    stack = trained(
        noisy, fit={"targets": clean}, pretrainer={**pretrainer, "epochs": [2, 1]}
    )[0]  # fmt: skip
    assert store.hits == 3
    expected = trained(noisy, fit={"targets": clean}, pretrainer={"epochs": [2, 1]})[0]
    check_close(weights(stack), weights(expected), 0)


# What does not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": "short"}, r"`targets` of shape \(23, 8\), as `x` has\. Received: .*\(22, 8\)"),
        (
            {"targets": "narrow"},
            r"`targets` of shape \(23, 8\), as `x` has\. Received: .*\(23, 7\)",
        ),
        ({"targets": "nan"}, r"`targets` to hold finite values\. Received: nan in row 3"),
        ({"targets": "large"}, r"`targets` to lie in \[0, 1\]"),
        ({"validation_data": "clean"}, r"`validation_data` to be \(noisy, clean\).*: ndarray"),
        ({"validation_data": "three"}, r"`validation_data` to be \(noisy, clean\).*a tuple of 3"),
        ({"validation_data": "batches"}, r"such batches with `pairs=True`.*Received: Batches"),
        ({"validation_data": "uneven"}, r"`validation_data\[1\]` of shape \(23, 8\).*\(22, 8\)"),
        ({"validation_data": "wide"}, r"`validation_data\[0\]` of shape \(n, 8\).*\(23, 7\)"),
        ({"pairs": 1}, "`pairs` to be True or False"),
        ({"x": "batches"}, "`targets` to be None where `x` is a dataset"),
        (
            {"x": "batches", "targets": None, "pairs": True},
            r"`x` to yield \(noisy, clean\) batches",
        ),
        ({"targets": None, "pairs": True}, "`pairs` to be left out where `x` is no dataset"),
        ({"x": "nan"}, "`x` to hold finite values"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(change, message, tmp_path):
    noisy, clean = halves()
    nan, large = clean.copy(), clean.copy()
    nan[3, 1], large[3, 1] = np.nan, 1.5
    things = {
        "short": clean[:-1], "narrow": clean[:, :-1], "nan": nan, "large": large, "clean": clean,
        "three": (noisy, clean, clean), "batches": _batches(noisy), "uneven": (noisy, clean[:-1]),
        "wide": (noisy[:, :-1], clean[:, :-1]),
    }  # fmt: skip
    fit = {"x": noisy, "targets": clean}
    fit |= {k: things.get(v, v) if isinstance(v, str) else v for k, v in change.items()}
    stack = stack_of()
    before = weights(stack)
    folder = tmp_path / "run"
    pretrainer = sda.GreedyPretrainer(stack, SGD(0.1), checkpoint_dir=folder, **USUAL)
    with pytest.raises(ValueError, match=message):
        pretrainer.fit(verbose=0, **fit)
    check_close(weights(stack), before, 0)
    assert not folder.exists()
