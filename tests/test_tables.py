"""Columns of tables as features and back, with scikit-learn's scalers."""

import pathlib
import pickle
import re

import keras
import numpy as np
import pytest

import sda
from sda.tables import Columns

sklearn = pytest.importorskip("sklearn", reason="needs scikit-learn")
pandas = pytest.importorskip("pandas", reason="needs pandas")

from scipy.stats import norm  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

RNG = np.random.default_rng(0)
ROWS = 200


@pytest.fixture
def frame():
    """A number, a yes or no, a category, and whole numbers that name something; some missing."""
    frame = pandas.DataFrame(
        {
            "income": np.exp(RNG.normal(size=ROWS)),
            "married": RNG.integers(2, size=ROWS).astype(bool),
            "colour": RNG.choice(["red", "green", "blue"], size=ROWS),
            "age": RNG.integers(20, 60, size=ROWS),
            "region": RNG.choice([3, 5, 9, 11], size=ROWS),
            "sex": RNG.choice(["m", "f"], size=ROWS),
        }
    )
    frame.loc[3, "income"] = np.nan
    frame.loc[[4, 5], "colour"] = None
    frame.loc[6, "sex"] = None
    return frame


def fitted(frame, **settings):
    return Columns.from_frame(frame, categorical=["region"], **settings)


KINDS = ["numeric", "binary", 3, "numeric", 4, "binary"]
WIDTH = 11


def test_kinds_are_guessed_from_the_values(frame):
    columns = fitted(frame)
    assert columns.names == list(frame.columns)
    assert columns.kinds == KINDS
    assert columns.groups == [1, 1, 3, 1, 4, 1]
    assert Columns.from_frame(frame).kinds[4] == "numeric"
    assert Columns.from_frame(frame, binary=["sex"], categorical=["married"]).kinds[1] == 2
    assert Columns.from_frame(np.array([[1.0, 0], [2, 1], [3, 1]])).kinds == ["numeric", "binary"]


