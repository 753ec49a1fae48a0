"""What the penalties on the codes of a dA need, and what they add to its loss."""

import keras
from keras import ops

from sda.checks import check_number, look_up
from sda.layers import ranges
from sda.losses import penalties
from sda.losses.derivatives import SLOPES, names

# As arguments of a dA, and in logs.
NAMES = ("sparsity", "contraction")


def sparsity(identifier):
    """Return the regularizer that is meant, or None."""
    expectation = "a keras.regularizers.Regularizer or None"
    found = look_up(keras.regularizers.get, identifier, "sparsity", expectation)
    if found is not None and not isinstance(found, keras.regularizers.Regularizer):
        raise ValueError(f"Expected `sparsity` to be {expectation}. Received: sparsity={found!r}")
    return found


def contraction(weight):
    """Return the weight of the contractive penalty as a float."""
    expectation = "finite and at least 0"
    return check_number(weight, "contraction", expectation, lambda w: 0 <= w < float("inf"))


def check(autoencoder):
    """Raise `ValueError` where a penalty of a dA does not fit its code, or would not act."""
    dA = autoencoder
    if dA.activity_regularizer is not None:
        raise ValueError(
            "Expected `activity_regularizer` to be left out: a layer's is on what it returns, "
            "here the reconstruction. For a penalty on the codes use `sparsity`. "
            f"Received: activity_regularizer={dA.activity_regularizer!r}"
        )
    if isinstance(dA.sparsity, penalties.KLSparsity) and not dA.codes_in_unit_interval:
        raise ValueError(
            "Expected codes in [0, 1], as those of a sigmoid, under `KLSparsity`. "
            f"Received: activation={dA.activation!r}, code_layers={dA.code_layers!r}"
        )
    if dA.contraction and not _has_known_derivative(dA):
        raise ValueError(
            "Expected an activation with a known derivative under `contraction`, one of "
            f"{names()}. Received: activation={dA.activation!r}, code_layers={dA.code_layers!r}"
        )


def values(autoencoder, codes):
    """Return the weighted penalties that are set, by name, for the codes of a batch."""
    found = {}
    if autoencoder.sparsity is not None:
        codes = ops.cast(codes, "float32")
        examples = ops.cast(ops.shape(codes)[0], "float32")
        found["sparsity"] = autoencoder.sparsity(codes) / examples
    if autoencoder.contraction:
        norm = penalties.contraction(codes, autoencoder.activation, autoencoder.filters())
        found["contraction"] = autoencoder.contraction * norm
    return found


def _has_known_derivative(autoencoder):
    """Return whether one known activation is all that bends what leads to the code."""
    bent = [layer for layer in autoencoder.encoder_layers if not _is_straight(layer)]
    known = autoencoder.activation in SLOPES and len(bent) <= 1
    return known and all(hasattr(layer, "activation") for layer in bent)


def _is_straight(layer):
    """Return whether a layer of the code changes no derivative."""
    linear = getattr(layer, "activation", None) is keras.activations.linear
    return linear or ranges.computes_as(layer, ranges.INERT)
