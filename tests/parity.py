"""The contract that training passes: `sda.fit` is `Model.fit`, and a dA's schedule is too."""

import functools

import keras
import numpy as np
from keras import ops

import sda


def check_fit(make, x, y=None, rtol=1e-5, callbacks=None, validation_data=None, **settings):
    """Check that a model trained by `sda.fit` is the one that `Model.fit` trains.

    Args:
        make: Function that returns a new compiled model: the same weights and seeds each time.
        x: The examples, as `fit` takes them, or a function that returns them, for each `fit` new.
        y: The targets.
        rtol: Float, how far weights and logs may be apart, relatively and absolutely.
        callbacks: Function that returns a list of callbacks, or None.
        validation_data: Like `x`.
        **settings: What both `fit`s are given, such as `epochs`.

    Returns:
        The model that `sda.fit` trained.
    """
    ours, theirs = make(), make()
    start = weights(ours)
    check_close(start, weights(theirs), 0)
    histories = []
    for fit in (theirs.fit, functools.partial(sda.fit, ours)):
        made = {"x": _made(x), "validation_data": _made(validation_data)}
        histories.append(fit(y=y, shuffle=False, verbose=0, **made, **_with(callbacks, settings)))
    expected, history = histories
    check_close(weights(ours), weights(theirs), rtol)
    check_history(history, expected, rtol)
    check_close(weights(ours.optimizer), weights(theirs.optimizer), rtol)
    assert any(np.any(a != b) for a, b in zip(start, weights(ours), strict=True))
    return ours


def check_pretraining(make, optimizer, x, rtol=1e-5, loss=None, **settings):
    """Check that `GreedyPretrainer` trains each layer as `Model.fit` trains its `layer_model`.

    Args:
        make: Function that returns a new stack: the same weights and seeds each time.
        optimizer: Function from a stack to the template.
        x: The examples.
        rtol: Float, how far weights and logs may be apart, relatively and absolutely.
        loss: The pretrainer's loss.
        **settings: `epochs` and `batch_size`.
    """
    stacks = [make() for _ in range(2)]
    for stack in stacks:
        stack.build((None, *x.shape[1:]))
    ours, theirs = (sda.GreedyPretrainer(s, optimizer(s), loss, **settings) for s in stacks)
    histories = ours.fit(x, shuffle=False, verbose=0)
    codes = x
    for k, autoencoder in enumerate(stacks[1].autoencoders):
        model = theirs.layer_model(k)
        expected = model.fit(codes, shuffle=False, verbose=0, **settings)
        check_history(histories[k], expected, rtol)
        codes = ops.convert_to_numpy(autoencoder.encode(ops.convert_to_tensor(codes)))
        # NumPy has no bfloat16, which not every `Model.fit` takes from others.
        codes = codes.astype("float32") if codes.dtype.itemsize == 2 else codes
    check_close(weights(stacks[0]), weights(stacks[1]), rtol)


def weights(thing):
    """Return the values of all variables of a model or an optimizer, in float64."""
    return [np.array(ops.convert_to_numpy(v.value), "float64") for v in thing.variables]


def check_history(history, expected, rtol):
    assert history.epoch == expected.epoch
    assert set(history.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(
            history.history[name], values, rtol=rtol, atol=rtol, err_msg=name
        )


def check_close(values, expected, rtol):
    assert len(values) == len(expected) > 0
    for some, others in zip(values, expected, strict=True):
        np.testing.assert_allclose(some, others, rtol=rtol, atol=rtol)


def _made(data):
    return data() if callable(data) else data


def _with(callbacks, settings):
    return settings if callbacks is None else {**settings, "callbacks": callbacks()}


@keras.saving.register_keras_serializable(package="parity")
class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of a user's own: half the rate every third step."""

    def __init__(self, rate=0.2):
        self.rate = rate

    def __call__(self, step):
        return self.rate * 0.5 ** ops.floor(ops.cast(step, "float32") / 3)

    def get_config(self):
        return {"rate": self.rate}
