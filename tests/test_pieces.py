"""Schedules in pieces: `layers=`, `fresh=` and `stack.add`, beside one `fit` of all layers."""

import warnings

import keras
import numpy as np
import pytest

import sda
from sda.checkpoints import arrays, codec, state
from sda.checkpoints import folder as folders

UNITS = (7, 6, 5)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((40, 9)).astype("float32")


def stacked(units=UNITS, seed=1, **settings):
    return sda.StackedDenoisingAutoencoder(list(units), 0.2, seed=seed, **settings)


def pretrainer(stack, **settings):
    settings = {
        "optimizer": keras.optimizers.SGD(0.1, momentum=0.5),
        "epochs": 2,
        "batch_size": 10,
        "seed": 3,
        **settings,
    }
    return sda.GreedyPretrainer(stack, **settings)


def values(thing):
    """All variables of a stack or layer: weights, visible biases and counters of the noise."""
    return arrays.values(thing.variables)


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def logs(histories):
    return [(h.epoch, h.history, h.params) for h in histories]


def moved(some, others):
    return [bool(np.any(a != b)) for a, b in zip(some, others, strict=True)]


# One after another


@pytest.mark.parametrize("place", ["device", "disk", "recompute"])
def test_layer_after_layer_is_one_fit(x, place):
    if place == "disk":
        pytest.importorskip("h5py")
    settings = {"codes_storage": place, "epochs": [2, 1, 3], "batch_size": [10, 20, 8]}
    data = {"validation_data": x[:12], "verbose": 0}
    whole, pieces = stacked(), stacked()
    expected = pretrainer(whole, **settings).fit(x, **data)
    trains = pretrainer(pieces, **settings)
    found = [trains.fit(x, layers=[k], **data) for k in range(3)]
    assert_same(values(pieces), values(whole))
    assert [log for histories in found for log in logs(histories)] == logs(expected)
    assert [len(histories) for histories in found] == [1, 1, 1]


def test_pairs_of_noisy_and_clean_rows_in_pieces(x):
    noisy = np.clip(x + 0.1, 0, 1)
    whole, pieces = stacked(), stacked()
    data = {"targets": x, "validation_data": (noisy[:9], x[:9]), "verbose": 0}
    expected = pretrainer(whole).fit(noisy, **data)
    found = [pretrainer(pieces).fit(noisy, layers=[k], **data) for k in (0, 1, 2)]
    assert_same(values(pieces), values(whole))
    assert [log for histories in found for log in logs(histories)] == logs(expected)


def test_several_layers_in_any_order_are_trained_from_the_input_up(x):
    expected, found = stacked(), stacked()
    pretrainer(expected).fit(x, layers=[0], verbose=0)
    pretrainer(expected).fit(x, layers=[2], verbose=0)
    histories = pretrainer(found).fit(x, layers=(-1, np.int64(0)), verbose=0)
    assert_same(values(found), values(expected))
    assert len(histories) == 2


@pytest.mark.parametrize("k", range(3))
def test_no_other_variable_changes_by_a_bit(x, k):
    stack = stacked()
    stack.build((None, 9))
    before = [values(dA) for dA in stack.autoencoders]
    called = []
    pretrainer(stack, callbacks=lambda k: called.append(k) or []).fit(x, layers=[k], verbose=0)
    after = [values(dA) for dA in stack.autoencoders]
    assert called == [k]
    for j in range(3):
        # Kernel, bias, visible bias and the counter of the noise, or none of them.
        assert all(moved(before[j], after[j])) is (j == k)
        assert any(moved(before[j], after[j])) is (j == k)


def test_a_layer_goes_on_from_the_weights_that_it_has(x):
    stack = stacked((7,))
    pretrainer(stack).fit(x, verbose=0)
    before = values(stack)
    history = pretrainer(stack).fit(x, layers=[0], verbose=0)[0].history["loss"]
    again = stacked((7,))
    again.build((None, 9))
    state.assign(again.variables, before, "stack")
    assert pretrainer(again).fit(x, verbose=0)[0].history["loss"] == history
    assert_same(values(again), values(stack))


