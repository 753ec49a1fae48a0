"""Reconstruction losses: summed over features, averaged over the batch, computed in float32."""

import keras
import numpy as np
from keras import ops

from sda.checks import check_flag, check_number, look_up


class ReconstructionLoss(keras.losses.Loss):
    """Base of the reconstruction losses, with Vincent's emphasis on corrupted features.

    L(x, z) = α · Σ ℓ(x_j, z_j) over the corrupted features + β · Σ ℓ(x_j, z_j) over the others,
    averaged over the batch (Vincent et al., JMLR 11 (2010), section 3.3). "Corrupted" means
    selected by the noise, also where the new value equals the old one. Where nothing is selected,
    since the noise acts on every feature or the loss is called without a noise, all count as
    corrupted: α weighs them all. A subclass gives ℓ in `per_feature`.

    Sums, not means: learning rates published for denoising autoencoders work as printed. On a mean
    over 784 pixels they would have to be 784 times as large.

    It is computed in `dtype`, float32 unless given. The batch is summed in place of averaged where
    `reduction` is "sum". Training needs one value a batch, and refuses None.

    With `missing_values`, features whose x is NaN are left out of the sum.
    """

    from_logits = False
    """Whether the loss wants the decoder's pre-activations instead of its outputs."""

    in_unit_interval = False
    """Which features have to lie in [0, 1]: True for all, or a list with a boolean for each."""

    def __init__(
        self,
        alpha=1.0,
        beta=1.0,
        name=None,
        reduction="sum_over_batch_size",
        dtype=None,
        missing_values=False,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype or "float32")
        self.missing_values = check_flag(missing_values, "missing_values")

        def is_weight(value):
            return 0 <= value < np.inf

        self.alpha = check_number(alpha, "alpha", "finite and at least 0", is_weight)
        self.beta = check_number(beta, "beta", "finite and at least 0", is_weight)
        if alpha == beta == 0:
            raise ValueError(
                "Expected `alpha` or `beta` above 0. Received: alpha=0 and beta=0, which leaves "
                "no gradient"
            )

    @property
    def emphasised(self):
        """Whether the loss has to know which features were corrupted."""
        return self.alpha != self.beta

    def per_feature(self, x, z):
        raise NotImplementedError

    def call(self, y_true, y_pred, selected=None):
        """Return the loss of each example.

        Args:
            y_true: The clean input, shape `(batch, ...)`; with `missing_values`, NaN where it is
                not known.
            y_pred: Its reconstruction, or the pre-activations if `from_logits`; same shape.
            selected: Boolean tensor, true where the noise acted. None: everywhere, so that `alpha`
                weighs every feature.

        Returns:
            Tensor of shape `(batch,)`.
        """
        x = ops.cast(y_true, self.dtype)
        if self.missing_values:
            missing = ops.isnan(x)
            # Here too, not in the values alone: 0 times the gradient of a NaN would be NaN.
            x = ops.where(missing, 0.0, x)
        values = self.per_feature(x, ops.cast(y_pred, self.dtype))
        if self.missing_values:
            values = ops.where(missing, 0.0, values)
        if selected is not None and self.emphasised:
            weights = ops.where(selected, self.alpha, self.beta)
            values = values * ops.cast(weights, values.dtype)
        elif self.alpha != 1:
            values = values * self.alpha
        return ops.sum(values, axis=tuple(range(1, len(values.shape))))

    def reduced(self, x, z, selected=None):
        """Return the loss of a batch, as `reduction` says; arguments as for `call`."""
        values = self.call(x, z, selected)
        return ops.sum(values) if self.reduction == "sum" else ops.mean(values)

    def with_missing_values(self):
        """Return this loss over observed features only."""
        return type(self).from_config({**self.get_config(), "missing_values": True})

    def get_config(self):
        config = {"alpha": self.alpha, "beta": self.beta, "missing_values": self.missing_values}
        if self.dtype != "float32":
            config["dtype"] = self.dtype
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="sda")
class CrossEntropy(ReconstructionLoss):
    """Cross-entropy between inputs in [0, 1] and Bernoulli means given by their logits.

    ℓ(x, a) = -x log σ(a) - (1 - x) log(1 - σ(a)) = softplus(a) - x·a, summed over features and
    averaged over the batch (Vincent et al., ICML 2008, eq. 3). From the logits a, its gradient
    σ(a) - x is right at any a; from σ(a) it would vanish where float32 rounds σ(a) to 0 or 1.

    Args:
        alpha: Float, weight of the corrupted features.
        beta: Float, weight of the others. Vincent's double emphasis: alpha=1, beta=0.5; full
            emphasis: alpha=1, beta=0.
        missing_values: Whether inputs may be NaN, and are then not counted.

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or both are 0.

    Example:

    >>> loss = sda.losses.CrossEntropy()
    >>> round(float(loss([[1.0, 0.0]], [[0.0, 0.0]])), 4)  # 2 log 2
    1.3863
    """

    from_logits = True
    in_unit_interval = True

    def per_feature(self, x, z):
        return _cross_entropy(x, z)


