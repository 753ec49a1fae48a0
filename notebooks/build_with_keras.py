# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Building with it: a denoising autoencoder is a Keras layer
#
# Everything in `sda` is a layer, a model, a loss or a callback of Keras. So it goes where those go.
# This notebook builds three things that the library does not have:
#
# 1. a **corruption of its own**: a black bar across the image;
# 2. a **callback of its own**, that takes pictures of the filters while they form;
# 3. a **functional model with a dA inside**, which repairs an image and then reads it.
#
# And it asks whether a classifier that never saw a bar reads better through the dA.
#
# What a dA is: it gets $\tilde x$, the input $x$ with noise, computes a code
# $y = \sigma(\tilde x W + b)$, and rebuilds the clean input, $z = \sigma(y W^\top + b')$. The noise
# acts in training only, as `Dropout` does.

# %%
import pathlib
import tempfile

import keras
import numpy as np
import PIL.Image
from keras import ops

import sda

keras.utils.set_random_seed(1)

(x_train, y_train), (x_test, y_test) = sda.datasets.load("mnist_5k")


def show(image):
    """Return a picture of tiles with every pixel doubled."""
    return PIL.Image.fromarray(image.repeat(2, axis=0).repeat(2, axis=1))


# %% [markdown]
# ## A corruption of one's own
#
# Subclass `sda.Corruption` and write `corrupt`. It returns the corrupted batch, and which entries
# the noise selected (or `None`, if it acts on all). Random numbers come from the layer's own
# `seed_generator`; then a run repeats exactly, and can be resumed.
#
# Our noise lays a black bar of some rows, at a random height, across each image:


