"""One run of a sweep: from settings to a pretrained stack and a number to minimise."""

import dataclasses
import hashlib
import re

import keras
import numpy as np

from sda.callbacks import GeometricPatience
from sda.checkpoints import state
from sda.checks import check_count, check_number, look_up, per_layer
from sda.layers import preprocessing
from sda.layers.noises import NOISES
from sda.models.stack import StackedDenoisingAutoencoder
from sda.pretraining.pretrainer import GreedyPretrainer
from sda.rows.reading import on_arrays
from sda.streams import check_seed, spawn
from sda.training.fit import fit

# Settings that may differ from layer to layer.
PER_LAYER = (
    "units",
    "noise",
    "corruption",
    "activation",
    "decoder_activation",
    "tied",
    "loss",
    "optimizer",
    "learning_rate",
    "epochs",
    "batch_size",
)
# Share of the entries that is masked where "denoising" is the objective.
JUDGED_AT = 0.25


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run. Those of `PER_LAYER` are one value, or a list with one a layer.

    Args:
        units, corruption, activation, decoder_activation, tied: Of the stack.
        depth: Integer, the number of layers: then lists may be longer, and their first entries
            count. None for the length of `units`.
        noise: "masking", "salt_and_pepper", "gaussian" or "swap": what `corruption` is a level of.
        loss, optimizer, learning_rate, epochs, batch_size: Of the pretraining.
        dropout: Of the classifier.
        finetune_optimizer, finetune_learning_rate, finetune_epochs, finetune_batch_size: Of the
            fine-tuning.
        patience: Epochs without progress after which fine-tuning stops, as in
            `sda.callbacks.GeometricPatience`; 0 for no early stop. The best weights count in both
            cases.
        seed: Integer, for weights, noise and order.
    """

    units: object = (500, 500, 500)
    depth: int | None = None
    noise: object = "masking"
    corruption: object = 0.3
    activation: object = "sigmoid"
    decoder_activation: object = None
    tied: object = True
    loss: object = None
    optimizer: object = "sgd"
    learning_rate: object = 0.1
    epochs: object = 15
    batch_size: object = 20
    dropout: object = 0.0
    finetune_optimizer: str = "sgd"
    finetune_learning_rate: float = 0.1
    finetune_epochs: int = 30
    finetune_batch_size: int = 20
    patience: float = 10
    seed: int = 1


NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def layer_of(name):
    """Return the setting and the index of the layer that a name like "corruption_3" means.

    Raises:
        ValueError: If there is no such setting.
    """
    if name in NAMES:
        return name, None
    match = re.fullmatch(r"(.+)_([1-9]\d*)", name)
    if match and match[1] in PER_LAYER:
        return match[1], int(match[2]) - 1
    raise ValueError(
        f"Expected settings to be among {', '.join(NAMES)}, or one of {', '.join(PER_LAYER)} with "
        f"the number of a layer, as in corruption_3. Received: {name}"
    )


def resolved(settings):
    """Return a dictionary of settings as one `Settings` with a list for each of `PER_LAYER`.

    Raises:
        ValueError: If a setting is unknown or does not fit the number of layers, or a level of
            noise is out of its range.
    """
    named = {name: layer_of(name) for name in settings}
    whole = {name: value for name, value in settings.items() if named[name][1] is None}
    base = Settings(**whole)
    listed = isinstance(base.units, (list, tuple))
    depth = base.depth
    if depth is None:
        depth = len(base.units) if listed else 1
    check_count(depth, "depth")
    lists = {}
    for name in PER_LAYER:
        value = getattr(base, name)
        if base.depth is not None and isinstance(value, (list, tuple)):
            value = value[:depth]
        lists[name] = per_layer(value, depth, name)
    for name, (setting, layer) in named.items():
        if layer is None:
            continue
        if layer >= depth:
            raise ValueError(
                f"Expected `{name}` to be of one of the {depth} layers. "
                f"Received: {name}={settings[name]!r}"
            )
        lists[setting][layer] = settings[name]
    unknown = [noise for noise in lists["noise"] if noise not in NOISES]
    if unknown:
        raise ValueError(
            f"Expected `noise` to be one of {', '.join(NOISES)}. Received: noise={unknown[0]!r}"
        )
    _noises(lists["noise"], lists["corruption"])
    return dataclasses.replace(base, depth=depth, **lists)


def check(settings, objective):
    """Raise `ValueError` for a value of `Settings`, `resolved`, that a run would end at."""
    _pretrainer(settings)
    check_seed(settings.seed)
    if objective != "error":
        return
    for rate in per_layer(settings.dropout, settings.depth + 1, "dropout"):
        check_number(rate, "dropout", "in [0, 1)", lambda r: 0 <= r < 1)
    make_optimizer(settings.finetune_optimizer, settings.finetune_learning_rate)
    check_count(settings.finetune_epochs, "finetune_epochs")
    check_count(settings.finetune_batch_size, "finetune_batch_size")
    check_number(settings.patience, "patience", "0, or at least 1", lambda p: p == 0 or p >= 1)


def pretrained(settings, x, cache=None, verbose=0):
    """Return the stack that `Settings`, `resolved`, give on the rows `x`."""
    stack, pretrainer = _pretrainer(settings, cache, preprocessing.for_rows(x))
    pretrainer.fit(x, verbose=verbose)
    return stack


def _noises(kinds, levels):
    return [NOISES[kind](level) for kind, level in zip(kinds, levels, strict=True)]


def _pretrainer(settings, cache=None, before=None):
    """Return the stack of settings, and what pretrains it."""
    stack = StackedDenoisingAutoencoder(
        settings.units,
        corruption=_noises(settings.noise, settings.corruption),
        activation=settings.activation,
        decoder_activation=settings.decoder_activation,
        tied=settings.tied,
        seed=settings.seed,
        preprocessing=before,
    )
    optimizers = [
        make_optimizer(name, rate)
        for name, rate in zip(settings.optimizer, settings.learning_rate, strict=True)
    ]
    return stack, GreedyPretrainer(
        stack,
        optimizers,
        loss=settings.loss,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=settings.seed,
        cache=cache,
    )


def make_optimizer(name, rate):
    """Return the Keras optimizer of a name, with a learning rate."""
    rate = check_number(rate, "learning_rate", "finite and at least 0", lambda r: 0 <= r < np.inf)
    config = {"class_name": name, "config": {"learning_rate": rate}}
    return look_up(keras.optimizers.get, config, "optimizer", "the name of a Keras optimizer")


# Objectives: functions of (stack, settings, rows with labels to train on, those held out, report).
# They return the number to minimise, and the classifier if there is one.


def error(stack, settings, train, held_out, report):
    """The error of the fine-tuned classifier on the rows held out, in percent."""
    classes = int(max(train[1].max(), held_out[1].max())) + 1
    # With weights of its own: the stack stays as it was pretrained.
    classifier = stack.classifier(classes, settings.dropout, copy=True)
    classifier.compile(
        make_optimizer(settings.finetune_optimizer, settings.finetune_learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # It puts the best weights back: theirs is the error.
    best = GeometricPatience(patience=settings.patience or settings.finetune_epochs + 1)
    fit(
        classifier,
        *train,
        batch_size=settings.finetune_batch_size,
        epochs=settings.finetune_epochs,
        validation_data=held_out,
        callbacks=[best, _Report(report)],
        seed=settings.seed,
        verbose=0,
    )
    # An accuracy is a float32.
    return 100 * round(best.best * len(held_out[1])) / len(held_out[1]), classifier


def probe(stack, settings, train, held_out, report):
    """The error of a linear classifier on the top codes of the rows held out, in percent."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError(
            "Expected the package `scikit-learn`, which is the probe, to be installed. "
            "Run `pip install scikit-learn`."
        ) from error
    model = LogisticRegression(C=0.1, max_iter=1000).fit(stack.encode(train[0]), train[1])
    return 100 * float(np.mean(model.predict(stack.encode(held_out[0])) != held_out[1])), None


def denoising(stack, settings, train, held_out, report):
    """The squared error of the rows held out, summed over features, after a repair.

    A quarter of the entries is masked, the same ones in every run, and the whole stack rebuilds
    them: a measure that compares runs of any noise, width and depth.
    """
    x = on_arrays(stack.prepare)(held_out[0])
    kept = np.random.default_rng(spawn(0, 1)).random(x.shape) >= JUDGED_AT
    rebuilt = on_arrays(stack.rebuilt)(x * kept)
    return float(np.mean(np.sum((rebuilt - x) ** 2, axis=1, dtype="float64"))), None


OBJECTIVES = {"error": error, "probe": probe, "denoising": denoising}


class _Report(keras.callbacks.Callback):
    """Tells the sweep the error after each epoch."""

    def __init__(self, report):
        super().__init__()
        self.report = report

    def on_epoch_end(self, epoch, logs=None):
        self.report(epoch, 100 * (1 - logs["val_accuracy"]))


def digest(stack):
    """Return the SHA-256 of a stack's variables: weights and counters of the noise."""
    found = hashlib.sha256()
    for value in state.values(stack.variables):
        found.update(value.tobytes())
    return found.hexdigest()
