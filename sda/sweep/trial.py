"""One run of a sweep: from a recipe to a pretrained stack and a number to minimise."""

import hashlib

import keras
import numpy as np

from sda.checkpoints import arrays
from sda.rows.reading import on_arrays
from sda.streams import spawn

# Share of the entries that is masked where "denoising" is the objective.
JUDGED_AT = 0.25


def check(recipe):
    """Raise `ValueError` for a recipe that the pretraining would end at."""
    recipe.pretrainer(recipe.stack())


def pretrained(recipe, x, cache=None, verbose=0):
    """Return the stack that a recipe gives on the rows `x`."""
    recipe = recipe.resolve(x)
    stack = recipe.stack()
    recipe.pretrainer(stack, cache=cache).fit(x, verbose=verbose)
    return stack


# Objectives: functions of (stack, recipe, rows with labels to train on, those held out, report).
# They return the number to minimise, and the classifier if there is one.


def error(stack, recipe, train, held_out, report):
    """The error of the fine-tuned classifier on the rows held out, in percent."""
    classes = int(max(train[1].max(), held_out[1].max())) + 1
    # With weights of its own: the stack stays as it was pretrained.
    classifier = recipe.classifier(stack, classes, copy=True)
    # It puts the best weights back: theirs is the error.
    best = recipe.early_stop()
    callbacks = [best, _Report(report)]
    recipe.finetune(classifier, *train, held_out, callbacks, verbose=0)
    # An accuracy is a float32.
    return 100 * round(best.best * len(held_out[1])) / len(held_out[1]), classifier


def probe(stack, recipe, train, held_out, report):
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


def denoising(stack, recipe, train, held_out, report):
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
    for value in arrays.values(stack.variables):
        found.update(value.tobytes())
    return found.hexdigest()
