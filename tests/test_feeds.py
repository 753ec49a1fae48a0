"""Batches that come one by one: `sda.fit` asks for them as `Model.fit` does."""

import itertools
import random

import keras
import numpy as np
import pytest
from keras import layers
from parity import check_close, check_fit, weights

import sda

ROWS, FEATURES, CLASSES = 22, 4, 3
X = np.random.default_rng(0).random((ROWS, FEATURES), "float32")
LABELS = np.arange(ROWS) % CLASSES
WEIGHT = np.linspace(0, 2, ROWS, dtype="float32")
# Where batches end: one is smaller.
ENDS = [0, 6, 12, 16, 22]
IS_TORCH = keras.backend.backend() == "torch"
IS_TENSORFLOW = keras.backend.backend() == "tensorflow"


def make():
    start = [keras.initializers.GlorotUniform(seed) for seed in (1, 2)]
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(5, "tanh", kernel_initializer=start[0]),
            layers.Dense(CLASSES, "softmax", kernel_initializer=start[1]),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.5, momentum=0.5),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def parts(*arrays, ends=ENDS):
    """Return the batches of arrays, as tuples."""
    return [tuple(a[i:j] for a in arrays) for i, j in itertools.pairwise(ends)]


class Dataset(keras.utils.PyDataset):
    """Batches that differ from epoch to epoch, as shuffled and augmented ones do."""

    def __init__(self, *arrays, endless=False, **settings):
        super().__init__(**settings)
        self.batches, self.epoch, self.endless = parts(*arrays), 0, endless

    @property
    def num_batches(self):
        return None if self.endless else len(self.batches)

    def __getitem__(self, i):
        x, *rest = self.batches[(i + self.epoch) % len(self.batches)]
        return (x * (1 + self.epoch % 3), *rest)

    def on_epoch_end(self):
        self.epoch += 1


class Alike(Dataset):
    """Batches that are the same in each epoch."""

    def on_epoch_end(self):
        pass


def generator(*arrays):
    yield from parts(*arrays)


def endless(*arrays):
    for epoch in itertools.count():
        for x, *rest in parts(*arrays):
            yield x / (1 + epoch), *rest


def tf_dataset(*arrays):
    """Batches of rows that are shuffled by a seed of its own, anew in each epoch."""
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays).shuffle(ROWS, seed=1).batch(6)


def tf_of_unknown_length(*arrays):
    tf = pytest.importorskip("tensorflow")
    like = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
    return tf.data.Dataset.from_generator(lambda: generator(*arrays), output_signature=tuple(like))


def loader(*arrays):
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(*(torch.from_numpy(a) for a in arrays))
    order = torch.Generator().manual_seed(1)
    return torch.utils.data.DataLoader(tensors, 6, shuffle=True, generator=order)


# Where nothing depends on the backend, the one that compiles nothing is enough.
on_one_backend = pytest.mark.skipif(not IS_TORCH, reason="does not depend on the backend")
# Keras's warnings that a source has ended are not those of `sda.fit`.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out")


@pytest.mark.parametrize("source", [Dataset, tf_dataset, loader])
def test_every_epoch_asks_anew(source):
    check_fit(make, lambda: source(X, LABELS), epochs=3)


# On TensorFlow Keras counts a step more where it finds no batch.
@pytest.mark.skipif(IS_TENSORFLOW, reason="Keras counts steps that it does not take")
def test_a_source_may_not_say_how_long_it_is():
    check_fit(make, lambda: tf_of_unknown_length(X, LABELS), epochs=2)


@pytest.mark.filterwarnings("ignore:`x` ran out")
@pytest.mark.parametrize("steps", [2, 3, 7] if IS_TORCH else [3])
@pytest.mark.parametrize("source", [Alike, tf_dataset, loader] if IS_TORCH else [loader])
def test_an_epoch_of_some_steps_goes_on_where_the_one_before_has_ended(source, steps):
    check_fit(make, lambda: source(X, LABELS), epochs=4, steps_per_epoch=steps)


