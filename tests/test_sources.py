"""Rows and labels by one string: datasets, files, arrays in files, tables; and rows into files."""

import h5py
import numpy as np
import pytest

import sda
from sda.datasets import sources, tables, writing
from sda.datasets.sources import open_source

X = np.random.default_rng(1).random((12, 6)).astype("float32")
Y = np.arange(12) % 3


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def frame(**columns):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({f"f{i}": X[:, i] for i in range(6)} | columns)


def write_all():
    """The same rows and labels in every format."""
    np.save("x.npy", X)
    np.save("y.npy", Y)
    np.savez("both.npz", x=X, y=Y)
    with h5py.File("both.h5", "w") as file:
        file["train/x"], file["train/y"] = X, Y
    table = frame(label=Y)
    table.to_csv("table.csv", index=False)
    pytest.importorskip("pyarrow")
    table.to_parquet("table.parquet")


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        ("x.npy", "y.npy"),
        ("both.npz::x", "y"),
        ("both.npz::x", "y.npy"),
        ("both.h5::train/x", "train/y"),
        ("both.h5::train/x", "both.npz::y"),
        ("table.csv", "label"),
        ("table.parquet", "label"),
        ("x.npy", "table.csv::label"),
        ("x.npy", "table.parquet::label"),
    ],
)
def test_every_format_gives_the_same(data, labels):
    write_all()
    source = open_source(data, labels)
    np.testing.assert_allclose(source.x[:], X, rtol=1e-6)
    np.testing.assert_array_equal(source.y, Y)
    assert open_source(data).y is None


def test_a_table_without_labels_keeps_all_its_columns():
    frame(label=Y).to_csv("table.csv", index=False)
    assert open_source("table.csv").x.shape == (12, 7)
    assert open_source("table.csv").columns == [*(f"f{i}" for i in range(6)), "label"]
    assert open_source("table.csv", "label").columns == [f"f{i}" for i in range(6)]
    assert open_source("table.csv").image_shape is None


def test_columns_are_found_by_their_names():
    table = frame(label=Y)
    table.to_csv("table.csv", index=False)
    names = open_source("table.csv", "label").columns
    table[["f3", "label", *(f"f{i}" for i in (5, 0, 1, 4, 2))]].to_csv("other.csv", index=False)
    source = open_source("other.csv", "label")
    assert source.columns != names
    np.testing.assert_allclose(source.with_columns(names).x, X, rtol=1e-6)
    assert source.with_columns(names).columns == names
    for columns, said in ((["f0", "g"], "without 'g'"), (["f0"], "with 'f3'; name a column")):
        with pytest.raises(ValueError, match=f"the columns that there were in training.*{said}"):
            source.with_columns(columns)
    for same in (source.with_columns(None), source.with_columns(source.columns)):
        assert same is source
    np.save("x.npy", X)
    np.testing.assert_array_equal(open_source("x.npy").with_columns(names).x, X)


def test_labels_may_be_words():
    names = np.array(["ant", "bee", "cat"])[Y]
    frame(kind=names).to_csv("table.csv", index=False)
    assert open_source("table.csv", "kind").y.tolist() == names.tolist()


def test_images():
    np.save("grey.npy", np.zeros((4, 5, 3), "uint8"))
    np.save("colour.npy", np.zeros((4, 5, 2, 3)))
    np.save("square.npy", np.zeros((4, 81)))
    np.save("narrow.npy", np.zeros((4, 9)))
    shapes = {
        name: (open_source(f"{name}.npy").x.shape, open_source(f"{name}.npy").image_shape)
        for name in ("grey", "colour", "square", "narrow")
    }
    assert shapes == {
        "grey": ((4, 15), (5, 3)),
        "colour": ((4, 30), (5, 2, 3)),
        "square": ((4, 81), (9, 9)),
        "narrow": ((4, 9), None),
    }


