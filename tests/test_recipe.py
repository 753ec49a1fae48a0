"""Recipes: settings, what is made of them, and their way through files."""

import json
import tomllib

import keras
import numpy as np
import pytest

import sda

X = np.random.default_rng(0).random((40, 12)).astype("float32")
Y = np.arange(40) % 2
SMALL = {"units": [6, 4], "corruption": [0.1, 0.3], "epochs": 2, "finetune_epochs": 2}


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def same(model, other):
    return all(map(np.array_equal, weights(model), weights(other)))


def test_what_is_made_is_what_one_makes_by_hand():
    recipe = sda.Recipe(
        **SMALL, noise=["swap", "gaussian"], optimizer="adam", learning_rate=0.01, seed=3,
        dropout=0.2, finetune_optimizer="adam", finetune_learning_rate=0.02, patience=1,
    )  # fmt: skip
    stack = recipe.stack()
    recipe.pretrainer(stack).fit(X, verbose=0)
    model = recipe.classifier(stack, 2)
    history = recipe.finetune(model, X, Y, (X, Y), verbose=0)

    by_hand = sda.StackedDenoisingAutoencoder(
        [6, 4], [sda.SwapNoise(0.1), sda.GaussianNoise(0.3)], seed=3
    )
    sda.GreedyPretrainer(by_hand, keras.optimizers.Adam(0.01), epochs=2, seed=3).fit(X, verbose=0)
    other = by_hand.classifier(2, 0.2)
    loss = "sparse_categorical_crossentropy"
    other.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    expected = sda.fit(
        other, X, Y, batch_size=20, epochs=2, validation_data=(X, Y), seed=3, verbose=0,
        callbacks=[sda.callbacks.GeometricPatience(patience=1)],
    )  # fmt: skip
    assert history.history == expected.history
    assert same(model, other)


def test_what_is_given_beside_the_recipe_wins():
    recipe = sda.Recipe(**SMALL)
    pretrainer = recipe.pretrainer(recipe.stack(), epochs=5, codes_storage="ram")
    assert (pretrainer.epochs, pretrainer.codes_storage) == ([5, 5], "ram")
    stack = recipe.stack()
    stack.build((None, 12))
    model = recipe.classifier(stack, 2, copy=True)
    before = weights(stack)
    assert len(recipe.finetune(model, X, Y, epochs=3, verbose=0).epoch) == 3
    assert all(map(np.array_equal, weights(stack), before))


def test_templates_of_optimizers_have_rates_of_their_own():
    template = keras.optimizers.SGD(0.5, momentum=0.9)
    recipe = sda.Recipe(
        **SMALL, optimizer=[template, "adam"], learning_rate=0.25, finetune_optimizer=template
    )
    stack = recipe.stack()
    stack.build((None, 12))
    optimizers = recipe.pretrainer(stack).optimizer
    assert [type(o).__name__ for o in optimizers] == ["SGD", "Adam"]
    assert [float(o.learning_rate) for o in optimizers] == [0.5, 0.25]
    model = recipe.classifier(stack, 2)
    assert model.optimizer is not template
    assert (float(model.optimizer.learning_rate), model.optimizer.momentum) == (0.5, 0.9)


def test_lists_are_resolved_to_one_value_a_layer():
    assert sda.Recipe(7, depth=2, corruption=[0.1, 0.2, 0.3]).corruption == [0.1, 0.2]
    settings = {"units": 7, "depth": 3, "corruption": [0.1, 0.2, 0.3, 0.4], "corruption_2": 0.9}
    recipe = sda.Recipe.from_dict(settings)
    assert (recipe.units, recipe.corruption) == ([7, 7, 7], [0.1, 0.9, 0.3])
    assert settings["corruption"] == [0.1, 0.2, 0.3, 0.4]


def test_bytes_are_resolved_to_pixels():
    recipe = sda.Recipe(**SMALL)
    assert recipe.resolve(X).preprocessing == []
    pixels = (255 * X).astype("uint8")
    resolved = recipe.resolve(pixels)
    assert recipe.preprocessing is None
    (layer,) = resolved.preprocessing
    assert (layer.scale, layer.offset) == (1 / 255, 0.0)
    assert resolved.stack().preprocessing == [layer]
    assert resolved.resolve(X) is resolved
    # What was chosen is kept, and so is the choice of nothing.
    assert sda.Recipe(**SMALL, preprocessing=[]).resolve(pixels).preprocessing == []