@pytest.mark.parametrize("steps", [2, 3, 7] if IS_TORCH else [3])
@pytest.mark.filterwarnings("ignore:`x` ran out")
def test_an_epoch_of_some_steps_of_rows_is_that_of_keras(steps):
    settings = {"epochs": 4, "steps_per_epoch": steps}
    check_fit(make, X, LABELS, batch_size=6, sample_weight=WEIGHT, **settings)


@on_one_backend
def test_without_a_batch_size_all_rows_make_the_steps():
    held = (X, LABELS)
    check_fit(make, X, LABELS, epochs=2, steps_per_epoch=3, validation_data=held)


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_steps": 2, "validation_batch_size": 4},
        {"validation_steps": 2, "batch_size": 6},
        {"validation_steps": 5},
    ][: None if IS_TORCH else 1],
)
def test_an_evaluation_of_some_steps_is_that_of_keras(settings):
    held = (X, LABELS, WEIGHT)
    check_fit(make, X, LABELS, epochs=2, validation_data=held, **settings)


@on_one_backend
def test_weights_of_examples_come_with_their_batches():
    check_fit(make, lambda: Dataset(X, LABELS, WEIGHT), epochs=2)


def test_an_endless_generator_has_epochs_of_some_steps():
    check_fit(make, lambda: endless(X, LABELS, WEIGHT), epochs=3, steps_per_epoch=3)


@on_one_backend
def test_an_endless_dataset_has_epochs_of_some_steps():
    check_fit(make, lambda: Alike(X, LABELS, endless=True), epochs=3, steps_per_epoch=3)


@on_one_backend
def test_a_generator_is_an_epoch():
    check_fit(make, lambda: generator(X, LABELS))


@pytest.mark.parametrize("source", [Dataset, loader] if IS_TORCH else [Dataset])
def test_sources_are_evaluated_as_by_keras(source):
    check_fit(
        make, lambda: source(X, LABELS), epochs=3, validation_freq=[1, 3],
        validation_data=lambda: source(X[::-1].copy(), LABELS, WEIGHT),
    )  # fmt: skip


# On TensorFlow Keras has read some batches ahead when an evaluation begins again.
@pytest.mark.skipif(IS_TENSORFLOW, reason="Keras reads ahead")
@pytest.mark.parametrize("steps", [1, 3] if IS_TORCH else [3])
def test_an_endless_generator_is_evaluated_as_by_keras(steps):
    check_fit(
        make, X, LABELS, epochs=3, validation_data=lambda: endless(X, LABELS),
        validation_steps=steps,
    )  # fmt: skip


@on_one_backend
def test_classes_have_weights_in_every_source():
    weights_of = {0: 0.5, 2: 3.0}
    check_fit(make, lambda: Dataset(X, LABELS), epochs=2, class_weight=weights_of)
    arrays, streamed = make(), make()
    sda.fit(arrays, X, LABELS, 6, shuffle=False, verbose=0, class_weight=weights_of)
    batches = parts(X, LABELS, ends=[0, 6, 12, 18, 22])
    # Keras takes no such weights beside a generator or a loader.
    sda.fit(streamed, iter(batches), verbose=0, class_weight=weights_of)
    check_close(weights(streamed), weights(arrays), 1e-6)


