"""The model that is trained: one autoencoder, its loss and its noise."""

import keras
from keras import ops

from sda import losses
from sda.distribution import replicas
from sda.layers import code_penalties
from sda.layers import preprocessing as before
from sda.layers.autoencoder import DenoisingAutoencoder
from sda.layers.chain import denoising_chain


@keras.saving.register_keras_serializable(package="sda")
class Denoising(keras.Model):
    """The model that is trained when a dA is: called in training, it corrupts and rebuilds.

    Its targets are its inputs, unless `fit` gets others: clean rows for noisy ones.

    Args:
        autoencoder: A `sda.DenoisingAutoencoder`.
        loss_fn: A loss of `sda.losses` or of Keras. One with `from_logits` set gets the decoder's
            pre-activations.
        preprocessing: List of layers that the rows go through first; the dA learns what they give.
    """

    def __init__(self, autoencoder, loss_fn, preprocessing=(), **kwargs):
        kwargs.setdefault("dtype", autoencoder.dtype_policy)
        super().__init__(**kwargs)
        self.autoencoder = autoencoder
        self.loss_fn = loss_fn
        self.preprocessing = list(preprocessing)
        self.penalty_means = [
            keras.metrics.Mean(name=name)
            for name in code_penalties.NAMES
            if getattr(autoencoder, name)
        ]

    def build(self, input_shape):
        shape = before.build(self.preprocessing, tuple(input_shape))
        if not self.autoencoder.built:
            self.autoencoder.build(shape)

    @property
    def input_dtype(self):
        """The dtype of floats that come in: what prepares them may need more than 16 bits."""
        return keras.config.floatx()

    def prepare(self, x):
        """Return what the dA learns, as floats: `x` after the preprocessing."""
        return before.apply(self.preprocessing, x)

    def training_chain(self):
        """Return the `sda.layers.chain.Chain` that this is, or None."""
        dA = self.autoencoder
        if type(dA) is not DenoisingAutoencoder or not dA.tied or dA.code_layers:
            return None
        if dA.penalised or dA.fill_value is not None or len(self.metrics) > 1:
            return None
        return denoising_chain(
            dA.encoder, dA.visible_bias, dA.decoder_activation, dA.corruption, self.loss_fn,
            tuple(self.preprocessing),
        )  # fmt: skip

    def call(self, x, training=None):
        x = ops.cast(self.prepare(x), self.compute_dtype)
        selected = None
        if training:
            x, selected = self.autoencoder.corrupt(x)
        return self._rebuild(x, selected)

    def _rebuild(self, x, selected):
        """Return z, `selected` and the penalties, as far as there are any, by name."""
        dA, logits = self.autoencoder, getattr(self.loss_fn, "from_logits", False)
        if dA.penalised:
            y = dA.encode(x)
            found = {"z": dA.decode(y, logits=logits), **dA.penalties(y)}
        else:
            found = {"z": dA.rebuild(x, logits=logits)}
        return found if selected is None else {**found, "selected": selected}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = self.prepare(x if y is None else y)
        loss = self._reconstruction_loss(target, y_pred["z"], y_pred.get("selected"))
        self._log_penalties(x, y_pred)
        added = [*self.losses, *(y_pred[mean.name] for mean in self.penalty_means)]
        return replicas.share(loss + sum(added) if added else loss)

    def _log_penalties(self, x, y_pred):
        for mean in self.penalty_means:
            mean.update_state(y_pred[mean.name], sample_weight=ops.shape(x)[0])

    def _reconstruction_loss(self, x, z, selected=None):
        if isinstance(self.loss_fn, losses.ReconstructionLoss):
            loss = self.loss_fn.reduced(x, z, selected)
            # The sums of replicas add up to that of the batch; `share` would average them.
            return loss * replicas.count() if self.loss_fn.reduction == "sum" else loss
        return ops.mean(self.loss_fn(x, z))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "autoencoder": serialize(self.autoencoder),
            "loss_fn": serialize(self.loss_fn),
            "preprocessing": [serialize(layer) for layer in self.preprocessing],
        }

    @classmethod
    def from_config(cls, config):
        load = keras.saving.deserialize_keras_object
        parts = {key: load(config[key]) for key in ("autoencoder", "loss_fn")}
        parts["preprocessing"] = [load(layer) for layer in config["preprocessing"]]
        return cls(**{**config, **parts})


class DenoisingScore(Denoising):
    """Scores a dA on validation data: the loss under a noise fixed once, and `clean_loss`.

    The noise is a function of (seed, batch): resetting the metrics, which every evaluation begins
    with, starts it again.
    """

    def __init__(self, autoencoder, loss_fn, seed, preprocessing=(), **kwargs):
        super().__init__(autoencoder, loss_fn, preprocessing, **kwargs)
        self.corruption = autoencoder.corruption.copy(seed)
        self.clean_loss = keras.metrics.Mean(name="clean_loss")
        self.start = [(v, ops.convert_to_numpy(v.value)) for v in self.corruption.variables]

    def call(self, x, training=None):
        x = ops.cast(self.prepare(x), self.compute_dtype)
        clean = self.autoencoder.rebuild(x, logits=getattr(self.loss_fn, "from_logits", False))
        noisy = self.autoencoder.corrupt(x, self.corruption)
        return {"clean": clean, **self._rebuild(*noisy)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target = self.prepare(x if y is None else y)
        self.clean_loss.update_state(
            self._reconstruction_loss(target, y_pred["clean"]), sample_weight=ops.shape(x)[0]
        )
        self._log_penalties(x, y_pred)
        loss = self._reconstruction_loss(target, y_pred["z"], y_pred.get("selected"))
        return replicas.share(loss)

    def reset_metrics(self):
        super().reset_metrics()
        for variable, value in self.start:
            variable.assign(value)
