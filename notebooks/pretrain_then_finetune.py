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
# # Can a network learn from images that nobody labelled?
#
# You have 4,000 pictures of handwritten digits. Somebody was paid to label 300 of them. A network
# trained on those 300 ignores the other 3,700. *Pretraining* does not: a **stacked denoising
# autoencoder** first learns from all pictures what digits look like, and only then, from the
# labels, what they are called.
#
# This notebook pretrains a network, fine-tunes it, and asks at the end whether that was worth it:
# the same network is trained from random weights beside it. You need to know Keras, nothing else.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from keras import ops
from sklearn.manifold import TSNE

import sda

plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

(x_train, y_train), (x_test, y_test) = sda.datasets.load("mnist_5k")
print(f"{len(x_train)} training and {len(x_test)} test images of {x_train.shape[1]} pixels")


def show(image):
    """Return a picture of tiles with every pixel doubled."""
    return PIL.Image.fromarray(image.repeat(2, axis=0).repeat(2, axis=1))


# %% [markdown]
# ## Learning without labels
#
# An *autoencoder* is a network that gives back its input, through a code in the middle. Left to
# itself it may simply copy. A **denoising** autoencoder (dA) may not: it sees a picture with some
# pixels set to zero and has to give back the whole one.
#
# $$\tilde x = x \text{ with a share of its pixels erased}, \qquad
# y = \sigma(\tilde x W + b), \qquad z = \sigma(y W^\top + b')$$
#
# The loss compares $z$ with the clean $x$. What was erased has to be guessed from what is left, so
# the code $y$ has to know which pixels go together: strokes, corners, loops.
#
# One dA learns small pieces. A second one, trained on the codes of the first, learns how these
# pieces go together. That is a *stack*:

# %%
stack = sda.StackedDenoisingAutoencoder([300, 300], corruption=0.3, seed=1)

# %% [markdown]
# `GreedyPretrainer` trains it layer by layer, from the input up. It gets pictures and no labels.

# %%
pretrainer = sda.GreedyPretrainer(
    stack, keras.optimizers.SGD(0.1), epochs=15, batch_size=20, seed=1
)
histories = pretrainer.fit(x_train, verbose=0)
for k, history in enumerate(histories, start=1):
    loss = history.history["loss"]
    print(f"layer {k}: denoising loss {loss[0]:.1f} -> {loss[-1]:.1f} nats an example")

# %% [markdown]
# ## What it has learned
#
# Each unit of the first layer has a weight for every pixel: its *filter*. Drawn as pictures,
# filters begin as speckle. Here are the 60, of 300, that moved furthest from there: spots and
# strokes of a pen, although nobody told the network that there are pens. A longer run would clear
# up the others.

# %%
untrained = sda.StackedDenoisingAutoencoder([300, 300], corruption=0.3, seed=1)  # the same start
untrained.build((None, 784))

kernel, start = (ops.convert_to_numpy(s.autoencoders[0].encoder.kernel) for s in (stack, untrained))
furthest = np.argsort(-np.linalg.norm(kernel - start, axis=0))
show(sda.plotting.filter_tiles(kernel[:, furthest], (28, 28), tile_shape=(5, 12)))

# %% [markdown]
# The first layer repairs damaged digits. Top: test images that it never saw. Middle: half of the
# pixels erased, more than in training. Bottom: what the dA makes of the middle row.

# %%
digits = x_test[:12]
damaged = ops.convert_to_numpy(sda.MaskingNoise(0.5, seed=2)(digits, training=True))
repaired = stack.reconstruct(damaged, layer=0)
show(sda.plotting.reconstructions(digits, damaged, repaired, (28, 28), columns=12))

# %% [markdown]
# A stack can also dream. It begins with the top codes of the digits in the first row. From there,
# each layer draws a code for the layer below, unit by unit as with coins, down to the pixels. Three
# draws:

# %%
dreams = [stack.sample(digits, steps=1, seed=seed) for seed in range(3)]
show(sda.plotting.image_tiles(np.concatenate([digits, *dreams]), (28, 28), tile_shape=(4, 12)))

# %% [markdown]
# ## Fine-tuning
#
# The two encoders with an output layer on top are an ordinary Keras classifier. It holds the very
# layers that were pretrained, not copies of their weights:

