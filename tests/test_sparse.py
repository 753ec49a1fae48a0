"""A sparse matrix gives what the dense array of its values gives, bit for bit, at every door."""

import itertools
import subprocess
import sys
import tracemalloc

import keras
import numpy as np
import pytest

import sda
from sda.checkpoints import folder, identity
from sda.rows.reading import as_rows
from sda.rows.sparse import SparseRows
from sda.training import feed

sp = pytest.importorskip("scipy.sparse")

ROWS, WIDTH = 30, 8


def values(dtype="float32"):
    """Eighths of [0, 1], or whole numbers: what a matrix adds up is exact. Some rows are empty."""
    generator = np.random.default_rng(0)
    x = generator.integers(9, size=(ROWS, WIDTH)) * (generator.random((ROWS, WIDTH)) < 0.3)
    x[[0, 7, 8, ROWS - 1]] = 0
    return (x if dtype == "uint8" else x / 8).astype(dtype)


def labels():
    return np.random.default_rng(1).integers(3, size=ROWS)


# Forms


def parts(x):
    matrix = sp.csr_matrix(x)
    return matrix.data, matrix.indices, matrix.indptr


def unsorted(x):
    data, indices, pointers = parts(x)
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in itertools.pairwise(pointers)])
    return sp.csr_matrix((data[order], indices[order], pointers), x.shape)


def with_duplicates(x):
    data, indices, pointers = parts(x)
    half = data // 2 if data.dtype.kind in "ui" else data / 2
    data = np.stack([half, data - half], axis=1).ravel()
    return sp.csr_matrix((data, indices.repeat(2), pointers * 2), x.shape)


def with_zeros(x):
    rows, columns = np.indices(x.shape)
    return sp.coo_array((x.ravel(), (rows.ravel(), columns.ravel())), x.shape)


def wide_indices(x):
    matrix = sp.csr_array(x)
    matrix.indices = matrix.indices.astype("int64")
    matrix.indptr = matrix.indptr.astype("int64")
    return matrix


FORMS = {
    "csr_matrix": sp.csr_matrix,
    "csr_array": sp.csr_array,
    "coo": sp.coo_matrix,
    "csc": sp.csc_array,
    "lil": sp.lil_matrix,
    "unsorted": unsorted,
    "duplicates": with_duplicates,
    "zeros": with_zeros,
    "wide indices": wide_indices,
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", "bool"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_the_dense_array(form, dtype):
    x = values("uint8" if dtype == "bool" else dtype).astype(dtype)
    if form == "duplicates" and dtype == "bool":
        pytest.skip("True is no sum of halves")
    rows, order = as_rows(FORMS[form](x)), np.random.default_rng(2).permutation(ROWS)
    assert (rows.shape, rows.dtype, len(rows)) == (x.shape, x.dtype, ROWS)
    for index in (slice(None), slice(3, 9), slice(5, 5), order, order[:4].repeat(2)):
        found = rows[index]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, x[index])
    some = rows.part(5, 25)
    np.testing.assert_array_equal(some[:], x[5:25])
    np.testing.assert_array_equal(some.part(1, 9)[np.array([3, 0])], x[[9, 6]])
    np.testing.assert_array_equal(rows.take(order[:9])[2:5], x[order[2:5]])
    held = np.unique(np.concatenate([v.ravel() for v in rows.values()]))
    np.testing.assert_array_equal(held, np.unique(x))


def test_one_digest_for_all_forms_of_a_matrix_and_another_for_any_other():
    x = values()
    (found,) = {as_rows(form(x)).digest() for form in FORMS.values()}
    others = [x.astype("float64"), x.astype("bool"), x[:, :-1], x[:-1], x[::-1], x[:, ::-1], x / 2]
    digests = {found, as_rows(x).digest(), *(as_rows(sp.csr_array(o)).digest() for o in others)}
    assert len(digests) == 2 + len(others)
    whole = as_rows(sp.csr_array(x))
    assert whole.part(3, 20).digest() == as_rows(sp.csr_array(x[3:20])).digest()
    assert whole.part(0, ROWS).digest() == found