def test_datasets_have_two_parts():
    pytest.importorskip("sklearn")
    (x_train, y_train), (x_test, _) = sda.datasets.load("digits")
    train, test = open_source("digits"), open_source("digits::test")
    np.testing.assert_array_equal(train.x, x_train)
    np.testing.assert_array_equal(train.y, y_train)
    np.testing.assert_array_equal(test.x, x_test)
    assert train.image_shape == (8, 8)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        ("nothing", None, "Expected `data` to be a file ending in .* Received: data='nothing'"),
        ("digits::best", None, "with ::test for its test rows"),
        ("digits", "y", "to be None for digits"),
        ("both.npz", None, r"one of \['x', 'y'\]"),
        ("both.npz::z", None, "z"),
        ("both.npz::x", "short.npy", "one label for each of the 12 rows"),
        ("table.csv", "colour", "Expected `name` to be a column of table.csv"),
        ("table.csv", None, r"hold numbers. Received: other values in \['kind'\]"),
        ("table.csv::f1", None, "the whole table"),
        ("x.npy", "table.csv", "name a column of table.csv"),
        ("broken.parquet", None, "Expected `path` to be a .parquet table"),
        ("pickle.npy", None, "Expected"),
    ],
)
def test_what_is_refused(data, labels, message):
    write_all()
    frame(kind=["a"] * 12).to_csv("table.csv", index=False)
    np.save("short.npy", Y[:5])
    np.save("pickle.npy", np.array([{}, {}], dtype=object))
    with open("broken.parquet", "wb") as file:
        file.write(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=message):
        open_source(data, labels)


def test_a_file_that_is_not_there():
    for name in ("no.npy", "no.h5", "no.csv", "no.parquet"):
        with pytest.raises(OSError, match="no"):
            open_source(name)


def test_a_missing_package_is_named(monkeypatch):
    frame().to_csv("table.csv", index=False)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"`pandas`.*keras-sda\[tables\]"):
        open_source("table.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 values, the header 2 names"),
        ("a,b\n9,1,2\n9,3,4\n", "line 2 has 3 values, the header 2 names"),
        ("a,b\n1,2,\n3,4,\n", "line 2 has 3 values, the header 2 names"),
        ("a,b\n1,2\n\n3\n", "line 4 has 1 values, the header 2 names"),
        ("a,b,a\n1,2,3\n", "more than one column of the name 'a'"),
        (",a,b\n0,1,2\n", "column 1 has no name"),
        ("a,b,\n1,2,\n", "column 3 has no name"),
        ("a\n1\n\n3\n", "line 3 has no value"),
    ],
)
def test_a_table_that_pandas_would_misread_is_refused(text, said):
    pytest.importorskip("pandas")
    with open("table.csv", "w") as file:
        file.write(text)
    for function in (sda.datasets.read, open_source):
        with pytest.raises(ValueError, match=f"^Expected `path` to be a .csv table.*{said}"):
            function("table.csv")


def test_blank_lines_quotes_and_a_byte_order_mark_are_no_rows():
    pytest.importorskip("pandas")
    with open("table.csv", "w", encoding="utf-8-sig") as file:
        file.write('\n"a,1","b\nc"\n1,"2"\n\n3,\n   \n')
    rows = sda.datasets.read("table.csv")
    np.testing.assert_array_equal(rows, np.array([[1, 2], [3, np.nan]], "float32"))
    assert open_source("table.csv").columns == ["a,1", "b\nc"]
    with open("one.csv", "w") as file:
        file.write('a\n1\n""\n3\n\n')
    np.testing.assert_array_equal(sda.datasets.read("one.csv", "a"), np.array([1, np.nan, 3]))


def test_an_index_with_a_name_is_a_column_of_parquet():
    pytest.importorskip("pyarrow")
    table = frame(label=Y)
    table.set_index("f0").to_parquet("named.parquet")
    source = open_source("named.parquet", "label")
    assert source.columns == [f"f{i}" for i in range(6)]
    np.testing.assert_allclose(source.x, X, rtol=1e-6)
    np.testing.assert_allclose(sda.datasets.read("named.parquet", "f0"), X[:, 0], rtol=1e-6)
    table.set_index(["label", "f0"]).to_parquet("two.parquet")
    np.testing.assert_array_equal(open_source("two.parquet", "label").y, Y)
    table[::2].to_parquet("some.parquet")  # an index of row numbers
    assert open_source("some.parquet").x.shape == (6, 7)


