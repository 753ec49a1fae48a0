"""Columns of a table: their layout, their loss and their activation."""

import keras
import numpy as np
from keras import ops

from sda.losses.base import ReconstructionLoss
from sda.losses.cross_entropy import cross_entropy


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
            lambda: cross_entropy(x, z),
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
