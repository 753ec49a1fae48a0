"""The devices that the backend computes on, besides the processor."""

import keras


def accelerators():
    """Return the names of the GPUs and TPUs that the backend computes on: a list of strings.

    Example:

    >>> all(isinstance(name, str) for name in accelerators())
    True
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return [d.device_kind for d in jax.local_devices() if d.platform != "cpu"]
    if backend == "torch":
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    return [details(d).get("device_name", d.name) for d in tf.config.get_visible_devices("GPU")]
