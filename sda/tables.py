"""Tables: columns of numbers, yes and no, and categories, as features of a network and back."""

import numpy as np

from sda.corruption import MaskingNoise, SwapNoise
from sda.losses import ColumnActivation, ColumnLoss

SCALERS = ("rank-gauss", "unit")
KINDS = ("numeric", "binary", "categorical")


class Columns:
    """What the columns of a table are: their features, and the noise and loss that go with them.

    A numeric column becomes one feature, scaled; a binary one 0 or 1; a categorical one as many as
    it has values, in one-hot code. The features are in the order of the table's columns. A value
    that is missing (NaN, None, pandas.NA), or that no row had in `fit`, is NaN in all features of
    its column. The work is done by a `sklearn.compose.ColumnTransformer`.

    Args:
        numeric: List of columns: names in a DataFrame, positions in an array.
        binary: List of columns with two values each.
        categorical: List of columns with two values or more.
        scaler: Of numeric columns. "rank-gauss": ranks, spread like a normal distribution
            (`QuantileTransformer`); "unit": from the least value, 0, to the greatest, 1
            (`MinMaxScaler`); or a transformer of scikit-learn that keeps columns and NaN, such as
            `StandardScaler()`.

    Raises:
        ValueError: If no column is named, or one twice, or `scaler` is unknown.
        ImportError: If scikit-learn is not installed.

    Example:

    >>> table = np.array([[1.0, 0, 5], [2.0, 1, 7], [np.nan, 1, 9], [4.0, 0, 5]])
    >>> columns = sda.tables.Columns(numeric=[0], binary=[1], categorical=[2], scaler="unit")
    >>> columns.fit_transform(table).round(2).tolist()[:2]
    [[0.0, 0.0, 1.0, 0.0, 0.0], [0.33, 1.0, 0.0, 1.0, 0.0]]
    >>> columns.kinds
    ['numeric', 'binary', 3]
    >>> stack = sda.StackedDenoisingAutoencoder(
    ...     4, columns.swap_noise(0.2), decoder_activation=columns.activation(), missing=0.0)
    >>> x = columns.transform(table)
    >>> history = sda.GreedyPretrainer(stack, epochs=1).fit(x, verbose=0)
    >>> columns.inverse_transform(stack.impute(x)).shape
    (4, 3)
    """

    def __init__(self, numeric=(), binary=(), categorical=(), scaler="rank-gauss"):
        _import_sklearn()
        self.kind_of = {}
        for kind, listed in zip(KINDS, (numeric, binary, categorical), strict=True):
            for column in listed:
                if column in self.kind_of:
                    raise ValueError(
                        f"Expected each column once. Received: {column!r} in `{kind}` and in "
                        f"`{self.kind_of[column]}`"
                    )
                self.kind_of[column] = kind
        if not self.kind_of:
            raise ValueError(
                "Expected `numeric`, `binary` or `categorical` to name columns. Received: none"
            )
        known = isinstance(scaler, str) and scaler in SCALERS
        if not known and not all(hasattr(scaler, a) for a in ("fit", "inverse_transform")):
            raise ValueError(
                f"Expected `scaler` to be one of {SCALERS} or a transformer of scikit-learn. "
                f"Received: scaler={scaler!r}"
            )
        self.scaler = scaler

    @classmethod
    def from_frame(cls, table, binary=(), categorical=(), scaler="rank-gauss"):
        """Return the `Columns` of a table, guessed from its values and fitted to them.

        A column of numbers is numeric, one of anything else categorical, and either is binary if it
        has two values. Columns that are named in `binary` and `categorical` are not guessed: give
        there the numbers that only name something.

        Args:
            table: pandas.DataFrame, or array of shape `(n, columns)`.
            binary, categorical, scaler: As in the constructor.
        """
        listed = {kind: [] for kind in KINDS}
        for column in _names(table):
            if column in binary or column in categorical:
                kind = "binary" if column in binary else "categorical"
            else:
                values = _values(table, column)
                is_number = all(isinstance(v, (int, float, np.number)) for v in values)
                kind = "numeric" if is_number else "categorical"
                kind = "binary" if len(values) == 2 else kind
            listed[kind].append(column)
        for column in [*binary, *categorical]:
            _values(table, column)  # says so if there is no such column
        return cls(**listed, scaler=scaler).fit(table)

    def fit(self, table):
        """Learn the scales and the values of the columns; return self.

        Args:
            table: pandas.DataFrame, or array of shape `(n, columns)`.

        Raises:
            ValueError: If a column is not there, or has not the number of values of its kind.
        """
        from sklearn.compose import ColumnTransformer
        from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

        there = _names(table)
        values = {column: _values(table, column) for column in self.kind_of}
        for column, kind in self.kind_of.items():
            found = len(values[column])
            if (kind == "binary" and found != 2) or (kind == "categorical" and found < 2):
                raise ValueError(
                    f"Expected a {kind} column to have two values{' or more' * (kind[0] == 'c')}. "
                    f"Received: {column!r} with {found}"
                )
        listed = {kind: [c for c in there if self.kind_of.get(c) == kind] for kind in KINDS}
        found = {kind: [values[c] for c in listed[kind]] for kind in KINDS}
        made = {
            "numeric": _scaler(self.scaler, len(table)),
            "binary": OrdinalEncoder(
                categories=found["binary"],
                handle_unknown="use_encoded_value",
                unknown_value=np.nan,
            ),
            # What is missing or unknown becomes zeros.
            "categorical": OneHotEncoder(
                categories=found["categorical"], handle_unknown="ignore", sparse_output=False
            ),
        }
        blocks = [(kind, made[kind], listed[kind]) for kind in KINDS if listed[kind]]
        self.transformer = ColumnTransformer(blocks).fit(table)
        self.names = [c for c in there if c in self.kind_of]
        self.kinds = [
            len(values[c]) if self.kind_of[c] == "categorical" else self.kind_of[c]
            for c in self.names
        ]
        self._is_frame = hasattr(table, "columns")
        self._dtypes = [table[c].dtype if self._is_frame else table.dtype for c in self.names]
        self._place_features(listed)
        return self

    def _place_features(self, listed):
        """Find where each column's features are among those of the transformer, and in ours."""
        sizes = dict(zip(self.names, self.groups, strict=True))
        start, place = 0, {}
        for kind in KINDS:
            for column in listed[kind]:
                place[column] = np.arange(start, start + sizes[column])
                start += sizes[column]
        self._order = np.concatenate([place[column] for column in self.names])

    @property
    def groups(self):
        """The number of features of each column."""
        self._check_fitted()
        return [1 if isinstance(kind, str) else kind for kind in self.kinds]

    def loss(self, alpha=1.0, beta=1.0):
        """Return the `sda.losses.ColumnLoss` of these columns."""
        self._check_fitted()
        return ColumnLoss(self.kinds, alpha, beta)

    def activation(self):
        """Return the decoder's activation: reconstructions are values and probabilities."""
        self._check_fitted()
        return ColumnActivation(self.kinds)

    def swap_noise(self, rate, seed=None):
        """Return the `sda.SwapNoise` of these columns, which swaps a category as a whole.

        Use it for codes and for finding anomalies: what the network sees is always a whole row.

        Args:
            rate: Float in [0, 1]; a list with one a column, in the order of `names`; or a
                dictionary from names to rates, where the others have none.
            seed: Integer, or None for a random one.
        """
        return SwapNoise(self._rates(rate), seed=seed, groups=self.groups)

    def masking_noise(self, rate, seed=None):
        """Return the `sda.MaskingNoise` of these columns, which masks a category as a whole.

        Use it for filling in: with `missing=0.0` the network learns to restore what looks like a
        missing value. Arguments as in `swap_noise`.
        """
        return MaskingNoise(self._rates(rate), seed=seed, groups=self.groups)

    def _rates(self, rate):
        """Return one rate for all, or a list with one a column."""
        self._check_fitted()
        if isinstance(rate, dict):
            unknown = [column for column in rate if column not in self.names]
            if unknown:
                raise ValueError(
                    f"Expected `rate` to name columns among {self.names}. Received: {unknown}"
                )
            return [rate.get(column, 0.0) for column in self.names]
        return rate

    def transform(self, table):
        """Return the features of a table, float32 of shape `(n, features)`, NaN where missing."""
        self._check_fitted()
        x = np.asarray(self.transformer.transform(table), "float32")[:, self._order]
        for kind, features in zip(self.kinds, self._features(), strict=True):
            if not isinstance(kind, str):
                x[~x[:, features].any(axis=1), features] = np.nan
        return x

    def fit_transform(self, table):
        """Return `fit(table).transform(table)`."""
        return self.fit(table).transform(table)

    def inverse_transform(self, x):
        """Return features, or reconstructions, as a table in its own units.

        A binary column gets its likelier value, a categorical one its likeliest.

        Args:
            x: Array of shape `(n, features)`; NaN becomes NaN, or None where there are no numbers.

        Returns:
            pandas.DataFrame if fitted on one, else an array, of the columns that were named.
        """
        self._check_fitted()
        x = np.array(x, "float64")
        if x.ndim != 2 or x.shape[1] != len(self._order):
            raise ValueError(
                f"Expected `x` of shape (n, {len(self._order)}). Received: shape {x.shape}"
            )
        for kind, features in zip(self.kinds, self._features(), strict=True):
            if kind == "binary":
                x[:, features] = np.where(x[:, features] >= 0.5, 1.0, x[:, features] * 0.0)
            elif not isinstance(kind, str):
                missing = np.isnan(x[:, features]).any(axis=1, keepdims=True)
                likeliest = np.eye(kind)[np.argmax(x[:, features], axis=1)]
                x[:, features] = np.where(missing, 0.0, likeliest)
        inner = np.empty_like(x)
        inner[:, self._order] = x
        found = {}
        for kind, encoder, listed in self.transformer.transformers_:
            if kind == "remainder":
                continue
            block = inner[:, self.transformer.output_indices_[kind]]
            # A table of numbers gets its blocks back as numbers, others as objects.
            block = np.asarray(encoder.inverse_transform(block))
            found.update(zip(listed, block.T, strict=True))
        if self._is_frame:
            import pandas

            typed = [_typed(found[c], t) for c, t in zip(self.names, self._dtypes, strict=True)]
            return pandas.DataFrame(dict(zip(self.names, typed, strict=True)))
        table = np.stack([found[c] for c in self.names], axis=1)
        return table.astype("float64") if self._dtypes[0].kind in "biuf" else table

    def _features(self):
        """The slice of each column's features."""
        stops = np.cumsum(self.groups)
        return [slice(stop - n, stop) for stop, n in zip(stops, self.groups, strict=True)]

    def _check_fitted(self):
        if not hasattr(self, "kinds"):
            raise ValueError("Expected `fit` to have been called. Received: columns without values")


