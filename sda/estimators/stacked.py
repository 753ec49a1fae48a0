"""What the estimators have in common: the parameters of the stack, and its pretraining."""

import keras
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from sda.checkpoints import arrays
from sda.checkpoints import state as states
from sda.checks import check_count, check_flag, check_number, look_up, per_layer
from sda.layers.corruption import Corruption
from sda.models.denoising import Denoising
from sda.recipe import Recipe
from sda.rows.reading import as_rows, on_arrays
from sda.training.optimizers import fresh

# Integers, and uint8 among them, are numbers here as everywhere in scikit-learn, and no pixels.
NUMBERS = (np.float32, np.float64)


class Stacked(BaseEstimator):
    """What the three have in common: the parameters of the stack, and its pretraining."""

    def _keep(self, arguments):
        """Store the constructor's arguments under their own names, as scikit-learn wants it."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self, partial=False):
        """Raise `ValueError` for a parameter that the stack does not know by this name."""
        sizes = self._sizes()
        for name, least in (("pretraining_epochs", 0), ("pretraining_batch_size", 1)):
            for value in per_layer(getattr(self, name), len(sizes), name):
                check_count(value, name, least)
        levels = zip(
            per_layer(self.corruption, len(sizes), "corruption"),
            per_layer(self.noise, len(sizes), "noise"),
            strict=True,
        )
        for level, noise in levels:
            if not isinstance(level, Corruption):
                most = np.inf if noise == "gaussian" else 1
                expectation = f"at least 0 and at most {most}, or an sda.Corruption"
                check_number(level, "corruption", expectation, lambda v, top=most: 0 <= v <= top)
        check_count(self.n_iter_no_change, "n_iter_no_change")
        check_flag(self.early_stopping, "early_stopping")
        check_flag(self.warm_start, "warm_start")
        if partial and self.early_stopping:
            raise ValueError(
                "Expected `early_stopping` to be False in `partial_fit`, which holds no rows out. "
                "Received: early_stopping=True"
            )
        check_number(
            self.validation_fraction, "validation_fraction", "in (0, 1)", lambda f: 0 < f < 1
        )
        if isinstance(self.verbose, str) or self.verbose not in (0, 1, 2):
            raise ValueError(
                f"Expected `verbose` to be 0, 1 or 2. Received: verbose={self.verbose!r}"
            )

    def _sizes(self):
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if isinstance(sizes, (list, tuple, np.ndarray)) else [sizes]
        if not sizes:
            raise ValueError(
                "Expected `hidden_layer_sizes` to name at least one layer. "
                f"Received: hidden_layer_sizes={self.hidden_layer_sizes!r}"
            )
        return [check_count(size, "hidden_layer_sizes") for size in sizes]

    def _seed(self):
        """The seed of a fit: an integer is itself, so that the same can be done by hand."""
        if isinstance(self.random_state, (int, np.integer)):
            check_random_state(self.random_state)
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _recipe(self, seed, **finetuning):
        """Return the recipe that the parameters are, a few by other names."""
        sizes = self._sizes()
        depth = len(sizes)
        decoders = per_layer(self.decoder_activation, depth, "decoder_activation")
        # Unlike the stack's own default: columns of a table may hold any numbers.
        decoders[0] = "linear" if decoders[0] is None else decoders[0]
        return Recipe(
            units=sizes,
            noise=self.noise,
            corruption=self.corruption,
            activation=self.activation,
            decoder_activation=decoders,
            tied=self.tied,
            loss=self.reconstruction_loss,
            optimizer=self._pretraining_optimizers(depth),
            epochs=self.pretraining_epochs,
            batch_size=self.pretraining_batch_size,
            seed=seed,
            **finetuning,
        )

    def _pretraining_optimizers(self, depth):
        parameters = "pretraining_optimizer", "pretraining_learning_rate"
        lists = [per_layer(getattr(self, name), depth, name) for name in parameters]
        return [optimizer_like(*one, "pretraining_") for one in zip(*lists, strict=True)]

    def _new_stack(self, recipe, X):
        stack = recipe.stack()
        stack.build((None, X.shape[1]))
        return stack

    def _pretrainer(self, stack, recipe, **arguments):
        return recipe.pretrainer(
            stack,
            callbacks=lambda k: self._early_stopping("val_loss"),
            codes_storage=self.codes_storage,
            **arguments,
        )

    def _early_stopping(self, monitor):
        if not self.early_stopping:
            return []
        return [
            keras.callbacks.EarlyStopping(
                monitor,
                mode="max" if monitor == "val_accuracy" else "min",
                patience=self.n_iter_no_change,
                restore_best_weights=True,
            )
        ]

    def _pretrain(self, stack, recipe, X, held_out):
        """Pretrain on `X` without the rows `held_out` (indices, or None); return the logs."""
        validation = None
        if held_out is not None:
            validation = X[held_out]
            X = X[np.setdiff1d(np.arange(X.shape[0]), held_out)]
        histories = self._pretrainer(stack, recipe).fit(
            X, validation_data=validation, verbose=self.verbose
        )
        return [history.history for history in histories]

    def _split(self, rows, seed, stratify=None):
        """Return the indices to train on, and those held out or None unless stopping early."""
        if not self.early_stopping:
            return np.arange(rows), None
        return train_test_split(
            np.arange(rows), test_size=self.validation_fraction, random_state=seed,
            stratify=stratify,
        )  # fmt: skip

    # A stack pickles as the bytes of its .keras archive. What an archive leaves out goes along:
    # counters of the noise, and whatever trains further, with the state of its optimizer.

    def __getstate__(self):
        state = dict(super().__getstate__())
        stack = state.get("stack_")
        if stack is None:
            return state
        state["_stack_values"] = arrays.values(stack.variables)
        state["_denoisers"] = [
            (keras.saving.serialize_keras_object(model.loss_fn), training_state(model))
            for model in state.get("_denoisers", [])
        ]
        if "model_" in state:
            state["model_"] = training_state(state["model_"])
        return state

    def __setstate__(self, state):
        values = state.pop("_stack_values", None)
        super().__setstate__(state)
        if values is None:
            return
        states.assign(self.stack_.variables, values, "stack")
        saved, self._denoisers = self._denoisers, []
        for autoencoder, (loss, training) in zip(self.stack_.autoencoders, saved, strict=False):
            loss = keras.saving.deserialize_keras_object(loss)
            model = Denoising(autoencoder, loss, name=autoencoder.name)
            self._denoisers.append(restore_training(model, training))
        if hasattr(self, "model_"):
            self.model_ = restore_training(self._on_stack(self.stack_, self._head), self.model_)


def validated(estimator, X, *y, reset=True, **settings):
    """Return what scikit-learn's `validate_data` does, and hold columns to names that are numbers.

    scikit-learn knows names that are strings, and takes others for positions.
    """
    names = list(X.columns) if hasattr(X, "columns") else []
    found = validate_data(estimator, X, *y, reset=reset, **settings)
    if reset:
        # Strings are in `feature_names_in_`.
        estimator._names = [] if all(isinstance(name, str) for name in names) else names
    elif names and getattr(estimator, "_names", None) and names != estimator._names:
        raise ValueError(
            f"Expected `X` to have the columns {estimator._names}, in this order, as before. "
            f"Received: {names}"
        )
    return found


def map_rows(function, X):
    """Return a function of tensors over all rows, a piece at a time, as one array."""
    return np.concatenate([on_arrays(function)(piece) for piece in as_rows(X, "X").pieces(1024)])


def extend(logs, others):
    for name, values in others.items():
        logs.setdefault(name, []).extend(values)


def optimizer_like(identifier, learning_rate, prefix):
    """Return a new optimizer like the one named, with another learning rate unless that is None."""
    name = f"{prefix}optimizer"
    template = look_up(keras.optimizers.get, identifier, name, "a Keras optimizer or its name")
    changes = {}
    if learning_rate is not None:
        name = f"{prefix}learning_rate"
        changes["learning_rate"] = check_number(learning_rate, name, "above 0", lambda r: r > 0)
    return fresh(template, **changes)


def start_from(model, before, name):
    """Give `model` the weights of `before`; raise `ValueError` if the shapes differ."""
    values = arrays.values(before.trainable_variables)
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    if shapes != [value.shape for value in values]:
        raise ValueError(
            f"Expected `{name}` to ask for the weights of the last fit, from which "
            f"warm_start=True goes on: {[value.shape for value in values]}. Received: {shapes}"
        )
    states.assign(model.trainable_variables, values, name)


def training_state(model):
    """Return what a model needs to train on as if nothing had happened."""
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    return model.get_compile_config(), arrays.values(variables)


def restore_training(model, state):
    config, values = state
    model.compile_from_config(config)
    model.optimizer.build(model.trainable_variables)
    states.assign(model.variables + model.optimizer.variables, values, model.name)
    return model
