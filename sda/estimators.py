"""The scikit-learn face: a transformer, a classifier and a regressor with flat parameters."""

import keras
import numpy as np
from keras import ops

from sda import checkpoint, corruption
from sda.checks import check_count, check_flag, check_number, look_up
from sda.losses import CrossEntropy
from sda.pretraining import Denoising, GreedyPretrainer
from sda.seeding import spawn
from sda.stack import StackedDenoisingAutoencoder, on_arrays, per_layer
from sda.training.fit import fit
from sda.training.rows import pieces

try:
    import sklearn
    from sklearn.base import (
        BaseEstimator,
        ClassifierMixin,
        MultiOutputMixin,
        RegressorMixin,
        TransformerMixin,
    )
    from sklearn.metrics import accuracy_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ModuleNotFoundError(
        "Expected the package `scikit-learn`, 1.6 or newer, to be installed. "
        'Run `pip install "keras-sda[sklearn]"`.',
        name="sklearn",
    ) from error

NOISES = {
    "masking": corruption.MaskingNoise,
    "salt_and_pepper": corruption.SaltAndPepperNoise,
    "gaussian": corruption.GaussianNoise,
    "swap": corruption.SwapNoise,
}
# Keras's names for what scikit-learn's regressors call these.
LOSSES = {"squared_error": "mse", "absolute_error": "mae"}
# Integers, and uint8 among them, are numbers here as everywhere in scikit-learn, and no pixels.
NUMBERS = (np.float32, np.float64)