# Drawn again


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize(
    "settings",
    [{}, {"tied": False}, {"activation": "relu", "decoder_activation": "linear"}],
    ids=["tied", "untied", "relu"],
)
def test_fresh_layers_learn_what_they_learned(x, settings, seed):
    stack = stacked(seed=seed, **settings)
    histories = pretrainer(stack).fit(x, verbose=0)
    expected = values(stack)
    again = pretrainer(stack).fit(x, layers=[1, 2], fresh=True, verbose=0)
    assert_same(values(stack), expected)
    assert logs(again) == logs(histories[1:])
    assert logs(pretrainer(stack).fit(x, fresh=True, verbose=0)) == logs(histories)
    assert_same(values(stack), expected)


def test_a_composed_noise_begins_again(x):
    def made():
        noise = sda.ComposedNoise([sda.MaskingNoise(0.2), sda.GaussianNoise(0.1)])
        return sda.StackedDenoisingAutoencoder([5], noise, seed=1)

    stack = made()
    pretrainer(stack).fit(x, verbose=0)
    expected = values(stack)
    pretrainer(stack).fit(x, fresh=True, verbose=0)
    assert_same(values(stack), expected)


def test_the_layers_of_a_model_are_drawn_by_their_own_initialisers(x):
    mlp = keras.Sequential(
        [
            keras.Input((9,)),
            keras.layers.Dense(6, "sigmoid", bias_initializer="ones"),
            keras.layers.Dense(2),
        ]
    )
    begun = mlp.layers[0].get_weights()
    stack = sda.StackedDenoisingAutoencoder.from_model(mlp, seed=1)
    pretrainer(stack).fit(x, verbose=0)
    pretrainer(stack, epochs=0).fit(x, fresh=True, verbose=0)
    assert_same(mlp.layers[0].get_weights(), begun)
    np.testing.assert_array_equal(begun[1], np.ones(6))


def test_what_was_adapted_cannot_be_drawn_again(x):
    stack = stacked((7,))
    stack.build((None, 9))
    stack.autoencoders[0].encoder.enable_lora(2)
    before = values(stack)
    with pytest.raises(ValueError, match=r"Expected an encoder of floats, without LoRA.*lora_en"):
        pretrainer(stack).fit(x, fresh=True, verbose=0)
    assert_same(values(stack), before)


# What is refused, and what is warned of


@pytest.mark.parametrize("layers", [[], [0, 0], [0, -3], [3], [-4], [0.0], [True], 1, "0", {0}])
def test_layers_are_checked_before_anything_changes(x, layers):
    stack = stacked()
    with pytest.raises(ValueError, match=r"Expected `layers` to be None, or a list.*layers="):
        pretrainer(stack).fit(x, layers=layers, verbose=0)
    assert not stack.built
    with pytest.raises(ValueError, match="Expected `fresh` to be True or False"):
        pretrainer(stack).fit(x, fresh=1, verbose=0)


def test_settings_have_one_entry_a_layer_of_the_stack():
    with pytest.raises(ValueError, match="Expected `epochs` to be one value or a list of 3"):
        pretrainer(stacked(), epochs=[1])


def test_layers_that_have_learned_the_old_codes_are_warned_of(x):
    stack = stacked()
    fit = pretrainer(stack, epochs=1).fit
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for k in range(3):
            fit(x, layers=[k], verbose=0)
        fit(x, layers=[1, 2], verbose=0)
        fit(x, verbose=0)
    with pytest.warns(UserWarning, match=r"Layer 0 is trained.*layers \[1, 2\] above.*\[0, 1, 2\]"):
        fit(x, layers=[0], verbose=0)
    with pytest.warns(UserWarning, match=r"layers \[1\] above"):
        fit(x, layers=[0, 2], verbose=0)
    with pytest.warns(UserWarning, match=r"Layer 1 is trained.*layers \[2\] above"):
        fit(x, layers=[1], fresh=True, verbose=0)


