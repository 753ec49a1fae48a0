"""Classifier and regressor: pretrained on all rows, fine-tuned on those with targets."""

import keras
import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from sda.checks import check_count, look_up
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

# Keras's names for what scikit-learn's regressors call these.
LOSSES = {"squared_error": "mse", "absolute_error": "mae"}


class _Supervised(Stacked):
    """A stack that is pretrained on all rows and fine-tuned on those with targets."""

    def _check_parameters(self, partial=False):
        super()._check_parameters(partial)
        check_count(self.epochs, "epochs")
        check_count(self.batch_size, "batch_size")
        optimizer_like(self.optimizer, self.learning_rate, "")

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
        stack = self._new_stack(X.shape[1], seed)
        model = self._compiled(stack, outputs)
        train, held_out = self._split(len(labelled), seed, stratify)
        if self.warm_start and hasattr(self, "model_"):
            start_from(stack, self.stack_, "hidden_layer_sizes")
            start_from(model.layers[-1], self.model_.layers[-1], "y")
            histories = self.histories_
        else:
            not_seen = None if held_out is None else labelled[held_out]
            histories = self._pretrain(stack, X, not_seen, seed)
        validation = None
        if held_out is not None:
            validation = self._examples(X, targets, labelled, weights, held_out)
        x, y, w = self._examples(X, targets, labelled, weights, train)
        history = fit(
            model,
            x,
            y,
            batch_size=self.batch_size,
            epochs=self.epochs,
            verbose=self.verbose,
            callbacks=self._early_stopping(self._monitor),
            validation_data=validation,
            sample_weight=w,
            seed=seed,
        )
        self.stack_, self.model_, self._head = stack, model, (outputs, self.dropout)
        self.histories_, self.history_ = histories, history.history
        self._epochs_done = self.epochs

    def _partial_fit(self, X, targets, labelled, weights, outputs):
        """Pretrain at the first call, and fine-tune one more epoch."""
        if not hasattr(self, "model_"):
            seed = self._seed()
            stack = self._new_stack(X.shape[1], seed)
            model = self._compiled(stack, outputs)
            self.histories_, self.history_ = self._pretrain(stack, X, None, seed), {}
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

    def _compiled(self, stack, outputs):
        model = self._on_stack(stack, (outputs, self.dropout))
        optimizer = optimizer_like(self.optimizer, self.learning_rate, "")
        model.compile(optimizer, **self._goal())
        return model

    def _outputs(self, X):
        """Return the outputs of the model, in the precision of `X`."""
        check_is_fitted(self, "model_")
        X = validated(self, X, accept_sparse="csr", dtype=NUMBERS, reset=False)
        outputs = map_rows(lambda rows: self.model_(rows, training=False), X)
        return outputs.astype(X.dtype, copy=False)


