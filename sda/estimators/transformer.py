"""Codes of a stacked denoising autoencoder as features."""

import numpy as np
import sklearn
from keras import ops
from sklearn.base import TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from sda.estimators.stacked import (
    NUMBERS,
    Stacked,
    extend,
    map_rows,
    start_from,
    validated,
)
from sda.losses.cross_entropy import CrossEntropy
from sda.models.denoising import Denoising
from sda.streams import stream
from sda.training.fit import fit


class SdATransformer(TransformerMixin, Stacked):
    """Stacked denoising autoencoder whose codes are features.

    `fit` pretrains the layers one after another, each on the clean codes of those below (Vincent et
    al., JMLR 11 (2010), section 3.5); `transform` returns the codes hᵏ.

    Parameters that concern a layer are one value, or a list with one value a layer. Activations,
    losses and optimizers have the names of Keras.

    Args:
        hidden_layer_sizes: Integer or sequence of integers, the hidden units from the input up.
        layers: Whose codes `transform` returns: an index (0 the first, -1 the top), a list of them,
            or "all". Of several layers, the codes stand side by side.
        activation: Activation of the hidden units.
        corruption: Corruption level: the share of features for masking, salt-and-pepper and swap
            noise, the standard deviation for Gaussian noise. Or a `sda.Corruption`.
        noise: "masking", "salt_and_pepper", "gaussian" or "swap": what a level is a level of.
        decoder_activation: Activation of the reconstructions. None means linear for the input, so
            that it may hold any numbers; above, sigmoid on sigmoid codes and linear on others. For
            data in [0, 1], "sigmoid" gives the cross-entropy of the papers.
        tied: Whether to decode with the transposed kernel.
        reconstruction_loss: "cross_entropy", "squared_error", a loss of `sda.losses` or of Keras,
            or None for cross-entropy under a sigmoid decoder and squared error otherwise.
        pretraining_optimizer: Name, or `keras.optimizers.Optimizer` as a template.
        pretraining_learning_rate: Float, or None for the optimizer's own.
        pretraining_epochs: Integer, passes over the data; 0 leaves the initial weights.
        pretraining_batch_size: Integer, the examples an update.
        codes_storage: Where codes between layers live while training, see `sda.GreedyPretrainer`.
        early_stopping: Whether to hold out `validation_fraction` of the rows and to stop a layer
            when its loss on them has not improved for `n_iter_no_change` epochs. The best weights
            come back.
        validation_fraction: Float in (0, 1).
        n_iter_no_change: Integer, epochs.
        warm_start: Whether `fit` starts from the weights of the last one. The sizes have to be the
            same; other parameters may change.
        random_state: Integer, `numpy.random.RandomState` or None. An integer is the seed of the
            stack and of the pretrainer.
        verbose: 0 silent, 1 progress bar, 2 one line an epoch.

    Attributes:
        stack_: The `sda.StackedDenoisingAutoencoder`.
        histories_: List of dictionaries, the logs of each layer, a value an epoch.
        n_features_in_: Integer, the features of the input.
        feature_names_in_: Array of their names, where the input had any.

    Raises:
        ValueError: At `fit`, if a parameter is out of its range or the data are not finite. Weights
            have not changed then.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(60, 12))
    >>> transformer = sda.estimators.SdATransformer((8, 3), pretraining_epochs=2, random_state=0)
    >>> transformer.fit_transform(x).shape
    (60, 3)
    >>> transformer.transform(x, layers="all").shape
    (60, 11)
    >>> transformer.get_feature_names_out().tolist()
    ['sdatransformer_h2_0', 'sdatransformer_h2_1', 'sdatransformer_h2_2']
    """

    def __init__(
        self,
        hidden_layer_sizes=(100, 100),
        *,
        layers=-1,
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
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self._keep(locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_parameters(self, partial=False):
        super()._check_parameters(partial)
        self._indices(self.layers, len(self._sizes()))

    def fit(self, X, y=None):
        """Pretrain the stack.

        Args:
            X: Array, data frame or sparse matrix of shape `(n, features)`. The rows of a sparse
                matrix are made dense a few at a time.
            y: Ignored.

        Returns:
            The transformer itself.
        """
        self._check_parameters()
        X = validated(self, X, accept_sparse="csr", dtype=NUMBERS)
        seed = self._seed()
        recipe = self._recipe(seed)
        stack = self._new_stack(recipe, X)
        if self.warm_start and hasattr(self, "stack_"):
            start_from(stack, self.stack_, "hidden_layer_sizes")
        _, held_out = self._split(X.shape[0], seed)
        self.histories_ = self._pretrain(stack, recipe, X, held_out)
        self.stack_, self._denoisers, self._epochs_done = stack, [], 0
        return self

    def partial_fit(self, X, y=None):
        """Pretrain one more epoch: each layer takes one pass over `X`, from the input up.

        The optimizers go on where the last call left them. A fresh transformer gets its stack from
        the parameters at the first call; later calls keep it.

        Args:
            X: As in `fit`.
            y: Ignored.

        Returns:
            The transformer itself.
        """
        first = not hasattr(self, "stack_")
        self._check_parameters(partial=True)
        X = validated(self, X, accept_sparse="csr", dtype=NUMBERS, reset=first)
        recipe = self._recipe(self._seed() if first else self.stack_.seed)
        stack = self._new_stack(recipe, X) if first else self.stack_
        pretrainer = self._pretrainer(stack, recipe, seed=None)
        if isinstance(pretrainer.loss[0], CrossEntropy) and (X.min() < 0 or X.max() > 1):
            raise ValueError(
                "Expected `X` to lie in [0, 1], as cross-entropy needs. Scale it, or use "
                f"decoder_activation=None. Received: values from {X.min():g} to {X.max():g}"
            )
        if first or not self._denoisers:
            self._denoisers = []
            for autoencoder, loss, optimizer in zip(
                stack.autoencoders, pretrainer.loss, pretrainer.optimizer, strict=True
            ):
                model = Denoising(autoencoder, loss, name=autoencoder.name)
                model.compile(optimizer=optimizer)
                self._denoisers.append(model)
        if first:
            self.stack_, self._epochs_done = stack, 0
            self.histories_ = [{} for _ in self._denoisers]
        rows = X
        for k, (model, batch_size, logs) in enumerate(
            zip(self._denoisers, pretrainer.batch_size, self.histories_, strict=True)
        ):
            history = fit(
                model,
                rows,
                batch_size=batch_size,
                epochs=self._epochs_done + 1,
                initial_epoch=self._epochs_done,
                verbose=self.verbose,
                # The orders of a GreedyPretrainer: with one layer, n calls are n epochs of `fit`.
                seed=stream(stack.seed, "order", k),
            ).history
            extend(logs, history)
            rows = map_rows(model.autoencoder.encode, rows)
        self._epochs_done += 1
        return self

    def transform(self, X, layers=None):
        """Return the codes of `X`, in the precision of `X`.

        Args:
            X: As in `fit`.
            layers: As the parameter, or None for that.

        Returns:
            Array of shape `(n, units)`, units summed over the layers.
        """
        check_is_fitted(self, "stack_")
        indices = self._indices(self.layers if layers is None else layers)
        if indices != self._indices(self.layers) and _output_of(self) != "default":
            raise ValueError(
                "Expected `layers` to be given to the constructor where `set_output` asks for "
                f"columns with names. Received: layers={layers!r}"
            )
        X = validated(self, X, accept_sparse="csr", dtype=NUMBERS, reset=False)

        def encode(rows):
            codes = []
            for autoencoder in self.stack_.autoencoders[: max(indices) + 1]:
                rows = autoencoder.encode(rows)
                codes.append(rows)
            return ops.concatenate([codes[k] for k in indices], axis=-1)

        return map_rows(encode, X).astype(X.dtype, copy=False)

    def inverse_transform(self, X):
        """Return the reconstruction of the input from its codes, without noise.

        Of the codes of several layers, those of the highest are decoded: they came out of the
        others.

        Args:
            X: Array of shape `(n, units)`, as `transform` returns it.

        Returns:
            Array of shape `(n, features)`.
        """
        check_is_fitted(self, "stack_")
        X = check_array(X, dtype=NUMBERS)
        indices = self._indices(self.layers)
        units = [self.stack_.autoencoders[k].units for k in indices]
        if X.shape[1] != sum(units):
            raise ValueError(
                f"Expected `X` to hold the {sum(units)} codes that `transform` returns with "
                f"layers={self.layers!r}. Received: shape {X.shape}"
            )
        highest = max(indices)
        start = sum(units[: indices.index(highest)])

        def decode(rows):
            for autoencoder in reversed(self.stack_.autoencoders[: highest + 1]):
                rows = autoencoder.decode(rows)
            return rows

        codes = X[:, start : start + units[indices.index(highest)]]
        return map_rows(decode, codes).astype(X.dtype, copy=False)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the codes: "sdatransformer_h1_0" is the first unit of layer 1.

        Args:
            input_features: Ignored: a code is made of all features.

        Returns:
            Array of strings.
        """
        check_is_fitted(self, "stack_")
        prefix = type(self).__name__.lower()
        return np.array(
            [
                f"{prefix}_h{k + 1}_{j}"
                for k in self._indices(self.layers)
                for j in range(self.stack_.autoencoders[k].units)
            ],
            dtype=object,
        )

    def _indices(self, layers, depth=None):
        """Return `layers` as a list of indices from 0 up; raise `ValueError` if there are none."""
        depth = depth or len(self.stack_.autoencoders)
        if isinstance(layers, str) and layers == "all":
            return list(range(depth))
        indices = list(layers) if isinstance(layers, (list, tuple)) else [layers]
        known = [
            k
            for k in indices
            if isinstance(k, (int, np.integer)) and not isinstance(k, bool) and -depth <= k < depth
        ]
        if not indices or len(known) < len(indices):
            raise ValueError(
                f'Expected `layers` to be "all", an integer from {-depth} to {depth - 1}, or a '
                f"list of these. Received: layers={layers!r}"
            )
        return [int(k) % depth for k in indices]


def _output_of(transformer):
    """What `set_output` asks `transform` for: "default", "pandas" or "polars"."""
    own = getattr(transformer, "_sklearn_output_config", {})
    return own.get("transform", sklearn.get_config()["transform_output"])