RECIPES = {
    "usual": sda.Recipe(),
    "lists": sda.Recipe(
        [6, 4], noise=["swap", "gaussian"], decoder_activation=["linear", None],
        dropout=[0, 0.1, 0], loss=[None, "squared_error"], tied=[True, False],
        learning_rate=[0.1, np.float32(0.5)], seed=np.int64(5), patience=0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_files(name):
    tomli_w = pytest.importorskip("tomli_w")
    recipe = RECIPES[name]
    settings = recipe.to_dict()
    assert sda.Recipe.from_dict(settings) == recipe
    assert sda.Recipe.from_dict(json.loads(json.dumps(settings, allow_nan=False))) == recipe
    assert sda.Recipe.from_dict(tomllib.loads(tomli_w.dumps(settings))) == recipe


def test_a_recipe_without_a_seed_comes_back_without_one():
    back = sda.Recipe.from_dict(json.loads(json.dumps(sda.Recipe(8, seed=None).to_dict())))
    assert back.seed is None


def test_no_layer_is_cut_off_where_the_units_are_others():
    settings = {**sda.Recipe([8, 5, 3]).to_dict(), "units": [10, 8, 5, 3]}
    with pytest.raises(ValueError, match="one value or a list of 4"):
        sda.Recipe.from_dict(settings)


def test_what_a_layer_has_learned_is_in_no_config():
    layer = keras.layers.Normalization()
    layer.adapt(X)
    with pytest.raises(ValueError, match=r"`preprocessing` that their configs tell whole"):
        sda.Recipe(8, preprocessing=layer).to_dict()


@pytest.mark.parametrize("form", ["list", "frame", "tensor", "sparse"])
def test_a_recipe_is_resolved_for_rows_of_any_kind(form):
    x = np.arange(12, dtype="uint8").reshape(4, 3)
    if form == "frame":
        rows = pytest.importorskip("pandas").DataFrame(x)
    elif form == "sparse":
        rows = pytest.importorskip("scipy.sparse").csr_matrix(x)
    else:
        rows = {"list": lambda: (x / 4).tolist(), "tensor": lambda: keras.ops.array(x)}[form]()
    expected = [] if form == "list" else [keras.layers.Rescaling]
    assert [type(layer) for layer in sda.Recipe(2).resolve(rows).preprocessing] == expected


def test_objects_of_keras_come_back_from_files():
    tomli_w = pytest.importorskip("tomli_w")
    recipe = sda.Recipe(
        **{**SMALL, "corruption": [sda.SwapNoise(0.2, seed=4), 0.3]},
        optimizer=keras.optimizers.Adam(0.5, beta_1=0.25),
        loss=[sda.losses.SquaredError(), None],
        preprocessing=keras.layers.Rescaling(0.5, 1.0),
    )
    settings = recipe.to_dict()
    back = sda.Recipe.from_dict(tomllib.loads(tomli_w.dumps(settings)))
    assert back.to_dict() == settings
    assert [type(noise) for noise in (back.corruption[0], back.loss[0])] == [
        sda.SwapNoise, sda.losses.SquaredError,
    ]  # fmt: skip
    assert back.corruption[0].rate == 0.2
    assert (back.optimizer[0].beta_1, back.preprocessing[0].offset) == (0.25, 1.0)
    stacks = [one.stack() for one in (recipe, back)]
    for one, stack in zip((recipe, back), stacks, strict=True):
        one.pretrainer(stack).fit(X, verbose=0)
    assert same(*stacks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "`units` to be an integer, at least 1"),
        ({"units": []}, "`units`"),
        ({"depth": 0}, "`depth`"),
        ({"units": [5, 4], "depth": 3}, "`units` to be one value or a list of 3"),
        ({"noise": "pink"}, "`noise` to be one of masking, "),
        ({"noise": ["masking"]}, "`noise` to be one value or a list of 3"),
        ({"noise": "swap", "corruption": sda.SwapNoise(0.1)}, "`noise` to be left alone"),
        ({"corruption": 1.5}, "`rate`"),
        ({"activation": "wavy"}, "`activation`"),
        ({"decoder_activation": "wavy"}, "`decoder_activation`"),
        ({"tied": "maybe"}, "`tied`"),
        ({"loss": "none at all"}, "`loss`"),
        ({"optimizer": "sdg"}, "`optimizer`"),
        ({"optimizer": None}, "`optimizer`"),
        ({"finetune_optimizer": None}, "`optimizer`"),
        ({"learning_rate": -0.1}, "`learning_rate`"),
        ({"learning_rate": None}, "`learning_rate`"),
        ({"epochs": -1}, "`epochs`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"dropout": [0.1, 0.2]}, "`dropout` to be one value or a list of 4"),
        ({"finetune_optimizer": "sdg"}, "`optimizer`"),
        ({"finetune_epochs": 0}, "`finetune_epochs`"),
        ({"finetune_batch_size": 2.5}, "`finetune_batch_size`"),
        ({"patience": 0.5}, "`patience`"),
        ({"seed": -1}, "`seed`"),
        ({"preprocessing": "half"}, "`preprocessing`"),
    ],
)
def test_settings_are_checked_at_once(settings, message):
    with pytest.raises(ValueError, match=f"^Expected {message}.*Received: "):
        sda.Recipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 0.3}, "settings to be among units, .* as in corruption_3. Received: levels"),
        ({"seed_2": 3}, "settings to be among .*Received: seed_2"),
        ({"units": [5, 4], "corruption_3": 0.3}, "`corruption_3` to be of one of the 2 layers"),
        ({"preprocessing": [{"class_name": "Nothing", "config": {}}]}, "`preprocessing` to be an"),
    ],
)
def test_dictionaries_are_checked_at_once(settings, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        sda.Recipe.from_dict(settings)


@pytest.mark.parametrize("settings", [[], None, {1: 2}])
def test_what_is_no_dictionary_of_settings_is_refused(settings):
    with pytest.raises(ValueError, match="`settings` to be a dictionary of names"):
        sda.Recipe.from_dict(settings)
