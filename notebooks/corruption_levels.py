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
# # How much noise? One denoising autoencoder at five corruption levels
#
# A denoising autoencoder (dA) gets an image of which a part was erased, and has to give back the
# whole image. With $x$ the image, $\tilde x$ its corrupted version, and $\sigma$ the sigmoid,
#
# $$y = \sigma(\tilde x W + b), \qquad z = \sigma(y W^\top + b'), \qquad
# L(x, z) = -\sum_j \left[x_j \log z_j + (1 - x_j) \log (1 - z_j)\right].$$
#
# To fill in what is missing, the code $y$ must know which pixels go together. So the *corruption
# level*, the share of erased pixels, decides what is learnt. This notebook trains the same dA at
# five levels on 4,000 handwritten digits and looks at three things: the filters (columns of $W$),
# how well each dA repairs images at every level, and how much a linear classifier can read from
# the codes.
#
# The idea is from Vincent et al., *Extracting and composing robust features with denoising
# autoencoders* (ICML 2008).

# %%
# %matplotlib inline
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image

import sda

sys.path.insert(0, "..")  # where `experiments` is, for a notebook that is opened in its folder
from experiments import corruption_levels as story

plt.rcParams["figure.dpi"] = 72

(x_train, y_train), (x_test, y_test) = sda.datasets.load("mnist_5k")
print(f"{len(x_train)} training and {len(x_test)} test images of {x_train.shape[1]} pixels")


def show(image):
    """Return a picture of tiles with every pixel doubled."""
    return PIL.Image.fromarray(image.repeat(2, axis=0).repeat(2, axis=1))


def show_rows(rows):
    """Return a picture of images in [0, 1], one array of images a row."""
    shape = len(rows), len(rows[0])
    return show(sda.plotting.image_tiles(np.concatenate(rows), (28, 28), tile_shape=shape))


# %% [markdown]
# ## What the network sees
#
# Masking noise sets each pixel to zero with the given probability. It draws anew for every image
# in every epoch, and only in training. From top to bottom: 0, 10, 30, 50 and 75 %.

# %%
levels = [0.0, 0.1, 0.3, 0.5, 0.75]
digits = x_test[:12]
show_rows([story.corrupted(digits, level, seed=1) for level in levels])

# %% [markdown]
# ## Training
#
# A stack of one layer is a single dA. `GreedyPretrainer` trains it without labels; the same seed
# gives all five the same initial weights and the same order of examples.

# %%
stacks = {}
for level in levels:
    stacks[level] = sda.StackedDenoisingAutoencoder([300], corruption=level, seed=1)
    pretrainer = sda.GreedyPretrainer(
        stacks[level], keras.optimizers.SGD(0.2), epochs=15, batch_size=20, seed=1
    )
    (history,) = pretrainer.fit(x_train, verbose=0)
    print(
        f"corruption {level:4.0%}: training loss {history.history['loss'][-1]:6.1f} nats an image"
    )

# %% [markdown]
# The training losses do not compare: a harder task has a higher loss. What the weights look like
# does.
#
# ## Filters
#
# A filter is one hidden unit's column of $W$ as a picture. Each column of the figure is **the same
# unit**: in the top row its random start, below what it became at 0, 10, 30, 50 and 75 %. These are
# the twelve, of 300, that moved furthest at 50 %. Without noise most keep the speckle of their
# start: a code can pass pixels through without learning what goes together. With noise they become
# spots and strokes, larger ones as the level rises.

# %%
start = sda.StackedDenoisingAutoencoder([300], seed=1)
start.build((None, 784))
kernels = [
    keras.ops.convert_to_numpy(stack.autoencoders[0].encoder.kernel)
    for stack in (start, *stacks.values())
]
moved = np.linalg.norm(kernels[levels.index(0.5) + 1] - kernels[0], axis=0)
shown = np.concatenate([kernel[:, np.argsort(-moved)[:12]] for kernel in kernels], axis=1)
show(sda.plotting.filter_tiles(shown, (28, 28), tile_shape=(6, 12)))

# %% [markdown]
# ## Repairing images
#
# Every dA is now asked to repair test images at every level, also those it was not trained for.
# The number is the squared error an image, summed over pixels; each row's best is set in bold.

# %%
repair = [story.repair_errors(stack, x_test, levels) for stack in stacks.values()]
story.draw_repair(list(zip(*repair, strict=True)), levels, levels)

# %% [markdown]
# A dA trained without noise is the best at copying clean images and the worst at repairing damaged
# ones. Here are all five at work. Top row: images with half of their pixels erased; bottom row:
# what they were; in between what the dAs of 0, 10, 30, 50 and 75 % make of the top row.

# %%
noisy = story.corrupted(digits, 0.5, seed=3)
show_rows([noisy, *(stack.reconstruct(noisy) for stack in stacks.values()), digits])

# %% [markdown]
# ## What a linear classifier reads from the codes
#
# The *probe*: logistic regression on the codes of 500 labelled images, tested on 1,000 others;
# two draws of the labelled ones, a dot each. No label was used before. For comparison, the same
# classifier on the pixels, and on the codes of the dA before it learned anything.

# %%
features = {"pixels": lambda x: x, "random weights": start.encode}
features |= {f"{level:.0%}": stack.encode for level, stack in stacks.items()}
errors = {
    name: [
        story.probe_error(encode(x_train[i:][:500]), y_train[i:][:500], encode(x_test), y_test)
        for i in (0, 500)
    ]
    for name, encode in features.items()
}
for name, of_name in errors.items():
    print(f"{name:>15}: {np.mean(of_name):4.1f} % error")

figure, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
for place, (name, of_name) in enumerate(errors.items()):
    colour = "grey" if name in ("pixels", "random weights") else sda.plotting.HUES[0]
    axis.plot(of_name, [place] * 2, "o", color=colour, markersize=5)
    axis.plot([np.mean(of_name)], [place], "|", color=colour, markersize=18, markeredgewidth=2)
axis.set_yticks(range(len(errors)), errors)
axis.invert_yaxis()
axis.set_xlabel("test error of the probe (%)")
axis.spines[["top", "right"]].set_visible(False)
axis.grid(axis="x", color="#dddddd")
plt.show()

# %% [markdown]
# ## What to take from this
#
# - At level 0 the dA is an ordinary autoencoder.
# - What it learned without labels helps a classifier with few of them: the codes beat the pixels,
#   and random weights do not. Which level is best, this probe cannot say: the levels differ by less
#   than the draws.
# - The level is a knob between copying and guessing. The best for a task is found by trying; 10 %
#   to 50 % is the usual range, and a stack usually takes more noise in its upper layers.
# - One sample of digits and one seed show the direction, not the last digit: with 1,000 test images
#   a difference of one percentage point is within chance.
