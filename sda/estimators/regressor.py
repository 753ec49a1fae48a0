"""Regressor: pretrained and fine-tuned on all rows."""

import keras
import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler

from sda.checks import look_up
from sda.estimators.stacked import NUMBERS, validated
from sda.estimators.supervised import Supervised, weights_of

# Keras's names for what scikit-learn's regressors call these.
LOSSES = {"squared_error": "mse", "absolute_error": "mae"}


class SdARegressor(MultiOutputMixin, RegressorMixin, Supervised):
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
        return X, y, rows, weights_of(sample_weight, X, rows)

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
