"""Whatever is given as a setting or as data is used, or refused before anything is changed."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import sda

# The same examples in every run, and none kept: a failure that is found goes into the corpus below.
few = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=15,
    suppress_health_check=list(hypothesis.HealthCheck),
)

WIDTH, CLASSES = 4, 3
X = np.random.default_rng(0).random((6, WIDTH), "float32")
Y = np.arange(6) % CLASSES


def new_stack(units=(3, 2), **settings):
    return sda.StackedDenoisingAutoencoder(list(units), seed=1, **settings)


@pytest.fixture(scope="module")
def stack():
    stack = new_stack()
    stack.build((None, WIDTH))
    return stack


@pytest.fixture(scope="module")
def classifier(stack):
    model = stack.classifier(CLASSES, dropout=0.5, copy=True)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def state(model):
    """All that training may change: weights, noise and dropout counters, the optimizer's state."""
    values = [*model.trainable_variables, *model.non_trainable_variables]
    if getattr(model, "optimizer", None) is not None:
        values += model.optimizer.variables
    return [keras.ops.convert_to_numpy(v.value).copy() for v in values]


def try_it(function, *models_and_arrays):
    """Call `function`; return whether it accepted what it was given.

    What it refuses, it has to refuse with a `ValueError` in the house's words, and without having
    changed a model's state or an array.
    """
    kept = [m.copy() if isinstance(m, np.ndarray) else state(m) for m in models_and_arrays]
    try:
        function()
        accepted = True
    except ValueError as error:
        message = str(error)
        assert message.startswith("Expected "), message
        assert ". Received" in message, message
        accepted = False
    for model, before in zip(models_and_arrays, kept, strict=True):
        if isinstance(model, np.ndarray):
            np.testing.assert_array_equal(model, before)
        elif not accepted:
            for now, then in zip(state(model), before, strict=True):
                np.testing.assert_array_equal(now, then)
    return accepted


# Settings


class Odd:
    """An object that is nothing to anybody."""


# Integers up to where a layer of that size still fits.
SIZES = st.integers(-3, 50)
NUMBERS = st.one_of(
    SIZES,
    st.sampled_from([-(10**400), 2**31, 10**30]),
    st.floats(),
    st.sampled_from([np.int64(2), np.float32(0.5), np.float64("nan"), np.bool_(True)]),
    st.complex_numbers(max_magnitude=2),
)
OBJECTS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from(["relu", "sigmoid", "mse", "adam", "glorot_uniform", "cross_entropy", "ram"]),
    st.builds(Odd),
    st.sampled_from(
        [np.array(3), np.array([1, 2]), np.array("x"), range(3), {}, {"class_name": 1}]
    ),
    st.builds(keras.layers.Dropout, st.just(0.5)),
)
LISTS = st.lists(st.one_of(NUMBERS, OBJECTS), max_size=4)
ANYTHING = st.one_of(NUMBERS, OBJECTS, LISTS, LISTS.map(tuple))


def settings_of(make, names, **others):
    """(name, function of a value) for each of the settings `names` of a constructor."""
    return {
        f"{make.__name__}({name}=)": lambda value, name=name: make(**{**others, name: value})
        for name in names.split()
    }


def pretrainer(**settings):
    return sda.GreedyPretrainer(**{"stack": new_stack(), **settings})


def masking(**settings):
    return sda.MaskingNoise(**{"rate": 0.1, **settings})


def salt_and_pepper(**settings):
    return sda.SaltAndPepperNoise(**{"rate": 0.1, **settings})


def layer(**settings):
    return sda.DenoisingAutoencoder(**{"units": 3, **settings})


def stack_of(**settings):
    return sda.StackedDenoisingAutoencoder(**{"units": [3, 2], **settings})


