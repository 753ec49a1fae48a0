"""Classifier: pretrained on all rows, fine-tuned on those with a label."""

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from sda.estimators.stacked import NUMBERS, validated
from sda.estimators.supervised import Supervised, weights_of


class SdAClassifier(ClassifierMixin, Supervised):
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
        weights = weights_of(sample_weight, X, labelled)
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
        weights = weights_of(sample_weight, X, labelled)
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
