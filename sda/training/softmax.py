"""The categorical cross-entropy of a softmax, with a gradient where Keras cuts it off."""

import contextlib

import keras
from keras import ops

# The least probability that still has a gradient; float32 goes little further.
LEAST = 1e-37


@contextlib.contextmanager
def kept_alive(model):
    """Let a model's categorical cross-entropies have a gradient down to p = 1e-37 in its steps.

    On JAX and PyTorch Keras clips p at `keras.config.epsilon()`, 1e-7. An example that is more
    wrong than that has no gradient; a large first step from random weights can put all of them
    there, for good. (On TensorFlow Keras goes back to the logits.) Only what this model was
    compiled with is exchanged, and put back: metrics and other models see nothing of it.
    """
    compiled = getattr(model, "_compile_loss", None)
    losses = getattr(compiled, "_flat_losses", None)
    if not losses or keras.backend.backend() == "tensorflow":
        yield
        return
    compiled._flat_losses = [part._replace(loss=_alive(part.loss)) for part in losses]
    try:
        yield
    finally:
        compiled._flat_losses = losses


def _alive(loss):
    """Return a loss with the values of `loss`, and a gradient below p = 1e-7."""
    functions = (
        keras.losses.categorical_crossentropy,
        keras.losses.sparse_categorical_crossentropy,
    )
    # Keras's own, not a subclass that computes something else.
    own = getattr(type(loss), "call", None) is keras.losses.CategoricalCrossentropy.call
    if not own or getattr(loss, "fn", None) not in functions or loss.dtype == "float16":
        return loss
    config = loss.get_config()
    return loss if config.get("from_logits") else FromProbabilities(loss, config)


class FromProbabilities(keras.losses.Loss):
    """A categorical cross-entropy of Keras, computed from log p, which are logits of p.

    Args:
        loss: The loss of Keras.
        config: Its config.
    """

    def __init__(self, loss, config):
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.from_logits = type(loss).from_config({**config, "from_logits": True})

    def call(self, y_true, y_pred):
        return self.from_logits.call(y_true, ops.log(ops.maximum(y_pred, LEAST)))
