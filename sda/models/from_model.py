"""The hidden layers of a Keras model, as those of a stack."""

import itertools

import keras

from sda.models.new_layer import for_each_layer, new_layer


def parts_of(model, seed, **settings):
    """Return what a stack around the hidden `Dense` layers of a Keras model is made of.

    Args:
        model: As in `StackedDenoisingAutoencoder.from_model`.
        seed: Integer or None.
        **settings: Those of the layers of a stack, but for what the model's own layers say.

    Returns:
        Dict with the arguments `autoencoders` and `preprocessing` of the constructor.
    """
    preprocessing, hidden = _hidden_layers(model)
    autoencoders = []
    for k, own in enumerate(for_each_layer(len(hidden), **settings)):
        encoder, *code_layers = hidden[k]
        below = autoencoders[-1] if k else None
        autoencoders.append(
            new_layer(k, below, seed, encoder=encoder, code_layers=code_layers, **own)
        )
    return {"autoencoders": autoencoders, "preprocessing": preprocessing}


def _hidden_layers(model):
    """Split a chain into the layers before the first `Dense`, and one list a hidden `Dense`."""
    chain = [
        la for la in getattr(model, "layers", []) if not isinstance(la, keras.layers.InputLayer)
    ]
    if not getattr(model, "built", False) or not _is_chain(model, chain):
        raise ValueError(
            "Expected `model` to be a built keras.Sequential, or a functional model that is one "
            f"chain of layers. Received: model={model!r}"
        )
    dense = [i for i, layer in enumerate(chain) if isinstance(layer, keras.layers.Dense)]
    if len(dense) < 2:
        raise ValueError(
            "Expected `model` to have a hidden Dense layer and an output Dense layer. "
            f"Received: {len(dense)} Dense layers in model={model!r}"
        )
    for i, layer in enumerate(chain[: dense[-1]]):
        # What prepares the input may have weights that nothing trains.
        weights = layer.weights if i > dense[0] else layer.trainable_weights
        if weights and not isinstance(layer, keras.layers.Dense):
            raise ValueError(
                "Expected only Dense layers to have weights before the output layer. "
                f"Received: {layer!r}"
            )
    hidden = [chain[start:stop] for start, stop in itertools.pairwise(dense)]
    return chain[: dense[0]], hidden


def _is_chain(model, layers):
    if isinstance(model, keras.Sequential):
        return True
    # A subclassed model has no graph.
    if len(getattr(model, "inputs", None) or ()) != 1:
        return False
    return any(_path_to(output) == layers for output in model.outputs)


def _path_to(output):
    """Return the layers from an input to a tensor, or None where they are no chain.

    By the calls that made this tensor: a layer may have been called in other models too, as those
    of a Sequential are with every `add`.
    """
    path = []
    while True:
        layer, call, _ = output._keras_history
        inputs = layer._inbound_nodes[call].input_tensors
        if not inputs:
            return path[::-1]
        if len(inputs) > 1 or layer in path:
            return None
        path.append(layer)
        output = inputs[0]
