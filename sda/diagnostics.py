"""What each layer of a stack has learned: reconstruction, a probe, units that do nothing, rank."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from sda.checks import check_count
from sda.layers.ranges import ENDS
from sda.losses.base import ReconstructionLoss
from sda.losses.columns import ColumnLoss
from sda.pretraining.pretrainer import GreedyPretrainer
from sda.rows.arrays import in_place
from sda.rows.reading import as_rows, check_finite, on_arrays, pieces

# A dead unit's codes span less than this share of what they could.
DEAD = 0.01
# A saturated unit's are within the first share of an end, in at least the second share of the rows.
SATURATED = (0.05, 0.95)
# Probabilities that a cross-entropy is taken of are kept this far from 0 and 1, as Keras does.
EPSILON = 1e-7


@dataclasses.dataclass
class LayerReport:
    """What `diagnose` says of one layer; what it cannot know is None.

    Attributes:
        layer: 0 for the input, 1 for the first layer, ….
        units: The width of the codes.
        loss: Denoising loss, under a noise that is drawn once.
        clean_loss: The loss without noise.
        identity_loss: The loss of handing the corrupted input on as it is: what to beat.
        error: Mean squared error of the reconstruction of the corrupted input, summed over
            features.
        identity_error: The same of the corrupted input itself.
        probe_accuracy: Accuracy of logistic regression on the codes.
        dead: How many units hardly change from row to row.
        saturated: How many of the others are nearly always at an end of their activation.
        effective_rank: See `effective_rank`.
    """

    layer: int
    units: int
    loss: float | None = None
    clean_loss: float | None = None
    identity_loss: float | None = None
    error: float | None = None
    identity_error: float | None = None
    probe_accuracy: float | None = None
    dead: int | None = None
    saturated: int | None = None
    effective_rank: float | None = None


def diagnose(stack, x, y=None, train=None, loss=None, seed=0):
    """Return what there is to say of the input and of each layer of a stack.

    Args:
        stack: A built `sda.StackedDenoisingAutoencoder`.
        x: Rows of shape `(n, features)`: a few thousand are enough. NaN is a missing value, if the
            stack was made with `fill_value`: errors are those of the known cells, and the rank and
            the probe of the input are those of what the network sees there.
        y: Labels of shape `(n,)`, that the probe is scored on, or None for no probe.
        train: `(x, y)` that the probe learns, or None for every other row of `x`, and to score it
            on the rest.
        loss: As in `sda.GreedyPretrainer`.
        seed: Integer, of the noise.

    Returns:
        List of `LayerReport`s: of the input, then of each layer from the input up.

    Raises:
        ValueError: If `x` is not what the stack takes, or not finite.
        ImportError: If there are labels, and scikit-learn is not installed.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    >>> reports = sda.diagnostics.diagnose(stack, np.random.rand(50, 12))
    >>> [(report.layer, report.units) for report in reports]
    [(0, 12), (1, 8), (2, 5)]
    """
    depth = len(stack.autoencoders)
    first = stack.autoencoders[0]

    def all_codes(x, name):
        x = as_rows(x, name)
        prepared = on_arrays(stack.prepare)(x[:])
        check_finite(prepared, name, missing=first.fill_value is not None)
        return prepared, [
            on_arrays(first.fill)(prepared),
            *(stack.encode(x, k) for k in range(depth)),
        ]

    prepared, codes = all_codes(x, "x")
    # The first dA has to know what is missing.
    inputs = [prepared, *codes[1:]]
    losses = GreedyPretrainer(stack, loss=loss).loss
    reports = [
        LayerReport(layer, of_layer.shape[-1], effective_rank=effective_rank(of_layer))
        for layer, of_layer in enumerate(codes)
    ]
    for k, autoencoder in enumerate(stack.autoencoders):
        report = reports[k + 1]
        # Layers behind it may have moved the ends of the activation.
        activation = autoencoder.activation
        if autoencoder.code_range != ENDS.get(activation):
            activation = keras.activations.linear
        report.dead, report.saturated = idle_units(codes[k + 1], activation)
        vars(report).update(reconstruction(autoencoder, inputs[k], losses[k], seed))
    if y is not None:
        y = np.asarray(in_place(y, "y"))
        if train is None:
            learned, labels = [of_layer[::2] for of_layer in codes], y[::2]
            scored, y = [of_layer[1::2] for of_layer in codes], y[1::2]
        else:
            learned, scored = all_codes(train[0], "train")[1], codes
            labels = in_place(train[1], "train")
        # One class is nothing to tell apart.
        if len(np.unique(labels)) > 1:
            for report, some, others in zip(reports, learned, scored, strict=True):
                report.probe_accuracy = probe_accuracy(some, labels, others, y)
    return reports


def reconstruction(autoencoder, x, loss, seed=0):
    """Return how a dA does on rows, beside the identity, which hands on what it gets.

    Under cross-entropy the identity's probabilities are kept 1e-7 away from 0 and 1, where the
    loss would be infinite: masked entries cost up to 16 nats each. So are those of the columns of a
    `ColumnLoss` that are not numeric.

    Args:
        autoencoder: A built `sda.DenoisingAutoencoder`.
        x: Its clean input, of shape `(n, ..., visible)`. NaN, a missing value, counts nowhere; it
            needs a dA with `fill_value`.
        loss: A loss of `sda.losses` or of Keras; of `sda.losses` where values may be missing.
        seed: Integer, of the noise.

    Returns:
        Dictionary of the means over rows "loss", "clean_loss", "identity_loss", "error" and
        "identity_error", as `LayerReport` has them.

    Raises:
        ValueError: If `x` is not finite, or `loss` cannot leave out what is missing.
    """
    if autoencoder.fill_value is not None:
        if not isinstance(loss, ReconstructionLoss):
            raise ValueError(
                "Expected `loss` to be a loss of sda.losses, which can leave features out, where "
                f"values may be missing. Received: loss={loss!r}"
            )
        loss = loss.with_missing_values()
    noise = autoencoder.corruption.copy(seed)
    logits = getattr(loss, "from_logits", False)
    sums = dict.fromkeys(("loss", "clean_loss", "identity_loss", "error", "identity_error"), 0.0)
    x = as_rows(x)
    for number, piece in enumerate(pieces(x, 1000)):
        check_finite(
            np.asarray(piece), "x", 1000 * number, missing=autoencoder.fill_value is not None
        )
        clean = ops.convert_to_tensor(piece, keras.config.floatx())
        corrupted, selected = autoencoder.corrupt(clean, noise)
        z = autoencoder.rebuild(corrupted, logits=logits)
        identity = np.asarray(ops.convert_to_numpy(corrupted), "float64")
        values = {
            "loss": _losses(loss, clean, z, selected),
            "clean_loss": _losses(loss, clean, autoencoder.rebuild(clean, logits=logits)),
            "identity_loss": _losses(
                loss, clean, _pre_activations(loss, identity) if logits else identity, selected
            ),
            "error": _squares(piece, autoencoder.decoder_activation(z) if logits else z),
            "identity_error": _squares(piece, identity),
        }
        for name, value in values.items():
            sums[name] += value
    return {name: total / len(x) for name, total in sums.items()}


def _pre_activations(loss, values):
    """Return what the decoder of a loss that takes pre-activations turns into `values`."""
    p = np.clip(values, EPSILON, 1 - EPSILON)
    logits = np.log(p) - np.log1p(-p)
    if not isinstance(loss, ColumnLoss):
        return logits
    return ops.convert_to_numpy(loss.layout.by_kind(values, lambda: logits, lambda: np.log(p)))


def _losses(loss, x, z, selected=None):
    """Return the sum over rows of a loss."""
    z = ops.convert_to_tensor(z, x.dtype)
    if isinstance(loss, ReconstructionLoss):
        return float(ops.convert_to_numpy(loss.call(x, z, selected)).sum())
    return float(np.mean(ops.convert_to_numpy(loss(x, z)))) * x.shape[0]


def _squares(x, z):
    # Without the cells that are missing.
    return float(np.nansum((np.asarray(x, "float64") - ops.convert_to_numpy(z)) ** 2))


def idle_units(codes, activation):
    """Return how many units are dead, and how many of the others saturated.

    A dead unit tells nothing: its codes span at most 1 % of the range of its activation or, where
    that is unbounded, of what the liveliest unit spans. A saturated unit learns nothing: its codes
    are within 5 % of an end of a bounded activation in at least 95 % of the rows, where the slope
    is next to none.

    Args:
        codes: Array of shape `(n, units)`.
        activation: The units' activation, a function of `keras.activations`.

    Returns:
        Two integers; the second is None where the activation has not two ends.

    Raises:
        ValueError: If `codes` are not finite.

    Example:

    >>> codes = np.array([[0.0, 0.5, 0.2], [1.0, 0.5, 0.8]])
    >>> sda.diagnostics.idle_units(codes, keras.activations.sigmoid)
    (1, 1)
    """
    codes = np.asarray(codes).reshape(-1, np.shape(codes)[-1])
    check_finite(codes, "codes")
    spans = codes.max(axis=0) - codes.min(axis=0)
    if activation not in ENDS:
        return int(np.sum(spans <= DEAD * spans.max())), None
    low, high = ENDS[activation]
    dead = spans <= DEAD * (high - low)
    margin, share = SATURATED
    near = np.minimum(codes - low, high - codes) <= margin * (high - low)
    return int(dead.sum()), int(np.sum(~dead & (near.mean(axis=0) >= share)))


def effective_rank(codes):
    """Return the effective rank of centred codes: in how many directions they really vary.

    exp(H(p)) with p = σ / Σσ, σ the singular values and H the entropy (Roy and Vetterli, "The
    effective rank", EUSIPCO 2007): k for k equally strong directions, and 1 for a single one.

    Args:
        codes: Array of shape `(n, units)`.

    Returns:
        Float from 1 to `units`; 0 where all rows are alike.

    Raises:
        ValueError: If `codes` are not finite.

    Example:

    >>> round(sda.diagnostics.effective_rank(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])), 6)
    2.0
    """
    codes = np.asarray(codes, "float64").reshape(-1, np.shape(codes)[-1])
    check_finite(codes, "codes")
    values = np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False)
    # What rounding leaves of a constant is no direction.
    if values.max() <= 1e-6 * np.abs(codes).max():
        return 0.0
    p = values / values.sum()
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def probe_accuracy(codes, y, codes_test, y_test):
    """Return the accuracy of logistic regression on codes: how linearly they hold the labels.

    Args:
        codes: Array of shape `(n, units)` to learn.
        y: Labels of shape `(n,)`.
        codes_test, y_test: The same to score.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError(
            "Expected the package `scikit-learn` to be installed. Run `pip install scikit-learn`."
        ) from error
    probe = LogisticRegression(C=0.1, max_iter=500).fit(codes, y)
    return float(probe.score(codes_test, y_test))