@ops.custom_gradient
def _cross_entropy(x, z):
    """Return softplus(z) - x·z, whose gradient takes one pass, σ(z) - x, in place of four."""

    def gradient(*args, upstream=None):
        g = args[0] if upstream is None else upstream
        return -z * g, (ops.sigmoid(z) - x) * g

    return ops.softplus(z) - x * z, gradient


@keras.saving.register_keras_serializable(package="sda")
class SquaredError(ReconstructionLoss):
    """Squared error, summed over features and averaged over the batch: ℓ(x, z) = (x - z)².

    The loss for real-valued inputs under a linear decoder (Vincent et al., JMLR 11 (2010), section
    2.2; without their factor 1/2).

    Args:
        alpha: Float, weight of the corrupted features.
        beta: Float, weight of the others.
        missing_values: Whether inputs may be NaN, and are then not counted.

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or both are 0.

    Example:

    >>> float(sda.losses.SquaredError()([[1.0, 3.0]], [[0.0, 1.0]]))
    5.0
    """

    def per_feature(self, x, z):
        return ops.square(x - z)


@keras.saving.register_keras_serializable(package="sda")
class ColumnLoss(ReconstructionLoss):
    """The loss of a table: each column's own, summed over columns, averaged over the batch.

    With a the decoder's pre-activations, ℓ is the squared error (x - a)² of a numeric column, the
    cross-entropy softplus(a) - x·a of a binary one, and -Σ x_j log softmax(a)_j over the one-hot
    code of a category: the negative log-likelihoods, but for constants, of a Gaussian of variance
    1/2, a Bernoulli and a categorical variable.

    Args:
        columns: List with one entry a column, in the order of the features: "numeric", "binary", or
            for a category in one-hot code the number of its values, an integer of at least 2.
        alpha: Float, weight of the corrupted features.
        beta: Float, weight of the others.
        missing_values: Whether inputs may be NaN, and are then not counted.

    Raises:
        ValueError: If `columns` holds anything else or nothing, or the weights are out of range.

    Example:

    >>> loss = sda.losses.ColumnLoss(["numeric", "binary", 3])
    >>> round(float(loss([[2.0, 1.0, 0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]])), 4)
    5.7918
    """

    from_logits = True

    def __init__(self, columns, alpha=1.0, beta=1.0, **kwargs):
        super().__init__(alpha, beta, **kwargs)
        self.layout = Layout(columns)
        self.columns = self.layout.columns

    @property
    def in_unit_interval(self):
        return [kind != "numeric" for kind in self.layout.kinds]

    def per_feature(self, x, z):
        self.layout.check_width(z.shape)
        return self.layout.by_kind(
            ops.square(x - z),
            lambda: _cross_entropy(x, z),
            lambda: -x * (z - self.layout.log_partition(z)),
        )

    def get_config(self):
        return {**super().get_config(), "columns": self.columns}


