"""The kernel that a Dense layer computes with, also where it is adapted or quantized."""

import keras
from keras import ops


def is_plain(dense):
    """Return whether a layer computes s(x W + b) from its own weights, and nothing besides."""
    # A subclass may do anything.
    return type(dense) is keras.layers.Dense and not (
        dense.lora_enabled or dense.quantization_mode or dense.activity_regularizer
    )


def in_force(dense, dtype):
    """Return the kernel of a `keras.layers.Dense`, a tensor or a variable.

    Under LoRA it holds what was adapted; after `quantize("int8")` it is scaled back, to `dtype`.

    Raises:
        ValueError: If the layer is quantized in another way.
    """
    if dense.quantization_mode is None:
        return dense.kernel
    if dense.quantization_mode != "int8":
        raise ValueError(
            'Expected the encoder of a dA to be of floats, or quantized to "int8". Received: '
            f"quantization_mode={dense.quantization_mode!r}"
        )
    # `dense.kernel` adds what was adapted to the integers; the layer scales these first.
    kernel = ops.cast(ops.convert_to_tensor(dense._kernel), dtype)
    kernel = ops.divide(kernel, dense.kernel_scale)
    if not dense.lora_enabled:
        return kernel
    adapted = ops.matmul(dense.lora_kernel_a, dense.lora_kernel_b)
    return kernel + ops.cast(dense.lora_alpha / dense.lora_rank * adapted, kernel.dtype)