# Cut off


class Stopped(Exception):
    """What ends a run right after it has written a checkpoint."""


def cut_off(monkeypatch, n, run):
    """Run until its n-th checkpoint was written."""
    written = []

    def write(path, saved):
        codec.write(path, saved)
        written.append(path)
        if len(written) == n:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write", write)
        with pytest.raises(Stopped):
            run()


@pytest.mark.parametrize("n", [1, 2, 4, 5])  # its begin, two epochs and the layer's end
def test_pieces_resume(x, tmp_path, monkeypatch, n):
    whole = stacked((7, 6))
    expected = pretrainer(whole).fit(x, verbose=0)
    below = stacked((7, 6))

    def piece(stack, k):
        folder = tmp_path / f"layer_{k}"
        return pretrainer(stack, checkpoint_dir=folder).fit(x, layers=[k], verbose=0)

    cut_off(monkeypatch, n, lambda: piece(below, 0))
    first = stacked((7, 6))  # as in another process
    found = piece(first, 0)
    cut_off(monkeypatch, n, lambda: piece(first, 1))
    second = stacked((7, 6))  # whose first layer gets its weights from the checkpoint
    found += piece(second, 1)
    assert_same(values(second), values(whole))
    assert logs(found) == logs(expected)
    assert logs(piece(second, 1)) == logs(expected[1:])  # has ended


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fresh_layers_resume_whatever_they_were(x, tmp_path, monkeypatch, n):
    def trained():
        stack = stacked((7, 6))
        pretrainer(stack).fit(x, verbose=0)
        return stack

    def again(stack):
        return pretrainer(stack, checkpoint_dir=tmp_path).fit(
            x[:30], layers=[1], fresh=True, verbose=0
        )

    expected = trained()
    histories = pretrainer(expected).fit(x[:30], layers=[1], fresh=True, verbose=0)
    cut_off(monkeypatch, n, lambda: again(trained()))
    found = trained()  # the layer has the weights of before, and not those that it was drawn
    assert logs(again(found)) == logs(histories)
    assert_same(values(found), values(expected))
    other = trained()
    other.autoencoders[0].encoder.kernel.assign(np.ones((9, 7)))
    with pytest.raises(ValueError, match=r"Received: others in layer"):
        again(other)


def test_another_piece_is_another_run(x, tmp_path):
    pretrainer(stacked(), checkpoint_dir=tmp_path).fit(x, layers=[0], verbose=0)
    for settings in ({"layers": [1]}, {"layers": [0], "fresh": True}, {}):
        with pytest.raises(ValueError, match=r"Expected the data and settings of the run"):
            pretrainer(stacked(), checkpoint_dir=tmp_path).fit(x, verbose=0, **settings)


def test_pieces_share_layers(x, tmp_path):
    store = sda.LayerCache(tmp_path)
    stacks = [stacked(), stacked()]
    for stack in stacks:
        for k in range(3):
            pretrainer(stack, cache=store).fit(x, layers=[k], verbose=0)
    assert (store.hits, store.misses) == (3, 3)
    assert_same(values(stacks[0]), values(stacks[1]))
    # On other layers below, a layer is another.
    other = stacked()
    pretrainer(other, cache=store, epochs=1).fit(x, layers=[0], verbose=0)
    pretrainer(other, cache=store).fit(x, layers=[1], verbose=0)
    assert (store.hits, store.misses) == (3, 5)