def input_weights(stack, layer):
    """Return what the units of a layer look for in the input: W¹ W² ⋯ Wᵏ.

    Of the first layer these are its filters; above, the filters below, weighted (Lee, Ekanadham and
    Ng, NIPS 2007), as if the units between were linear.

    Args:
        stack: A built `sda.StackedDenoisingAutoencoder`.
        layer: Integer, 1 for the first layer.

    Returns:
        Array of shape `(features, units)`.
    """
    kernels = [a.filters() for a in stack.autoencoders[: check_count(layer, "layer")]]
    weights = ops.convert_to_numpy(kernels[0])
    for kernel in kernels[1:]:
        weights = weights @ ops.convert_to_numpy(kernel)
    return weights


def denoised(stack, x, layer=-1, seed=0):
    """Return rows, the same under the noise of the first layer, and rebuilt from that.

    Args:
        stack: A built `sda.StackedDenoisingAutoencoder`.
        x: Array of shape `(n, features)`.
        layer: Index of the layer to turn around at, as in `stack.reconstruct`.
        seed: Integer, of the noise.

    Returns:
        Three arrays of shape `(n, features)`, in the units after the stack's preprocessing, which
        are those of the noise. Under noise, what is missing is what the network sees in its place.
    """
    first = stack.autoencoders[0]
    noise = first.corruption.copy(seed)
    x = on_arrays(stack.prepare)(as_rows(x)[:])
    corrupted = on_arrays(lambda rows: first.corrupt(rows, noise)[0])(x)
    return x, corrupted, on_arrays(lambda rows: stack.rebuilt(rows, layer))(corrupted)


def predict(model, x):
    """Return the outputs of a model for rows that need not fit in memory, as one array."""
    function = on_arrays(lambda rows: model(rows, training=False))
    return np.concatenate([function(piece) for piece in pieces(as_rows(x), 1000)])


def classification(y, predicted, classes):
    """Return how well classes were predicted, as a dictionary for JSON.

    Args:
        y, predicted: Integers of shape `(n,)`, from 0 to `classes` - 1.
        classes: Integer, the number of classes.

    Returns:
        "rows"; "error" in [0, 1]; "interval", the ends of its 95 % interval by Wilson's formula
        (JASA 22 (1927)), which says something of errors near 0 too; and "confusion", a nested list:
        row i, column j counts rows of class i that were taken for class j.
    """
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (y, predicted), 1)
    n, error = len(y), float(np.mean(np.asarray(y) != predicted))
    z = 1.959964
    centre = (error + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(error * (1 - error) / n + (z / (2 * n)) ** 2)
    return {
        "rows": n,
        "error": error,
        "interval": [max(centre - half, 0.0), min(centre + half, 1.0)],
        "confusion": confusion.tolist(),
    }