@keras.saving.register_keras_serializable(package="sda")
class ColumnActivation:
    """The decoder's activation for a table: linear, sigmoid or softmax, as each column needs.

    What `ColumnLoss` takes as pre-activations becomes a value of a numeric column, the probability
    of a binary one, the probabilities of a category. Given as a `decoder_activation`, it makes
    `ColumnLoss` the loss in pretraining.

    Args:
        columns: As in `ColumnLoss`.

    Raises:
        ValueError: If `columns` holds anything else or nothing.

    Example:

    >>> activation = sda.losses.ColumnActivation(["numeric", "binary", 2])
    >>> keras.ops.convert_to_numpy(activation(np.zeros((1, 4), "float32"))).tolist()
    [[0.0, 0.5, 0.5, 0.5]]
    """

    def __init__(self, columns):
        self.layout = Layout(columns)
        self.columns = self.layout.columns

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        self.layout.check_width(x.shape)
        a = ops.cast(x, "float32")
        z = self.layout.by_kind(
            a, lambda: ops.sigmoid(a), lambda: ops.exp(a - self.layout.log_partition(a))
        )
        return ops.cast(z, x.dtype)

    def get_config(self):
        return {"columns": self.columns}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Layout:
    """Which features of a table are of which kind, and which belong together."""

    def __init__(self, columns):
        self.columns = _columns(columns)
        self.groups = [1 if isinstance(column, str) else column for column in self.columns]
        kinds = [c if isinstance(c, str) else "categorical" for c in self.columns]
        self.kinds = np.repeat(kinds, self.groups)
        self.width = len(self.kinds)
        # Each category's features as a row, repeating the last one up to the longest.
        sizes = [c for c in self.columns if not isinstance(c, str)]
        self.members = np.zeros((len(sizes), max(sizes, default=0)), "int32")
        self.is_member = np.arange(max(sizes, default=0)) < np.array(sizes)[:, None]
        self.category = np.zeros(self.width, "int32")
        starts = np.cumsum([0, *self.groups])
        categories = [i for i, c in enumerate(self.columns) if not isinstance(c, str)]
        for row, i in enumerate(categories):
            start, size = starts[i], self.groups[i]
            self.members[row] = np.minimum(np.arange(self.members.shape[1]), size - 1) + start
            self.category[start : start + size] = row

    def by_kind(self, numeric, binary, categorical):
        """Return one value a feature: of a tensor, or of the functions where they are needed."""
        values = numeric
        for kind, function in (("binary", binary), ("categorical", categorical)):
            if kind in self.kinds:
                values = ops.where(self.kinds == kind, function(), values)
        return values

    def log_partition(self, a):
        """Return log Σ exp(a) over the category that each feature belongs to."""
        members = ops.where(self.is_member, ops.take(a, self.members, axis=-1), -np.inf)
        return ops.take(ops.logsumexp(members, axis=-1), self.category, axis=-1)

    def per_column(self, errors):
        """Return the sums of a NumPy array over the features of each column."""
        return np.add.reduceat(errors, np.cumsum([0, *self.groups[:-1]]), axis=-1)

    def check_width(self, shape):
        """Raise `ValueError` unless the last axis of `shape` holds the features of the columns."""
        if shape[-1] != self.width:
            raise ValueError(
                f"Expected {shape[-1]} features in `columns`, as the input has. "
                f"Received: columns={self.columns!r} with {self.width}"
            )


def _columns(columns):
    """Return the kinds of columns as a list of strings and integers."""
    is_list = isinstance(columns, (list, tuple)) and len(columns) > 0

    def is_kind(column):
        if isinstance(column, str):
            return column in ("numeric", "binary")
        is_integer = isinstance(column, (int, np.integer)) and not isinstance(column, bool)
        return is_integer and column >= 2

    if not is_list or not all(is_kind(column) for column in columns):
        raise ValueError(
            'Expected `columns` to be a list of "numeric", "binary" and, for a category, the '
            f"number of its values, at least 2. Received: columns={columns!r}"
        )
    return [column if isinstance(column, str) else int(column) for column in columns]


def for_decoder(activation):
    """Return the loss that belongs to a decoder's activation."""
    if activation is keras.activations.sigmoid:
        return CrossEntropy()
    if isinstance(activation, ColumnActivation):
        return ColumnLoss(activation.columns)
    return SquaredError()


def get(identifier):
    """Return the loss meant by "cross_entropy", "squared_error" or anything Keras knows."""
    ours = {"cross_entropy": CrossEntropy, "squared_error": SquaredError}
    if isinstance(identifier, str) and identifier in ours:
        return ours[identifier]()
    expectation = f"one of {sorted(ours)}, a Keras loss or None"
    loss = look_up(keras.losses.get, identifier, "loss", expectation)
    if not callable(loss):
        raise ValueError(f"Expected `loss` to be {expectation}. Received: loss={identifier!r}")
    return loss
