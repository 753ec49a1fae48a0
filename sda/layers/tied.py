"""One pass through a tied autoencoder whose kernel's two gradients are one product."""

import keras
from keras import ops


def tied_pass(activation, slope):
    """Return a = s(x W + b) Wᵀ + b' as a function of x, W, b, b' with a gradient of its own.

    With δ = ∂L/∂a and δʸ = (δ W) s'(·), the kernel's gradient is xᵀ δʸ + δᵀ y = [x; δ]ᵀ [δʸ; y]:
    one product over twice the rows. Differentiated automatically it is two products and a sum,
    each of which passes over the whole kernel.
    """

    @ops.custom_gradient
    def rebuild(x, kernel, bias, visible_bias):
        y = activation(ops.matmul(x, kernel) + bias)
        a = ops.matmul(y, ops.transpose(kernel)) + visible_bias

        def gradient(*args, upstream=None):
            delta = args[0] if upstream is None else upstream
            delta_y = ops.matmul(delta, kernel) * slope(y)
            if keras.distribution.distribution() is not None:
                # Of rows that devices share: joined along an axis of their own they stay where they
                # are, and the devices add up one product, not two.
                left, right = ops.stack([x, delta]), ops.stack([delta_y, y])
                d_kernel = ops.einsum("kbi,kbj->ij", left, right)
            elif joining_pays(x.shape[0], *kernel.shape):
                left, right = ops.concatenate([x, delta]), ops.concatenate([delta_y, y])
                d_kernel = ops.matmul(ops.transpose(left), right)
            else:
                d_kernel = ops.matmul(ops.transpose(x), delta_y)
                d_kernel = d_kernel + ops.matmul(ops.transpose(delta), y)
            return ops.zeros_like(x), d_kernel, ops.sum(delta_y, 0), ops.sum(delta, 0)

        return a, gradient

    return rebuild


def joining_pays(rows, visible, units):
    """Return whether one product of joined rows is faster than two products and a sum.

    Joining copies the rows, and saves a pass over the kernel.
    """
    if keras.backend.backend() != "jax":
        return rows is None or rows * (visible + units) < visible * units
    # XLA adds two products as fast up to four times as many rows, and makes outer products part of
    # the update of the kernel.
    return rows is None or 1 < rows < visible * units / (4 * (visible + units))
