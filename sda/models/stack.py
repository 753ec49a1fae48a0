"""The stacked denoising autoencoder (SdA): dAs, each on the clean codes of the one below."""

import inspect

import keras
import numpy as np

from sda.checks import check_count
from sda.layers import preprocessing as before
from sda.layers.autoencoder import DenoisingAutoencoder
from sda.layers.parts import serialize_shared
from sda.models import scoring, supervised
from sda.models.from_model import parts_of
from sda.models.new_layer import for_each_layer, new_layer
from sda.rows.base import check_numbers
from sda.rows.reading import check_finite, on_arrays, rows_of
from sda.streams import check_seed


@keras.saving.register_keras_serializable(package="sda")
class StackedDenoisingAutoencoder(keras.Model):
    """A stack of dAs; called, it returns the codes of the top layer.

    Layer k encodes the clean codes of layer k-1: h⁰ = x, hᵏ = s(hᵏ⁻¹ Wᵏ + bᵏ) (Vincent et al.,
    JMLR 11 (2010), section 3.5; the Theano tutorial's `SdA` class). `sda.GreedyPretrainer` trains
    the layers from the input up; `classifier`, `multilabel_classifier`, `regressor` and `unrolled`
    return stock Keras models on the very same encoders.

    Every setting of a layer is one value for all layers, or a list with one value a layer.

    Args:
        units: Integer or list of integers, the hidden units from the input up. Its length is the
            number of layers.
        corruption: Corruption level in [0, 1] or `sda.Corruption`. Each layer gets a copy with a
            seed of its own: no two layers draw the same noise.
        activation: Activation of the hidden units.
        decoder_activation: Activation of the reconstructions. None means sigmoid for the first
            layer and above sigmoid codes, linear above other codes.
        tied: Whether to decode with the transposed kernel.
        kernel_initializer: A Keras initializer, or None for the default of the activation.
        seed: Integer from which all weights and all noise are drawn, or None.
        sparsity: Penalty on the codes in pretraining, a `keras.regularizers.Regularizer` such as
            `sda.penalties.KLSparsity(0.05)`, or None.
        contraction: Float ≥ 0, the weight of the contractive penalty in pretraining.
        fill_value: The number that the network sees in place of missing values, which are NaN in
            the data, or a list with one a feature; None where none may be missing. They get no
            noise and count in no loss. Only the input can have them: the codes of all layers are
            whole.
        preprocessing: What rows go through before the first layer: a Keras layer, such as
            `keras.layers.Rescaling(1 / 255)` or a `Normalization` that was adapted, or a list of
            layers, without weights that training changes; None for nothing. They run in every step,
            in inference mode, so uint8 rows stay uint8 in memory, and they are part of the
            classifier, the encoder and what is exported. `fill_value`, corruption levels and losses
            are in the units after them.
        autoencoders: List of `sda.DenoisingAutoencoder`, in place of new ones: what a file or
            `from_model` has. The settings of layers above are then theirs, whatever they say here.
        **kwargs: Arguments of `keras.Model`, such as `name`.

    A subclass saves and loads if its `get_config` has its own arguments beside those of this class,
    and its constructor hands on those that it does not know.

    Raises:
        ValueError: If a list has not one value a layer, or a value is out of its range.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([100, 50], corruption=[0.1, 0.2], seed=1)
    >>> stack(keras.ops.zeros((20, 784))).shape
    (20, 50)
    >>> classifier = stack.classifier(10)
    >>> classifier.layers[1] is stack.autoencoders[1].encoder
    True
    """

    def __init__(
        self,
        units=None,
        corruption=0.3,
        activation="sigmoid",
        decoder_activation=None,
        tied=True,
        kernel_initializer=None,
        seed=None,
        sparsity=None,
        contraction=0.0,
        fill_value=None,
        preprocessing=None,
        autoencoders=None,
        **kwargs,
    ):
        units = list(units) if isinstance(units, (list, tuple)) else [units]
        seed = check_seed(seed)
        if autoencoders is not None:
            units = None if units == [None] else units
            self._assemble(autoencoders, preprocessing, seed, units, **kwargs)
            return
        own = for_each_layer(
            len(units),
            units=units,
            corruption=corruption,
            activation=activation,
            decoder_activation=decoder_activation,
            tied=tied,
            kernel_initializer=kernel_initializer,
            sparsity=sparsity,
            contraction=contraction,
        )
        autoencoders = []
        for k, settings in enumerate(own):
            autoencoders.append(
                new_layer(
                    k,
                    autoencoders[-1] if k else None,
                    seed,
                    fill_value=None if k else fill_value,
                    # A plain dtype argument of a Model is its policy; its layers follow it.
                    dtype=kwargs.get("dtype"),
                    **settings,
                )
            )
        self._assemble(autoencoders, preprocessing, seed, **kwargs)

    def _assemble(self, autoencoders, preprocessing, seed, units=None, **kwargs):
        super().__init__(**kwargs)
        if not autoencoders:
            raise ValueError("Expected `units` to name at least one layer. Received: units=[]")
        # A config may say anything.
        if not isinstance(autoencoders, (list, tuple)) or not all(
            isinstance(autoencoder, DenoisingAutoencoder) for autoencoder in autoencoders
        ):
            raise ValueError(
                "Expected `autoencoders` to be a list of sda.DenoisingAutoencoder layers. "
                f"Received: autoencoders={autoencoders!r}"
            )
        own = [autoencoder.units for autoencoder in autoencoders]
        if units not in (None, own):
            raise ValueError(
                f"Expected `units` to be left out or {own}, as `autoencoders` have. "
                f"Received: units={units!r}"
            )
        self.autoencoders = list(autoencoders)
        self.preprocessing = before.checked(preprocessing)
        self.seed = seed

    @classmethod
    def from_model(
        cls,
        model,
        corruption=0.3,
        decoder_activation=None,
        tied=True,
        seed=None,
        sparsity=None,
        contraction=0.0,
        **kwargs,
    ):
        """Return a stack around the hidden `Dense` layers of a Keras model.

        The dAs hold the model's own layers: what `sda.GreedyPretrainer` teaches the stack, the
        model knows. The last `Dense` is the output layer and stays out. Layers without weights
        (`Activation`, `Dropout`, `Flatten`, …) are kept: before the first `Dense` they are the
        preprocessing, as an adapted `Normalization` is, after a `Dense` they belong to its code,
        and keep its shape; the stack runs them in inference mode. What they make of the range of
        the codes decides on the default decoder.

        Args:
            model: A built `keras.Sequential`, or a functional model that is a chain of layers.
            corruption, decoder_activation, tied, seed, sparsity, contraction: As in the
                constructor.
            **kwargs: Other arguments of the constructor, such as `name`, or those of a subclass.

        Returns:
            A `StackedDenoisingAutoencoder`, or what the subclass is that was asked.

        Raises:
            ValueError: If the model is no built chain, has fewer than two `Dense` layers, or
                between them has other weights, or layers that change the shape.

        Example:

        >>> mlp = keras.Sequential([keras.Input((784,)), keras.layers.Dense(30, "relu"),
        ...                         keras.layers.Dropout(0.5), keras.layers.Dense(10)])
        >>> stack = sda.StackedDenoisingAutoencoder.from_model(mlp, corruption=0.2, seed=1)
        >>> stack.autoencoders[0].encoder is mlp.layers[0]
        True
        """
        seed = check_seed(seed)
        parts = parts_of(
            model, seed, corruption=corruption, decoder_activation=decoder_activation, tied=tied,
            sparsity=sparsity, contraction=contraction,
        )  # fmt: skip
        units = [autoencoder.units for autoencoder in parts["autoencoders"]]
        stack = cls._made(units=units, seed=seed, **parts, **kwargs)
        stack.build(model.input_shape)
        return stack

    def add(
        self,
        units,
        corruption=0.3,
        activation="sigmoid",
        decoder_activation=None,
        tied=True,
        kernel_initializer=None,
        sparsity=None,
        contraction=0.0,
    ):
        """Add a layer on top, drawn as a stack of one layer more, of the same seed, draws its own.

        The layers below stay as they are, and so do classifiers, encoders and the like that were
        made of the stack before. A `sda.GreedyPretrainer` has to be made anew, and so has a model
        of your own that calls the stack itself, which has another output now.

        Args:
            units, corruption, activation, decoder_activation, tied, kernel_initializer, sparsity,
                contraction: As in the constructor, one value each.

        Raises:
            ValueError: If a value is out of its range. Nothing has changed then.

        Example:

        >>> stack = sda.StackedDenoisingAutoencoder([20], seed=1)
        >>> stack.add(10, corruption=0.2)
        >>> stack(keras.ops.zeros((3, 30))).shape
        (3, 10)
        """
        depth, last = len(self.autoencoders), self.autoencoders[-1]
        autoencoder = new_layer(
            depth,
            last,
            self.seed,
            units=units,
            corruption=corruption,
            activation=activation,
            decoder_activation=decoder_activation,
            tied=tied,
            kernel_initializer=kernel_initializer,
            sparsity=sparsity,
            contraction=contraction,
            dtype=self.dtype_policy,
        )
        if self.built:
            shape = before.build(self.preprocessing, (None, *self.example_shape))
            # In the scope of `build`, which is too late for an error.
            with keras.name_scope(self.name):
                autoencoder.build(last.code_shape(shape))
        # Keras locks what a built layer consists of; `build` does so again.
        self._tracker.unlock()
        self.autoencoders = [*self.autoencoders, autoencoder]
        if self.built:
            self.build((None, *self.example_shape))
        # What was compiled has one layer less.
        self.predict_function = self.test_function = self.train_function = None

    def build(self, input_shape):
        shape = before.build(self.preprocessing, tuple(input_shape))
        for autoencoder in self.autoencoders:
            if not autoencoder.built:
                autoencoder.build(shape)
            shape = autoencoder.code_shape(shape)
        self.example_shape = tuple(input_shape[1:])

    @property
    def input_dtype(self):
        """The dtype of floats that come in: what prepares them may need more than 16 bits."""
        return keras.config.floatx()

    def call(self, x):
        return self.codes(self.prepare(x))

    def compute_output_shape(self, input_shape):
        shape = before.build(self.preprocessing, tuple(input_shape))
        for autoencoder in self.autoencoders:
            shape = autoencoder.code_shape(shape)
        return shape

    def fit(self, *args, **kwargs):
        """Raise `ValueError`: `sda.GreedyPretrainer` trains a stack, `sda.fit` a model from it."""
        raise ValueError(
            "Expected a stack to be trained layer by layer, by sda.GreedyPretrainer(stack).fit(x), "
            "or as a classifier or the like, by sda.fit(stack.classifier(10), x, y). Received: a "
            "call of `stack.fit`"
        )

    def encode(self, x, layer=-1, batch_size=1024):
        """Return the clean codes hᵏ of one layer.

        Args:
            x: Array of shape `(n, ...)`; anything that slices into NumPy arrays, such as an
                `h5py.Dataset`, or a matrix of `scipy.sparse`, is read in pieces of `batch_size`
                rows.
            layer: Index of the layer, 0 for the first, -1 for the top.
            batch_size: Rows encoded at a time.

        Returns:
            NumPy array of shape `(n, units[layer])`.

        Raises:
            ValueError: If there is no such layer, or `x` has the wrong shape or is not finite (but
                for NaN, if the stack was made with `fill_value`).
        """
        self._index(layer)
        return self.in_pieces(lambda rows: self.codes(self.prepare(rows), layer), x, batch_size)

    def reconstruct(self, x, layer=-1, batch_size=1024):
        """Return the input rebuilt from its code: up to `layer` and down again, without noise.

        Args:
            x: Array of shape `(n, ...)`.
            layer: Index of the layer to turn around at; -1 is the whole stack.
            batch_size: Rows at a time.

        Returns:
            NumPy array of the shape of `x`, in its units where the preprocessing has an inverse
            (`Rescaling`, `Normalization`, `Flatten` and `Reshape` have), else in those after it.

        Raises:
            ValueError: If there is no such layer, or `x` has the wrong shape or is not finite (but
                for NaN, if the stack was made with `fill_value`).
        """
        self._index(layer)

        def reconstruct(rows):
            return self.undone(self.rebuilt(self.prepare(rows), layer))

        return self.in_pieces(reconstruct, x, batch_size)

    def sample(self, x, steps=1, seed=None):
        """Sample new inputs top-down from the codes of given examples.

        The top code of each example is computed; from there down, each layer's mean
        σ(hᵏ Wᵏᵀ + b'ᵏ) is sampled as Bernoulli variables that feed the layer below; at the
        input the means are returned (Vincent et al., JMLR 11 (2010), section 7). Layers whose
        decoder is not a sigmoid pass their means on.

        Args:
            x: Array of shape `(n, ...)`, the examples to start from.
            steps: Integer ≥ 1, how often to go up and down; each pass starts from the last means.
            seed: Integer, or None for new samples at each call.

        Returns:
            NumPy array, the means at the input, in units as those of `reconstruct`.

        Raises:
            ValueError: If `steps` is below 1, or `x` has the wrong shape or is not finite (but for
                NaN, if the stack was made with `fill_value`).
        """
        return scoring.sample(self, x, steps, seed)

    def classifier(self, num_classes, dropout=0.0, copy=False, noise=0.0, name=None):
        """Return a softmax classifier on the stack's encoders, for `sda.fit` or `Model.fit`.

        Args:
            num_classes: Integer, the number of classes.
            dropout: One rate in [0, 1), or a list with one for the input and one for each code.
            copy: Whether the model gets weights of its own. By default it holds the stack's own
                `Dense` layers: training it trains the stack. Dropout and noise have masks of their
                own in models of other kinds and names; a model that is made again has the same.
            noise: Standard deviation of Gaussian noise on the input while the model is trained, a
                number in [0, 1].
            name: Name of the model, "classifier" by default. Two of one name cannot be in one
                model.

        Returns:
            A `keras.Sequential` of stock Keras layers, to be compiled with a loss such as
            "sparse_categorical_crossentropy". It loads without `sda`. It has the dtype policy of
            the stack, so `compile` scales the loss under "mixed_float16"; a file of it has no
            policy, so to train on after loading one, give `compile` a `LossScaleOptimizer`.

        Raises:
            ValueError: If the stack is not built, or an argument is out of its range.
        """
        outputs = check_count(num_classes, "num_classes")
        name = name or "classifier"
        return supervised.supervised(self, outputs, "softmax", dropout, copy, noise, name)

    def multilabel_classifier(self, num_labels, dropout=0.0, copy=False, noise=0.0, name=None):
        """Return a classifier with independent labels: sigmoid outputs, for "binary_crossentropy".

        Arguments as in `classifier`.
        """
        outputs = check_count(num_labels, "num_labels")
        name = name or "multilabel_classifier"
        return supervised.supervised(self, outputs, "sigmoid", dropout, copy, noise, name)

    def regressor(self, num_targets, dropout=0.0, copy=False, noise=0.0, name=None):
        """Return a regressor: linear outputs, for "mse". Arguments as in `classifier`."""
        outputs = check_count(num_targets, "num_targets")
        name = name or "regressor"
        return supervised.supervised(self, outputs, "linear", dropout, copy, noise, name)

    def encoder_model(self, layer=-1, copy=False, name=None):
        """Return the encoder up to one layer, as a model of its own.

        Args:
            layer: Index of the layer whose codes are the output, -1 for the top.
            copy: Whether the model gets weights of its own.
            name: Name of the model, "encoder" by default.

        Returns:
            A `keras.Sequential` of stock Keras layers. It loads without `sda`.

        Raises:
            ValueError: If the stack is not built, or there is no such layer.
        """
        depth = self._index(layer) + 1
        return supervised.encoder_model(self, depth, copy, name or "encoder")

    def unrolled(self, copy=False, name=None):
        """Return the deep autoencoder: the encoders, then the decoders in reverse order.

        The encoders are the stack's own (with `copy=True`, copies). The decoders start from the
        stack's weights and are trained as layers of their own. What it returns has units as those
        of `reconstruct`. `name` is the name of the model, "unrolled" by default.
        """
        return supervised.unrolled(self, copy, name or "unrolled")

    @property
    def fill_value(self):
        """What the network sees in place of missing values, or None."""
        return self.autoencoders[0].fill_value

    def impute(self, x, iterations=1, layer=-1, batch_size=1024):
        """Return `x` with its missing values, NaN, filled with their reconstructions.

        Args:
            x: Array of shape `(n, ...)`.
            iterations: Integer ≥ 1. In the first one the network sees `fill_value` in place of the
                missing values, from the second one on what the one before filled in.
            layer: Index of the layer to turn around at; -1 is the whole stack.
            batch_size: Rows at a time.

        Returns:
            NumPy array of the shape of `x`; what was there is as it was.

        Raises:
            ValueError: If the stack was made without `fill_value`, if its preprocessing has no
                inverse, if `x` is infinite somewhere or has the wrong shape, or an argument is out
                of its range.
        """
        return scoring.impute(self, x, iterations, layer, batch_size)

    def reconstruction_error(self, x, per_column=False, loss=None, layer=-1, batch_size=1024):
        """Return how badly each row is rebuilt, without noise: a score for anomalies.

        Args:
            x: Array of shape `(n, ...)`. Values that are missing (NaN) are left out.
            per_column: Whether to return the error of each column, NaN where it is missing, instead
                of the sum over columns.
            loss: A loss of `sda.losses` or its name, in whose units the errors are; None for the
                one that belongs to the first layer's decoder, as in `sda.GreedyPretrainer`.
            layer: Index of the layer to turn around at; -1 is the whole stack.
            batch_size: Rows at a time.

        Returns:
            float32 array of shape `(n,)`, or with `per_column` of the shape of `x`, in which each
            category of a `ColumnLoss` is one column.

        Raises:
            ValueError: If `x` is not finite (but for NaN, if the stack was made with `fill_value`)
                or has the wrong shape, or `loss` is not of `sda.losses`.
        """
        self._index(layer)
        return scoring.reconstruction_error(self, x, per_column, loss, layer, batch_size)

    def prepare(self, x):
        """Return the input of the first dA, as floats: the tensor `x` after `preprocessing`."""
        return before.apply(self.preprocessing, x)

    def codes(self, x, layer=-1):
        """Return the codes of one layer for the input `x` of the first dA, a tensor."""
        for autoencoder in self.autoencoders[: self._index(layer) + 1]:
            x = autoencoder.encode(x)
        return x

    def rebuilt(self, x, layer=-1, logits=False):
        """Return the input `x` of the first dA, a tensor, up to `layer` and down again."""
        codes = self.codes(x, layer)
        for autoencoder in reversed(self.autoencoders[1 : self._index(layer) + 1]):
            codes = autoencoder.decode(codes)
        return self.autoencoders[0].decode(codes, logits=logits)

    def lift(self, k):
        """Return the function from what layer `k` is trained on to its codes: rows for layer 0."""
        encode = self.autoencoders[k].encode
        return encode if k else lambda x: encode(self.prepare(x))

    def undone(self, x):
        """Return what a first dA rebuilt in the units of rows, where there is a way back."""
        back = before.inverse(self.preprocessing, self.example_shape)
        return x if back is None else before.apply(back, x)

    def _index(self, layer):
        depth = len(self.autoencoders)
        is_integer = isinstance(layer, (int, np.integer)) and not isinstance(layer, bool)
        if not is_integer or not -depth <= layer < depth:
            raise ValueError(
                f"Expected `layer` to be an integer from {-depth} to {depth - 1}. "
                f"Received: layer={layer!r}"
            )
        return int(layer) % depth

    def in_pieces(self, function, x, batch_size, then=lambda found: found):
        """Return a function of tensors, applied to `batch_size` rows at a time, as one array.

        `then` is a function of what comes out of each piece, an array.
        """
        check_count(batch_size, "batch_size")
        x = rows_of(x)
        check_numbers(x.dtype, "x")
        shape = x.shape
        if not self.built:
            self.build(shape)
        if shape[1:] != self.example_shape:
            raise ValueError(
                f"Expected `x` of shape (n, {', '.join(map(str, self.example_shape))}). "
                f"Received: shape {shape}"
            )
        function = on_arrays(function)

        def checked(start):
            rows = np.asarray(x[start : start + batch_size])
            # There may be no row at all.
            if len(rows):
                check_finite(rows, "x", start, missing=self.fill_value is not None)
            return then(function(rows))

        return np.concatenate([checked(i) for i in range(0, max(shape[0], 1), batch_size)])

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "units": [autoencoder.units for autoencoder in self.autoencoders],
            "autoencoders": [serialize_shared(autoencoder) for autoencoder in self.autoencoders],
            "preprocessing": [serialize(layer) for layer in self.preprocessing],
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        load = keras.saving.deserialize_keras_object
        if "input_layers" in config:
            raise ValueError(
                "Expected a stack that sda 0.2 or later saved. Received: one of sda 0.1; build it "
                "anew and assign its weights"
            )
        # A subclass that says all itself has none.
        held = {
            name: [load(c) for c in config[name]]
            for name in ("autoencoders", "preprocessing")
            if name in config
        }
        return cls._made(**{**config, **held})

    @classmethod
    def _made(cls, **arguments):
        """Return an instance: made by the constructor, a subclass is whole."""
        try:
            inspect.signature(cls.__init__).bind(None, **arguments)
        except TypeError as error:
            raise ValueError(
                f"Expected the constructor of {cls.__name__} to hand on by **kwargs what a stack "
                "is made of again, such as `autoencoders`, and `get_config` to hold its own "
                f"arguments. Received: {error}, of {sorted(arguments)}"
            ) from error
        return cls(**arguments)