# %%
classifier = stack.classifier(10)
classifier.summary(line_length=75)
print("one kernel:", classifier.layers[0] is stack.autoencoders[0].encoder)

# %% [markdown]
# Compile it and fit it, as always. `sda.fit` has the arguments of `Model.fit`; it is faster where
# batches are small. A copy (`copy=True`) leaves the stack as it is, and can begin again from any
# weights: that is good for trials.

# %%
model = stack.classifier(10, copy=True)
model.compile(keras.optimizers.SGD(0.2), "sparse_categorical_crossentropy", metrics=["accuracy"])
pretrained = model.get_weights()


def test_error(weights, x, y):
    """Fine-tune from `weights` on (x, y) for 800 updates; return the test error in %."""
    model.set_weights(weights)
    sda.fit(model, x, y, batch_size=20, epochs=16_000 // len(x), seed=1, verbose=0)
    return 100 * (1 - model.evaluate(x_test, y_test, verbose=0)[1])


error = test_error(pretrained, x_train[:300], y_train[:300])
print(f"300 labels, pretrained: {error:.1f} % test error")

# %% [markdown]
# ## Was it worth it?
#
# A number alone says nothing. The same network gets the same labels, the same updates and the same
# learning rate, but starts from its random weights. A few labels may be lucky ones, so 100 and 300
# of them are drawn twice.

# %%
random = untrained.classifier(10).get_weights()

sizes = {100: 2, 300: 2, 1000: 1, 4000: 1}  # labels, and how often they are drawn
errors = {"from random weights": {}, "pretrained": {}}
for size, draws in sizes.items():
    labelled = [slice(i * size, (i + 1) * size) for i in range(draws)]
    for name, weights in zip(errors, (random, pretrained), strict=True):
        errors[name][size] = [test_error(weights, x_train[s], y_train[s]) for s in labelled]

for size in sizes:
    row = [f"{name} {np.mean(errors[name][size]):4.1f} %" for name in errors]
    print(f"{size:5} labels: " + ", ".join(row))

# %%
plt.figure(figsize=(6.5, 4.2), layout="constrained")
for (name, by_size), colour in zip(errors.items(), sda.plotting.HUES[1::-1], strict=True):
    plt.plot(list(sizes), [np.mean(by_size[size]) for size in sizes], color=colour, linewidth=2)
    for size in sizes:
        plt.plot([size] * len(by_size[size]), by_size[size], "o", color=colour, markersize=5)
    plt.annotate(
        name, (1000, np.mean(by_size[1000])), (4, 8), textcoords="offset points", color=colour
    )
plt.xscale("log")
plt.yscale("log")
plt.xticks(list(sizes), [f"{size:,}" for size in sizes])
plt.yticks([5, 10, 20, 30], ["5 %", "10 %", "20 %", "30 %"])
plt.minorticks_off()
plt.grid(color="#dddddd")
plt.xlabel("labelled images")
plt.title("Test error (1,000 images); every dot is one training")
plt.show()

# %% [markdown]
# ## Where the digits lie
#
# Why does it help? t-SNE lays test images out in the plane so that neighbours stay neighbours: by
# their pixels, and by the codes of the pretrained stack. Colours are the ten classes, which neither
# has seen.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), layout="constrained")
for axis, (name, rows) in zip(
    axes, {"pixels": x_test[:600], "codes": stack.encode(x_test[:600])}.items(), strict=True
):
    plane = TSNE(random_state=1, init="pca").fit_transform(rows)
    axis.scatter(*plane.T, c=y_test[:600], cmap="tab10", s=12)
    for digit in range(10):
        middle = np.median(plane[y_test[:600] == digit], axis=0)
        axis.text(*middle, digit, size=14, weight="bold", ha="center", va="center")
    axis.set_title(name)
    axis.axis("off")

# %% [markdown]
# ## What to take from this
#
# - Pretraining needs no labels, and fine-tuning then needs fewer of them.
# - Weights are shared, not copied: `stack.classifier(10)` is the stack with an output layer.
# - Always train from random weights beside it. Here is one small sample of digits and one seed for
#   the weights: with 1,000 test images, a difference of two points is within chance.
#
# Next: [corruption_levels](corruption_levels.ipynb) asks how much noise is right;
# [build_with_keras](build_with_keras.ipynb) puts a dA into models of your own.