def test_features_are_in_the_order_of_the_columns(frame):
    x = fitted(frame, scaler="unit").transform(frame)
    assert x.shape == (ROWS, WIDTH)
    assert x.dtype == "float32"
    income, age = frame["income"], frame["age"]
    np.testing.assert_allclose(
        x[:, 0], (income - income.min()) / (income.max() - income.min()), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_array_equal(x[:, 1], frame["married"])
    known = frame["colour"].notna()
    names = np.array(["blue", "green", "red"])
    np.testing.assert_array_equal(
        x[known, 2:5], names == frame["colour"][known].to_numpy()[:, None]
    )
    np.testing.assert_allclose(x[:, 5], (age - 20) / (age.max() - 20), atol=1e-6)
    np.testing.assert_array_equal(x[:, 6:10], frame["region"].to_numpy()[:, None] == [3, 5, 9, 11])
    known = frame["sex"].notna()
    np.testing.assert_array_equal(x[known, 10], frame["sex"][known] == "m")
    # What is missing is missing in all features of its column, and nowhere else.
    missing = {(3, 0), *((row, j) for row in (4, 5) for j in (2, 3, 4)), (6, 10)}
    assert {(int(i), int(j)) for i, j in np.argwhere(np.isnan(x))} == missing


def test_rank_gauss_spreads_ranks_like_a_normal_distribution(frame):
    x = fitted(frame).transform(frame)[:, 0]
    known = ~np.isnan(x)
    # The quantiles of rank (r - 1) / (n - 1); the two ends, which are infinite, are cut off.
    ranks = frame["income"][known].rank().to_numpy() - 1
    expected = norm.ppf(ranks / (known.sum() - 1))
    inside = np.isfinite(expected)
    np.testing.assert_allclose(x[known][inside], expected[inside], atol=0.06)
    assert np.isfinite(x[known]).all()


def test_any_scaler_of_scikit_learn_will_do(frame):
    x = fitted(frame, scaler=StandardScaler()).transform(frame)
    np.testing.assert_allclose(np.nanmean(x[:, [0, 5]], axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(x[:, [0, 5]], axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("scaler", ["rank-gauss", "unit"])
def test_inverse_transform_gives_the_table_back(frame, scaler):
    columns = fitted(frame, scaler=scaler)
    back = columns.inverse_transform(columns.transform(frame))
    assert list(back.columns) == list(frame.columns)
    for name in ("married", "colour", "region", "sex"):
        pandas.testing.assert_series_equal(back[name], frame[name])
    for name in ("income", "age"):
        np.testing.assert_allclose(back[name].astype(float), frame[name], rtol=1e-4)


def test_inverse_transform_takes_the_likeliest(frame):
    columns = fitted(frame, scaler="unit")
    x = columns.transform(frame)[:2]
    x[0, 1], x[1, 1] = 0.4, 0.6
    x[0, 2:5], x[1, 2:5] = [0.1, 0.3, 0.2], [0.4, 0.3, 0.3]
    before = x.copy()
    back = columns.inverse_transform(x)
    assert back["married"].tolist() == [False, True]
    assert back["colour"].tolist() == ["green", "blue"]
    np.testing.assert_array_equal(x, before)


def test_arrays_come_back_as_arrays():
    table = np.array([[1.5, 0, 7], [2.5, 1, 8], [np.nan, 1, 9], [0.5, np.nan, 7]])
    columns = Columns(numeric=[0], binary=[1], categorical=[2], scaler="unit")
    x = columns.fit_transform(table)
    np.testing.assert_allclose(columns.inverse_transform(x), table, rtol=1e-6)
    mixed = np.array([["a", 1.0], [None, 2.0], ["b", np.nan], ["c", 4.0]], object)
    columns = Columns.from_frame(mixed, scaler="unit")
    assert columns.kinds == [3, "numeric"]
    back = columns.inverse_transform(columns.transform(mixed))
    assert back[:, 0].tolist() == ["a", None, "b", "c"]
    np.testing.assert_allclose(back[:, 1].astype(float), [1, 2, np.nan, 4])


def test_new_rows_may_have_values_that_are_new(frame):
    columns = fitted(frame)
    new = frame[:2].copy()
    new["colour"], new["sex"] = ["pink", "red"], ["m", "x"]
    x = columns.transform(new)
    np.testing.assert_array_equal(np.isnan(x[:, 2:5]).all(axis=1), [True, False])
    np.testing.assert_array_equal(np.isnan(x[:, 10]), [False, True])


def test_a_categorical_dtype_knows_values_that_no_row_has(frame):
    kinds = pandas.CategoricalDtype(["red", "green", "blue", "white"])
    frame["colour"] = frame["colour"].astype(kinds)
    columns = fitted(frame)
    assert columns.kinds[2] == 4
    back = columns.inverse_transform(columns.transform(frame))
    pandas.testing.assert_series_equal(back["colour"], frame["colour"])


def test_columns_that_are_not_named_are_left_out(frame):
    columns = Columns(binary=["sex"], numeric=["age", "income"], scaler="unit").fit(frame)
    assert columns.names == ["income", "age", "sex"]
    back = columns.inverse_transform(columns.transform(frame))
    assert list(back.columns) == columns.names


def test_loss_activation_and_noise_are_those_of_the_columns(frame):
    columns = fitted(frame)
    assert columns.loss(1.0, 0.5).columns == KINDS
    assert columns.loss(1.0, 0.5).beta == 0.5
    assert columns.activation().columns == KINDS
    noise = columns.swap_noise({"age": 0.5, "colour": 0.2}, seed=3)
    assert type(noise) is sda.SwapNoise
    assert (noise.rate, noise.groups) == ([0, 0, 0.2, 0.5, 0, 0], [1, 1, 3, 1, 4, 1])
    assert columns.swap_noise(0.15).rate == 0.15
    masking = columns.masking_noise([0.1] * 6)
    assert type(masking) is sda.MaskingNoise
    assert (masking.rate, masking.groups) == ([0.1] * 6, noise.groups)


def test_columns_survive_pickling(frame):
    columns = pickle.loads(pickle.dumps(fitted(frame)))
    assert columns.transform(frame).shape == (ROWS, WIDTH)


def test_from_a_table_to_a_table_without_gaps():
    """Two columns that say the same: what is missing in one is in the other."""
    generator = np.random.default_rng(1)
    group = generator.integers(3, size=600)
    frame = pandas.DataFrame(
        {
            "name": np.array(["low", "middle", "high"])[group],
            "level": group * 10 + generator.normal(size=600),
            "top": group == 2,
        }
    )
    whole = frame.copy()
    gone = generator.random(frame.shape) < 0.15
    gone[gone.sum(axis=1) > 1] = False
    frame = frame.astype(object).mask(gone).infer_objects()
    frame["top"] = frame["top"].astype("boolean")
    columns = Columns.from_frame(frame)
    assert columns.kinds == [3, "numeric", "binary"]
    x = columns.transform(frame)
    stack = sda.StackedDenoisingAutoencoder(
        32,
        columns.masking_noise(0.3),
        "relu",
        columns.activation(),
        tied=False,
        seed=1,
        fill_value=0.0,
    )
    sda.GreedyPretrainer(stack, keras.optimizers.Adam(0.02), epochs=20, seed=1).fit(x, verbose=0)
    filled = columns.inverse_transform(stack.impute(x))
    assert not filled.isna().any().any()
    for name in ("name", "top"):
        hidden = gone[:, list(frame.columns).index(name)]
        assert (filled[name][hidden] == whole[name][hidden]).mean() > 0.95
        assert (filled[name][~hidden] == whole[name][~hidden]).all()
    hidden = gone[:, 1]
    # The name tells the level but for its noise, of mean 0.8.
    assert np.abs(filled["level"] - whole["level"])[hidden].mean() < 1.2
    errors = stack.reconstruction_error(x, per_column=True)
    assert errors.shape == (600, 3)
    np.testing.assert_array_equal(np.isnan(errors), gone)
    # A row that contradicts itself stands out.
    odd = whole[:1].assign(name="low", level=20.0, top=True)
    worst = stack.reconstruction_error(columns.transform(odd))[0]
    assert worst > np.quantile(stack.reconstruction_error(x), 0.99)


# Columns go by their names


@pytest.mark.parametrize(
    "names", [["a", "b", "c"], [2, 0, 1], ["a", 1, (2, 3)], [1.5, "x", 7]], ids=str
)
def test_columns_are_found_by_name_in_any_order(names):
    rng = np.random.default_rng(5)
    values = [rng.normal(size=30), rng.choice([4, 6], size=30), rng.choice(list("uvw"), size=30)]
    frame = pandas.concat([pandas.Series(v) for v in values], axis=1)
    frame.columns = pandas.Index(names, tupleize_cols=False)
    columns = Columns([names[0]], [names[1]], [names[2]], scaler="unit").fit(frame)
    x = columns.transform(frame)
    a = values[0]
    np.testing.assert_allclose(x[:, 0], (a - a.min()) / (a.max() - a.min()), rtol=1e-6)
    np.testing.assert_array_equal(x[:, 1], values[1] == 6)
    np.testing.assert_array_equal(x[:, 2:], values[2][:, None] == ["u", "v", "w"])
    other = frame.iloc[:, [2, 0, 1]].copy()
    other.insert(1, "more", 0)
    np.testing.assert_array_equal(columns.transform(other), x)
    again = Columns([names[0]], [names[1]], [names[2]], scaler="unit").fit(other)
    np.testing.assert_array_equal(again.transform(frame), again.transform(other))
    back = again.inverse_transform(again.transform(frame))
    assert list(back.columns) == [names[2], names[0], names[1]]
    for place, wanted in zip([2, 0, 1], back.columns, strict=True):
        assert wanted == names[place]
    np.testing.assert_array_equal(back.iloc[:, 0], values[2])


def test_what_has_not_the_columns_of_the_fit_is_refused(frame):
    columns = fitted(frame)
    for other, said in {
        "renamed": (frame.rename(columns={"age": "years"}), "no 'age' among"),
        "twice": (pandas.concat([frame, frame[["sex"]]], axis=1), "more than one 'sex' among"),
        "array": (frame.to_numpy(object), "no 'income' among"),
    }.values():
        with pytest.raises(ValueError, match=rf"^Expected `table` to have each.*{said}"):
            columns.transform(other)
    numbers = np.arange(12.0).reshape(4, 3)
    of_array = Columns(numeric=[2], scaler="unit").fit(numbers)
    named = pandas.DataFrame(numbers[:, ::-1], columns=[2, 1, 0])
    np.testing.assert_array_equal(of_array.transform(named), of_array.transform(numbers))
    of_frame = Columns(numeric=[2], scaler="unit").fit(named)
    np.testing.assert_array_equal(of_frame.transform(numbers), of_array.transform(numbers))
    with pytest.raises(ValueError, match=r"^Expected `table` of shape \(n, 3\).*\(4, 4\)"):
        of_array.transform(np.ones((4, 4)))


# scikit-learn


def test_columns_are_a_transformer_of_scikit_learn(frame):
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.utils.validation import check_is_fitted

    columns = Columns(["income", "age"], ["sex"], ["colour"], scaler=StandardScaler()).fit(frame)
    copy = clone(columns)
    with pytest.raises(NotFittedError):
        check_is_fitted(copy)
    check_is_fitted(columns)
    x = columns.transform(frame)
    np.testing.assert_array_equal(copy.fit_transform(frame), x)
    assert copy.set_params(scaler="unit").fit_transform(frame)[:, 4].max() == 1
    pipeline = make_pipeline(clone(columns), DecisionTreeClassifier(random_state=0))
    pipeline.fit(frame, frame["married"])
    tree = DecisionTreeClassifier(random_state=0).fit(x, frame["married"])
    np.testing.assert_array_equal(pipeline.predict(frame), tree.predict(x))
    names = ["income", "colour_blue", "colour_green", "colour_red", "age", "sex"]
    assert columns.get_feature_names_out().tolist() == names
    shown = clone(columns).set_output(transform="pandas").fit_transform(frame)
    assert list(shown.columns) == names
    np.testing.assert_array_equal(shown, x)


# Odd columns


@pytest.mark.parametrize("scaler", ["rank-gauss", "unit"])
def test_a_number_that_never_varies_is_zero(scaler):
    frame = pandas.DataFrame({"a": [7.5, 7.5, np.nan, 7.5], "b": [1.0, 2.0, 3.0, 4.0]})
    columns = Columns.from_frame(frame, scaler=scaler)
    x = columns.transform(frame)
    np.testing.assert_array_equal(x[:, 0], [0, 0, np.nan, 0])
    x[:, 0] = [0.3, 0, -2, 5]
    np.testing.assert_array_equal(columns.inverse_transform(x)["a"], [7.5] * 4)


def test_categories_that_no_row_has_are_learned_as_never_there():
    kind = pandas.CategoricalDtype(["p", "q", "r"])
    frame = pandas.DataFrame(
        {
            "one of two": pandas.Categorical(["y"] * 5, ["x", "y"]),
            "two of three": pandas.Series([*list("pprp"), None], dtype=kind),
            "numbers": pandas.Categorical([30, 10, 20, 10, None]),
        }
    )
    columns = Columns.from_frame(frame)
    assert columns.kinds == ["binary", 3, 3]
    x = columns.transform(frame)
    np.testing.assert_array_equal(x[:, 0], 1)
    np.testing.assert_array_equal(x[:4, 1:4], np.eye(3)[[0, 0, 2, 0]])
    np.testing.assert_array_equal(x[:4, 4:], np.eye(3)[[2, 0, 1, 0]])
    pandas.testing.assert_frame_equal(columns.inverse_transform(x), frame)


def test_a_category_of_many_values_has_to_be_asked_for():
    frame = pandas.DataFrame({"id": [f"p{i:03}" for i in range(200)], "a": np.arange(200.0)})
    with pytest.raises(ValueError, match=r"^Expected a column that is guessed.*'id' with 200 in"):
        Columns.from_frame(frame)
    assert Columns.from_frame(frame, categorical=["id"]).kinds == [200, "numeric"]
    frame["id"] = frame["id"].astype("category")
    assert Columns.from_frame(frame).kinds == [200, "numeric"]
    frame["id"] = [f"p{i % 90}" for i in range(200)]
    assert Columns.from_frame(frame).kinds == [90, "numeric"]


DAYS = pandas.date_range("2024-01-01", periods=6)


@pytest.mark.parametrize(
    "times",
    [
        DAYS,
        DAYS.tz_localize("UTC"),
        DAYS - DAYS[0],
        DAYS.to_period("D"),
        DAYS.date,
        DAYS[[0, 1] * 3],
    ],
    ids=["dates", "zoned", "spans", "periods", "objects", "two"],
)
def test_times_are_refused(times):
    frame = pandas.DataFrame({"when": times, "a": np.arange(6.0)})
    for function in (
        lambda: Columns.from_frame(frame),
        lambda: Columns(["when", "a"]).fit(frame),
        lambda: Columns.from_frame(np.array([DAYS, DAYS]).T),
    ):
        with pytest.raises(ValueError, match=r"^Expected columns of numbers.*Received: times in"):
            function()


# Filling in


def test_filling_in_leaves_what_was_there_as_it_was(frame):
    frame["income"] = np.round(3504 + 1000 * RNG.normal(size=ROWS), 2)
    frame["whole"] = pandas.array(RNG.integers(10**6, 10**8, size=ROWS), dtype="Int64")
    frame["wide"] = RNG.integers(2**60, 2**62, size=ROWS)
    for row, name in enumerate(["income", "colour", "whole", "sex"]):
        frame.loc[row, name] = None
    frame.index = np.arange(ROWS) + 1000
    columns = fitted(frame)
    frame.loc[1010, "colour"] = "pink"  # which the fit has not seen
    x = columns.transform(frame)
    filled = columns.inverse_transform(np.where(np.isnan(x), np.float32(0.25), x), frame)
    assert not filled.isna().any().any()
    assert filled.index.equals(frame.index)
    for name in frame.columns:
        there = frame[name].notna()
        assert filled[name][there].tolist() == frame[name][there].tolist(), name
    assert filled["wide"].dtype == frame["wide"].dtype
    assert filled["income"].dtype == "float64"
    # What was missing is what it is without the table.
    rough = columns.inverse_transform(np.where(np.isnan(x), np.float32(0.25), x))
    assert filled["income"].iloc[0] == rough["income"].iloc[0]
    assert filled["sex"].iloc[3] == rough["sex"].iloc[3]


def test_filling_in_an_array_leaves_what_was_there():
    table = np.array([[3504.1, 0, 7], [np.nan, 1, 8], [12.7, np.nan, 9], [1e6 + 0.3, 0, 7]])
    columns = Columns(numeric=[0], binary=[1], categorical=[2]).fit(table)
    x = columns.transform(table)
    filled = columns.inverse_transform(np.where(np.isnan(x), 0, x), table)
    known = ~np.isnan(table)
    assert filled.dtype == "float64"
    np.testing.assert_array_equal(filled[known], table[known])
    assert np.isfinite(filled).all()


def bad_frame():
    return pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "z"], "c": ["u", 1, 2]})


BAD = {
    "nothing": (lambda: Columns(), "to name columns. Received: none"),
    "twice": (lambda: Columns(numeric=["a"], binary=["a"]), "each column once. Received: 'a'"),
    "scaler": (lambda: Columns(numeric=["a"], scaler="log"), "`scaler` to be one of .*'log'"),
    "no such column": (lambda: Columns(numeric=["z"]).fit(bad_frame()), "among .*'z'"),
    "guessed": (lambda: Columns.from_frame(bad_frame()[["a"]], binary=["z"]), "among .*'z'"),
    "three are not two": (
        lambda: Columns(binary=["b"]).fit(bad_frame()), "have two values. Received: 'b' with 3",
    ),
    "one is no choice": (
        lambda: Columns(categorical=["b"]).fit(bad_frame()[:1]), "two values or more.*'b' with 1",
    ),
    "types": (lambda: Columns(categorical=["c"]).fit(bad_frame()), "of one type. Received: 'c'"),
    "no table": (lambda: Columns(numeric=[0]).fit([[1.0]]), "`table` to be a pandas.DataFrame"),
    "not fitted": (lambda: Columns(numeric=["a"]).transform(bad_frame()), "`fit` to have been"),
    "too narrow": (
        lambda: Columns(numeric=["a"]).fit(bad_frame()).inverse_transform(np.ones((2, 3))),
        r"`x` of shape \(n, 1\). Received: shape \(2, 3\)",
    ),
    "other rows": (
        lambda: Columns(["a"]).fit(bad_frame()).inverse_transform(np.ones((2, 1)), bad_frame()),
        "`table` with the 2 rows of `x`. Received: 3 rows",
    ),
    "a name for a list": (lambda: Columns(numeric="ab"), "`numeric` to be a list.*numeric='ab'"),
    "guessed by a name": (
        lambda: Columns.from_frame(bad_frame(), binary="ab"), "`binary` to be a list",
    ),
    "two of a name": (
        lambda: Columns.from_frame(bad_frame().set_axis(["a", "a", "c"], axis=1)),
        "to have names that differ. Received: 'a' twice",
    ),
    "nothing known": (
        lambda: Columns(numeric=["a"]).fit(pandas.DataFrame({"a": [np.nan, np.nan]})),
        "numeric column to have a value. Received: 'a' with 0",
    ),
    "rates": (
        lambda: Columns(numeric=["a"]).fit(bad_frame()).swap_noise({"b": 0.1}),
        r"`rate` to name columns among \['a'\]. Received: \['b'\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_table_of_columns(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=rf"^Expected .*{message}"):
        make()


def test_without_scikit_learn_there_is_a_hint(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"`scikit-learn` to be installed. Run `pip install"):
        Columns(numeric=["a"])


def test_the_page_on_tables_runs():
    pytest.importorskip("mlxtend")
    page = pathlib.Path(__file__).parents[1] / "docs" / "tables.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(block, names)
    table, filled = names["table"], names["filled"]
    assert table.isna().any().all()
    assert not filled.isna().any().any()
    assert (filled[table.notna()]["origin"].dropna() == table["origin"].dropna()).all()
    assert names["rows"].shape == (len(table),)
    assert names["cells"].shape == table.shape


def test_the_page_on_tables_quotes_what_was_measured():
    root = pathlib.Path(__file__).parents[1]
    measured = (root / "experiments" / "results" / "tables" / "results.md").read_text()
    lines = (root / "docs" / "tables.md").read_text().splitlines()
    quoted = [line for line in lines if "±" in line and line.startswith("| ")]
    assert len(quoted) > 10
    assert not [line for line in quoted if line not in measured]
