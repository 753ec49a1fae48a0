"""Batches that come one by one: `sda.fit` asks for them as `Model.fit` does."""

import itertools

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


def test_without_a_batch_size_all_rows_make_the_steps():
    held = (X, LABELS)
    check_fit(make, X, LABELS, epochs=2, steps_per_epoch=3, validation_data=held)


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_steps": 2, "batch_size": 6},
        {"validation_steps": 2, "validation_batch_size": 4},
        {"validation_steps": 5},
    ],
)
def test_an_evaluation_of_some_steps_is_that_of_keras(settings):
    held = (X, LABELS, WEIGHT)
    check_fit(make, X, LABELS, epochs=2, validation_data=held, **settings)


def test_weights_of_examples_come_with_their_batches():
    check_fit(make, lambda: Dataset(X, LABELS, WEIGHT), epochs=2)


def test_an_endless_generator_has_epochs_of_some_steps():
    check_fit(make, lambda: endless(X, LABELS, WEIGHT), epochs=3, steps_per_epoch=3)


def test_an_endless_dataset_has_epochs_of_some_steps():
    check_fit(make, lambda: Alike(X, LABELS, endless=True), epochs=3, steps_per_epoch=3)


@pytest.mark.skipif(IS_TENSORFLOW, reason="Keras counts steps that it does not take")
def test_a_generator_is_an_epoch():
    check_fit(make, lambda: generator(X, LABELS))


@pytest.mark.parametrize("source", [Dataset, loader])
def test_sources_are_evaluated_as_by_keras(source):
    check_fit(
        make, lambda: source(X, LABELS), epochs=3, validation_freq=[1, 3],
        validation_data=lambda: source(X[::-1].copy(), LABELS, WEIGHT),
    )  # fmt: skip


@pytest.mark.parametrize("steps", [1, 3])
def test_an_endless_generator_is_evaluated_as_by_keras(steps):
    check_fit(
        make, X, LABELS, epochs=3, validation_data=lambda: endless(X, LABELS),
        validation_steps=steps,
    )  # fmt: skip


def test_classes_have_weights_in_every_source():
    weights_of = {0: 0.5, 2: 3.0}
    check_fit(make, lambda: Dataset(X, LABELS), epochs=2, class_weight=weights_of)
    arrays, streamed = make(), make()
    sda.fit(arrays, X, LABELS, 6, shuffle=False, verbose=0, class_weight=weights_of)
    batches = parts(X, LABELS, ends=[0, 6, 12, 18, 22])
    # Keras takes no such weights beside a generator or a loader.
    sda.fit(streamed, iter(batches), verbose=0, class_weight=weights_of)
    check_close(weights(streamed), weights(arrays), 1e-6)