@on_one_backend
@pytest.mark.parametrize("count", [4, 5])
def test_training_ends_with_a_generator(count):
    """Whether it ends within an epoch of two batches or at the end of one."""
    batches = parts(X, LABELS, ends=range(0, 4 * count + 1, 4))
    ours, theirs = make(), make()
    with pytest.warns(UserWarning, match=r"`x` ran out of data"):
        history = sda.fit(ours, iter(batches), epochs=9, steps_per_epoch=2, verbose=0)
    assert history.epoch == list(range((count + 1) // 2))
    # Keras would go on with the first two batches.
    for batch in batches:
        theirs.train_on_batch(*batch)
    check_close(weights(ours), weights(theirs), 1e-5)


@on_one_backend
def test_what_is_read_once_is_trained_on_like_rows():
    arrays, kept, some = make(), make(), make()
    settings = {"batch_size": 5, "epochs": 3, "seed": 1, "verbose": 0, "read_once": True}
    histories = [
        sda.fit(arrays, X, LABELS, validation_split=0.3, class_weight={1: 2.0}, **settings),
        sda.fit(
            kept, generator(X, LABELS), validation_split=0.3, class_weight={1: 2.0}, **settings
        ),
    ]
    assert histories[0].history == histories[1].history
    # Of what has no end, so many batches are an epoch.
    sda.fit(some, itertools.cycle(parts(X, LABELS)), steps_per_epoch=4, **settings)
    sda.fit(arrays := make(), X, LABELS, **settings)
    check_close(weights(some), weights(arrays), 0)


class Hears(Alike):
    """Notes what it is asked."""

    def __init__(self, *arrays, heard):
        super().__init__(*arrays)
        self.heard = heard

    def __getitem__(self, i):
        self.heard.append(i)
        return super().__getitem__(i)

    def on_epoch_begin(self):
        self.heard.append("begin")

    def on_epoch_end(self):
        self.heard.append("end")


class Says(keras.callbacks.Callback):
    def __init__(self, heard):
        super().__init__()
        self.heard = heard

    def on_epoch_end(self, epoch, logs=None):
        self.heard.append("trained")


@pytest.mark.skipif(not IS_TORCH, reason="TensorFlow reads ahead; JAX does what PyTorch does")
def test_a_dataset_hears_of_epochs_as_under_keras():
    heard = [], []
    for fit, notes in zip(
        (make().fit, lambda *a, **k: sda.fit(make(), *a, **k)), heard, strict=True
    ):
        fit(
            Hears(X, LABELS, heard=notes), shuffle=False, epochs=2, verbose=0,
            callbacks=[Says(notes)], validation_data=Hears(X, LABELS, heard=notes),
        )  # fmt: skip
    assert heard[0] == heard[1]


@on_one_backend
def test_the_order_of_the_batches_of_a_dataset_is_a_function_of_seed_and_epoch():
    orders = []
    for seed in (2, 2, 3):
        heard = []
        dataset = Hears(X, LABELS, heard=heard)
        sda.fit(make(), dataset, epochs=2, seed=seed, verbose=0)
        orders.append([i for i in heard[2:] if isinstance(i, int)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:4]) == sorted(orders[0][4:]) == [0, 1, 2, 3]
    assert orders[0][:4] != orders[0][4:]


@on_one_backend
def test_workers_of_a_dataset_make_the_batches():
    # Keras's first epoch has batches again that its workers made to build the model by.
    found, expected = make(), make()
    dataset = Alike(X, LABELS, workers=2)
    sda.fit(found, dataset, epochs=3, steps_per_epoch=2, shuffle=False, verbose=0)
    for batch in (parts(X, LABELS) * 2)[:6]:
        expected.train_on_batch(*batch)
    check_close(weights(found), weights(expected), 1e-5)


@on_one_backend
def test_a_buffer_may_be_used_again():
    def reused():
        x, y = np.empty((2, FEATURES), "float32"), np.empty(2, "int64")
        for i in range(0, ROWS, 2):
            x[:], y[:] = X[i : i + 2], LABELS[i : i + 2]
            yield x, y

    check_fit(make, reused)


def rows_of(kind, *arrays):
    return (tuple(map(kind, batch)) for batch in parts(*arrays))


@on_one_backend
def test_batches_may_be_held_by_anything():
    pandas = pytest.importorskip("pandas")
    tensor = keras.ops.convert_to_tensor

    def frame(array):
        kind = pandas.DataFrame if array.ndim > 1 else pandas.Series
        return kind(array, index=np.random.default_rng(1).permutation(len(array)))

    for kind in (np.ndarray.tolist, frame, tensor, lambda a: a.astype(a.dtype.newbyteorder(">"))):
        found, expected = make(), make()
        sda.fit(found, rows_of(kind, X, LABELS), verbose=0)
        sda.fit(expected, generator(X, LABELS), verbose=0)
        check_close(weights(found), weights(expected), 0)


REFUSED = {
    "second epoch": ({"x": lambda: generator(X, LABELS), "epochs": 2}, "steps_per_epoch"),
    "no end": ({"x": lambda: Alike(X, LABELS, endless=True)}, "steps_per_epoch"),
    "no end of validation": (
        {"validation_data": lambda: Alike(X, LABELS, endless=True)},
        "validation_steps",
    ),
    "split": ({"validation_split": 0.5}, "validation_split"),
    "blocks": ({"shuffle": "blocks"}, "shuffle"),
    "targets": ({"y": LABELS}, "y"),
    "no steps": ({"steps_per_epoch": 0}, "steps_per_epoch"),
    "part of a step": ({"validation_steps": 1.5}, "validation_steps"),
    "neither": ({"read_once": 1}, "read_once"),
    "two weights": (
        {"x": lambda: Alike(X, LABELS, WEIGHT), "class_weight": {0: 1.0}},
        "class_weight",
    ),
    "no batches": ({"x": lambda: iter([])}, "x"),
    "four parts": ({"x": lambda: iter([(X, LABELS, WEIGHT, X)])}, "x"),
    "another width": ({"x": lambda: iter([(X[:, :2], LABELS)])}, "x"),
    "no such class": ({"x": lambda: iter([(X, LABELS + 1)])}, "y"),
    "not finite": ({"x": lambda: iter([(X / 0, LABELS)])}, "x"),
    "text": ({"x": lambda: iter([(X, LABELS.astype(str))])}, "y"),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("case", REFUSED if IS_TORCH else ["second epoch", "another width"])
def test_what_makes_no_sense_is_refused_before_training(case):
    settings, name = REFUSED[case]
    settings = {"x": lambda: Alike(X, LABELS), **settings}
    settings = {k: v() if callable(v) else v for k, v in settings.items()}
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"Expected.*`{name}`"):
        sda.fit(model, verbose=0, **settings)
    for some, others in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(some, others)


@on_one_backend
def test_later_batches_are_checked_too():
    bad = X[:4].copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="Expected `x` to hold finite values"):
        sda.fit(make(), iter([(X, LABELS), (bad, LABELS[:4])]), verbose=0)
    with pytest.raises(ZeroDivisionError):
        sda.fit(make(), ((X + 1 / i, LABELS) for i in (3, 2, 1, 0)), verbose=0)


# The epoch in which training is cut off: no setting of the callback, nor part of its state.
CUT = []


class Cut(keras.callbacks.Callback):
    """Cuts training off after some batches of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch in CUT and batch > 0:
            CUT.clear()
            raise KeyboardInterrupt


def draws(*arrays):
    """Batches with noise from the global generator, as augmentation has it."""
    for x, *rest in itertools.cycle(parts(*arrays)):
        yield x + random.random(), *rest


RESUMED = {
    "dataset": (lambda: Dataset(X, LABELS), {}),
    "loader": (lambda: loader(X, LABELS), {"steps_per_epoch": 3}),
    "generator": (lambda: endless(X, LABELS), {"steps_per_epoch": 3}),
    "draws": (lambda: draws(X, LABELS), {"steps_per_epoch": 3}),
}


@pytest.mark.filterwarnings("ignore:`x` ran out")
@pytest.mark.parametrize("case", RESUMED if IS_TORCH else ["draws"])
def test_a_run_goes_on_from_the_end_of_an_epoch(tmp_path, case):
    source, settings = RESUMED[case]
    settings = {
        "epochs": 4, "verbose": 0, "seed": 1, "steps_per_execution": 1,
        "checkpoint_every": 0, **settings,
    }  # fmt: skip

    def train(model, folder):
        random.seed(1)
        return sda.fit(
            model, source(), callbacks=[Cut()], checkpoint_dir=folder,
            validation_data=Dataset(X, LABELS), **settings,
        )  # fmt: skip

    whole, resumed = make(), make()
    expected = train(whole, tmp_path / "whole")
    CUT.append(2)
    with pytest.raises(KeyboardInterrupt):
        train(make(), tmp_path / "run")
    history = train(resumed, tmp_path / "run")
    check_close(weights(resumed), weights(whole), 0)
    assert history.history == expected.history
    with pytest.raises(ValueError, match="`checkpoint_dir`"):
        sda.fit(make(), X, LABELS, callbacks=[Cut()], checkpoint_dir=tmp_path / "run", **settings)


@on_one_backend
def test_patience_counts_the_steps_of_a_source_that_does_not_say_how_many_it_has():
    stopped = []
    for source in (tf_of_unknown_length, Alike):
        patience = sda.callbacks.GeometricPatience("loss", 2, 1.0, improvement_threshold=1e-9)
        sda.fit(make(), source(X, LABELS), shuffle=False, epochs=9, verbose=0, callbacks=[patience])
        stopped.append(patience.stopped_epoch)
    assert stopped[0] == stopped[1] is not None


# Pretraining


def stack():
    made = sda.StackedDenoisingAutoencoder([5, 3], corruption=0.3, seed=1)
    made.build((None, FEATURES))
    return made


def pretrained(x, epochs=2, batch_size=6, **settings):
    trained = stack()
    pretrainer = sda.GreedyPretrainer(
        trained, keras.optimizers.SGD(0.1), epochs=epochs, batch_size=batch_size, seed=1
    )
    histories = pretrainer.fit(x, verbose=0, **settings)
    return weights(trained), [history.history for history in histories]


def assert_pretrained_alike(some, others):
    check_close(some[0], others[0], 0)
    assert some[1] == others[1]


@pytest.mark.parametrize("source", [generator, loader, Dataset] if IS_TORCH else [generator])
def test_sources_are_read_once_to_pretrain(source):
    def plain(*arrays):
        return iter(source(*arrays)) if source is not Dataset else source(*arrays)

    # A loader shuffles: its first pass is what every layer and epoch trains on.
    rows = X if source is not loader else np.concatenate([b[0].numpy() for b in loader(X, LABELS)])
    expected = pretrained(rows, validation_data=rows)
    found = pretrained(plain(X, LABELS), validation_data=plain(X, LABELS, WEIGHT))
    assert_pretrained_alike(found, expected)


@on_one_backend
def test_an_endless_source_gives_an_epoch_to_pretrain_on():
    found = pretrained(
        itertools.cycle(parts(X)), steps_per_epoch=4,
        validation_data=itertools.cycle(parts(X)), validation_steps=2,
    )  # fmt: skip
    assert_pretrained_alike(found, pretrained(X, validation_data=X[:12]))
    with pytest.warns(UserWarning, match="`x` ran out of data"):
        found = pretrained(generator(X), steps_per_epoch=9)
    assert_pretrained_alike(found, pretrained(X))


@on_one_backend
def test_a_share_of_the_rows_is_held_out_of_pretraining():
    found = pretrained(X, validation_split=0.25, validation_freq=2)
    expected = pretrained(X[:16], validation_data=X[16:], validation_freq=[2])
    assert_pretrained_alike(found, expected)
    assert [len(h["val_loss"]) for h in found[1]] == [1, 1]
    some = pretrained(X, validation_data=X, validation_steps=2, validation_batch_size=4)
    assert_pretrained_alike(some, pretrained(X, validation_data=X[:8], validation_batch_size=4))


@pytest.mark.filterwarnings("ignore:`x` ran out")
def test_an_epoch_of_pretraining_may_have_some_steps():
    ours, theirs = stack(), stack()
    settings = {"epochs": 3, "batch_size": 6}
    pretrainers = [
        sda.GreedyPretrainer(s, keras.optimizers.SGD(0.1), seed=1, **settings)
        for s in (ours, theirs)
    ]
    history = pretrainers[0].fit(X, shuffle=False, steps_per_epoch=3, verbose=0)[0]
    model = pretrainers[1].layer_model(0)
    expected = model.fit(X, shuffle=False, steps_per_epoch=3, verbose=0, **settings)
    check_close(weights(ours.autoencoders[0]), weights(theirs.autoencoders[0]), 1e-5)
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], 1e-5)


@on_one_backend
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"validation_steps": True}, "validation_steps"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"validation_freq": 0}, "validation_freq"),
        ({"validation_batch_size": -1}, "validation_batch_size"),
        ({"batch_size": [6, 4], "validation_steps": 2}, "validation_batch_size"),
        ({"x": Alike(X, endless=True)}, "x"),
    ],
)
def test_pretraining_refuses_what_makes_no_sense(settings, name):
    with pytest.raises(ValueError, match=f"Expected.*`{name}`"):
        pretrained(**{"x": X, "validation_data": X, **settings})
