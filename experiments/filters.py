"""A number for what a tiling of filters shows: speckle, or forms."""

import keras
import numpy as np


def neighbour_correlation(kernel, image_shape):
    """Return the mean correlation between the weights of adjacent pixels, over all filters.

    Near 0 for the speckle of random weights, towards 1 the smoother and larger the forms.

    Args:
        kernel: Array of shape `(visible, units)`.
        image_shape: `(height, width)`.
    """
    filters = np.asarray(keras.ops.convert_to_numpy(kernel), "float64").T
    filters = filters.reshape(-1, *image_shape)
    filters -= filters.mean(axis=(1, 2), keepdims=True)
    variance = np.mean(filters**2, axis=(1, 2))
    down = np.mean(filters[:, 1:] * filters[:, :-1], axis=(1, 2))
    right = np.mean(filters[:, :, 1:] * filters[:, :, :-1], axis=(1, 2))
    return float(np.mean((down + right) / 2 / np.where(variance > 0, variance, 1)))