def test_a_table_is_bounded_before_it_is_read(monkeypatch):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("sda.files.opening.SMALL", 10**6)
    rows = np.zeros(10**6)
    pandas.DataFrame({"a": rows, "b": rows}).to_parquet("zeros.parquet", compression="zstd")
    pandas.DataFrame({"a": ["long" * 10**3] * 10**4}).to_parquet("words.parquet")
    pandas.DataFrame({"a": [[1.0, 2.0]] * 3}).to_parquet("lists.parquet")
    with open("wide.csv", "w") as file:
        file.write(",".join(map(str, range(2**16 + 1))) + "\n")
    for name, said in (
        ("zeros.parquet", "16000000 bytes out of"),
        ("lists.parquet", "several values a row"),
        ("wide.csv", "65537 columns, more than 65536"),
    ):
        with pytest.raises(ValueError, match=f"^Expected `path` to be a .*{said}"):
            open_source(name)
    # Words that are repeated are held once, not 10,000 times.
    words = tables.column(tables.read_table("words.parquet"), "a", "words.parquet")
    assert len({id(word) for word in words}) == 1
    assert len(words[0]) == 4 * 10**3


def test_read_takes_tables():
    frame(label=Y).to_csv("table.csv", index=False)
    assert sda.datasets.read("table.csv").shape == (12, 7)
    np.testing.assert_array_equal(sda.datasets.read("table.csv", "label"), Y)
    with pytest.raises(ValueError, match="to be a column"):
        sda.datasets.read("table.csv", "colour")


def test_missing_and_true_false_values_are_numbers():
    table = frame(flag=[True, False] * 6)
    table.loc[3, "f2"] = None
    rows = tables.numbers(table, "t")
    assert np.argwhere(np.isnan(rows)).tolist() == [[3, 2]]
    assert rows[:, 6].tolist() == [1.0, 0.0] * 6


# Rows held out


@pytest.mark.parametrize("data", ["x.npy", "both.h5::train/x"])
def test_the_rows_held_out_are_the_same_each_time(data):
    write_all()
    source = open_source(data)
    source.y = Y
    train, held_out = source.split(0.25)
    assert (len(train.x), len(held_out.x)) == (9, 3)
    everything = np.concatenate([np.asarray(train.x[:]), np.asarray(held_out.x[:])])
    assert sorted(map(tuple, everything)) == sorted(map(tuple, X))
    again = open_source("x.npy").split(0.25)[1]
    np.testing.assert_array_equal(held_out.x[:], again.x)
    for part in (train, held_out):
        for row, label in zip(part.x[:], part.y, strict=True):
            assert label == Y[np.flatnonzero((row == X).all(axis=1))[0]]
    assert source.split(0) == (source, None)


def test_rows_of_a_file_stay_there():
    write_all()
    train, _ = open_source("both.h5::train/x").split(0.25)
    assert not isinstance(train.x, np.ndarray)
    np.testing.assert_array_equal(train.x[np.array([4, 1])], train.x[:][[4, 1]])
    assert train.x[2:5].shape == (3, 6)


def test_paths_become_absolute(tmp_path):
    assert sources.locate("rows.npz::x") == f"{tmp_path}/rows.npz::x"
    assert sources.locate("mnist::test") == "mnist::test"
    assert sources.locate("label") == "label"


# Rows into files


@pytest.mark.parametrize("suffix", writing.SUFFIXES)
def test_what_is_written_is_read(suffix):
    frame()
    x = np.random.default_rng(2).random((5000, 2)).astype("float32")  # more than a piece
    writing.write(f"out{suffix}", x, lambda piece: piece * 2, 2, "code")
    np.testing.assert_allclose(sda.datasets.read(f"out{suffix}")[:], 2 * x, rtol=1e-6)


def test_columns_of_a_table_have_names():
    writing.write("out.csv", X, lambda piece: piece, 6, "code")
    assert open_source("out.csv").columns == [f"code{i}" for i in range(1, 7)]
