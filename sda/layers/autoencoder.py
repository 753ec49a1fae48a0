"""The denoising autoencoder (dA) as a Keras layer."""

import keras
from keras import ops

from sda.checks import check_count, check_flag, check_number, look_up
from sda.forks import check_process
from sda.layers import noises, ranges
from sda.layers.fill import checked_fill
from sda.layers.tied import tied_pass
from sda.losses import penalties
from sda.losses.columns import ColumnActivation
from sda.losses.derivatives import SLOPES
from sda.losses.derivatives import names as names_of_slopes
from sda.streams import check_seed, stream


@keras.saving.register_keras_serializable(package="sda")
class DenoisingAutoencoder(keras.layers.Layer):
    """A dA: rebuilds its clean input from a corrupted version of it.

    x̃ ~ q(x̃ | x),  y = s(x̃ W + b),  z = s'(y Wᵀ + b')

    (Vincent et al., ICML 2008, section 2; the Theano tutorial's `dA` class.) W and b belong to
    `encoder`, a plain `keras.layers.Dense` that other models may hold too: what they learn, the dA
    knows, and the other way round. b' is `visible_bias`. Untied, Wᵀ is replaced by a kernel of its
    own, `decoder_kernel`. The input is corrupted in training only.

    Args:
        units: Integer, the number of hidden units.
        corruption: The corruption level as a float in [0, 1], meaning masking noise, or any
            `sda.Corruption`. One without a seed is copied and seeded from `seed`.
        activation: Activation s of the hidden units.
        decoder_activation: Activation s' of the visible units: "sigmoid" for data in [0, 1],
            "linear" for real-valued data.
        tied: Whether to decode with the transpose of the encoder's kernel.
        kernel_initializer: A Keras initializer. None means the tutorial's
            U(±4·sqrt(6 / (visible + units))) under a sigmoid, and Glorot's uniform otherwise.
        encoder: An existing `keras.layers.Dense` to share instead of a new one. `units` is then its
            own, as are activation and initializer. A model that holds both saves and loads with
            them shared; `keras.models.clone_model` gives each a layer of its own, as it does with
            Keras's layers that hold others.
        code_layers: Layers without weights (`Activation`, `Dropout`, …) that follow `encoder` where
            it comes from. They belong to the code, keep its shape, and run in inference mode.
        seed: Integer from which the initial weights and the noise are drawn, or None.
        sparsity: Penalty on the codes in training, a `keras.regularizers.Regularizer` such as
            `sda.penalties.KLSparsity(0.05)` or `keras.regularizers.L1(1e-3)`, or None. Its value
            for the codes of a batch is divided by the examples of the batch.
        contraction: Float ≥ 0, the weight λ of the contractive penalty λ‖∂h/∂x‖² (Rifai et al.,
            ICML 2011), averaged over the batch.
        missing: The number that stands for missing values, which are NaN in `x`, or a list with one
            a feature; None where none may be missing. There is no noise on them.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Tensor of shape `(batch, ..., visible)`.
        training: Whether to corrupt `x` first.

    Returns:
        The reconstruction, of the shape of `x`.

    Raises:
        ValueError: If an argument is out of its range, or contradicts `encoder`.

    Example:

    >>> layer = sda.DenoisingAutoencoder(500, corruption=0.3, seed=1)
    >>> layer(keras.ops.zeros((20, 784))).shape
    (20, 784)
    >>> layer.encoder.kernel.shape
    (784, 500)
    """

    def __init__(
        self,
        units=None,
        corruption=0.3,
        activation="sigmoid",
        decoder_activation="sigmoid",
        tied=True,
        kernel_initializer=None,
        encoder=None,
        code_layers=(),
        seed=None,
        sparsity=None,
        contraction=0.0,
        missing=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seed = check_seed(seed)
        self.corruption = noises.get(corruption)
        if self.corruption.seed is None and self.seed is not None:
            self.corruption = self.corruption.copy(stream(self.seed, "noise"))
        _activation(activation, "activation")
        self.decoder_activation = _activation(decoder_activation, "decoder_activation")
        self.tied = check_flag(tied, "tied")
        self.missing = checked_fill(missing)
        self.kernel_initializer = kernel_initializer
        self.shares_encoder = encoder is not None
        if self.shares_encoder:
            _check_encoder(encoder, units, activation, kernel_initializer if tied else None)
            self.encoder = encoder
        else:
            self.encoder = keras.layers.Dense(
                check_count(units, "units"),
                activation=activation,
                kernel_initializer=_initializer(
                    kernel_initializer, activation, stream(seed, "initialiser", 0)
                ),
                dtype=self.dtype_policy,
                name=f"{self.name}_encoder",
            )
        self.units = self.encoder.units
        if not isinstance(code_layers, (list, tuple)):
            raise ValueError(
                f"Expected `code_layers` to be a list. Received: code_layers={code_layers!r}"
            )
        self.code_layers = list(code_layers)
        for layer in self.code_layers:
            _check_code_layer(layer)
        self.sparsity = _sparsity(sparsity)
        self.contraction = check_number(
            contraction, "contraction", "finite and at least 0", lambda w: 0 <= w < float("inf")
        )
        self._check_penalties()

    def _check_penalties(self):
        """Raise `ValueError` where a penalty does not fit the code, or would not act."""
        if self.activity_regularizer is not None:
            raise ValueError(
                "Expected `activity_regularizer` to be left out: a layer's is on what it returns, "
                "here the reconstruction. For a penalty on the codes use `sparsity`. "
                f"Received: activity_regularizer={self.activity_regularizer!r}"
            )
        if isinstance(self.sparsity, penalties.KLSparsity) and not self.codes_in_unit_interval:
            raise ValueError(
                "Expected codes in [0, 1], as those of a sigmoid, under `KLSparsity`. "
                f"Received: activation={self.activation!r}, code_layers={self.code_layers!r}"
            )
        bent = [la for la in [self.encoder, *self.code_layers] if not _is_straight(la)]
        known = self.activation in SLOPES and len(bent) <= 1
        if self.contraction and not (known and all(hasattr(la, "activation") for la in bent)):
            raise ValueError(
                "Expected an activation with a known derivative under `contraction`, one of "
                f"{names_of_slopes()}. Received: activation={self.activation!r}, "
                f"code_layers={self.code_layers!r}"
            )

    @property
    def activation(self):
        """The function from the encoder's pre-activation to the code, as far as layers name one."""
        named = [self.encoder.activation]
        named += [layer.activation for layer in self.code_layers if hasattr(layer, "activation")]
        return next((a for a in reversed(named) if a is not keras.activations.linear), named[0])

    @property
    def features(self):
        """The number of features of the input, once the layer is built."""
        return self.visible_bias.shape[0]

    @property
    def code_range(self):
        """The ends between which the codes are known to lie, two numbers, or None.

        Of the encoder and all code layers: a layer that is not of Keras may return anything.
        """
        return ranges.of_codes([self.encoder, *self.code_layers])

    @property
    def codes_in_unit_interval(self):
        """Whether the codes are known to lie in [0, 1], and may be read as probabilities."""
        ends = self.code_range
        return ends is not None and ends[0] >= 0 and ends[1] <= 1

    @property
    def kernel(self):
        """The W that `encoder` computes with, a tensor or a variable.

        Under LoRA it holds what was adapted, and after `quantize("int8")` it is scaled back.

        Raises:
            ValueError: If the encoder is quantized in another way.
        """
        encoder = self.encoder
        if encoder.quantization_mode is None:
            return encoder.kernel
        if encoder.quantization_mode != "int8":
            raise ValueError(
                'Expected the encoder of a dA to be of floats, or quantized to "int8". Received: '
                f"quantization_mode={encoder.quantization_mode!r}"
            )
        # `encoder.kernel` adds what was adapted to the integers; the layer scales these first.
        kernel = ops.cast(ops.convert_to_tensor(encoder._kernel), self.compute_dtype)
        kernel = ops.divide(kernel, encoder.kernel_scale)
        if not encoder.lora_enabled:
            return kernel
        adapted = ops.matmul(encoder.lora_kernel_a, encoder.lora_kernel_b)
        return kernel + ops.cast(encoder.lora_alpha / encoder.lora_rank * adapted, kernel.dtype)

    def build(self, input_shape):
        check_process()
        visible = input_shape[-1]
        if len(input_shape) < 2 or visible is None:
            raise ValueError(
                "Expected inputs of shape (batch, ..., visible) with a known last axis. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        shape = (*input_shape[:-1], self.units)
        for layer in self.code_layers:
            if not layer.built:
                layer.build(shape)
            _check_code_layer(layer)
            codes = keras.KerasTensor(shape, self.compute_dtype)
            returned = tuple(layer.compute_output_spec(codes).shape)
            if returned != shape:
                raise ValueError(
                    f"Expected `code_layers` to keep the shape of the codes, {shape}; a layer that "
                    f"changes it belongs before the encoder. Received: {layer!r}, which returns "
                    f"the shape {returned}"
                )
        if not self.encoder.built:
            self.encoder.build(input_shape)
        if self.encoder.kernel.shape[0] != visible:
            raise ValueError(
                f"Expected inputs with {self.encoder.kernel.shape[0]} features, as `encoder` has. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if isinstance(self.missing, list) and len(self.missing) != visible:
            raise ValueError(
                f"Expected `missing` to be a number or a list of {visible}, one a feature of the "
                f"input. Received: a list of {len(self.missing)}"
            )
        if isinstance(self.decoder_activation, ColumnActivation):
            self.decoder_activation.layout.check_width(input_shape)
        self.corruption.build(input_shape)
        self.visible_bias = self.add_weight((visible,), initializer="zeros", name="visible_bias")
        if not self.tied:
            initializer = self.kernel_initializer
            if initializer is None and self.shares_encoder:
                initializer = self.encoder.kernel_initializer
            self.decoder_kernel_initializer = _initializer(
                initializer, self.activation, stream(self.seed, "initialiser", 1)
            )
            self.decoder_kernel = self.add_weight(
                (self.units, visible),
                initializer=self.decoder_kernel_initializer,
                name="decoder_kernel",
            )

    def initial_values(self):
        """Return the weights as their initialisers draw them: a list of `(variable, value)`.

        These are the values that the layer was built with, if it was built here. A subclass that
        has more weights adds them.

        Raises:
            ValueError: If the encoder was adapted (LoRA) or quantized.
        """
        encoder = self.encoder
        if encoder.lora_enabled or encoder.quantization_mode is not None:
            raise ValueError(
                "Expected an encoder of floats, without LoRA, whose weights are to be drawn again. "
                f"Received: lora_enabled={encoder.lora_enabled}, "
                f"quantization_mode={encoder.quantization_mode!r} in {self.name!r}"
            )
        drawn = [
            (encoder.kernel, encoder.kernel_initializer),
            (encoder.bias, encoder.bias_initializer),
            (self.visible_bias, keras.initializers.Zeros()),
        ]
        if not self.tied:
            drawn.append((self.decoder_kernel, self.decoder_kernel_initializer))
        return [(v, initializer(v.shape, dtype=v.dtype)) for v, initializer in drawn]

    def call(self, x, training=None):
        noisy = self.corruption(self.fill(x), training=training)
        y = self.encode(self._keep_missing(x, noisy) if training else noisy)
        if training:
            for penalty in self.penalties(y).values():
                self.add_loss(penalty)
        return self.decode(y)

    def fill(self, x):
        """Return `x` with `missing` in place of NaN."""
        if self.missing is None:
            return x
        if not keras.backend.is_float_dtype(x.dtype):
            x = ops.cast(x, self.compute_dtype)
        return ops.where(ops.isnan(x), ops.cast(self.missing, x.dtype), x)

    def corrupt(self, x, corruption=None):
        """Return `x` filled and with noise where it is known, and where the noise acted.

        Args:
            x: Tensor of shape `(batch, ..., visible)`.
            corruption: The noise, or None for the layer's own.

        Returns:
            `(corrupted, selected)`, as `sda.Corruption.corrupt` does.
        """
        corrupted, selected = (corruption or self.corruption).corrupt(self.fill(x))
        if selected is not None and self.missing is not None:
            selected = ops.logical_and(selected, ops.logical_not(ops.isnan(x)))
        return self._keep_missing(x, corrupted), selected

    def _keep_missing(self, x, corrupted):
        """Return `corrupted` with `missing` where `x` is NaN: noise there would show a value."""
        if self.missing is None:
            return corrupted
        return ops.where(ops.isnan(x), ops.cast(self.missing, corrupted.dtype), corrupted)

    def encode(self, x):
        """Return the code y = s(x W + b) of `x`, shape `(batch, ..., units)`, without noise."""
        y = self.encoder(self.fill(x))
        for layer in self.code_layers:
            y = layer(y, training=False)
        return y

    @property
    def penalised(self):
        """Whether there is a penalty on the codes."""
        return self.sparsity is not None or self.contraction > 0

    def penalties(self, codes):
        """Return what is added to the loss, by name, for the codes y of a batch.

        Args:
            codes: Tensor of shape `(batch, ..., units)`, as `encode` returns it.

        Returns:
            Dict of scalar tensors, weighted: "sparsity" and "contraction", where they are set.
        """
        found = {}
        if self.sparsity is not None:
            codes = ops.cast(codes, "float32")
            examples = ops.cast(ops.shape(codes)[0], "float32")
            found["sparsity"] = self.sparsity(codes) / examples
        if self.contraction:
            norm = penalties.contraction(codes, self.activation, self.kernel)
            found["contraction"] = self.contraction * norm
        return found

    def decode(self, codes, logits=False):
        """Return the reconstruction z = s'(y Wᵀ + b') of the input from its code.

        Args:
            codes: Tensor of shape `(batch, ..., units)`.
            logits: Whether to leave out s' and return the pre-activation.

        Returns:
            Tensor of shape `(batch, ..., visible)`.
        """
        kernel = ops.transpose(self.kernel) if self.tied else self.decoder_kernel
        a = ops.matmul(ops.cast(codes, self.compute_dtype), kernel) + self.visible_bias
        return a if logits else self.decoder_activation(a)

    def rebuild(self, x, logits=False):
        """Return `decode(encode(x), logits)` for training: faster, and without a gradient for `x`.

        Args:
            x: Tensor of shape `(batch, ..., visible)`: data, not something to be trained through.
            logits: Whether to leave out s'.

        Returns:
            Tensor of the shape of `x`.
        """
        encoder = self.encoder
        slope = SLOPES.get(encoder.activation)
        plain = type(encoder) is keras.layers.Dense and not (
            encoder.lora_enabled or encoder.quantization_mode or encoder.activity_regularizer
        )
        if not self.tied or not plain or slope is None or self.code_layers or len(x.shape) != 2:
            return self.decode(self.encode(x), logits=logits)
        x = self.fill(ops.cast(x, self.compute_dtype))
        parts = (encoder.kernel, encoder.bias, self.visible_bias)
        parts = [ops.cast(ops.convert_to_tensor(part), self.compute_dtype) for part in parts]
        a = tied_pass(encoder.activation, slope)(x, *parts)
        return a if logits else self.decoder_activation(a)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        initializer = self.kernel_initializer
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = keras.saving.serialize_keras_object(initializer)
        config = {
            "corruption": keras.saving.serialize_keras_object(self.corruption),
            "decoder_activation": keras.activations.serialize(self.decoder_activation),
            "tied": self.tied,
            "kernel_initializer": initializer,
            "seed": self.seed,
        }
        if self.sparsity is not None:
            config["sparsity"] = keras.regularizers.serialize(self.sparsity)
        if self.contraction:
            config["contraction"] = self.contraction
        if self.missing is not None:
            config["missing"] = self.missing
        encoder = serialize_shared(self.encoder)
        # In a file other layers may hold it too, an encoder of the dA's own as well.
        if self.shares_encoder or "shared_object_id" in encoder:
            config["encoder"] = encoder
        if not self.shares_encoder:
            config["units"] = self.units
            config["activation"] = keras.activations.serialize(self.encoder.activation)
        if self.code_layers:
            config["code_layers"] = [serialize_shared(layer) for layer in self.code_layers]
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        load = keras.saving.deserialize_keras_object
        config = {**config, "code_layers": [load(c) for c in config.get("code_layers", ())]}
        if "encoder" not in config:
            return cls(**config)
        encoder = config["encoder"] = load(config["encoder"])
        if "units" not in config:
            return cls(**config)
        # The encoder that was made for the dA: its settings are known, and no contradiction.
        initializer = config.pop("kernel_initializer", None)
        if "activation" in config:
            config["activation"] = getattr(encoder, "activation", None)
        autoencoder = cls(**config)
        autoencoder.kernel_initializer = initializer
        autoencoder.shares_encoder = False
        return autoencoder


dA = DenoisingAutoencoder


def serialize_shared(layer):
    """Return the config of a layer that other layers of the same model may hold too.

    In a file Keras marks a layer as shared from its second config on, and the first one
    afterwards: too late for a config that went into another one, which was copied by then.
    """
    keras.saving.serialize_keras_object(layer)
    return keras.saving.serialize_keras_object(layer)


def _check_encoder(encoder, units, activation, kernel_initializer):
    if not isinstance(encoder, keras.layers.Dense):
        raise ValueError(
            f"Expected `encoder` to be a keras.layers.Dense. Received: encoder={encoder!r}"
        )
    if not encoder.use_bias:
        raise ValueError(
            f"Expected `encoder` to have a bias. Received: encoder={encoder!r} with use_bias=False"
        )
    if units not in (None, encoder.units):
        raise ValueError(
            f"Expected `units` to be left out or {encoder.units}, as `encoder` has. "
            f"Received: units={units!r}"
        )
    # "sigmoid" is what a caller gets who says nothing.
    if keras.activations.get(activation) not in (keras.activations.sigmoid, encoder.activation):
        raise ValueError(
            "Expected `activation` to be left out: the activation of `encoder` is used. "
            f"Received: activation={activation!r}"
        )
    if kernel_initializer is not None:
        raise ValueError(
            "Expected `kernel_initializer` to be left out: the one kernel is that of `encoder`. "
            f"Received: kernel_initializer={kernel_initializer!r}"
        )


def _check_code_layer(layer):
    if not isinstance(layer, keras.layers.Layer) or layer.weights:
        raise ValueError(
            f"Expected `code_layers` to hold Keras layers without weights. Received: {layer!r}"
        )


def _is_straight(layer):
    """Return whether a layer of the code changes no derivative."""
    linear = getattr(layer, "activation", None) is keras.activations.linear
    return linear or ranges.computes_as(layer, ranges.INERT)


def _sparsity(identifier):
    """Return the regularizer that is meant, or None."""
    expectation = "a keras.regularizers.Regularizer or None"
    found = look_up(keras.regularizers.get, identifier, "sparsity", expectation)
    if found is not None and not isinstance(found, keras.regularizers.Regularizer):
        raise ValueError(f"Expected `sparsity` to be {expectation}. Received: sparsity={found!r}")
    return found


def _activation(identifier, name):
    return look_up(keras.activations.get, identifier, name, "an activation function or its name")


def _initializer(identifier, activation, seed):
    """Return a fresh initializer, seeded where it can be; None is the activation's default."""
    if identifier is None:
        # 4·Glorot's limit is VarianceScaling with 16 times its scale.
        scale = 16.0 if keras.activations.get(activation) is keras.activations.sigmoid else 1.0
        return keras.initializers.VarianceScaling(scale, "fan_avg", "uniform", seed=seed)
    expectation = "a Keras initializer or None"
    initializer = look_up(keras.initializers.get, identifier, "kernel_initializer", expectation)
    if not isinstance(initializer, keras.initializers.Initializer):
        raise ValueError(
            f"Expected `kernel_initializer` to be {expectation}. "
            f"Received: kernel_initializer={identifier!r}"
        )
    config = initializer.get_config()
    if config.get("seed", 0) is None:
        config["seed"] = seed
    return type(initializer).from_config(config)