MAKERS = {
    **settings_of(masking, "rate seed groups"),
    **settings_of(salt_and_pepper, "rate minimum maximum seed"),
    **settings_of(sda.GaussianNoise, "stddev"),
    **settings_of(sda.SwapNoise, "rate"),
    **settings_of(sda.ComposedNoise, "noises"),
    **settings_of(
        layer,
        "units corruption activation decoder_activation tied kernel_initializer code_layers "
        "fill_value",
    ),
    **settings_of(sda.DenoisingAutoencoder, "encoder"),
    **settings_of(
        stack_of,
        "units corruption activation decoder_activation tied kernel_initializer seed fill_value",
    ),
    **settings_of(
        pretrainer,
        "stack optimizer loss epochs batch_size callbacks codes_storage codes_budget seed",
    ),
    **settings_of(sda.losses.CrossEntropy, "alpha beta missing_values"),
    **settings_of(sda.losses.ColumnLoss, "columns"),
    **settings_of(sda.callbacks.GeometricPatience, "patience increase improvement_threshold"),
    **settings_of(sda.StackedDenoisingAutoencoder.from_model, "model"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@few
@hypothesis.given(value=ANYTHING)
def test_a_constructor_takes_a_setting_or_refuses_it(make, value):
    try_it(lambda: make(value))


def small(value):
    """Whether a model with `value` outputs fits this machine."""
    return not isinstance(value, int) or value < 1000


def filling():
    """A stack that takes missing values."""
    new = new_stack(fill_value=0.5)
    new.build((None, WIDTH))
    return new


USES = {
    "classifier(num_classes=)": lambda s, m, v: small(v) and s.classifier(v),
    "classifier(dropout=)": lambda s, m, v: s.classifier(2, dropout=v),
    "classifier(copy=)": lambda s, m, v: s.classifier(2, copy=v),
    "regressor(num_targets=)": lambda s, m, v: small(v) and s.regressor(v),
    "multilabel_classifier(num_labels=)": lambda s, m, v: small(v) and s.multilabel_classifier(v),
    "unrolled(copy=)": lambda s, m, v: s.unrolled(copy=v),
    "encode(x=)": lambda s, m, v: s.encode(v),
    "encode(layer=)": lambda s, m, v: s.encode(X, layer=v),
    "encode(batch_size=)": lambda s, m, v: s.encode(X, batch_size=v),
    "reconstruct(x=)": lambda s, m, v: s.reconstruct(v),
    "reconstruction_error(x=)": lambda s, m, v: s.reconstruction_error(v),
    "reconstruction_error(loss=)": lambda s, m, v: s.reconstruction_error(X, loss=v),
    "impute(x=)": lambda s, m, v: filling().impute(v),
    "impute(iterations=)": lambda s, m, v: small(v) and filling().impute(X, iterations=v),
    "sample(steps=)": lambda s, m, v: small(v) and s.sample(X, steps=v),
    "sample(seed=)": lambda s, m, v: s.sample(X, seed=v),
    "fit(x=)": lambda s, m, v: sda.fit(m, v, Y, **NO_EPOCHS),
    "fit(y=)": lambda s, m, v: sda.fit(m, X, v, **NO_EPOCHS),
    "fit(model=)": lambda s, m, v: sda.fit(v, X, Y, **NO_EPOCHS),
    "fit(batch_size=)": lambda s, m, v: sda.fit(m, X, Y, batch_size=v, **NO_EPOCHS),
    "fit(epochs=)": lambda s, m, v: sda.fit(m, X, Y, epochs=v, verbose=0, initial_epoch=10**500),
    "fit(initial_epoch=)": lambda s, m, v: (
        (not isinstance(v, int) or v < 0 or v > 1)
        and sda.fit(m, X, Y, epochs=1, verbose=0, initial_epoch=v)
    ),
    "fit(callbacks=)": lambda s, m, v: sda.fit(m, X, Y, callbacks=v, **NO_EPOCHS),
    "fit(shuffle=)": lambda s, m, v: sda.fit(m, X, Y, shuffle=v, **NO_EPOCHS),
    "fit(sample_weight=)": lambda s, m, v: sda.fit(m, X, Y, sample_weight=v, **NO_EPOCHS),
    "fit(validation_data=)": lambda s, m, v: sda.fit(m, X, Y, validation_data=v, **NO_EPOCHS),
    "fit(steps_per_execution=)": lambda s, m, v: sda.fit(
        m, X, Y, steps_per_execution=v, **NO_EPOCHS
    ),
    "fit(seed=)": lambda s, m, v: sda.fit(m, X, Y, seed=v, **NO_EPOCHS),
    "GreedyPretrainer.fit(x=)": lambda s, m, v: sda.GreedyPretrainer(s, epochs=0).fit(v, verbose=0),
    "GreedyPretrainer.fit(validation_data=)": lambda s, m, v: sda.GreedyPretrainer(s, epochs=0).fit(
        X, validation_data=v, verbose=0
    ),
    "GreedyPretrainer.fit(shuffle=)": lambda s, m, v: sda.GreedyPretrainer(s, epochs=0).fit(
        X, shuffle=v, verbose=0
    ),
}
# Everything is checked and made ready, and no step is taken.
NO_EPOCHS = {"epochs": 1, "initial_epoch": 1, "verbose": 0}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@few
@hypothesis.given(value=ANYTHING)
def test_a_call_takes_an_argument_or_refuses_it(stack, classifier, use, value):
    try_it(lambda: use(stack, classifier, value), stack, classifier)


# Data


def shapes(width):
    """Mostly rows of the right width; also none, one, and shapes of any other rank."""
    right = st.tuples(st.integers(0, 5), st.just(width))
    return st.one_of(right, right, st.lists(st.integers(0, 5), max_size=3).map(tuple))


DTYPES = st.sampled_from(
    ["float32", "float64", "float16", "int64", "int8", "uint8", "bool", "complex64", "U1", "O"]
)
ELEMENTS = {
    "f": st.one_of(
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([-0.5, 1.5, np.nan, np.inf, -np.inf, 6e4]),
    ),
    "i": st.sampled_from([0, 1, 0, 1, 0, 1, -1, 2]),
    "u": st.sampled_from([0, 1, 255]),
    "b": st.booleans(),
    "c": st.just(0j),
    "U": st.just("a"),
    "O": st.none(),
}


@st.composite
def data(draw, width=WIDTH):
    dtype = np.dtype(draw(DTYPES))
    # Constant, or with one odd value in it.
    array = np.full(draw(shapes(width)), draw(ELEMENTS[dtype.kind]), dtype)
    if array.size:
        array.reshape(-1)[draw(st.integers(0, array.size - 1))] = draw(ELEMENTS[dtype.kind])
    return array


def holds_numbers(x):
    """Whether `x` has rows of the right width, of finite real numbers."""
    return (
        x.ndim == 2
        and len(x) > 0
        and x.shape[1] == WIDTH
        and x.dtype.kind in "fiub"
        and bool(np.isfinite(x.astype("float64")).all())
    )


def in_unit_interval(x):
    return bool((x >= 0).all() and (x <= 1).all())


more = hypothesis.settings(few, max_examples=40)


@more
@hypothesis.given(x=data())
def test_pretraining_takes_rows_in_the_unit_interval_and_nothing_else(stack, x):
    fits = holds_numbers(x) and in_unit_interval(x)
    pretrain = sda.GreedyPretrainer(stack, epochs=0).fit
    assert try_it(lambda: pretrain(x, verbose=0), stack, x) == fits
    assert try_it(lambda: pretrain(X, validation_data=x, verbose=0), stack, x) == fits


@more
@hypothesis.given(x=data())
def test_a_refused_stack_is_not_even_built(x):
    stack = new_stack([2])
    pretrain = sda.GreedyPretrainer(stack, epochs=0).fit
    if not try_it(lambda: pretrain(x, verbose=0)):
        assert not stack.built


@pytest.fixture(scope="module")
def linear():
    stack = new_stack([2], decoder_activation="linear")
    stack.build((None, WIDTH))
    return stack


@more
@hypothesis.given(x=data())
def test_a_linear_decoder_takes_finite_numbers(linear, x):
    pretrain = sda.GreedyPretrainer(linear, epochs=0).fit
    assert try_it(lambda: pretrain(x, verbose=0), linear, x) == holds_numbers(x)


@more
@hypothesis.given(x=data())
def test_fine_tuning_takes_finite_numbers_of_the_right_width(classifier, x):
    def fit():
        sda.fit(classifier, x, np.zeros(len(x), int), **NO_EPOCHS)

    if x.ndim == 0:
        return
    assert try_it(fit, classifier, x) == holds_numbers(x)


@more
@hypothesis.given(y=data(width=1), as_column=st.booleans())
def test_fine_tuning_takes_labels_that_the_model_has(classifier, y, as_column):
    y = y if as_column or y.ndim == 0 else y.reshape(-1)
    x = np.resize(X, (max(y.shape[0] if y.ndim else 1, 1), WIDTH))
    fits = (
        y.shape in ((len(x),), (len(x), 1))
        and y.dtype.kind in "fiub"
        and bool(np.isin(y, range(CLASSES)).all())
    )
    assert try_it(lambda: sda.fit(classifier, x, y, **NO_EPOCHS), classifier, y) == fits
    valid = {"validation_data": (x, y), **NO_EPOCHS}
    assert try_it(lambda: sda.fit(classifier, X, Y, **valid), classifier, y) == fits


@more
@hypothesis.given(x=data())
def test_encoding_takes_numbers_of_the_right_width(stack, x):
    fits = x.ndim == 2 and x.shape[1] == WIDTH and x.dtype.kind in "fiub"
    fits = fits and bool(np.isfinite(x).all())
    assert try_it(lambda: stack.encode(x), stack, x) == fits
    assert try_it(lambda: stack.reconstruct(x, layer=0), stack, x) == fits


# Batches of somebody else's making


class Batches(keras.utils.PyDataset):
    """Says that it has `count` batches, and has those given."""

    def __init__(self, batches, count, error=IndexError):
        super().__init__()
        self.batches = batches
        self.count = count
        self.error = error

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, i):
        if i >= len(self.batches):
            raise self.error
        return self.batches[i]


@few
@hypothesis.given(
    batches=st.lists(data(), max_size=3),
    missing=st.sampled_from([0, 0, 1, 3, None]),
    labelled=st.booleans(),
)
def test_a_dataset_of_batches_is_what_its_batches_are(stack, batches, missing, labelled):
    yielded = [(x, np.zeros(len(x))) for x in batches if x.ndim] if labelled else batches
    count = None if missing is None else len(yielded) + missing
    fits = (
        missing == 0
        and len(batches) > 0
        and all(x.ndim == 2 and x.shape[1] == WIDTH and x.dtype.kind in "fiub" for x in batches)
        and sum(map(len, batches)) > 0
    )
    if fits:
        x = np.concatenate(batches)
        fits = holds_numbers(x) and in_unit_interval(x)
    pretrain = sda.GreedyPretrainer(stack, epochs=0).fit
    dataset = Batches(yielded, count)
    assert try_it(lambda: pretrain(dataset, verbose=0), stack) == fits


@pytest.mark.parametrize("error", [IndexError, StopIteration])
def test_a_generator_that_ends_early_is_refused(stack, classifier, error):
    with pytest.raises(ValueError, match=r"Expected `x` to yield 3 batches.*Received: 2"):
        sda.fit(classifier, Batches([(X, Y), (X, Y)], 3, error), verbose=0)
    ended = Batches([X], 2, error)
    assert not try_it(lambda: sda.GreedyPretrainer(stack).fit(ended, verbose=0), stack)


# What is accepted trains


TRAINABLE = {
    "one row": X[:1],
    "one feature": X[:, :1],
    "fewer rows than a batch": X[:3],
    "constant columns": np.full((6, WIDTH), 0.5),
    "nothing but zeros": np.zeros((6, WIDTH), "float16"),
    "bytes": (X > 0.5).astype("uint8"),
    "Fortran's order, read only": np.asfortranarray(X),
    "booleans": X > 0.5,
}
TRAINABLE["Fortran's order, read only"].flags.writeable = False


@pytest.mark.parametrize("x", TRAINABLE.values(), ids=TRAINABLE)
def test_what_is_accepted_trains(x):
    stack = new_stack([2], corruption=sda.SwapNoise(0.5))
    before = x.copy()
    sda.GreedyPretrainer(stack, batch_size=4, epochs=1, seed=1).fit(x, verbose=0)
    assert all(np.isfinite(v).all() for v in state(stack))
    assert any(np.any(bias != 0) for bias in stack.get_weights() if bias.ndim == 1)
    np.testing.assert_array_equal(x, before)


# The corpus: what once went wrong


@pytest.mark.parametrize(
    "noise",
    [
        lambda: sda.GaussianNoise(0.3),
        lambda: sda.SaltAndPepperNoise(0.5, minimum=0.25, maximum=0.75),
        lambda: sda.ComposedNoise([sda.MaskingNoise(0.2), sda.GaussianNoise(0.3)]),
    ],
)
@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_integers_are_corrupted_as_the_same_floats_are(noise, dtype):
    # The noise was cut off to integers.
    x = X > 0.5
    layers = [noise().copy(1) for _ in range(2)]
    ints, floats = (
        keras.ops.convert_to_numpy(a(keras.ops.convert_to_tensor(x.astype(d)), training=True))
        for a, d in zip(layers, (dtype, "float32"), strict=True)
    )
    np.testing.assert_array_equal(ints, floats)
    assert np.any(ints != np.round(ints))


def test_pretraining_on_integers_is_that_on_floats():
    stacks = [new_stack([2], corruption=sda.GaussianNoise(0.3)) for _ in range(2)]
    for stack, dtype in zip(stacks, ("int64", "float32"), strict=True):
        x = (X > 0.5).astype(dtype)
        sda.GreedyPretrainer(stack, epochs=1, batch_size=3, seed=1).fit(
            x, validation_data=x, verbose=0
        )
    for a, b in zip(*(stack.get_weights() for stack in stacks), strict=True):
        np.testing.assert_array_equal(a, b)


ACCEPTED = {
    "NumPy's integer for a layer": lambda s, m: s.encode(X, layer=np.int64(0)),
    "NumPy's integer for units": lambda s, m: sda.DenoisingAutoencoder(np.int64(3)),
    "NumPy's boolean": lambda s, m: sda.DenoisingAutoencoder(3, tied=np.True_),
    "a batch size beyond any array": lambda s, m: sda.fit(m, X, Y, 10**30, **NO_EPOCHS),
    "labels in a column": lambda s, m: sda.fit(m, X, Y[:, None], **NO_EPOCHS),
}


@pytest.mark.parametrize("use", ACCEPTED.values(), ids=ACCEPTED)
def test_this_is_accepted(stack, classifier, use):
    assert try_it(lambda: use(stack, classifier), stack, classifier)


def unbuilt(**settings):
    return lambda s, m: sda.DenoisingAutoencoder(**{"units": 3, **settings})


def fit(**settings):
    return lambda s, m: sda.fit(m, **{"x": X, "y": Y, **NO_EPOCHS, **settings})


def multilabel(y):
    def use(s, m):
        model = s.multilabel_classifier(2, copy=True)
        model.compile("sgd", "binary_crossentropy")
        sda.fit(model, X, y, **NO_EPOCHS)

    return use


def regression(y):
    def use(s, m):
        model = s.regressor(2, copy=True)
        model.compile("sgd", "mse")
        sda.fit(model, X, y, **NO_EPOCHS)

    return use


REFUSED = {
    "an integer beyond all floats": lambda s, m: sda.GaussianNoise(10**400),
    "a complex rate": lambda s, m: sda.MaskingNoise(np.complex64(0.5)),
    "a number for noises": lambda s, m: sda.ComposedNoise(3),
    "no noises": lambda s, m: sda.ComposedNoise([]),
    "None for code layers": unbuilt(code_layers=None),
    "an empty config of a corruption": unbuilt(corruption={}),
    "a config of nothing": unbuilt(corruption={"class_name": "x", "config": {}}),
    "an unknown activation": unbuilt(activation="no such"),
    "an unknown decoder": unbuilt(decoder_activation="no such"),
    "an unknown initializer": unbuilt(kernel_initializer="no such"),
    "False for a decoder": lambda s, m: stack_of(decoder_activation=False),
    "an empty name for a decoder": lambda s, m: stack_of(decoder_activation=["", "linear"]),
    "codes above the budget": lambda s, m: pretrainer(
        stack=s, codes_storage="ram", codes_budget=10, epochs=1
    ).fit(X, verbose=0),
    "a config for an optimizer": lambda s, m: pretrainer(optimizer={}),
    "an array for a place": lambda s, m: pretrainer(codes_storage=np.array(["ram", "disk"])),
    "a word for a flag": lambda s, m: s.classifier(2, copy="no"),
    "a number for callbacks": fit(callbacks=5),
    "an array for callbacks": fit(callbacks=np.array([1, 2])),
    "a word for shuffle": fit(shuffle="batch"),
    "no inputs": fit(x=None),
    "an empty structure": fit(x={}),
    "a structure of nothing": fit(x=[None]),
    "no targets": fit(y=None),
    "no sample weights": fit(sample_weight=[]),
    "sample weights in a table": fit(sample_weight=np.ones((6, 2))),
    "rows of different lengths": fit(x=[[0.0] * 4, [0.0] * 3]),
    "a double beyond all floats": fit(x=np.full((6, WIDTH), 1e300)),
    "text of the right shape": lambda s, m: s.encode(np.full((6, WIDTH), "a")),
    "two labels for multilabel": multilabel(Y.reshape(3, 2)),
    "labels above one for multilabel": multilabel(np.full((6, 2), 2)),
    "one target for two outputs": regression(X[:, 0]),
    "targets of another width": regression(X),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_this_is_refused(stack, classifier, use):
    assert not try_it(lambda: use(stack, classifier), stack, classifier)
