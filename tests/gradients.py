"""Gradients on the backend in use, and by central differences in NumPy, for tests to compare."""

import keras
import numpy as np
from keras import ops


def gradient(function, x):
    """Return d function(x) / dx as a NumPy array; `function` maps a tensor to a scalar tensor."""
    x = ops.convert_to_tensor(x)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        slope = tape.gradient(y, x)
    elif keras.backend.backend() == "jax":
        import jax

        slope = jax.grad(function)(x)
    else:
        import torch

        x = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(x), x)
    return ops.convert_to_numpy(ops.cast(slope, "float32"))


def central_differences(function, x, step=1e-6):
    """Return d function(x) / dx of a NumPy function of float64 arrays."""
    slope = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        slope[index] = (function(x + shift) - function(x - shift)) / (2 * step)
    return slope