# Added


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "relu", "tied": False, "kernel_initializer": "he_normal"},
        {"sparsity": sda.penalties.KLSparsity(0.1), "contraction": 0.1},
    ],
    ids=["plain", "relu", "penalised"],
)
def test_an_added_layer_is_that_of_a_deeper_stack(x, built, settings):
    settings = {**settings, "name": "stack"}
    deeper, stack = stacked(UNITS, **settings), stacked(UNITS[:2], **settings)
    for some in (deeper, stack) if built else ():
        some.build((None, 9))
    settings.pop("name")
    stack.add(UNITS[2], 0.2, **settings)
    assert stack.built is built
    for some in (deeper, stack):
        some.build((None, 9))
    assert_same(values(stack), values(deeper))
    assert [w.path for w in stack.weights] == [w.path for w in deeper.weights]
    fits = {"optimizer": "sgd", "epochs": 1}
    expected = pretrainer(deeper, **fits).fit(x, verbose=0)
    assert logs(pretrainer(stack, **fits).fit(x, verbose=0)) == logs(expected)
    assert_same(values(stack), values(deeper))


def test_add_and_train_it_is_the_deeper_stack_at_once(x, tmp_path):
    deeper, stack = stacked(), stacked(UNITS[:2])
    expected = pretrainer(deeper).fit(x, verbose=0)
    found = pretrainer(stack).fit(x, verbose=0)
    assert stack.predict(x, verbose=0).shape == (40, 6)
    stack.add(5, 0.2)
    found += pretrainer(stack).fit(x, layers=[-1], verbose=0)
    assert_same(values(stack), values(deeper))
    assert logs(found) == logs(expected)
    np.testing.assert_array_equal(stack.predict(x, verbose=0), deeper.predict(x, verbose=0))
    # It is whole: saved, loaded, made anew of its config, and with a classifier on top.
    stack.save(tmp_path / "stack.keras")
    loaded = sda.load_model(tmp_path / "stack.keras")
    assert_same(loaded.get_weights(), stack.get_weights())
    np.testing.assert_array_equal(loaded.encode(x), deeper.encode(x))
    fresh = sda.StackedDenoisingAutoencoder.from_config(stack.get_config())
    fresh.build((None, 9))
    drawn = stacked()
    drawn.build((None, 9))
    assert_same(values(fresh), values(drawn))
    assert [layer.units for layer in stack.classifier(3).layers] == [7, 6, 5, 3]
    if keras.backend.backend() == "torch":
        assert len(list(stack.parameters())) == len(list(deeper.parameters()))


def test_what_was_made_of_a_stack_before_keeps_its_layers(x):
    stack = stacked(UNITS[:2])
    trains = pretrainer(stack)
    trains.fit(x, verbose=0)
    classifier = stack.classifier(3)
    before = classifier.predict(x, verbose=0)
    stack.add(5)
    np.testing.assert_array_equal(classifier.predict(x, verbose=0), before)
    with pytest.raises(ValueError, match="Expected a pretrainer that was made for the stack as it"):
        trains.fit(x, verbose=0)
    with pytest.raises(ValueError, match="Expected a pretrainer that was made for the stack as it"):
        sda.population.fit([trains], x)


def test_a_layer_on_a_model_that_was_there(x):
    mlp = keras.Sequential(
        [keras.Input((9,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2)]
    )
    stack = sda.StackedDenoisingAutoencoder.from_model(mlp, seed=1)
    stack.add(4)
    assert stack.autoencoders[1].decoder_activation is keras.activations.linear
    pretrainer(stack, optimizer="adam").fit(x, verbose=0)
    assert stack.encode(x).shape == (40, 4)
    assert len(mlp.layers) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "`units`"),
        ({"units": [4]}, "`units`"),
        ({"corruption": 2}, "rate"),
        ({"corruption": sda.MaskingNoise([0.1, 0.2])}, "rate"),
        ({"activation": "no such"}, "`activation`"),
        ({"activation": "relu", "sparsity": sda.penalties.KLSparsity(0.1)}, r"\[0, 1\]"),
    ],
)
def test_a_layer_that_cannot_be_added_changes_nothing(x, settings, message):
    stack = stacked(UNITS[:2])
    stack.build((None, 9))
    before = values(stack)
    with pytest.raises(ValueError, match=message):
        stack.add(**{"units": 4, **settings})
    assert len(stack.autoencoders) == 2
    assert_same(values(stack), before)
