"""Faults that denoising autoencoders are known for, each shown to be absent."""

import keras
import numpy as np
import pytest

import sda


@pytest.fixture
def x():
    return np.random.default_rng(0).random((60, 12), "float32")


def pretrain(stack, x, **settings):
    settings = {"optimizer": keras.optimizers.SGD(0.1), "epochs": 1, "seed": 1, **settings}
    return sda.GreedyPretrainer(stack, **settings).fit(x, verbose=0)


def of_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def weights(model):
    return [w.copy() for w in model.get_weights()]


# Noise in the wrong place


def test_noise_is_on_the_input_of_a_layer_not_on_its_code(x):
    layer = sda.DenoisingAutoencoder(5, corruption=1.0, seed=1)
    layer.build((None, 12))
    layer.encoder.bias.assign(np.arange(5.0))
    from_nothing = of_numpy(layer.decode(layer.encode(np.zeros_like(x))))
    np.testing.assert_allclose(of_numpy(layer(x, training=True)), from_nothing, atol=1e-6)
    assert np.ptp(from_nothing, axis=1).min() > 0  # a masked code would give halves


def test_noise_is_on_the_codes_below_not_on_the_pixels(x):
    # Where all codes below are masked, their weights have no gradient.
    stack = sda.StackedDenoisingAutoencoder([8, 5], corruption=[0.0, 1.0], tied=False, seed=1)
    stack.build((None, 12))
    second = stack.autoencoders[1]
    kernel, bias = second.encoder.get_weights()
    pretrain(stack, x)
    np.testing.assert_array_equal(second.encoder.get_weights()[0], kernel)
    assert np.all(second.encoder.get_weights()[1] != bias)


# Noise of the wrong kind, or left on


def test_what_is_not_masked_keeps_its_value(x):
    corrupted = of_numpy(sda.MaskingNoise(0.5, seed=1)(x, training=True))
    masked = corrupted == 0
    assert 0.3 < masked.mean() < 0.7
    np.testing.assert_array_equal(corrupted[~masked], x[~masked])


def test_no_noise_is_left_when_training_is_over(x):
    stack = sda.StackedDenoisingAutoencoder([8, 5], corruption=0.9, seed=1)
    outputs = [lambda: stack.encode(x), lambda: stack.reconstruct(x), lambda: of_numpy(stack(x))]
    outputs.append(lambda: of_numpy(stack.autoencoders[0](x)))
    for output in outputs:
        np.testing.assert_array_equal(output(), output())
    twice = np.concatenate([x[:1]] * 10)
    rows = stack.encode(twice)
    np.testing.assert_allclose(rows, rows[:1].repeat(10, axis=0), atol=1e-6)


# Noise that repeats itself


def test_every_row_and_every_call_has_a_mask_of_its_own():
    noise = sda.MaskingNoise(0.5, seed=1)
    ones = np.ones((20, 40), "float32")
    rows = [row.tobytes() for _ in range(5) for row in of_numpy(noise(ones, training=True))]
    assert len(set(rows)) == 100


def test_every_batch_of_every_epoch_is_corrupted_anew(x):
    # The batches are alike and the weights stay: only the noise can make the losses differ.
    alike = np.concatenate([x[:1]] * 3)
    layer, noise = (sda.StackedDenoisingAutoencoder([5], corruption=0.4, seed=1) for _ in range(2))
    still = keras.optimizers.SGD(0.0)
    (history,) = pretrain(layer, alike, optimizer=still, epochs=4, batch_size=1)
    draw = noise.autoencoders[0].corruption
    masks = [of_numpy(draw(np.ones((1, 12), "float32"), training=True)) for _ in range(12)]
    assert len({mask.tobytes() for mask in masks}) == 12
    z = layer.reconstruct(x[:1] * np.concatenate(masks))
    losses = -(x[:1] * np.log(z) + (1 - x[:1]) * np.log(1 - z)).sum(1)
    np.testing.assert_allclose(history.history["loss"], losses.reshape(4, 3).mean(1), rtol=1e-4)


# Pretraining one network, fine-tuning another


def test_pretraining_and_fine_tuning_have_the_activation_in_common():
    for activation in ("sigmoid", "relu", "tanh"):
        stack = sda.StackedDenoisingAutoencoder([8, 5], activation=activation)
        stack.build((None, 12))
        for autoencoder, layer in zip(stack.autoencoders, stack.classifier(3).layers, strict=False):
            assert layer.activation is autoencoder.activation is keras.activations.get(activation)