class SdAClassifier(ClassifierMixin, _Supervised):
    """Classifier that is pretrained as a stacked denoising autoencoder and then fine-tuned.

    The stack learns from all rows, with or without a label; then the same encoders, under a softmax
    layer, learn the labels (Vincent et al., JMLR 11 (2010), section 3.5). Rows with `y = -1` have
    no label.

    Parameters that concern a layer are one value, or a list with one value a layer. Activations,
    losses and optimizers have the names of Keras.

    Args:
        hidden_layer_sizes, activation, corruption, noise, decoder_activation, tied,
            reconstruction_loss, pretraining_optimizer, pretraining_learning_rate,
            pretraining_epochs, pretraining_batch_size, codes_storage: As in `SdATransformer`.
        dropout: Rate in [0, 1) while fine-tuning, or a list with one for the input and one for each
            code.
        optimizer: Name, or `keras.optimizers.Optimizer` as a template, for fine-tuning.
        learning_rate: Float, or None for the optimizer's own.
        epochs: Integer, passes over the labelled rows.
        batch_size: Integer, the examples an update.
        early_stopping: Whether to hold out `validation_fraction` of the labelled rows, and to stop
            each phase when it has not improved on them for `n_iter_no_change` epochs: a layer's
            pretraining by its loss, fine-tuning by the accuracy. The best weights come back.
        validation_fraction: Float in (0, 1).
        n_iter_no_change: Integer, epochs.
        warm_start: Whether `fit` starts from the weights of the last one. It then fine-tunes only.
            Sizes and classes have to be the same; other parameters may change.
        random_state: Integer, `numpy.random.RandomState` or None. An integer is the seed of the
            stack, of the pretrainer and of `sda.fit`.
        verbose: 0 silent, 1 progress bar, 2 one line an epoch.
        unlabelled: What `y` holds where there is no label, or None if every value is a class. If
            `y` holds -1 and 1 only, both are classes.

    Attributes:
        stack_: The `sda.StackedDenoisingAutoencoder`.
        model_: The `keras.Sequential` on the same encoders, which ends in the softmax.
        classes_: Array of the classes, sorted.
        histories_: List of dictionaries, the logs of each layer's pretraining, a value an epoch.
        history_: Dictionary, the logs of fine-tuning, a value an epoch.
        n_features_in_: Integer, the features of the input.
        feature_names_in_: Array of their names, where the input had any.

    Raises:
        ValueError: At `fit`, if a parameter is out of its range, the data are not finite, or no row
            has a label. Weights have not changed then.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> y = np.where(x[:, 0] > 0, "right", "left")
    >>> classifier = sda.estimators.SdAClassifier(8, pretraining_epochs=2, random_state=0)
    >>> classifier.fit(x, y).predict(x[:3]).shape
    (3,)
    >>> classifier.classes_.tolist()
    ['left', 'right']
    """

    _monitor = "val_accuracy"

    def __init__(
        self,
        hidden_layer_sizes=(100, 100),
        *,
        activation="sigmoid",
        corruption=0.3,
        noise="masking",
        decoder_activation=None,
        tied=True,
        reconstruction_loss=None,
        pretraining_optimizer="adam",
        pretraining_learning_rate=None,
        pretraining_epochs=15,
        pretraining_batch_size=32,
        codes_storage="auto",
        dropout=0.0,
        optimizer="adam",
        learning_rate=None,
        epochs=100,
        batch_size=32,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        random_state=None,
        verbose=0,
        unlabelled=-1,
    ):
        self._keep(locals())

    def fit(self, X, y, sample_weight=None):
        """Pretrain on all rows and fine-tune on those with a label.

        Args:
            X: Array, data frame or sparse matrix of shape `(n, features)`. The rows of a sparse
                matrix are made dense a few at a time.
            y: Array of shape `(n,)`: numbers or strings, and -1 where there is no label.
            sample_weight: Array of shape `(n,)`, the weights of the rows in fine-tuning, relative
                to each other; or None. Pretraining weighs all rows alike.

        Returns:
            The classifier itself.
        """
        self._check_parameters()
        X, y = validated(self, X, y, accept_sparse="csr", dtype=NUMBERS)
        labelled = self._labelled(y)
        check_classification_targets(y[labelled])
        classes, targets = np.unique(y[labelled], return_inverse=True)
        weights = _weights(sample_weight, X, labelled)
        if self.warm_start and hasattr(self, "model_") and list(classes) != list(self.classes_):
            raise ValueError(
                f"Expected `y` to hold the classes {self.classes_.tolist()}, with which "
                f"warm_start=True goes on. Received: {classes.tolist()}"
            )
        self._fit(X, targets, labelled, weights, len(classes), targets)
        self.classes_ = classes
        return self

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Fine-tune one more epoch on the rows with a label.

        The first call pretrains as `fit` does, on all of its rows; later calls only fine-tune. The
        parameters at the first call hold for the later ones.

        Args:
            X: As in `fit`.
            y: As in `fit`.
            classes: Array of all classes, needed at the first call. A value that is among them is a
                label.
            sample_weight: As in `fit`.

        Returns:
            The classifier itself.
        """
        first = not hasattr(self, "model_")
        self._check_parameters(partial=True)
        X, y = validated(self, X, y, accept_sparse="csr", dtype=NUMBERS, reset=first)
        if first and classes is None:
            raise ValueError(
                "Expected `classes` to hold all classes at the first call of `partial_fit`. "
                "Received: classes=None"
            )
        classes = self.classes_ if classes is None else np.unique(classes)
        if not first and list(classes) != list(self.classes_):
            raise ValueError(
                f"Expected `classes` to be those of the first call, {self.classes_.tolist()}. "
                f"Received: {classes.tolist()}"
            )
        labelled = self._labelled(y, classes)
        positions = {label: i for i, label in enumerate(classes.tolist())}
        unknown = set(y[labelled].tolist()) - set(positions)
        if unknown or not (first or len(labelled)):
            raise ValueError(
                f"Expected `y` to hold labels from {classes.tolist()}. Received: "
                f"{sorted(unknown, key=str) or 'none'}"
            )
        targets = np.array([positions[label] for label in y[labelled].tolist()], int)
        weights = _weights(sample_weight, X, labelled)
        self._partial_fit(X, targets, labelled, weights, len(classes))
        self.classes_ = classes
        return self

    def predict_proba(self, X):
        """Return the probabilities of the classes, the columns in the order of `classes_`."""
        return self._outputs(X)

    def predict(self, X):
        """Return the likeliest class of each row."""
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(axis=1)]

    def score(self, X, y, sample_weight=None):
        """Return the accuracy on the rows with a label.

        Args:
            X, y: As in `fit`.
            sample_weight: Array of shape `(n,)`, or None.

        Returns:
            Float in [0, 1].
        """
        predicted = self.predict(X)
        y = column_or_1d(y)
        labelled = self._labelled(y, self.classes_)
        if not len(labelled):
            raise ValueError("Expected `y` to hold labels. Received: none")
        weights = None if sample_weight is None else np.asarray(sample_weight)[labelled]
        return accuracy_score(y[labelled], predicted[labelled], sample_weight=weights)

    def _labelled(self, y, classes=None):
        """Return the indices of the rows with a label; raise `ValueError` if a fit finds none."""
        values = y.tolist()
        if classes is None:
            is_class = self.unlabelled == -1 and set(values) == {-1, 1}
        else:
            is_class = self.unlabelled in classes.tolist()
        if self.unlabelled is None or is_class:
            return np.arange(len(y))
        indices = np.flatnonzero([value != self.unlabelled for value in values])
        if classes is None and not len(indices):
            raise ValueError(
                f"Expected `y` to hold labels. Received: {self.unlabelled!r} in every row, which "
                "marks a row without one"
            )
        return indices

    def _on_stack(self, stack, head):
        return stack.classifier(*head)

    def _goal(self):
        return {"loss": "sparse_categorical_crossentropy", "weighted_metrics": ["accuracy"]}


class SdARegressor(MultiOutputMixin, RegressorMixin, _Supervised):
    """Regressor that is pretrained as a stacked denoising autoencoder and then fine-tuned.

    As `SdAClassifier`, with a linear output layer. Targets are standardised inside, so that their
    unit does not matter to the learning rate; predictions are in their unit again.

    Args:
        loss: "squared_error", "absolute_error", or a loss of Keras, between standardised targets
            and outputs.
        hidden_layer_sizes, activation, …, verbose: As in `SdAClassifier`. Fine-tuning stops early
            by the loss on the rows held out.

    Attributes:
        stack_: The `sda.StackedDenoisingAutoencoder`.
        model_: The `keras.Sequential` on the same encoders, for standardised targets.
        target_scaler_: The `sklearn.preprocessing.StandardScaler` of the targets.
        histories_, history_, n_features_in_, feature_names_in_: As in `SdAClassifier`.

    Raises:
        ValueError: At `fit`, if a parameter is out of its range or the data are not finite. Weights
            have not changed then.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> regressor = sda.estimators.SdARegressor(8, pretraining_epochs=2, random_state=0)
    >>> regressor.fit(x, x[:, :2]).predict(x[:3]).shape
    (3, 2)
    """

    _monitor = "val_loss"

    def __init__(
        self,
        hidden_layer_sizes=(100, 100),
        *,
        loss="squared_error",
        activation="sigmoid",
        corruption=0.3,
        noise="masking",
        decoder_activation=None,
        tied=True,
        reconstruction_loss=None,
        pretraining_optimizer="adam",
        pretraining_learning_rate=None,
        pretraining_epochs=15,
        pretraining_batch_size=32,
        codes_storage="auto",
        dropout=0.0,
        optimizer="adam",
        learning_rate=None,
        epochs=100,
        batch_size=32,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self._keep(locals())

    def _check_parameters(self, partial=False):
        super()._check_parameters(partial)
        expectation = f"one of {sorted(LOSSES)}, or a Keras loss"
        if look_up(keras.losses.get, self._loss(), "loss", expectation) is None:
            raise ValueError(f"Expected `loss` to be {expectation}. Received: loss=None")

    def _loss(self):
        return LOSSES.get(self.loss, self.loss) if isinstance(self.loss, str) else self.loss

    def fit(self, X, y, sample_weight=None):
        """Pretrain and fine-tune.

        Args:
            X: As in `SdAClassifier.fit`.
            y: Array of shape `(n,)` or `(n, targets)`.
            sample_weight: As in `SdAClassifier.fit`.

        Returns:
            The regressor itself.
        """
        self._check_parameters()
        X, y, rows, weights = self._checked(X, y, sample_weight, reset=True)
        if self.warm_start and hasattr(self, "model_"):
            scaler = self._known_scaler(y)
        else:
            scaler = StandardScaler().fit(_columns(y), sample_weight=weights)
        targets = scaler.transform(_columns(y))
        self._fit(X, targets, rows, weights, targets.shape[1], None)
        self.target_scaler_, self._target_shape = scaler, y.shape[1:]
        return self

    def partial_fit(self, X, y, sample_weight=None):
        """Fine-tune one more epoch.

        The first call pretrains as `fit` does, and standardises by its targets; later calls only
        fine-tune. The parameters at the first call hold for the later ones.

        Args:
            X, y, sample_weight: As in `fit`.

        Returns:
            The regressor itself.
        """
        first = not hasattr(self, "model_")
        self._check_parameters(partial=True)
        X, y, rows, weights = self._checked(X, y, sample_weight, reset=first)
        if first:
            scaler = StandardScaler().fit(_columns(y), sample_weight=weights)
        else:
            scaler = self._known_scaler(y)
        targets = scaler.transform(_columns(y))
        self._partial_fit(X, targets, rows, weights, targets.shape[1])
        self.target_scaler_, self._target_shape = scaler, y.shape[1:]
        return self

    def predict(self, X):
        """Return the predicted targets, of shape `(n,)` or `(n, targets)` as `y` had it."""
        outputs = self._outputs(X)
        predicted = self.target_scaler_.inverse_transform(outputs)
        return predicted.reshape(len(outputs), *self._target_shape).astype(outputs.dtype)

    def _checked(self, X, y, sample_weight, reset):
        X, y = validated(
            self, X, y, accept_sparse="csr", dtype=NUMBERS, multi_output=True, y_numeric=True,
            reset=reset,
        )  # fmt: skip
        rows = np.arange(X.shape[0])
        return X, y, rows, _weights(sample_weight, X, rows)

    def _known_scaler(self, y):
        """Return the scaler of the last fit; raise `ValueError` if `y` has other targets."""
        if y.shape[1:] != self._target_shape:
            raise ValueError(
                f"Expected `y` of shape {('n', *self._target_shape)}, as before. "
                f"Received: shape {y.shape}"
            )
        return self.target_scaler_

    def _on_stack(self, stack, head):
        return stack.regressor(*head)

    def _goal(self):
        return {"loss": self._loss()}


def _columns(y):
    return y.reshape(len(y), -1)


def _weights(sample_weight, X, chosen):
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