class _Stacked(BaseEstimator):
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

    def _new_stack(self, features, seed):
        sizes = self._sizes()
        depth = len(sizes)
        decoders = per_layer(self.decoder_activation, depth, "decoder_activation")
        # Unlike the stack's own default: columns of a table may hold any numbers.
        decoders[0] = "linear" if decoders[0] is None else decoders[0]
        noises = zip(
            per_layer(self.corruption, depth, "corruption"),
            per_layer(self.noise, depth, "noise"),
            strict=True,
        )
        stack = StackedDenoisingAutoencoder(
            sizes,
            corruption=[_corruption(level, noise) for level, noise in noises],
            activation=self.activation,
            decoder_activation=decoders,
            tied=self.tied,
            seed=seed,
        )
        stack.build((None, features))
        return stack

    def _pretrainer(self, stack, seed):
        depth = len(stack.autoencoders)
        optimizers = zip(
            per_layer(self.pretraining_optimizer, depth, "pretraining_optimizer"),
            per_layer(self.pretraining_learning_rate, depth, "pretraining_learning_rate"),
            strict=True,
        )
        return GreedyPretrainer(
            stack,
            optimizer=[_optimizer(*o, "pretraining_") for o in optimizers],
            loss=self.reconstruction_loss,
            epochs=self.pretraining_epochs,
            batch_size=self.pretraining_batch_size,
            callbacks=lambda k: self._early_stopping("val_loss"),
            codes=self.codes,
            seed=seed,
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

    def _pretrain(self, stack, X, held_out, seed):
        """Pretrain on `X` without the rows `held_out` (indices, or None); return the logs."""
        validation = None
        if held_out is not None:
            validation = _rows(X[held_out])
            X = X[np.setdiff1d(np.arange(X.shape[0]), held_out)]
        histories = self._pretrainer(stack, seed).fit(
            _rows(X), validation_data=validation, verbose=self.verbose
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
        state["_stack_values"] = checkpoint.values(stack.variables)
        state["_denoisers"] = [
            (keras.saving.serialize_keras_object(model.loss_fn), _training_state(model))
            for model in state.get("_denoisers", [])
        ]
        if "model_" in state:
            state["model_"] = _training_state(state["model_"])
        return state

    def __setstate__(self, state):
        values = state.pop("_stack_values", None)
        super().__setstate__(state)
        if values is None:
            return
        checkpoint.assign(self.stack_.variables, values, "stack")
        saved, self._denoisers = self._denoisers, []
        for autoencoder, (loss, training) in zip(self.stack_.autoencoders, saved, strict=False):
            loss = keras.saving.deserialize_keras_object(loss)
            model = Denoising(autoencoder, loss, name=autoencoder.name)
            self._denoisers.append(_restore_training(model, training))
        if hasattr(self, "model_"):
            self.model_ = _restore_training(self._on_stack(self.stack_, self._head), self.model_)


class SdATransformer(TransformerMixin, _Stacked):
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
        codes: Where codes between layers live while training, see `sda.GreedyPretrainer`.
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
        codes="auto",
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
        X = validate_data(self, X, accept_sparse="csr", dtype=NUMBERS)
        seed = self._seed()
        stack = self._new_stack(X.shape[1], seed)
        if self.warm_start and hasattr(self, "stack_"):
            _start_from(stack, self.stack_, "hidden_layer_sizes")
        _, held_out = self._split(X.shape[0], seed)
        self.histories_ = self._pretrain(stack, X, held_out, seed)
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
        X = validate_data(self, X, accept_sparse="csr", dtype=NUMBERS, reset=first)
        stack = self._new_stack(X.shape[1], self._seed()) if first else self.stack_
        pretrainer = self._pretrainer(stack, None)
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
            self.stack_, self.histories_, self._epochs_done = (
                stack,
                [{} for _ in self._denoisers],
                0,
            )
        rows = _rows(X)
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
                seed=spawn(spawn(stack.seed, k), 1),
            ).history
            _extend(logs, history)
            rows = _map_rows(model.autoencoder.encode, rows)
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
        X = validate_data(self, X, accept_sparse="csr", dtype=NUMBERS, reset=False)

        def encode(rows):
            codes = []
            for autoencoder in self.stack_.autoencoders[: max(indices) + 1]:
                rows = autoencoder.encode(rows)
                codes.append(rows)
            return ops.concatenate([codes[k] for k in indices], axis=-1)

        return _map_rows(encode, _rows(X)).astype(X.dtype, copy=False)

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
        return _map_rows(decode, codes).astype(X.dtype, copy=False)

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


class _Supervised(_Stacked):
    """A stack that is pretrained on all rows and fine-tuned on those with targets."""

    def _check_parameters(self, partial=False):
        super()._check_parameters(partial)
        check_count(self.epochs, "epochs")
        check_count(self.batch_size, "batch_size")
        _optimizer(self.optimizer, self.learning_rate, "")

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
            _start_from(stack, self.stack_, "hidden_layer_sizes")
            _start_from(model.layers[-1], self.model_.layers[-1], "y")
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
        _extend(self.history_, logs)
        self._epochs_done += 1

    def _examples(self, X, targets, labelled, weights, chosen):
        rows = X if len(chosen) == X.shape[0] else X[labelled[chosen]]
        return _rows(rows), targets[chosen], None if weights is None else weights[chosen]

    def _compiled(self, stack, outputs):
        model = self._on_stack(stack, (outputs, self.dropout))
        optimizer = _optimizer(self.optimizer, self.learning_rate, "")
        model.compile(optimizer, **self._goal())
        return model

    def _outputs(self, X):
        """Return the outputs of the model, in the precision of `X`."""
        check_is_fitted(self, "model_")
        X = validate_data(self, X, accept_sparse="csr", dtype=NUMBERS, reset=False)
        outputs = _map_rows(lambda rows: self.model_(rows, training=False), _rows(X))
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
            pretraining_epochs, pretraining_batch_size, codes: As in `SdATransformer`.
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
        codes="auto",
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
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=NUMBERS)
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
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=NUMBERS, reset=first)
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
        codes="auto",
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
        X, y = validate_data(
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


class _SparseRows:
    """The rows of a CSR matrix, made dense when they are read."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.shape = matrix.shape
        self.dtype = matrix.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return self.matrix[rows].toarray()


def _rows(X):
    return _SparseRows(X) if hasattr(X, "toarray") else X


def _map_rows(function, rows):
    """Return a function of tensors over all rows, a piece at a time, as one array."""
    return np.concatenate([on_arrays(function)(piece) for piece in pieces(rows, 1024)])


def _extend(logs, others):
    for name, values in others.items():
        logs.setdefault(name, []).extend(values)


def _columns(y):
    return y.reshape(len(y), -1)


def _corruption(level, noise):
    """Return the corruption meant by a level and the name of a noise."""
    if noise not in NOISES:
        raise ValueError(
            f"Expected `noise` to be one of {sorted(NOISES)}. Received: noise={noise!r}"
        )
    if not isinstance(level, corruption.Corruption):
        most = np.inf if noise == "gaussian" else 1
        expectation = f"at least 0 and at most {most}, or an sda.Corruption"
        check_number(level, "corruption", expectation, lambda value: 0 <= value <= most)
        return NOISES[noise](level)
    if noise != "masking":
        raise ValueError(
            "Expected `noise` to be left alone where `corruption` says itself what it is. "
            f"Received: noise={noise!r} and corruption={level!r}"
        )
    return level


def _optimizer(identifier, learning_rate, prefix):
    """Return a new optimizer like the one named, with another learning rate unless that is None."""
    name = f"{prefix}optimizer"
    template = look_up(keras.optimizers.get, identifier, name, "a Keras optimizer or its name")
    config = template.get_config()
    if learning_rate is not None:
        name = f"{prefix}learning_rate"
        config["learning_rate"] = check_number(learning_rate, name, "above 0", lambda r: r > 0)
    return type(template).from_config(config)


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


def _start_from(model, before, name):
    """Give `model` the weights of `before`; raise `ValueError` if the shapes differ."""
    values = checkpoint.values(before.trainable_variables)
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    if shapes != [value.shape for value in values]:
        raise ValueError(
            f"Expected `{name}` to ask for the weights of the last fit, from which "
            f"warm_start=True goes on: {[value.shape for value in values]}. Received: {shapes}"
        )
    checkpoint.assign(model.trainable_variables, values, name)


def _training_state(model):
    """Return what a model needs to train on as if nothing had happened."""
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    return model.get_compile_config(), checkpoint.values(variables)


def _restore_training(model, state):
    config, values = state
    model.compile_from_config(config)
    model.optimizer.build(model.trainable_variables)
    checkpoint.assign(model.variables + model.optimizer.variables, values, model.name)
    return model


def _output_of(transformer):
    """What `set_output` asks `transform` for: "default", "pandas" or "polars"."""
    own = getattr(transformer, "_sklearn_output_config", {})
    return own.get("transform", sklearn.get_config()["transform_output"])
