"""What is made of codes depends on the range that encoder and code layers give them together."""

import keras
import numpy as np
import pytest
from keras import layers

import sda


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


class StillDropping(layers.Dropout):
    """Drops in inference too, and scales what is left."""

    def call(self, x, training=None):
        return super().call(x, training=True)


class Named(layers.Dense):
    """A Dense in all but its name."""


class Shifted(layers.Dense):
    def call(self, x, training=None):
        return super().call(x) - 1


class Inert(layers.Dropout):
    """A Dropout in all but its name."""


# For each the layers, whether their codes lie in [0, 1], and the default decoder above them.
CODES = {
    "sigmoid": (["sigmoid"], True, "sigmoid"),
    "hard sigmoid": (["hard_sigmoid"], True, "linear"),
    "softmax": (["softmax"], True, "linear"),
    "tanh": (["tanh"], False, "linear"),
    "relu": (["relu"], False, "linear"),
    "relu6": (["relu6"], False, "linear"),
    "linear": ([None], False, "linear"),
    "a layer of sigmoids": ([None, layers.Activation("sigmoid")], True, "sigmoid"),
    "a softmax layer": ([None, layers.Softmax()], True, "linear"),
    "sigmoid, moved in inference only": (
        ["sigmoid", layers.Dropout(0.5), layers.GaussianNoise(0.5), layers.Reshape((5,))],
        True,
        "sigmoid",
    ),
    "sigmoid, linear": (["sigmoid", layers.Activation("linear")], True, "sigmoid"),
    "sigmoid, relu": (["sigmoid", layers.ReLU()], True, "sigmoid"),
    "tanh, relu": (["tanh", layers.ReLU()], True, "linear"),
    "sigmoid, turned over": (["sigmoid", layers.ReLU(negative_slope=1, threshold=0.9)],
                             False, "linear"),
    "sigmoid, then scaled": (["sigmoid", layers.Rescaling(8.0)], False, "linear"),
    "sigmoid, scaled to sigmoid": (
        ["sigmoid", layers.Rescaling(8.0), layers.Activation("sigmoid")], True, "sigmoid"
    ),
    "sigmoid, then tanh": (["sigmoid", layers.Activation("tanh")], False, "linear"),
    "sigmoid, of unit length": (["sigmoid", layers.UnitNormalization()], False, "linear"),
    "sigmoid, a layer of one's own": (["sigmoid", Doubled()], False, "linear"),
    "sigmoid, a Dropout of one's own": (["sigmoid", StillDropping(0.5)], False, "linear"),
    "sigmoid, a Dropout by another name": (["sigmoid", Inert(0.5)], True, "sigmoid"),
    "a Dense by another name": ([Named(5, "sigmoid")], True, "sigmoid"),
    "a Dense of one's own": ([Shifted(5, "sigmoid")], False, "linear"),
}  # fmt: skip


def chain(first, *rest):
    """A model with codes of these layers, a layer above them, and an output."""
    first = first if isinstance(first, layers.Dense) else layers.Dense(5, first)
    codes = [type(layer).from_config(layer.get_config()) for layer in (first, *rest)]
    return keras.Sequential([keras.Input((12,)), *codes, layers.Dense(4), layers.Dense(2)])


@pytest.mark.parametrize(("codes", "in_unit_interval", "decoder"), CODES.values(), ids=CODES)
def test_the_default_decoder_is_that_of_the_codes_below(codes, in_unit_interval, decoder):
    stack = sda.StackedDenoisingAutoencoder.from_model(chain(*codes), seed=1)
    assert stack.autoencoders[1].decoder_activation is keras.activations.get(decoder)
    # The default loss fits it.
    sda.GreedyPretrainer(stack)
    if in_unit_interval:
        x = np.random.default_rng(0).normal(0, 9, (300, 12))
        reached = stack.encode(x, layer=0)
        assert reached.min() >= 0
        assert reached.max() <= 1


@pytest.mark.parametrize(("codes", "in_unit_interval", "decoder"), CODES.values(), ids=CODES)
def test_cross_entropy_and_sparsity_want_codes_in_the_unit_interval(
    codes, in_unit_interval, decoder
):
    del decoder
    from_model = sda.StackedDenoisingAutoencoder.from_model
    stack = from_model(chain(*codes), decoder_activation="sigmoid")
    sparsity = [sda.penalties.KLSparsity(), None]
    if in_unit_interval:
        sda.GreedyPretrainer(stack, loss="cross_entropy")
        from_model(chain(*codes), sparsity=sparsity)
        return
    with pytest.raises(ValueError, match=r"codes in \[0, 1\] under cross-entropy.*layer 1 above"):
        sda.GreedyPretrainer(stack, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"codes in \[0, 1\].*under `KLSparsity`"):
        from_model(chain(*codes), sparsity=sparsity)


def test_units_of_scaled_codes_are_measured_by_each_other():
    """Of a sigmoid behind a Rescaling the ends are other ones: none is said to be saturated."""
    x = np.random.default_rng(0).random((50, 12), "float32")
    scaled = chain("sigmoid", layers.Rescaling(8.0))
    plain = chain("sigmoid")
    reports = []
    for model in (plain, scaled):
        kernel, bias = model.layers[0].get_weights()
        model.layers[0].set_weights([kernel, bias + 9])
        stack = sda.StackedDenoisingAutoencoder.from_model(model, seed=1)
        reports.append(sda.diagnostics.diagnose(stack, x)[1])
    assert reports[0].dead + reports[0].saturated == 5
    assert reports[1].saturated is None


# Shapes


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(layers.Flatten(), r"\(None, 15\)"), (layers.Reshape((5, 3)), r"\(None, 5, 3\)")],
)
@pytest.mark.parametrize("place", [1, 2])
def test_layers_that_change_the_shape_of_codes_are_refused_at_once(layer, shape, place):
    hidden = [layers.Dense(5), layers.Dense(5), layers.Dense(2)]
    hidden.insert(place, layer)
    model = keras.Sequential([keras.Input((3, 12)), *hidden])
    match = rf"`code_layers` to keep the shape of the codes, \(None, 3, 5\).*shape {shape}"
    with pytest.raises(ValueError, match=match):
        sda.StackedDenoisingAutoencoder.from_model(model)
    with pytest.raises(ValueError, match=match):
        sda.DenoisingAutoencoder(encoder=layers.Dense(5), code_layers=[layer]).build((None, 3, 12))


def test_a_flatten_that_flattens_nothing_is_taken():
    model = chain(None, layers.Flatten(), layers.Reshape((5,)))
    stack = sda.StackedDenoisingAutoencoder.from_model(model, seed=1)
    x = np.random.default_rng(0).random((4, 12), "float32")
    kernel, bias = model.layers[0].get_weights()
    np.testing.assert_allclose(stack.encode(x, 0), x @ kernel + bias, atol=1e-5)
