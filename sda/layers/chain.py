"""Chains of affine layers under a known loss: what a driver can train without autodiff."""

import dataclasses

import keras

from sda.layers.kernel import is_plain
from sda.layers.selective import SelectiveNoise
from sda.losses.cross_entropy import CrossEntropy
from sda.losses.squared_error import SquaredError

# Activations whose slope is a function of their value.
SLOPED = ("linear", "relu", "sigmoid", "tanh")
# Layers at the begin of a classifier that nothing trains.
PREPROCESSING = (keras.layers.Normalization, keras.layers.Rescaling)


@dataclasses.dataclass(frozen=True)
class Affine:
    """One layer: y = s(dropout(x) W + b), or s(dropout(x) Wᵀ + b) if `transposed`.

    Args:
        kernel: Keras variable W. Two layers of a chain may share it.
        bias: Keras variable b.
        activation: Name of s, one of `SLOPED`; of the last layer also "softmax".
        transposed: Whether the kernel is used transposed.
        dropout: The `keras.layers.Dropout` before it, or None.
    """

    kernel: keras.Variable
    bias: keras.Variable
    activation: str
    transposed: bool = False
    dropout: keras.layers.Dropout | None = None


@dataclasses.dataclass(frozen=True)
class Chain:
    """Affine layers one above the other, and the loss of the last one's output.

    Args:
        layers: Tuple of `Affine`.
        loss: A `sda.losses.ReconstructionLoss`, whose target is the chain's own input or other rows
            of its shape, or "sparse_categorical_crossentropy", whose target is a label, or
            "categorical_crossentropy", whose target is one-hot.
        corruption: The `sda.Corruption` or `keras.layers.GaussianNoise` of the input, or None.
        smoothing: Float, how much of a one-hot target is spread over all classes.
        preprocessing: Tuple of the Keras layers that rows go through first, in inference mode.
    """

    layers: tuple
    loss: object
    corruption: object = None
    smoothing: float = 0.0
    preprocessing: tuple = ()


def find_chain(model):
    """Return the `Chain` that a compiled model is, or None where it is anything more.

    A model that is a chain without looking like one says so by a method `training_chain`.
    """
    if model.run_eagerly or model.compute_dtype != "float32":
        return None
    # Its scale falls where a gradient overflows, which one that is written out does elsewhere.
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return None
    own = getattr(model, "training_chain", None)
    chain = own() if own else _sequential_chain(model)
    if chain is None:
        return None
    ours = {id(v) for layer in chain.layers for v in (layer.kernel, layer.bias)}
    variables = model.trainable_variables
    plain = all(v.dtype == "float32" and v.regularizer is v.constraint is None for v in variables)
    return chain if plain and ours == {id(v) for v in variables} else None


def affine(dense, dropout=None, last=False):
    """Return the `Affine` that a layer is, or None unless it is a plain `keras.layers.Dense`."""
    if not is_plain(dense) or not dense.use_bias or dense.compute_dtype != "float32":
        return None
    name = _known_name(dense.activation, (*SLOPED, "softmax") if last else SLOPED)
    return name and Affine(dense.kernel, dense.bias, name, dropout=dropout)


def _known_name(activation, names):
    """Return the name of a Keras activation that is among `names`, or None."""
    return next((name for name in names if activation is keras.activations.get(name)), None)


def denoising_chain(encoder, visible_bias, decoder_activation, corruption, loss, preprocessing=()):
    """Return the chain of a tied dA, or None where it is not one."""
    first = affine(encoder)
    name = _known_name(decoder_activation, SLOPED)
    if first is None or name is None or type(loss) not in (CrossEntropy, SquaredError):
        return None
    if loss.missing_values or loss.reduction == "sum" or loss.dtype != "float32":
        return None
    if type(loss) is CrossEntropy and name != "sigmoid":
        return None
    if isinstance(corruption, SelectiveNoise) and corruption.rate == 0 and not loss.emphasised:
        corruption = None
    decoder = Affine(encoder.kernel, visible_bias, name, transposed=True)
    return Chain((first, decoder), loss, corruption, preprocessing=preprocessing)


def _sequential_chain(model):
    """Return the chain of a softmax classifier of `Dense` and `Dropout` layers, or None."""
    if type(model) is not keras.Sequential or len(model.input_shape) != 2:
        return None
    loss, smoothing = _cross_entropy(model.loss)
    if loss is None:
        return None
    try:
        weights = model.get_compile_config()["loss_weights"]
    # What was given to `compile` need not be serializable: a schedule of one's own may not be.
    except Exception:
        return None
    if weights is not None:
        return None
    rest, noise = list(model.layers), None
    preprocessing = []
    while type(rest[0]) in PREPROCESSING and not rest[0].activity_regularizer:
        preprocessing.append(rest.pop(0))
        if not rest:
            return None
    if type(rest[0]) is keras.layers.GaussianNoise and not rest[0].activity_regularizer:
        noise = rest.pop(0)
    layers, dropout = [], None
    for layer in rest:
        if _does_nothing(layer):
            continue
        if _is_plain_dropout(layer) and dropout is None:
            dropout = layer
        else:
            layers.append(affine(layer, dropout, last=layer is model.layers[-1]))
            dropout = None
    if None in layers or dropout or not layers or layers[-1].activation != "softmax":
        return None
    # The gradients of a layer that comes twice add up.
    if len({id(layer.kernel) for layer in layers}) < len(layers):
        return None
    return Chain(tuple(layers), loss, noise, smoothing, tuple(preprocessing))


def _does_nothing(layer):
    """Whether a layer is a `Dropout` of rate 0, which draws nothing either."""
    return (
        type(layer) is keras.layers.Dropout and layer.rate == 0 and not layer.activity_regularizer
    )


def _is_plain_dropout(layer):
    """Whether a layer drops each entry for itself, some but not all, in float32."""
    return (
        type(layer) is keras.layers.Dropout
        and layer.noise_shape is None
        and 0 < layer.rate < 1
        and layer.compute_dtype == "float32"
        and not layer.activity_regularizer
    )


def _cross_entropy(loss):
    """Return name and label smoothing of a categorical cross-entropy; (None, 0) for other losses.

    As a name, or as a loss of Keras with its usual settings but for the smoothing.
    """
    kinds = {
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    }
    if isinstance(loss, str):
        return (loss if loss in kinds else None), 0.0
    for name, kind in kinds.items():
        if type(loss) is kind:
            smoothing = getattr(loss, "label_smoothing", 0.0)
            smoothed = {"label_smoothing": smoothing} if smoothing else {}
            if loss.get_config() == kind(name=loss.name, **smoothed).get_config():
                return name, smoothing
    return None, 0.0
