import io
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from parity import check_fit

import sda
from sda.checkpoints import codec, folder

HEADS = ["classifier", "multilabel_classifier", "regressor"]


@pytest.fixture
def x():
    return np.random.default_rng(0).random((60, 12), "float32")


@pytest.fixture
def y():
    return np.arange(60) % 3


@pytest.fixture
def stack():
    return built()


def built(**settings):
    """A stack whose weights, biases included, are all in play."""
    stack = sda.StackedDenoisingAutoencoder([8, 5], corruption=0.5, seed=1, **settings)
    stack.build((None, 12))
    generator = np.random.default_rng(1)
    for variable in stack.trainable_variables:
        variable.assign(generator.normal(0, 0.7, variable.shape))
    return stack


def trained(model, x, y, epochs=2):
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=20, epochs=epochs, verbose=0)
    return model


def weights(model):
    return [w.copy() for w in model.get_weights()]


def differ(some, others):
    return [bool(np.any(a != b)) for a, b in zip(some, others, strict=True)]


def numpy_codes(stack, x):
    for autoencoder in stack.autoencoders:
        kernel, bias = autoencoder.encoder.get_weights()
        x = 1 / (1 + np.exp(-(x @ kernel + bias)))
    return x


def numpy_first_reconstruction(stack, x):
    kernel, bias = stack.autoencoders[0].encoder.get_weights()
    codes = 1 / (1 + np.exp(-(x @ kernel + bias)))
    visible_bias = keras.ops.convert_to_numpy(stack.autoencoders[0].visible_bias)
    return 1 / (1 + np.exp(-(codes @ kernel.T + visible_bias)))


def assert_shared_and_tied(classifier, stack, x):
    """The classifier runs on the stack's kernels, and the stack decodes with the same ones."""
    dense = [layer for layer in classifier.layers if isinstance(layer, layers.Dense)]
    encoders = [autoencoder.encoder for autoencoder in stack.autoencoders]
    assert dense[:-1] == encoders
    kernel, bias = dense[-1].get_weights()
    logits = numpy_codes(stack, x) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(classifier.predict(x, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(
        stack.reconstruct(x, layer=0), numpy_first_reconstruction(stack, x), atol=1e-5
    )


def stored_shapes(path):
    """The shapes of all arrays in the weights of a .keras file, the optimizer's left out."""
    shapes = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            shapes.append(item.shape)

    with zipfile.ZipFile(path) as file:
        h5py.File(io.BytesIO(file.read("model.weights.h5"))).visititems(visit)
    return shapes


# Sharing


@pytest.mark.parametrize("head", HEADS)
def test_a_head_sits_on_the_encoders_themselves(stack, head):
    model = getattr(stack, head)(3)
    for k, autoencoder in enumerate(stack.autoencoders):
        assert model.layers[k] is autoencoder.encoder


def test_fine_tuning_trains_every_layer_and_the_stack_with_it(stack, x, y):
    classifier = stack.classifier(3)
    before = weights(classifier)
    assert len(classifier.trainable_variables) == len(before) == 6
    trained(classifier, x, y)
    assert all(differ(weights(classifier), before))
    assert_shared_and_tied(classifier, stack, x)


def test_sharing_and_tying_outlive_saving_and_further_training(stack, x, y, tmp_path):
    trained(stack.classifier(3), x, y)
    stack.save(tmp_path / "stack.keras")
    loaded = keras.saving.load_model(tmp_path / "stack.keras")
    np.testing.assert_array_equal(loaded.reconstruct(x), stack.reconstruct(x))
    classifier = loaded.classifier(3)
    for _ in range(2):
        before = weights(loaded)
        trained(classifier, x, y)
        assert any(differ(weights(loaded), before))
        assert_shared_and_tied(classifier, loaded, x)


def test_a_saved_classifier_comes_back_and_can_be_trained_on(stack, x, y, tmp_path):
    classifier = trained(stack.classifier(3, dropout=0.2), x, y)
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), classifier.predict(x, verbose=0))
    before = [keras.ops.convert_to_numpy(v) for v in loaded.trainable_variables]
    loaded.fit(x, y, epochs=1, verbose=0)
    after = [keras.ops.convert_to_numpy(v) for v in loaded.trainable_variables]
    assert all(differ(after, before))


