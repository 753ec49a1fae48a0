"""The contestants on Keras: `sda`, and plain `Model.fit` as a user writes it."""

import time

import keras

import sda
from sda.models.denoising import Denoising
from sda.rows.orders import order_of
from sda.rows.reading import as_rows
from sda.training.loop import Trainer
from sda.training.run import Run


def contestants(work):
    return {"sda": Sda, "fit": Fit}


class Sda:
    """The trainer that `sda.fit` and `sda.GreedyPretrainer` use, on their models."""

    def __init__(self, work, x, y, weights):
        stack = sda.StackedDenoisingAutoencoder(work.sizes[1:2], work.corruption, seed=1)
        if work.kind == "dA":
            layer = stack.autoencoders[0]
            model = Denoising(layer, sda.losses.CrossEntropy())
            model.build((None, work.visible))
            assign(layer, weights)
            model.compile(keras.optimizers.SGD(work.rate))
            data = (x,)
        else:
            stack = sda.StackedDenoisingAutoencoder(work.sizes[1:-1], seed=1)
            stack.build((None, work.visible))
            model = stack.classifier(work.sizes[-1])
            model.set_weights(weights)
            model.compile(keras.optimizers.SGD(work.rate), "sparse_categorical_crossentropy")
            data = (x, y)
        self.trainer = Trainer(Run(model, tuple(map(as_rows, data)), work.batch))

    def run(self, passes, shuffle=True):
        """Train for some passes over the data; return the mean loss over the last."""
        self.trainer.run.epochs = passes
        self.trainer.epochs.order = order_of(shuffle, 1)
        history = self.trainer.fit()
        return history.history["loss"][-1]


class Fit:
    """A dA layer, or Dense layers, in a `Sequential` model with Keras's own losses.

    Keras averages the cross-entropy over the features, so that the rate has to be larger for the
    same step.
    """

    def __init__(self, work, x, y, weights):
        inputs = keras.Input((work.visible,))
        if work.kind == "dA":
            layer = sda.DenoisingAutoencoder(work.width, work.corruption, seed=1)
            model = keras.Sequential([inputs, layer])
            assign(layer, weights)
            self.scale, self.data, loss = work.visible, (x, x), "binary_crossentropy"
        else:
            hidden = [keras.layers.Dense(n, "sigmoid") for n in work.sizes[1:-1]]
            output = keras.layers.Dense(work.sizes[-1], "softmax")
            model = keras.Sequential([inputs, *hidden, output])
            model.set_weights(weights)
            self.scale, self.data, loss = 1, (x, y), "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(work.rate * self.scale), loss)
        self.model, self.batch = model, work.batch

    def run(self, passes, shuffle=True):
        """Train for some passes over the data; return the mean loss over the last."""
        self.clock = EpochClock()
        history = self.model.fit(
            *self.data,
            batch_size=self.batch,
            epochs=passes,
            shuffle=shuffle,
            verbose=0,
            callbacks=[self.clock],
        )
        return self.scale * history.history["loss"][-1]

    def seconds(self):
        """Return the time of the last run, without what a call and an epoch of `fit` cost."""
        return self.clock.seconds


class EpochClock(keras.callbacks.Callback):
    """Adds up the time of epochs as if all steps took what those after the first do.

    An epoch of `fit` on TensorFlow begins with a tenth of a second to set the data up. It is little
    in an epoch of a whole data set, and would be much in the short ones that are measured here.
    """

    seconds = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.steps = time.perf_counter(), 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if self.steps == 2:
            self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        counted = max(1, self.steps - 1)
        self.seconds += (time.perf_counter() - self.start) * self.steps / counted


def assign(layer, weights):
    """Give a dA its initial weights."""
    for variable, value in zip(
        (layer.encoder.kernel, layer.encoder.bias, layer.visible_bias), weights, strict=True
    ):
        variable.assign(value)
