"""Tables: columns of numbers, yes and no, and categories, as features of a network and back."""

import numpy as np

from sda.layers.masking import MaskingNoise
from sda.layers.swap import SwapNoise
from sda.losses.columns import ColumnActivation, ColumnLoss
from sda.tables import cells

try:
    from sklearn.base import BaseEstimator, TransformerMixin

    BASES = (TransformerMixin, BaseEstimator)
except ImportError:  # The constructor says what to install.
    BASES = (object,)

SCALERS = ("rank-gauss", "unit")
KINDS = ("numeric", "binary", "categorical")


class Columns(*BASES):
    """What the columns of a table are: their features, and the noise and loss that go with them.

    A numeric column becomes one feature, scaled; a binary one 0 or 1; a categorical one as many as
    it has values, in one-hot code. The features are in the order of the table's columns. A value
    that is missing (NaN, None, pandas.NA), or that no row had in `fit`, is NaN in all features of
    its column. The work is done by a `sklearn.compose.ColumnTransformer`; `Columns` is itself a
    transformer of scikit-learn.

    A DataFrame's columns are found by their names, whatever their order, and the names of an
    array's columns are their positions. A numeric column of which only one value is known is 0.

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
    >>> columns.fit_transform(table).astype("float64").round(2).tolist()[:2]
    [[0.0, 0.0, 1.0, 0.0, 0.0], [0.33, 1.0, 0.0, 1.0, 0.0]]
    >>> columns.kinds
    ['numeric', 'binary', 3]
    >>> stack = sda.StackedDenoisingAutoencoder(
    ...     4, columns.swap_noise(0.2), decoder_activation=columns.activation(), fill_value=0.0)
    >>> x = columns.transform(table)
    >>> history = sda.GreedyPretrainer(stack, epochs=1).fit(x, verbose=0)
    >>> columns.inverse_transform(stack.impute(x)).shape
    (4, 3)
    """

    def __init__(self, numeric=(), binary=(), categorical=(), scaler="rank-gauss"):
        _import_sklearn()
        # As they are: `sklearn.base.clone` asks for that.
        self.numeric = numeric
        self.binary = binary
        self.categorical = categorical
        self.scaler = scaler
        self._kind_of()

    def _kind_of(self):
        """Return the kind of each column; raise `ValueError` if a setting makes no sense."""
        kind_of = {}
        for kind in KINDS:
            for column in _listed(getattr(self, kind), kind):
                if column in kind_of:
                    raise ValueError(
                        f"Expected each column once. Received: {column!r} in `{kind}` and in "
                        f"`{kind_of[column]}`"
                    )
                kind_of[column] = kind
        if not kind_of:
            raise ValueError(
                "Expected `numeric`, `binary` or `categorical` to name columns. Received: none"
            )
        known = isinstance(self.scaler, str) and self.scaler in SCALERS
        if not known and not all(hasattr(self.scaler, a) for a in ("fit", "inverse_transform")):
            raise ValueError(
                f"Expected `scaler` to be one of {SCALERS} or a transformer of scikit-learn. "
                f"Received: scaler={self.scaler!r}"
            )
        return kind_of

    @classmethod
    def from_frame(cls, table, binary=(), categorical=(), scaler="rank-gauss"):
        """Return the `Columns` of a table, guessed from its values and fitted to them.

        A column of numbers is numeric, one of anything else or of a categorical dtype categorical,
        and either is binary if it has two values. Columns that are named in `binary` and
        `categorical` are not guessed: give there the numbers that only name something.

        Args:
            table: pandas.DataFrame, or array of shape `(n, columns)`.
            binary, categorical, scaler: As in the constructor.

        Raises:
            ValueError: As in `fit`; and if more than 20 words, more than one for two rows, are to
                be the values of a category that `categorical` does not name: those may be names of
                the rows.
        """
        binary, categorical = _listed(binary, "binary"), _listed(categorical, "categorical")
        listed = {kind: [] for kind in KINDS}
        for column in cells.names(table):
            if column in binary or column in categorical:
                kind = "binary" if column in binary else "categorical"
            else:
                kind = cells.guessed_kind(table, column)
            listed[kind].append(column)
        for column in [*binary, *categorical]:
            cells.values(table, column)  # says so if there is no such column
        return cls(**listed, scaler=scaler).fit(table)

    def fit(self, table, y=None):
        """Learn the scales and the values of the columns; return self.

        Args:
            table: pandas.DataFrame, or array of shape `(n, columns)`.
            y: Ignored.

        Raises:
            ValueError: If a column is not there, or there twice, has not the number of values of
                its kind, or holds times.
        """
        from sklearn.compose import ColumnTransformer
        from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

        kind_of, there = self._kind_of(), cells.names(table)
        values = {column: cells.values(table, column) for column in kind_of}
        for column, kind in kind_of.items():
            found = len(values[column])
            least = 1 if kind == "numeric" else 2
            if found < least or (kind == "binary" and found != 2):
                how_many = {"numeric": "a value", "binary": "two values"}
                raise ValueError(
                    f"Expected a {kind} column to have {how_many.get(kind, 'two values or more')}. "
                    f"Received: {column!r} with {found}"
                )
        self.names = [c for c in there if c in kind_of]
        # Columns go by their places among these from here on.
        listed = {
            kind: [i for i, c in enumerate(self.names) if kind_of[c] == kind] for kind in KINDS
        }
        found = {kind: [values[self.names[i]] for i in listed[kind]] for kind in KINDS}
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
        self.n_features_in_ = len(there)
        self._is_frame = hasattr(table, "columns")
        self.transformer = ColumnTransformer(blocks).fit(self._picked(table))
        self.kinds = [
            len(values[c]) if kind_of[c] == "categorical" else kind_of[c] for c in self.names
        ]
        # Among equals each rank is the least, and as good as the greatest.
        ours = isinstance(self.scaler, str)
        self._is_constant = [
            ours and kind_of[c] == "numeric" and len(values[c]) == 1 for c in self.names
        ]
        self._values = [values[c] for c in self.names]
        self._columns = table[self.names].columns if self._is_frame else None
        self._dtypes = [table[c].dtype if self._is_frame else table.dtype for c in self.names]
        self._place_features(listed)
        return self

    def _picked(self, table):
        """Return the columns that count, found by their names."""
        there = cells.names(table)
        gone = [column for column in self.names if column not in there]
        twice = [column for column in self.names if there.count(column) > 1]
        if gone or twice:
            raise ValueError(
                f"Expected `table` to have each of the columns {self.names} once. "
                f"Received: {'no' if gone else 'more than one'} {(gone or twice)[0]!r} among "
                f"{there}"
            )
        is_frame = hasattr(table, "columns")
        if not is_frame and len(there) != self.n_features_in_:
            raise ValueError(
                f"Expected `table` of shape (n, {self.n_features_in_}), as in `fit`. "
                f"Received: shape {table.shape}"
            )
        picked = table[self.names] if is_frame else table[:, self.names]
        if not self._is_frame:
            return np.asarray(picked)
        import pandas

        # scikit-learn knows names that are all strings, or else none.
        places = [str(i) for i in range(len(self.names))]
        return (
            picked.set_axis(places, axis=1) if is_frame else pandas.DataFrame(picked, None, places)
        )

    def _place_features(self, listed):
        """Find where each column's features are among those of the transformer, and in ours."""
        sizes = self.groups
        start, place = 0, {}
        for kind in KINDS:
            for column in listed[kind]:
                place[column] = np.arange(start, start + sizes[column])
                start += sizes[column]
        self._order = np.concatenate([place[column] for column in range(len(sizes))])

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

        Use it for filling in: with `fill_value=0.0` the network learns to restore what looks like a
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
        """Return the features of a table, float32 of shape `(n, features)`, NaN where missing.

        Raises:
            ValueError: If a column of `fit` is not there, or there twice.
        """
        self._check_fitted()
        features = self.transformer.transform(self._picked(table))
        x = np.asarray(features, "float32")[:, self._order]
        for kind, constant, features in zip(
            self.kinds, self._is_constant, self._features(), strict=True
        ):
            if not isinstance(kind, str):
                x[~x[:, features].any(axis=1), features] = np.nan
            elif constant:
                x[:, features] *= 0
        return x

    def fit_transform(self, table, y=None):
        """Return `fit(table).transform(table)`."""
        return self.fit(table).transform(table)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features: of a column, or of a category "COLUMN_VALUE".

        Args:
            input_features: Ignored: the names are those of `fit`.

        Returns:
            Array of strings.
        """
        self._check_fitted()
        return np.array(
            [
                name
                for column, kind, values in zip(self.names, self.kinds, self._values, strict=True)
                for name in (
                    [str(column)]
                    if isinstance(kind, str)
                    else [f"{column}_{value}" for value in values]
                )
            ],
            dtype=object,
        )

    def inverse_transform(self, x, table=None):
        """Return features, or reconstructions, as a table in its own units.

        A binary column gets its likelier value, a categorical one its likeliest.

        Args:
            x: Array of shape `(n, features)`; NaN becomes NaN, or None where there are no numbers.
            table: The table that `x` was made of, or None. Its cells that are not missing are then
                handed on as they are, which features in float32 cannot give back to the last digit.

        Returns:
            pandas.DataFrame if fitted on one, else an array, of the columns that were named.

        Raises:
            ValueError: If `x` has not the number of features, or `table` not the rows of `x`.
        """
        self._check_fitted()
        x = np.array(x, "float64")
        if x.ndim != 2 or x.shape[1] != len(self._order):
            raise ValueError(
                f"Expected `x` of shape (n, {len(self._order)}). Received: shape {x.shape}"
            )
        if table is not None:
            self._picked(table)
            if len(table) != len(x):
                raise ValueError(
                    f"Expected `table` with the {len(x)} rows of `x`. Received: {len(table)} rows"
                )
        for kind, constant, features in zip(
            self.kinds, self._is_constant, self._features(), strict=True
        ):
            if constant:
                x[:, features] *= 0
            elif kind == "binary":
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
        back = [found[i] for i in range(len(self.names))]
        if table is not None:
            back = [cells.kept(table, c, v) for c, v in zip(self.names, back, strict=True)]
        if self._is_frame:
            import pandas

            typed = [cells.typed(v, t) for v, t in zip(back, self._dtypes, strict=True)]
            # Names may be of any kind; a dictionary would have no tuples.
            frame = pandas.concat(typed, axis=1)
            frame.columns = self._columns
            return (
                frame
                if table is None or not hasattr(table, "index")
                else frame.set_axis(table.index)
            )
        back = np.stack(back, axis=1)
        return back.astype("float64") if self._dtypes[0].kind in "biuf" else back

    def __sklearn_is_fitted__(self):
        return hasattr(self, "kinds")

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


def _listed(columns, name):
    """Return columns as a list; a string would be taken for a list of its letters."""
    if isinstance(columns, (str, bytes)) or not hasattr(columns, "__iter__"):
        raise ValueError(f"Expected `{name}` to be a list of columns. Received: {name}={columns!r}")
    return list(columns)


def _scaler(scaler, rows):
    from sklearn.base import clone
    from sklearn.preprocessing import MinMaxScaler, QuantileTransformer

    if scaler == "rank-gauss":
        return QuantileTransformer(
            n_quantiles=min(rows, 1000), output_distribution="normal", random_state=0
        )
    return MinMaxScaler() if scaler == "unit" else clone(scaler)