@pytest.mark.parametrize("form", FORMS)
def test_the_matrix_that_is_given_stays_as_it_is(form):
    given = FORMS[form](values())
    before, noted = given.copy(), sorted(vars(given))
    as_rows(given)[:]
    assert sorted(vars(given)) == noted
    for name in ("data", "indices", "indptr"):
        if form != "lil" and hasattr(given, name):
            np.testing.assert_array_equal(getattr(given, name), getattr(before, name))


def test_a_canonical_matrix_is_not_copied():
    given = sp.csr_array(values())
    for rows in (as_rows(given), as_rows(given).part(2, 20)):
        assert np.shares_memory(rows.matrix.data, given.data)
        assert np.shares_memory(rows.matrix.indices, given.indices)


def test_what_is_no_matrix_of_numbers_is_refused():
    outside = sp.csr_matrix(values())
    outside.indices = outside.indices + WIDTH
    stack = sda.StackedDenoisingAutoencoder([3], seed=1)
    for given, expected in (
        (sp.coo_array(np.ones(4)), r"`x` to be a matrix where it is sparse.*\(4,\)"),
        (sp.csr_matrix(values() * 1j), "`x` to hold numbers. Received: dtype complex"),
        (sp.csr_matrix((0, WIDTH)), r"`x` to hold at least one example.*\(0, 8\)"),
        (outside, "`x` to be a whole sparse matrix"),
    ):
        with pytest.raises(ValueError, match=expected):
            sda.GreedyPretrainer(stack).fit(given, verbose=0)
    assert not stack.built


def test_scipy_is_not_imported_unless_it_is_given():
    # JAX does import it.
    code = (
        "import sys, numpy, keras, h5py; before = 'scipy.sparse' in sys.modules; import sda; "
        "stack = sda.StackedDenoisingAutoencoder([2]); stack.encode(numpy.ones((2, 2))); "
        "sys.exit('scipy.sparse' in sys.modules and not before)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Doors


def stack_of(**settings):
    settings = {"corruption": 0.3, "seed": 1, **settings}
    stack = sda.StackedDenoisingAutoencoder([5, 3], **settings)
    stack.build((None, WIDTH))
    return stack


def scaled(dtype):
    return stack_of(preprocessing=keras.layers.Rescaling(1 / 8) if dtype == "uint8" else None)


def pretrain(some, dtype, loss=None, **arguments):
    stack = scaled(dtype)
    x = values(dtype)
    histories = sda.GreedyPretrainer(
        stack, keras.optimizers.SGD(0.1), loss, epochs=2, batch_size=7, seed=1
    ).fit(some(x), verbose=0, **{k: some(v) for k, v in arguments.items()})
    return [*stack.get_weights(), *(v for h in histories for v in h.history.values())]


def pretrain_on_pairs(some, dtype):
    clean = np.roll(values(dtype), 1, axis=0)
    return pretrain(some, dtype, targets=clean)


def pretrain_on_batches(some, dtype):
    stack, x = scaled(dtype), values(dtype)
    batches = (some(x[i : i + 6]) for i in range(0, ROWS, 6))
    sda.GreedyPretrainer(stack, epochs=1, seed=1).fit(batches, verbose=0)
    return stack.get_weights()


def model_of(dtype):
    model = scaled(dtype).classifier(3)
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def results(model, history):
    return [*model.get_weights(), *history.history.values()]


def fit(some, dtype):
    model, x, y = model_of(dtype), some(values(dtype)), labels()
    history = sda.fit(
        model, x, y, 7, 2, validation_data=(x, y), class_weight={0: 2.0}, seed=1, verbose=0
    )
    return results(model, history)


def fit_with_split(some, dtype):
    model, x = model_of(dtype), some(values(dtype))
    return results(
        model, sda.fit(model, x, labels(), 7, 2, validation_split=0.3, seed=1, verbose=0)
    )


def fit_on_batches(some, dtype):
    model, x, y = model_of(dtype), values(dtype), labels()
    batches = [(some(x[i : i + 6]), y[i : i + 6]) for i in range(0, ROWS, 6)]
    return results(model, sda.fit(model, iter(batches), epochs=1, seed=1, verbose=0))


def fit_to_sparse_targets(some, dtype):
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(WIDTH)])
    model.set_weights([np.ones((WIDTH, WIDTH)) / 9, np.zeros(WIDTH)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = some(values(dtype))
    return results(model, sda.fit(model, x, x, 7, 2, seed=1, verbose=0))


def population(some, dtype):
    stacks = [scaled(dtype) for _ in range(2)]
    pretrainers = [sda.GreedyPretrainer(s, epochs=1, seed=k) for k, s in enumerate(stacks)]
    histories = sda.population.fit(pretrainers, some(values(dtype)))
    return [*stacks[0].get_weights(), *stacks[1].get_weights(), *(len(h) for h in histories)]


DOORS = {
    "pretrain": pretrain,
    "pretrain with validation": lambda some, d: pretrain(some, d, validation_data=values(d)[:11]),
    "pretrain with squared error": lambda some, d: pretrain(some, d, "squared_error"),
    "pretrain on pairs": pretrain_on_pairs,
    "pretrain on batches": pretrain_on_batches,
    "fit": fit,
    "fit with split": fit_with_split,
    "fit on batches": fit_on_batches,
    "fit to sparse targets": fit_to_sparse_targets,
    "population": population,
    "encode": lambda some, d: scaled(d).encode(some(values(d)), batch_size=7),
    "reconstruct": lambda some, d: scaled(d).reconstruct(some(values(d)), batch_size=7),
    "error": lambda some, d: scaled(d).reconstruction_error(some(values(d)), batch_size=7),
    "error per column": lambda some, d: scaled(d).reconstruction_error(some(values(d)), True),
    "sample": lambda some, d: scaled(d).sample(some(values(d)), seed=1),
    "predict": lambda some, d: sda.diagnostics.predict(model_of(d), some(values(d))),
}
# What trains together on JAX takes its steps in another order, to the last bit.
ALIKE = {"population": {"rtol": 1e-5, "atol": 1e-6}}
EXPECTED = {}


def assert_as_dense(door, form, dtype):
    if (door, dtype) not in EXPECTED:
        EXPECTED[door, dtype] = DOORS[door](lambda x: x, dtype)
    found, expected = DOORS[door](form, dtype), EXPECTED[door, dtype]
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        if door in ALIKE and keras.backend.backend() == "jax":
            np.testing.assert_allclose(a, b, **ALIKE[door])
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_what_it_gives_for_the_dense_array(door, dtype):
    assert_as_dense(door, sp.csr_array, dtype)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "csr_array"])