def _import_sklearn():
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Expected the package `scikit-learn` to be installed. Run `pip install "
            '"keras-sda[tables]"`.'
        ) from error


def _names(table):
    """Return the names of a DataFrame's columns, or the positions of an array's."""
    if hasattr(table, "columns"):
        return list(table.columns)
    if not isinstance(table, np.ndarray) or table.ndim != 2:
        raise ValueError(
            "Expected `table` to be a pandas.DataFrame or an array of shape (n, columns). "
            f"Received: {type(table).__name__}"
        )
    return list(range(table.shape[1]))


def _values(table, column):
    """Return the values of a column in order, without those that are missing."""
    if column not in _names(table):
        raise ValueError(f"Expected columns among {_names(table)}. Received: {column!r}")
    if hasattr(table, "columns"):
        series = table[column]
        # Of a categorical dtype, also the values that no row has.
        known = getattr(series.dtype, "categories", None)
        values = series.dropna().unique() if known is None else known
    else:
        values = {v for v in table[:, column].tolist() if v is not None and v == v}
    try:
        return sorted(values)
    except TypeError as error:
        raise ValueError(
            f"Expected the values of a column to be of one type. Received: {column!r}: {error}"
        ) from error


def _scaler(scaler, rows):
    from sklearn.base import clone
    from sklearn.preprocessing import MinMaxScaler, QuantileTransformer

    if scaler == "rank-gauss":
        return QuantileTransformer(
            n_quantiles=min(rows, 1000), output_distribution="normal", random_state=0
        )
    return MinMaxScaler() if scaler == "unit" else clone(scaler)


def _typed(values, dtype):
    """Return `values` as a pandas Series, of the column's own dtype where it can hold them."""
    import pandas

    series = pandas.Series(values)
    there = series.notna()
    # NumPy's integers and booleans know no missing values.
    if isinstance(dtype, np.dtype) and not there.all():
        return series
    try:
        converted = series.astype(dtype)
    except (TypeError, ValueError):
        return series
    return converted if (converted[there] == series[there]).all() else series
