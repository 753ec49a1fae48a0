"""The loss of a layer."""

import keras

from sda import losses
from sda.losses.columns import ColumnActivation, ColumnLoss
from sda.losses.cross_entropy import CrossEntropy
from sda.losses.squared_error import SquaredError


def for_decoder(activation):
    """Return the loss that belongs to a decoder's activation."""
    if activation is keras.activations.sigmoid:
        return CrossEntropy()
    if isinstance(activation, ColumnActivation):
        return ColumnLoss(activation.columns)
    return SquaredError()


def named(loss, activation):
    """Return the loss meant by a name or a loss; None is the one of the decoder's activation."""
    return for_decoder(activation) if loss is None else losses.get(loss)


def loss_for(stack, k, loss):
    """Return the loss of layer `k`; raise `ValueError` where it does not fit the layer."""
    autoencoder = stack.autoencoders[k]
    sigmoid = autoencoder.decoder_activation is keras.activations.sigmoid
    activation = autoencoder.decoder_activation
    loss = named(loss, activation)
    if isinstance(loss, keras.losses.Loss) and loss.reduction in (None, "none"):
        raise ValueError(
            'Expected `loss` to have a reduction, such as "sum_over_batch_size" or "sum". '
            f"Received: layer {k} with reduction={loss.reduction!r}"
        )
    if isinstance(loss, losses.CrossEntropy):
        if not sigmoid:
            raise ValueError(
                f"Expected a sigmoid decoder under cross-entropy. Received: layer {k} with "
                f"decoder_activation={keras.activations.serialize(autoencoder.decoder_activation)!r}"
            )
        below = stack.autoencoders[k - 1] if k else None
        if below and not below.codes_in_unit_interval:
            after = f" behind {below.code_layers!r}" if below.code_layers else ""
            raise ValueError(
                f"Expected codes in [0, 1] under cross-entropy. Received: layer {k} above "
                f"{keras.activations.serialize(below.activation)!r} codes{after}; use "
                'decoder_activation="linear" and loss="squared_error" there'
            )
    if isinstance(loss, losses.ColumnLoss):
        linear = activation is keras.activations.linear
        if not linear and getattr(activation, "columns", None) != loss.columns:
            raise ValueError(
                "Expected a linear decoder, or the ColumnActivation of the same columns, under "
                f"ColumnLoss. Received: layer {k} with decoder_activation={activation!r}"
            )
    if autoencoder.fill_value is not None:
        if not isinstance(loss, losses.ReconstructionLoss):
            raise ValueError(
                "Expected a loss of sda.losses, which can leave features out, where values may be "
                f"missing. Received: layer {k} with loss={loss!r}"
            )
        loss = loss.with_missing_values()
    emphasised = isinstance(loss, losses.ReconstructionLoss) and loss.emphasised
    if emphasised and not autoencoder.corruption.selects:
        raise ValueError(
            "Expected a noise that selects features (masking, salt-and-pepper, swap) under an "
            f"emphasised loss. Received: layer {k} with {type(autoencoder.corruption).__name__}"
        )
    return loss
