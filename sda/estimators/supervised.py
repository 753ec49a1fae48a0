"""What classifier and regressor have in common: pretrained on all rows, fine-tuned on some."""

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from sda.checks import check_count
from sda.estimators.stacked import (
    NUMBERS,
    Stacked,
    extend,
    map_rows,
    optimizer_like,
    start_from,
    validated,
)
from sda.training.fit import fit


class Supervised(Stacked):
    """A stack that is pretrained on all rows and fine-tuned on those with targets."""

    def _check_parameters(self, partial=False):
        super()._check_parameters(partial)
        check_count(self.epochs, "epochs")
        check_count(self.batch_size, "batch_size")
        optimizer_like(self.optimizer, self.learning_rate, "")

    def _recipe(self, seed):
        return super()._recipe(
            seed,
            dropout=self.dropout,
            finetune_optimizer=optimizer_like(self.optimizer, self.learning_rate, ""),
            finetune_epochs=self.epochs,
            finetune_batch_size=self.batch_size,
        )

    def _fit(self, X, targets, labelled, weights, outputs, stratify):
        """Pretrain on all rows and fine-tune on those labelled.

        Args:
            X: All rows.
            targets: Array of the targets of the rows labelled.
            labelled: Array of the indices of these rows.
            weights: Array of their weights, or None.
            outputs: Integer, the outputs of the model.
            stratify: Array of classes to hold out equal shares of, or None.
        """
        seed = self._seed()
        recipe = self._recipe(seed)
        stack, model = self._untrained(recipe, X, outputs)
        train, held_out = self._split(len(labelled), seed, stratify)
        if self.warm_start and hasattr(self, "model_"):
            start_from(stack, self.stack_, "hidden_layer_sizes")
            start_from(model.layers[-1], self.model_.layers[-1], "y")
            histories = self.histories_
        else:
            not_seen = None if held_out is None else labelled[held_out]
            histories = self._pretrain(stack, recipe, X, not_seen)
        validation = None
        if held_out is not None:
            validation = self._examples(X, targets, labelled, weights, held_out)
        x, y, w = self._examples(X, targets, labelled, weights, train)
        history = recipe.finetune(
            model,
            x,
            y,
            validation,
            self._early_stopping(self._monitor),
            verbose=self.verbose,
            sample_weight=w,
        )
        self.stack_, self.model_, self._head = stack, model, (outputs, self.dropout)
        self.histories_, self.history_ = histories, history.history
        self._epochs_done = self.epochs

    def _partial_fit(self, X, targets, labelled, weights, outputs):
        """Pretrain at the first call, and fine-tune one more epoch."""
        if not hasattr(self, "model_"):
            recipe = self._recipe(self._seed())
            stack, model = self._untrained(recipe, X, outputs)
            self.histories_, self.history_ = self._pretrain(stack, recipe, X, None), {}
            self.stack_, self.model_, self._head = stack, model, (outputs, self.dropout)
            self._epochs_done = 0
        if not len(labelled):
            return
        x, y, w = self._examples(X, targets, labelled, weights, np.arange(len(labelled)))
        logs = fit(
            self.model_,
            x,
            y,
            batch_size=self.batch_size,
            epochs=self._epochs_done + 1,
            initial_epoch=self._epochs_done,
            verbose=self.verbose,
            sample_weight=w,
            seed=self.stack_.seed,
        ).history
        extend(self.history_, logs)
        self._epochs_done += 1

    def _examples(self, X, targets, labelled, weights, chosen):
        rows = X if len(chosen) == X.shape[0] else X[labelled[chosen]]
        return rows, targets[chosen], None if weights is None else weights[chosen]

    def _untrained(self, recipe, X, outputs):
        """Return the stack of a recipe, for the features of `X`, and the compiled model on it."""
        stack = self._new_stack(recipe, X)
        model = self._on_stack(stack, (outputs, self.dropout))
        model.compile(recipe.finetune_optimizer, **self._goal())
        return stack, model

    def _outputs(self, X):
        """Return the outputs of the model, in the precision of `X`."""
        check_is_fitted(self, "model_")
        X = validated(self, X, accept_sparse="csr", dtype=NUMBERS, reset=False)
        outputs = map_rows(lambda rows: self.model_(rows, training=False), X)
        return outputs.astype(X.dtype, copy=False)


def weights_of(sample_weight, X, chosen):
    """Return the weights of the rows chosen, of mean 1, or None."""
    if sample_weight is None:
        return None
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64)
    if weights.shape != (X.shape[0],):
        raise ValueError(
            f"Expected `sample_weight` of shape ({X.shape[0]},). Received: shape {weights.shape}"
        )
    weights = weights[chosen]
    if (weights < 0).any() or (len(weights) and not weights.any()):
        raise ValueError(
            "Expected `sample_weight` to be at least 0, and not zero for every row. "
            f"Received: values from {weights.min()} to {weights.max()}"
        )
    return weights / weights.mean() if len(weights) else weights