@pytest.mark.parametrize("door", ["pretrain", "encode", "error"])
def test_in_every_form(door, form):
    assert_as_dense(door, FORMS[form], "float32")


@pytest.mark.parametrize("door", ["pretrain with validation", "fit"])
def test_in_pieces(monkeypatch, door):
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 1600)
    assert_as_dense(door, sp.csr_matrix, "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_found_in_their_row(value):
    x = values("float64")
    x[17, 2] = value
    x[20, 1] = np.nan
    matrix, model = sp.csr_matrix(x), model_of("float64")
    for use in (
        lambda: sda.GreedyPretrainer(stack_of()).fit(matrix, verbose=0),
        lambda: sda.GreedyPretrainer(stack_of(), loss="squared_error").fit(matrix, verbose=0),
        lambda: sda.fit(model, matrix, labels(), verbose=0),
        lambda: sda.fit(model, values(), labels(), validation_data=(matrix, labels()), verbose=0),
        lambda: stack_of().encode(matrix, batch_size=5),
        lambda: stack_of().reconstruction_error(matrix),
    ):
        with pytest.raises(ValueError, match=r"to hold finite values\. Received: .* in row 17"):
            use()


def test_what_is_stored_has_to_lie_in_the_unit_interval():
    for value in (-0.5, 1.5):
        x = values()
        x[17, 2] = value
        with pytest.raises(ValueError, match=rf"`x` to lie in \[0, 1\].*values from .*{value}"):
            sda.GreedyPretrainer(stack_of()).fit(sp.csr_matrix(x), verbose=0)
    full = sp.csr_matrix(np.full((ROWS, WIDTH), 0.5, "float32"))
    sda.GreedyPretrainer(stack_of(), epochs=1).fit(full, verbose=0)


def test_values_that_are_missing_are_nan_in_the_matrix():
    x = values()
    x[3, 2] = np.nan
    for loss in (None, "squared_error"):
        weights = []
        for form in (np.asarray, sp.csr_matrix):
            stack = stack_of(fill_value=0.5)
            pretrainer = sda.GreedyPretrainer(stack, loss=loss, epochs=1, seed=1)
            pretrainer.fit(form(x), verbose=0)
            weights += [[*stack.get_weights(), stack.impute(form(x))]]
        for a, b in zip(*weights, strict=True):
            np.testing.assert_array_equal(a, b)


# Checkpoints


def pretrained(x, path):
    stack = stack_of()
    pretrainer = sda.GreedyPretrainer(
        stack, keras.optimizers.SGD(0.1), epochs=3, batch_size=7, seed=1, checkpoint_dir=path,
        checkpoint_every=0,
    )  # fmt: skip
    pretrainer.fit(x, validation_split=0.2, verbose=0)
    return stack.get_weights()


def cut_off(monkeypatch, saves, *arguments):
    """Stop a pretraining as it has written so many checkpoints."""
    save, left = folder.Checkpoints.save, [saves]

    def cut(self, progress):
        save(self, progress)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder.Checkpoints, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            pretrained(*arguments)


@pytest.mark.parametrize("saves", [3, 9])
def test_a_run_goes_on_bit_for_bit_and_that_of_the_dense_array_is_another(
    tmp_path, monkeypatch, saves
):
    x = values()
    matrix = sp.csr_array(x)
    cut_off(monkeypatch, saves, matrix, tmp_path / "run")
    for other in (x, sp.csr_array(x * np.float32(0.5)), sp.csr_array(np.roll(x, 1, axis=0))):
        with pytest.raises(ValueError, match=r"Received: data\.x.*sparse float32"):
            pretrained(other, tmp_path / "run")
    found = pretrained(unsorted(x), tmp_path / "run")
    for a, b, c in zip(
        found, pretrained(matrix, tmp_path / "new"), pretrained(x, tmp_path / "dense"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_layers_in_a_cache_are_those_of_the_same_matrix(tmp_path):
    cache = sda.LayerCache(tmp_path / "cache")
    x = values()

    def train(rows):
        stack = stack_of()
        sda.GreedyPretrainer(stack, epochs=1, seed=1, cache=cache).fit(rows, verbose=0)
        return len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()])

    begun = train(sp.csr_matrix(x))
    assert train(with_duplicates(x)) == begun
    assert train(x) > begun


def test_identity_is_that_of_the_rows():
    x = values()
    ((sparse,), (dense,)) = (identity.data_settings(form(x)) for form in (sp.csr_matrix, np.array))
    assert sparse.startswith("sparse float32 (30, 8), SHA-256 ")
    assert dense.startswith("float32 (30, 8), SHA-256 ")


# Memory


def wide(rows, width, a_row=10):
    generator = np.random.default_rng(3)
    return sp.csr_matrix(
        (
            generator.random(rows * a_row, "float32"),
            generator.integers(width, size=rows * a_row),
            np.arange(0, rows * a_row + 1, a_row),
        ),
        (rows, width),
    )


def peak_of(use):
    tracemalloc.start()
    try:
        use()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_forty_gigabytes_are_never_made_dense(tmp_path):
    x = wide(100_000, 100_000)
    x.data /= 16  # where two fall in one place, the sum is below 1
    stack = sda.StackedDenoisingAutoencoder([2], seed=1)
    pretrainer = sda.GreedyPretrainer(
        stack, epochs=1, batch_size=10, seed=1, checkpoint_dir=tmp_path / "run"
    )
    arguments = {"steps_per_epoch": 3, "validation_split": 0.0001, "verbose": 0}
    assert peak_of(lambda: pretrainer.fit(x, **arguments)) < 2**28
    model = keras.Sequential([keras.Input((100_000,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    y = np.zeros(100_000, "float32")
    assert (
        peak_of(lambda: sda.fit(model, x, y, 10, steps_per_epoch=3, shuffle="blocks", verbose=0))
        < 2**28
    )


def test_codes_and_errors_take_the_memory_of_a_piece():
    x = wide(2000, 20_000)  # 160 MB
    stack = sda.StackedDenoisingAutoencoder([2], seed=1)
    stack.build((None, 20_000))
    for use in (stack.encode, stack.reconstruction_error):
        assert peak_of(lambda use=use: use(x, batch_size=50)) < 2**25
    assert isinstance(as_rows(x), SparseRows)
