"""The denoising autoencoder (dA) as a Keras layer."""

import keras
from keras import ops

from sda.checks import check_count, check_flag
from sda.forks import check_process
from sda.layers import code_penalties, kernel, noises, parts, ranges
from sda.layers.fill import filler
from sda.layers.tied import tied_pass
from sda.losses.columns import ColumnActivation
from sda.losses.derivatives import SLOPES
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
        fill_value: The number that stands for missing values, which are NaN in `x`, or a list with
            one a feature; None where none may be missing. There is no noise on them.
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
        fill_value=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seed = check_seed(seed)
        self.corruption = noises.get(corruption)
        if self.corruption.seed is None and self.seed is not None:
            self.corruption = self.corruption.copy(stream(self.seed, "noise"))
        parts.activation(activation, "activation")
        self.decoder_activation = parts.activation(decoder_activation, "decoder_activation")
        self.tied = check_flag(tied, "tied")
        self.fill = filler(fill_value, self.dtype_policy)
        self.kernel_initializer = kernel_initializer
        self.shares_encoder = encoder is not None
        if self.shares_encoder:
            parts.check_encoder(encoder, units, activation, kernel_initializer if tied else None)
            self.encoder = encoder
        else:
            self.encoder = keras.layers.Dense(
                check_count(units, "units"),
                activation=activation,
                kernel_initializer=parts.initializer(
                    kernel_initializer, activation, stream(seed, "initialiser", 0)
                ),
                dtype=self.dtype_policy,
                name=f"{self.name}_encoder",
            )
        self.units = self.encoder.units
        self.features = None  # of the input, once it is built
        self.code_layers = parts.code_layers(code_layers)
        self.sparsity = code_penalties.sparsity(sparsity)
        self.contraction = code_penalties.contraction(contraction)
        code_penalties.check(self)

    @property
    def fill_value(self):
        """What stands for missing values: a number, a list with one a feature, or None."""
        return self.fill.value

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
        return ranges.of_codes(self.encoder_layers)

    @property
    def codes_in_unit_interval(self):
        """Whether the codes are known to lie in [0, 1], and may be read as probabilities."""
        ends = self.code_range
        return ends is not None and ends[0] >= 0 and ends[1] <= 1

    @property
    def encoder_layers(self):
        """The layers that compute the code: `encoder`, then `code_layers`."""
        return [self.encoder, *self.code_layers]

    def code_shape(self, input_shape):
        """Return the shape of the codes for inputs of a shape, as tuples."""
        return (*input_shape[:-1], self.units)

    def decoder_filters(self):
        """Return the kernel that the decoder computes with, of shape `(units, features)`."""
        return ops.transpose(self.filters()) if self.tied else self.decoder_kernel

    def filters(self):
        """Return the W that `encoder` computes with, a tensor or a variable: one column a unit.

        Under LoRA it holds what was adapted, and after `quantize("int8")` it is scaled back.

        Raises:
            ValueError: If the encoder is quantized in another way.
        """
        return kernel.in_force(self.encoder, self.compute_dtype)

    def build(self, input_shape):
        check_process()
        visible = input_shape[-1]
        if len(input_shape) < 2 or visible is None:
            raise ValueError(
                "Expected inputs of shape (batch, ..., visible) with a known last axis. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        codes = self.code_shape(tuple(input_shape))
        parts.build_code_layers(self.code_layers, codes, self.compute_dtype)
        if not self.encoder.built:
            self.encoder.build(input_shape)
        if self.encoder.kernel.shape[0] != visible:
            raise ValueError(
                f"Expected inputs with {self.encoder.kernel.shape[0]} features, as `encoder` has. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.fill.build(input_shape)
        if isinstance(self.decoder_activation, ColumnActivation):
            self.decoder_activation.layout.check_width(input_shape)
        self.features = visible
        self.corruption.build(input_shape)
        self.visible_bias = self.add_weight((visible,), initializer="zeros", name="visible_bias")
        if not self.tied:
            initializer = self.kernel_initializer
            if initializer is None and self.shares_encoder:
                initializer = self.encoder.kernel_initializer
            self.decoder_kernel_initializer = parts.initializer(
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
        y = self.encode(self.fill.spare(x, noisy)[0] if training else noisy)
        if training:
            for penalty in self.penalties(y).values():
                self.add_loss(penalty)
        return self.decode(y)

    def corrupt(self, x, corruption=None):
        """Return `x` filled and with noise where it is known, and where the noise acted.

        Args:
            x: Tensor of shape `(batch, ..., visible)`.
            corruption: The noise, or None for the layer's own.

        Returns:
            `(corrupted, selected)`, as `sda.Corruption.corrupt` does.
        """
        return self.fill.spare(x, *(corruption or self.corruption).corrupt(self.fill(x)))

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
        return code_penalties.values(self, codes)

    def decode(self, codes, logits=False):
        """Return the reconstruction z = s'(y Wᵀ + b') of the input from its code.

        Args:
            codes: Tensor of shape `(batch, ..., units)`.
            logits: Whether to leave out s' and return the pre-activation.

        Returns:
            Tensor of shape `(batch, ..., visible)`.
        """
        a = ops.matmul(ops.cast(codes, self.compute_dtype), self.decoder_filters())
        a = a + self.visible_bias
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
        one_pass = self.tied and slope and not self.code_layers and kernel.is_plain(encoder)
        if not one_pass or len(x.shape) != 2:
            return self.decode(self.encode(x), logits=logits)
        x = self.fill(ops.cast(x, self.compute_dtype))
        weights = [
            ops.cast(ops.convert_to_tensor(v), self.compute_dtype)
            for v in (encoder.kernel, encoder.bias, self.visible_bias)
        ]
        a = tied_pass(encoder.activation, slope)(x, *weights)
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
        if self.fill_value is not None:
            config["fill_value"] = self.fill_value
        encoder = parts.serialize_shared(self.encoder)
        # In a file other layers may hold it too, an encoder of the dA's own as well.
        if self.shares_encoder or "shared_object_id" in encoder:
            config["encoder"] = encoder
        if not self.shares_encoder:
            config["units"] = self.units
            config["activation"] = keras.activations.serialize(self.encoder.activation)
        if self.code_layers:
            config["code_layers"] = [parts.serialize_shared(layer) for layer in self.code_layers]
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        if "missing" in config:
            raise ValueError(
                "Expected a dA that sda 0.2 or later saved, with `fill_value`. Received: one of "
                "sda 0.1, with `missing`; build it anew and assign its weights"
            )
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