# %%
@keras.saving.register_keras_serializable(package="notebook")
class BarNoise(sda.Corruption):
    """Set `height` neighbouring rows of each 28x28 image to zero; where is drawn for each image."""

    selects = True  # `corrupt` says which entries it selected

    def __init__(self, height, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.height = height

    def corrupt(self, x):
        top = keras.random.randint(
            (ops.shape(x)[0], 1), 0, 29 - self.height, seed=self.seed_generator
        )
        row = ops.arange(784, dtype=top.dtype) // 28
        selected = ops.logical_and(row >= top, row < top + self.height)
        return ops.where(selected, ops.zeros_like(x), x), selected

    def get_config(self):
        return {**super().get_config(), "height": self.height}


barred, hidden = map(ops.convert_to_numpy, BarNoise(10, seed=1).corrupt(x_test))
show(sda.plotting.image_tiles(barred[:12], (28, 28), tile_shape=(1, 12)))

# %% [markdown]
# It works wherever a corruption does: in a dA, in a stack, copied and seeded for each layer, saved
# with the model. And since it says what it selected, the loss can put its weight there: *emphasis*
# (Vincent et al. 2010) counts the errors under the bar fully, the others half.
#
# ## A callback of one's own
#
# Callbacks of Keras work in pretraining. Each layer needs fresh ones, so `GreedyPretrainer` takes a
# function from the index of a layer to a list. This one keeps a picture of some filters at the end
# of chosen epochs:


# %%
class FilterFilm(keras.callbacks.Callback):
    """Keeps a strip of the filters of the dA in training after each epoch in `epochs`."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs
        self.strips = {}

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in self.epochs:
            kernel = self.model.autoencoder.encoder.kernel
            self.strips[epoch + 1] = sda.plotting.filter_tiles(kernel, (28, 28), (1, 12))


film = FilterFilm([1, 3, 8, 20])
stack = sda.StackedDenoisingAutoencoder(
    [300], corruption=BarNoise(10), kernel_initializer="glorot_uniform", seed=1
)
pretrainer = sda.GreedyPretrainer(
    stack,
    keras.optimizers.SGD(0.1),
    loss=sda.losses.CrossEntropy(alpha=1.0, beta=0.5),
    epochs=20,
    callbacks=lambda layer: [film],  # there is one layer
    seed=1,
)
(history,) = pretrainer.fit(x_train, verbose=0)

show(np.concatenate([np.pad(strip, ((0, 1), (0, 0))) for strip in film.strips.values()]))

# %% [markdown]
# Twelve units while they learn, from top to bottom after 1, 3, 8 and 20 epochs. (Their weights
# were started small for this picture, or one would see the speckle of the start for longer.) A bar
# takes whole strokes away, where masking takes pixels. So to fill it in, the units have to see a
# digit as a whole, not spots of it.
#
# What the dA makes of a bar over test images: top clean, middle what it sees, bottom what it
# rebuilds.

# %%
rebuilt = stack.reconstruct(barred)
for name, images in {"left black": barred, "rebuilt": rebuilt}.items():
    error = np.mean((images - x_test)[hidden] ** 2)
    print(f"mean squared error of the pixels under the bar, {name}: {error:.3f}")
show(sda.plotting.reconstructions(x_test, barred, rebuilt, (28, 28), columns=12))

# %% [markdown]
# ## A dA inside a functional model
#
# Take a classifier that somebody trained on clean digits. A bar over its input confuses it:


# %%
def reader(*noise):
    """Return an untrained classifier, with layers of noise in front."""
    layers = [
        keras.layers.Dense(300, "relu", kernel_initializer=keras.initializers.HeNormal(seed=1)),
        keras.layers.Dense(10, "softmax", kernel_initializer="zeros"),
    ]
    model = keras.Sequential([keras.Input((784,)), *noise, *layers])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def errors(classes):
    """Print the test errors, in %, of a function from images to class probabilities."""
    for name, x in {"clean": x_test, "with a bar": barred}.items():
        error = 100 * np.mean(classes(x).argmax(axis=1) != y_test)
        print(f"{name}: {error:.1f} % error")


alone = reader()
sda.fit(alone, x_train, y_train, batch_size=20, epochs=10, seed=1, verbose=0)
errors(lambda x: alone.predict(x, verbose=0))

# %% [markdown]
# A dA is called like any layer. So the trained one goes in front, and the model has two outputs:
# the repaired image, and what the old classifier reads in it. Nothing has been trained here yet.

# %%
dA = stack.autoencoders[0]
inputs = keras.Input((784,))
image = dA(inputs)
model = keras.Model(inputs, {"image": image, "digit": alone(image)})
errors(lambda x: model.predict(x, verbose=0)["digit"])

# %% [markdown]
# It is one Keras model, and can be trained as one, both losses at once, from the weights that its
# parts have. In training the dA lays its bars over the input by itself; so the classifier sees
# repaired images. `model.fit` would do the same as `sda.fit`.
#
# (The losses of `sda` are sums over the pixels, Keras's `binary_crossentropy` is a mean. Here the
# mean is welcome: it gives the image a small say beside the class.)

# %%
model.compile(
    keras.optimizers.SGD(0.1),
    loss={"image": "binary_crossentropy", "digit": "sparse_categorical_crossentropy"},
)
targets = {"image": x_train, "digit": y_train}
sda.fit(model, x_train, targets, batch_size=20, epochs=10, seed=1, verbose=0)
errors(lambda x: model.predict(x, verbose=0)["digit"])

# %% [markdown]
# Was it the dA, or that labels were learned under bars? The honest comparison is the classifier
# without a dA, which gets a bar over its input in training, for as many updates in all. `BarNoise`
# is a layer, and works by itself:

# %%
used_to_bars = reader(BarNoise(10, seed=2))
sda.fit(used_to_bars, x_train, y_train, batch_size=20, epochs=20, seed=1, verbose=0)
errors(lambda x: used_to_bars.predict(x, verbose=0))

# %% [markdown]
# ## It is all Keras
#
# The model is saved and loaded as ever: kernels once, the tie kept, the noise with its settings.

# %%
path = pathlib.Path(tempfile.mkdtemp()) / "model.keras"
model.save(path)
again = keras.saving.load_model(path)
before, after = (m.predict(x_test, verbose=0)["digit"] for m in (model, again))
print("the same predictions after loading:", np.allclose(before, after, atol=1e-6))
print("weights:", [weight.path for weight in again.trainable_weights])

# %% [markdown]
# ## What to take from this
#
# - A corruption is one method; `sda.SelectiveNoise` even has the drawing done.
# - A callback sees the model in training as `self.model`, its dA as `self.model.autoencoder`.
# - A dA is a layer: put it into any model, or in front of one that exists. There it repairs without
#   a label. Its `encoder` is a plain `Dense`, for a branch of your own.
# - Ask what else could explain a gain, and train that beside it. Here labels are many, and a
#   classifier that trains under bars does as well without a dA: with one seed and 1,000 test
#   images, two points are within chance. It cannot repair the image, though, nor spare the labels.
