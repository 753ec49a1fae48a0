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
import sys

import keras
import matplotlib.pyplot as plt

import sda

sys.path.insert(0, "..")  # where `experiments` is, for a notebook that is opened in its folder
from experiments import corruption_levels as story

plt.rcParams["figure.dpi"] = 72

(x_train, y_train), (x_test, y_test) = sda.datasets.load("mnist_5k")
print(f"{len(x_train)} training and {len(x_test)} test images of {x_train.shape[1]} pixels")

# %% [markdown]
# ## What the network sees
#
# Masking noise sets each pixel to zero with the given probability. It draws anew for every image
# in every epoch, and only in training.

# %%
levels = [0.0, 0.1, 0.3, 0.5, 0.75]
digits = x_test[:10]

figure, axes = plt.subplots(len(levels), 1, figsize=(5.5, 3.1), layout="constrained")
for level, axis in zip(levels, axes, strict=True):
    corrupted = story.corrupted(digits, level, seed=1)
    axis.imshow(sda.plotting.image_tiles(corrupted, (28, 28), (1, 10)), cmap="gray")
    axis.set_ylabel(f"{level:.0%}", rotation=0, ha="right", va="center")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)

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
        stacks[level], keras.optimizers.SGD(0.1), epochs=30, batch_size=20, seed=1
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
# Each tile is one hidden unit's column of $W$, scaled to the full range of grey. Without noise most
# filters keep the speckle of their random start: an overcomplete code can pass pixels through
# without learning what goes together. With noise they become local spots, then strokes and
# pieces of digits.

# %%
kernels = {level: stack.autoencoders[0].encoder.kernel for level, stack in stacks.items()}
story.draw_filters(
    {level: sda.plotting.filter_tiles(k, (28, 28), (5, 5)) for level, k in kernels.items()}
)

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
# ones. Here is the dA of level 30 % at work on images with 50 % erased.

# %%
noisy = story.corrupted(digits, 0.5, seed=3)
plt.figure(figsize=(6.5, 2.1))
plt.imshow(
    sda.plotting.reconstructions(digits, noisy, stacks[0.3].reconstruct(noisy), (28, 28)),
    cmap="gray",
)
plt.axis("off")

# %% [markdown]
# ## What a linear classifier reads from the codes
#
# The *probe*: logistic regression on the codes of 1,000 labelled images, tested on 1,000 others. No
# label was used before. For comparison, the same classifier on the pixels.

# %%
known, labels = x_train[:1000], y_train[:1000]
errors = [
    story.probe_error(stack.encode(known), labels, stack.encode(x_test), y_test)
    for stack in stacks.values()
]
pixels = story.probe_error(known, labels, x_test, y_test)
for level, error in zip(levels, errors, strict=True):
    print(f"corruption {level:4.0%}: {error:4.1f} % error")
print(f"pixels         : {pixels:4.1f} % error")

curves = {"codes": [[error] for error in errors], "pixels": pixels}
story.draw_errors(levels, {"test error of the probe (%)": curves})

# %% [markdown]
# ## What to take from this
#
# - At level 0 the dA is an ordinary autoencoder.
# - The level is a knob between copying and guessing. The best for a task is found by trying; 10 %
#   to 50 % is the usual range, and a stack usually takes more noise in its upper layers.
# - One sample of digits and one seed show the direction, not the last digit: with 1,000 test images
#   a difference of one percentage point is within chance.