def test_a_kernel_is_stored_once(stack, tmp_path):
    stack.save(tmp_path / "stack.keras")
    stack.classifier(3).save(tmp_path / "classifier.keras")
    for name in ("stack", "classifier"):
        shapes = stored_shapes(tmp_path / f"{name}.keras")
        assert shapes.count((12, 8)) == shapes.count((8, 5)) == 1
        assert shapes.count((8, 12)) == shapes.count((5, 8)) == 0


WITHOUT_SDA = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sda":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import keras, numpy as np

folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/classifier.keras")
np.save(f"{folder}/predictions.npy", model.predict(np.load(f"{folder}/x.npy"), verbose=0))
assert "sda" not in sys.modules
"""


@pytest.mark.slow
def test_a_classifier_loads_and_predicts_where_there_is_no_sda(stack, x, y, tmp_path):
    classifier = trained(stack.classifier(3, dropout=0.2), x, y)
    classifier.save(tmp_path / "classifier.keras")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SDA, str(tmp_path)],
        cwd=tmp_path, timeout=120, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "predictions.npy"), classifier.predict(x, verbose=0), atol=1e-6
    )


@pytest.mark.parametrize("head", [*HEADS, "unrolled"])
def test_models_are_made_of_stock_keras_layers(stack, head):
    model = getattr(stack, head)(*([] if head == "unrolled" else [3]))
    assert type(model) is keras.Sequential
    assert {type(layer) for layer in model.layers} == {layers.Dense}


def test_a_copy_starts_from_the_stack_and_leaves_it_alone(stack, x, y):
    before = weights(stack)
    classifier = stack.classifier(3, copy=True)
    encoder_weights = [w for a in stack.autoencoders for w in a.encoder.get_weights()]
    assert not any(differ(weights(classifier)[:4], encoder_weights))
    trained(classifier, x, y)
    assert all(differ(weights(classifier)[:4], encoder_weights))
    assert not any(differ(weights(stack), before))


def test_a_copy_of_a_stack_from_a_model_leaves_that_model_alone(x, y):
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8),
            layers.Activation("relu"),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    stack = sda.StackedDenoisingAutoencoder.from_model(model)
    copy = stack.classifier(3, copy=True)
    assert [type(layer) for layer in copy.layers] == [type(layer) for layer in model.layers]
    assert not set(copy.layers) & set(model.layers)
    before = weights(model)
    trained(copy, x, y)
    assert not any(differ(weights(model), before))


# Heads


@pytest.mark.parametrize(
    ("head", "activation", "loss"),
    [
        ("classifier", "softmax", "categorical_crossentropy"),
        ("multilabel_classifier", "sigmoid", "binary_crossentropy"),
        ("regressor", "linear", "mse"),
    ],
)
def test_heads_have_their_activations_start_indifferent_and_learn(stack, x, head, activation, loss):
    model = getattr(stack, head)(4)
    assert model.layers[-1].activation.__name__ == activation
    first = model.predict(x, verbose=0)
    indifferent = {"softmax": 0.25, "sigmoid": 0.5, "linear": 0.0}[activation]
    np.testing.assert_allclose(first, np.full((60, 4), indifferent), atol=1e-6)
    targets = np.eye(4, dtype="float32")[np.argmax(x[:, :4], axis=1)]
    model.compile(keras.optimizers.Adam(0.05), loss)
    losses = model.fit(x, targets, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_classifier_has_the_activations_that_were_pretrained(x):
    stack = built(activation=["relu", "tanh"])
    classifier = stack.classifier(3)
    for layer, name in zip(classifier.layers, ["relu", "tanh"], strict=False):
        assert layer.activation.__name__ == name
    codes = keras.Sequential([keras.Input((12,)), *classifier.layers[:2]])
    np.testing.assert_allclose(codes.predict(x, verbose=0), stack.encode(x), atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("outputs", [0, -1, 2.5, "3", True, None])
def test_a_number_of_outputs_below_one_is_refused(stack, head, outputs):
    with pytest.raises(ValueError, match=r"`num_\w+` to be an integer, at least 1"):
        getattr(stack, head)(outputs)


def test_a_number_of_outputs_may_come_from_numpy(stack, y):
    assert stack.classifier(y.max() + 1).output_shape == (None, 3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", [*HEADS, "unrolled"])
def test_no_noise_is_left_in_a_model(stack, x, head, training):
    model = getattr(stack, head)(*([] if head == "unrolled" else [3]))
    model.layers[-1].kernel.assign(
        np.random.default_rng(2).normal(size=model.layers[-1].kernel.shape)
    )
    outputs = keras.ops.convert_to_numpy(model(x, training=training))
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-6)


# Dropout


def dropout_rates(model):
    """The dropout rate before each Dense layer, 0 where there is none."""
    rates, rate = [], 0
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            rate = layer.rate
        else:
            rates.append(rate)
            rate = 0
    return rates


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("dropout", "rates"),
    [(0.0, [0, 0, 0]), (0.3, [0.3, 0.3, 0.3]), ([0.1, 0, 0.5], [0.1, 0, 0.5])],
)
def test_dropout_is_one_rate_or_one_for_the_input_and_each_code(stack, head, dropout, rates):
    assert dropout_rates(getattr(stack, head)(3, dropout=dropout)) == rates


def test_dropout_masks_differ_between_layers_and_repeat_with_the_seed():
    def masks():
        model = built().classifier(3, dropout=0.5)
        dropouts = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
        ones = np.ones((20, 12), "float32")
        return [keras.ops.convert_to_numpy(d(ones, training=True)).tobytes() for d in dropouts]

    assert len(set(masks())) == 3
    assert masks() == masks()


def masks_of(model):
    """What the layers of a model draw in training for ones, as bytes by name and place."""
    ones = np.ones((20, 30), "float32")
    drawing = [layer for layer in model.layers if getattr(layer, "seed", None) is not None]
    return [keras.ops.convert_to_numpy(la(ones, training=True)).tobytes() for la in drawing]


MODELS = [
    lambda stack, **settings: stack.classifier(3, dropout=0.5, **settings),
    lambda stack, **settings: stack.classifier(3, dropout=0.5, name="named", **settings),
    lambda stack, **settings: stack.multilabel_classifier(3, dropout=0.5, **settings),
    lambda stack, **settings: stack.regressor(3, dropout=0.5, **settings),
    lambda stack, **settings: stack.regressor(3, dropout=0.5, name="classifier", **settings),
]


@pytest.mark.parametrize("copy", [False, True])
def test_models_of_other_kinds_or_names_share_no_mask(copy):
    def draws():
        stack = built()
        return [masks_of(make(stack, copy=copy)) for make in MODELS]

    first, again = draws(), draws()
    assert first == again
    assert len({mask for masks in first for mask in masks}) == 3 * len(MODELS)


def test_noises_of_two_models_differ():
    stack = built()
    names = ("classifier", "another")
    noises = [stack.classifier(3, noise=0.5, name=name).layers[0] for name in names]
    zeros = np.zeros((4, 12), "float32")
    first, second = (keras.ops.convert_to_numpy(n(zeros, training=True)) for n in noises)
    assert abs(first - second).min() > 0


def test_masks_of_a_model_do_not_depend_on_models_of_other_kinds_or_names():
    plain, busy = built(), built()
    busy.encoder_model()
    busy.regressor(2, dropout=0.5)
    busy.classifier(3, dropout=0.5, name="another")
    with pytest.raises(ValueError, match="`dropout`"):
        busy.classifier(3, dropout=2.0)
    models = [stack.classifier(3, dropout=0.5) for stack in (plain, busy)]
    assert masks_of(models[0]) == masks_of(models[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda stack: stack.classifier(3, copy=True),
        lambda stack: stack.encoder_model(copy=True),
        lambda stack: stack.unrolled(copy=True),
    ],
)
def test_copies_of_a_seeded_dropout_draw_other_masks(make):
    def draws():
        hidden = [layers.Dense(8, "relu"), layers.Dropout(0.5, seed=1), layers.Dense(3)]
        model = keras.Sequential([keras.Input((12,)), *hidden])
        stack = sda.StackedDenoisingAutoencoder.from_model(model, seed=1)
        return [masks_of(made)[0] for made in (model, make(stack))]

    assert len(set(draws())) == 2
    assert draws() == draws()


@pytest.mark.parametrize(
    ("dropout", "message"),
    [
        (1.0, r"`dropout` to be a number, .* in \[0, 1\)"),
        (-0.1, r"`dropout` to be a number, .* in \[0, 1\)"),
        (float("nan"), r"`dropout` to be a number, .* in \[0, 1\)"),
        ("0.5", r"`dropout` to be a number, .* in \[0, 1\)"),
        (None, r"`dropout` to be a number, .* in \[0, 1\)"),
        ([0.1, 0.2, 1.5], r"`dropout` to be a number, .* in \[0, 1\)"),
        ([0.1, 0.2], "`dropout` to be one value or a list of 3.*a list of 2"),
    ],
)
def test_dropout_out_of_range_is_refused(stack, dropout, message):
    with pytest.raises(ValueError, match=message):
        stack.classifier(3, dropout=dropout)


@pytest.mark.parametrize("head", ["classifier", "multilabel_classifier", "regressor"])
def test_noise_on_the_input_is_a_stock_layer_at_work_in_training_alone(stack, head):
    model = getattr(stack, head)(3, noise=0.2, dropout=0.1)
    noise = model.layers[0]
    assert type(noise) is layers.GaussianNoise
    assert noise.stddev == 0.2
    assert isinstance(model.layers[1], layers.Dropout)
    x = np.full((500, 12), 0.5, "float32")
    drawn = keras.ops.convert_to_numpy(noise(x, training=True)) - x
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(0.2, rel=0.05)
    without = getattr(stack, head)(3)
    np.testing.assert_array_equal(model.predict(x, verbose=0), without.predict(x, verbose=0))
    assert len(without.layers) == 3


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan"), "0.1", None])
def test_noise_out_of_range_is_refused(stack, noise):
    with pytest.raises(ValueError, match=r"`noise` to be a number, in \[0, 1\]"):
        stack.classifier(3, noise=noise)


# The unrolled autoencoder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_unrolled_reconstructs_as_the_stack_does(x, tied, activation):
    stack = built(tied=tied, activation=activation)
    model = stack.unrolled()
    np.testing.assert_allclose(model.predict(x, verbose=0), stack.reconstruct(x), atol=1e-5)


def test_unrolled_shares_the_encoders_and_has_decoders_of_its_own_in_reverse(stack, x):
    model = stack.unrolled()
    assert model.layers[:2] == [a.encoder for a in stack.autoencoders]
    assert [layer.units for layer in model.layers] == [8, 5, 8, 12]
    biases = [keras.ops.convert_to_numpy(a.visible_bias) for a in stack.autoencoders]
    before, codes = weights(model), stack.encode(x)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(x, x, epochs=1, verbose=0)
    assert all(differ(weights(model), before))
    assert np.any(stack.encode(x) != codes)
    after = [keras.ops.convert_to_numpy(a.visible_bias) for a in stack.autoencoders]
    assert not any(differ(after, biases))


def test_an_unrolled_copy_leaves_the_stack_alone(stack, x):
    before = weights(stack)
    model = stack.unrolled(copy=True)
    np.testing.assert_allclose(model.predict(x, verbose=0), stack.reconstruct(x), atol=1e-5)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(x, x, epochs=1, verbose=0)
    assert not any(differ(weights(stack), before))


@pytest.mark.parametrize("head", [*HEADS, "unrolled"])
def test_a_stack_that_does_not_know_its_input_is_refused(head):
    stack = sda.StackedDenoisingAutoencoder([8, 5])
    with pytest.raises(ValueError, match="knows the shape of its input"):
        getattr(stack, head)(*([] if head == "unrolled" else [3]))


def test_the_loss_of_a_classifier_in_half_precision_is_scaled():
    stack = sda.StackedDenoisingAutoencoder([4], seed=1, dtype="mixed_float16")
    stack.build((None, 6))
    classifier = stack.classifier(3)
    classifier.compile("sgd", "sparse_categorical_crossentropy")
    assert isinstance(classifier.optimizer, keras.optimizers.LossScaleOptimizer)


# Recipes


def with_random_output(compiled):
    """A classifier whose encoders have a gradient from the first step on."""
    stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    stack.build((None, 12))
    model = stack.classifier(3, copy=True)
    model.layers[-1].kernel.assign(np.random.default_rng(1).normal(size=(5, 3)))
    compiled(model)
    return model


LOSS = "sparse_categorical_crossentropy"


def frozen(model):
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), LOSS)


def with_rates(make=keras.optimizers.SGD, rates=(0.01, 0.05, 0.5)):
    def compiled(model):
        optimizers = keras.optimizers.OptimizerMap(make(rates[-1]))
        for layer, rate in zip(model.layers, rates[:-1], strict=False):
            optimizers[f"{layer.path}/.*"] = make(rate)
        model.compile(keras.optimizers.MultiOptimizer(optimizers), LOSS)

    return compiled


def test_frozen_encoders_stay_as_they_are(x, y):
    before = with_random_output(frozen).get_weights()
    model = check_fit(lambda: with_random_output(frozen), x, y, batch_size=20, epochs=3)
    assert [bool(np.any(a != b)) for a, b in zip(before, model.get_weights(), strict=True)] == [
        *[False] * 4,
        *[True] * 2,
    ]


@pytest.mark.parametrize("make", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_a_rate_for_each_layer_is_that_of_keras(x, y, make):
    compiled = with_rates(make)
    check_fit(lambda: with_random_output(compiled), x, y, batch_size=20, epochs=3)


def test_each_layer_takes_steps_of_its_own_rate(x, y):
    """Beside one step of plain SGD at the rate 1, whose steps are the gradients."""
    start = with_random_output(lambda model: model.compile(keras.optimizers.SGD(1.0), LOSS))
    begun = start.get_weights()
    start.train_on_batch(x, y)
    model = with_random_output(with_rates())
    sda.fit(model, x, y, batch_size=len(x), verbose=0)
    rates = np.repeat([0.01, 0.05, 0.5], 2)  # a kernel and a bias each
    for before, far, near, rate in zip(
        begun, start.get_weights(), model.get_weights(), rates, strict=True
    ):
        assert np.abs(far - before).max() > 1e-4
        np.testing.assert_allclose(near - before, rate * (far - before), rtol=1e-2, atol=1e-6)


def test_rates_of_layers_resume(x, y, tmp_path, monkeypatch):
    def trained(path=None, rates=(0.01, 0.05, 0.5)):
        model = with_random_output(with_rates(keras.optimizers.Adam, rates))
        settings = {"batch_size": 20, "epochs": 3, "seed": 1, "checkpoint_dir": path}
        sda.fit(model, x, y, verbose=0, **settings)
        return model.get_weights()

    written = []

    def write(path, saved):
        codec.write(path, saved)
        written.append(path)
        if len(written) == 3:  # the begin and two epochs
            raise RuntimeError("cut off")

    expected = trained()
    with monkeypatch.context() as patch:
        patch.setattr(folder, "write", write)
        with pytest.raises(RuntimeError, match="cut off"):
            trained(tmp_path)
    for weight, other in zip(trained(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(weight, other)
    with pytest.raises(ValueError, match="Expected the data and settings of the run"):
        trained(tmp_path, (0.01, 0.06, 0.5))


def test_rates_that_are_too_large_are_told():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    rates = keras.optimizers.OptimizerMap(keras.optimizers.SGD(1e38))
    model.compile(keras.optimizers.MultiOptimizer(rates), "mse")
    with pytest.raises(sda.TrainingDivergedError, match="Try lower learning rates"):
        sda.fit(model, np.ones((8, 1)), np.zeros((8, 1)), epochs=9, verbose=0)