# Settings that are accepted and ignored


def test_every_layer_corrupts_at_its_own_level():
    levels = [0.1, 0.5, 0.8]
    stack = sda.StackedDenoisingAutoencoder([12, 12, 12], corruption=levels, seed=1)
    ones = np.ones((1000, 12), "float32")
    masked = [np.mean(of_numpy(a.corruption(ones, training=True)) == 0) for a in stack.autoencoders]
    np.testing.assert_allclose(masked, levels, atol=0.02)


# The wrong bias


def test_hidden_and_visible_biases_are_learned_apart_in_every_layer(x):
    stack = sda.StackedDenoisingAutoencoder([12, 12], tied=False, seed=1)
    pretrain(stack, x)
    biases = [of_numpy(a.visible_bias) for a in stack.autoencoders]
    biases += [a.encoder.get_weights()[1] for a in stack.autoencoders]
    assert all(np.any(bias != 0) for bias in biases)
    assert len({bias.tobytes() for bias in biases}) == 4


# A gradient that is not that of the loss


@pytest.mark.parametrize(
    ("loss", "delta"),
    [
        ("cross_entropy", lambda x, z: z - x),
        ("squared_error", lambda x, z: 2 * (z - x) * z * (1 - z)),
    ],
)
def test_the_first_step_follows_the_gradient_of_the_loss(x, loss, delta):
    stack = sda.StackedDenoisingAutoencoder([5], corruption=0.0, seed=1)
    z = stack.reconstruct(x)
    pretrain(stack, x, loss=loss, batch_size=60)
    step = of_numpy(stack.autoencoders[0].visible_bias)
    np.testing.assert_allclose(step, -0.1 * delta(x, z).mean(0), atol=1e-6)


def test_a_linear_output_is_never_given_to_the_cross_entropy():
    stack = sda.StackedDenoisingAutoencoder([5], decoder_activation="linear")
    with pytest.raises(ValueError, match="a sigmoid decoder under cross-entropy"):
        sda.GreedyPretrainer(stack, loss=sda.losses.CrossEntropy())


def test_an_output_that_is_all_but_certain_still_has_a_gradient():
    # From probabilities in float32 the loss would be infinite, and the gradient 0 or NaN.
    stack = sda.StackedDenoisingAutoencoder([1], corruption=0.0, seed=1)
    stack.build((None, 2))
    stack.autoencoders[0].encoder.kernel.assign(np.zeros((2, 1)))
    stack.autoencoders[0].visible_bias.assign([60.0, -60.0])
    (history,) = pretrain(stack, np.array([[0.0, 1.0]], "float32"), batch_size=1)
    np.testing.assert_allclose(history.history["loss"], [120.0], rtol=1e-6)
    bias = of_numpy(stack.autoencoders[0].visible_bias)
    np.testing.assert_allclose(bias, [59.9, -59.9], rtol=1e-5)


# Work that grows or starts again


class Counting(keras.Sequential):
    """Counts how often Python runs through the model."""

    runs = 0

    def call(self, *args, **kwargs):
        type(self).runs += 1
        return super().call(*args, **kwargs)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs every step in Python")
def test_epochs_add_nothing_to_the_graph(x):
    model = Counting([keras.Input((12,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    runs = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: runs.append(Counting.runs))
    sda.fit(model, x, x[:, :3], batch_size=20, epochs=5, verbose=0, callbacks=[count])
    assert runs[0] > 0
    assert runs == [runs[0]] * 5


def test_pretraining_goes_on_from_the_weights_that_are_there(x):
    stack = sda.StackedDenoisingAutoencoder([5], corruption=0.0, seed=1)
    (first,) = pretrain(stack, x, epochs=3)
    before = weights(stack)
    pretrain(stack, x, epochs=0)
    for a, b in zip(weights(stack), before, strict=True):
        np.testing.assert_array_equal(a, b)
    (second,) = pretrain(stack, x, epochs=1)
    assert second.history["loss"][0] < first.history["loss"][-1]
    classifier = stack.classifier(3)
    codes = of_numpy(classifier.layers[0](x))
    np.testing.assert_array_equal(codes, of_numpy(stack(x)))
