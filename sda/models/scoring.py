"""What a stack says of rows, without noise: samples, missing values filled in, errors."""

import keras
import numpy as np
from keras import ops

from sda import losses
from sda.checks import check_count
from sda.layers import preprocessing as before
from sda.models import layer_loss
from sda.rows.reading import as_rows, check_finite
from sda.streams import check_seed


def sample(stack, x, steps=1, seed=None):
    """Sample new inputs top-down; see `StackedDenoisingAutoencoder.sample`."""
    check_count(steps, "steps")
    generator = np.random.default_rng(check_seed(seed))
    for step in range(steps):
        codes = stack.encode(x) if step == 0 else stack.codes(x)
        for k, autoencoder in reversed(list(enumerate(stack.autoencoders))):
            codes = ops.convert_to_numpy(autoencoder.decode(codes))
            if k > 0 and autoencoder.decoder_activation is keras.activations.sigmoid:
                codes = (generator.random(codes.shape) < codes).astype(codes.dtype)
        x = codes
    return ops.convert_to_numpy(stack.undone(ops.convert_to_tensor(x)))


def impute(stack, x, iterations=1, layer=-1, batch_size=1024):
    """Fill in missing values; see `StackedDenoisingAutoencoder.impute`."""
    check_count(iterations, "iterations")
    if stack.fill_value is None:
        raise ValueError(
            "Expected a stack that was made with `fill_value`, the number that the network sees "
            "in place of missing values. Received: fill_value=None"
        )
    x = np.asarray(_checked(stack, x)[:])
    if not stack.built:
        stack.build(x.shape)
    if before.inverse(stack.preprocessing, stack.example_shape) is None:
        raise ValueError(
            "Expected a stack whose preprocessing has an inverse (Rescaling, Normalization, "
            "Flatten and Reshape have), which leads back to the units of `x`. "
            f"Received: preprocessing={stack.preprocessing!r}"
        )
    filled = x
    for _ in range(iterations):
        filled = np.where(np.isnan(x), stack.reconstruct(filled, layer, batch_size), x)
    return filled


def reconstruction_error(stack, x, per_column=False, loss=None, layer=-1, batch_size=1024):
    """Say how badly rows are rebuilt; see `StackedDenoisingAutoencoder.reconstruction_error`."""
    loss = layer_loss.named(loss, stack.autoencoders[0].decoder_activation)
    if not isinstance(loss, losses.ReconstructionLoss):
        raise ValueError(f"Expected `loss` to be a loss of sda.losses. Received: loss={loss!r}")

    def errors_of(rows):
        rows = stack.prepare(rows)
        return loss.errors(rows, stack.rebuilt(rows, layer, logits=loss.from_logits))

    def scores(errors):
        if not per_column:
            return np.nansum(errors, axis=tuple(range(1, errors.ndim)))
        return loss.layout.per_column(errors) if isinstance(loss, losses.ColumnLoss) else errors

    return stack.in_pieces(errors_of, _checked(stack, x), batch_size, scores)


def _checked(stack, x):
    """Return `x` as `Rows` of numbers, NaN only where values may be missing."""
    rows = as_rows(x)
    check_finite(rows, "x", missing=stack.fill_value is not None)
    return rows
