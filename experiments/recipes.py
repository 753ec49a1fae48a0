"""Pretraining and fine-tuning by recipe, with the pretrained stacks kept between runs."""

import dataclasses
import hashlib
import json
import pathlib
import time

import keras
import numpy as np

import sda
from experiments.record import matmul_precision, timed, write_json
from sda.streams import STREAMS

# Where pretrained stacks are kept: large, and made again where they are missing.
CACHE = pathlib.Path("runs/stacks")


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """How to pretrain a stack, one value for all layers or one each.

    `optimizer` is the name of one of Keras's, at the learning rate `rate`.
    """

    units: tuple = (1000, 1000, 1000)
    corruption: tuple | float = (0.1, 0.2, 0.3)
    activation: str = "sigmoid"
    decoder_activation: tuple | str | None = None
    optimizer: str = "SGD"
    epochs: tuple | int = 15
    batch_size: int = 20
    rate: float = 0.02
    shuffle: bool = True

    def seeded(self, seed):
        """Return the `sda.Recipe` of these settings."""
        return sda.Recipe(
            units=self.units,
            corruption=self.corruption,
            activation=self.activation,
            decoder_activation=self.decoder_activation,
            optimizer=self.optimizer,
            learning_rate=self.rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
        )


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """How to train a classifier by SGD; with `patience`, best weights on validation are kept.

    `linear_decay` lets the rate fall to 0 over the epochs; `dropout` and `noise` are those of
    `StackedDenoisingAutoencoder.classifier`. `smoothing` is that of the labels (Szegedy et al.,
    CVPR 2016).
    """

    epochs: int = 12
    batch_size: int = 20
    rate: float = 1.0
    momentum: float = 0.0
    linear_decay: bool = False
    dropout: tuple | float = 0.0
    noise: float = 0.0
    smoothing: float = 0.0
    patience: float | None = None


def digits(quick):
    """Return MNIST as train, validation and test pairs of (x, y); a handful of digits if `quick`.

    The tutorials' split: the first 50,000 training digits and the other 10,000.
    """
    (x, y), test = sda.datasets.load("mnist_5k" if quick else "mnist")
    if quick:
        (x, y), test = (x[:600], y[:600]), (test[0][:100], test[1][:100])
    cut = len(x) - len(x) // 6
    return (x[:cut], y[:cut]), (x[cut:], y[cut:]), test


def untrained(recipe, features, seed):
    """Return the stack of a `Pretraining`, built for rows of `features`, at random weights."""
    stack = recipe.seeded(seed).stack()
    stack.build((None, features))
    return stack


def pretrained(recipe, x, seed, validation_data=None, verbose=2):
    """Return a pretrained stack, and what became known: seconds, CPU seconds, losses by layer.

    A stack that was pretrained before, by the same recipe on the same rows, is loaded.

    Args:
        recipe: A `Pretraining`.
        x: Array of shape (n, features), the unlabelled rows.
        seed: Integer.
        validation_data: Array like `x`, or None.
        verbose: As in `GreedyPretrainer.fit`.
    """
    settings = {
        **dataclasses.asdict(recipe),
        # Stacks of other random streams are others.
        "streams": STREAMS,
        "seed": seed,
        "backend": keras.backend.backend(),
        **matmul_precision(),
        "rows": [
            _fingerprint(x),
            None if validation_data is None else _fingerprint(validation_data),
        ],
    }
    path = CACHE / f"{cache_key(settings)}.keras"
    record = path.with_suffix(".json")
    if record.exists():
        return keras.models.load_model(path), json.loads(record.read_text())["outcome"]
    stack = untrained(recipe, x.shape[1], seed)
    outcome = {}
    with timed(outcome, "seconds"), timed(outcome, "cpu_seconds", time.process_time):
        pretrainer = recipe.seeded(seed).pretrainer(stack)
        histories = pretrainer.fit(
            x, validation_data=validation_data, shuffle=recipe.shuffle, verbose=verbose
        )
    outcome["losses"] = [history.history for history in histories]
    path.parent.mkdir(parents=True, exist_ok=True)
    stack.save(path)
    write_json(record, {"settings": settings, "outcome": outcome})
    return stack, outcome


def cache_key(settings):
    """Return the name under which what was made by `settings`, a dictionary, is kept."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def finetune(model, recipe, train, validation=None, seed=None, verbose=2, checkpoint_dir=None):
    """Compile and train a classifier by a `Finetuning` recipe; return its History.

    Args:
        model: A softmax classifier.
        recipe: A `Finetuning`.
        train: (x, y), or (x, y, sample_weight).
        validation: (x, y), or None: then `recipe.patience` must be None too.
        seed: Integer, for the order.
        verbose: As in `sda.fit`.
        checkpoint_dir: As in `sda.fit`, for long runs that may be cut off.
    """
    x, y, *weight = train
    rate = recipe.rate
    if recipe.linear_decay:
        steps = recipe.epochs * -(-len(x) // recipe.batch_size)
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
    loss = "sparse_categorical_crossentropy"
    if recipe.smoothing:
        # Keras smooths one-hot labels alone.
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.smoothing)
        one_hot = np.eye(model.output_shape[-1], dtype="float32")
        y = one_hot[y]
        validation = validation and (validation[0], one_hot[validation[1]])
    model.compile(
        keras.optimizers.SGD(rate, momentum=recipe.momentum), loss=loss, metrics=["accuracy"]
    )
    callbacks = []
    if recipe.patience is not None:
        callbacks = [sda.callbacks.GeometricPatience("val_accuracy", recipe.patience)]
    return sda.fit(
        model,
        x,
        y,
        sample_weight=weight[0] if weight else None,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        validation_data=validation,
        callbacks=callbacks,
        seed=seed,
        verbose=verbose,
        checkpoint_dir=checkpoint_dir,
    )


def error(model, x, y):
    """Return the share of `x` that a softmax classifier gets wrong, in percent."""
    wrong = model.predict(x, batch_size=1000, verbose=0).argmax(axis=1) != y
    return round(100 * float(np.mean(wrong)), 3)


def _fingerprint(x):
    return hashlib.sha256(np.ascontiguousarray(x)).hexdigest()[:16]
