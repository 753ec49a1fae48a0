"""A dA made for its place in a stack, from settings of the stack."""

import keras

from sda.checks import per_layer
from sda.layers import noises
from sda.layers.autoencoder import DenoisingAutoencoder
from sda.streams import spawn, stream


def for_each_layer(depth, **settings):
    """Return settings, each one value for all layers or a list of them, as one dict a layer."""
    lists = {name: per_layer(value, depth, name) for name, value in settings.items()}
    return [{name: values[k] for name, values in lists.items()} for k in range(depth)]


def new_layer(k, below, seed, corruption, decoder_activation, **settings):
    """Return dA `k` of a stack: its weights and noise are functions of (seed, k).

    Args:
        k: Integer, 0 for the first layer.
        below: The dA below, or None for the first layer.
        seed: The seed of the stack, an integer or None.
        corruption: As in `sda.DenoisingAutoencoder`. The layer gets a copy.
        decoder_activation: The same, or None for the one that suits what the layer rebuilds.
        **settings: Other arguments of `sda.DenoisingAutoencoder`.
    """
    noise = noises.get(corruption)
    entropy = seed if noise.seed is None else noise.seed
    return DenoisingAutoencoder(
        corruption=noise.copy(stream(entropy, "noise", k)),
        decoder_activation=_decoder(below) if decoder_activation is None else decoder_activation,
        seed=spawn(seed, k),
        name=f"autoencoder_{k + 1}",
        **settings,
    )


def _decoder(below):
    """Return the decoder's activation for an input in [0, 1], or for the codes of a dA."""
    sigmoid = below is None or (
        below.codes_in_unit_interval and below.activation is keras.activations.sigmoid
    )
    return "sigmoid" if sigmoid else "linear"
