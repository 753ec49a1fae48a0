"""The global random generators of Python, NumPy, Keras and the backend, which user code draws from.

What this package draws has generators of its own; those of everybody are kept and set again where a
run goes on, so that what its callbacks draw is what they would have drawn.
"""

import random

import keras
import numpy as np
from keras import ops
from keras.src.backend.common import global_state
from keras.src.random import seed_generator


def random_state():
    """Return the states of the global generators of Python, NumPy, Keras and the backend.

    None stands for a generator that nothing has drawn from yet.
    """
    version, numbers, normal = random.getstate()
    state = {
        "python": (version, np.array(numbers, "uint32"), normal),
        "numpy": np.random.get_state(),  # noqa: NPY002 - what user code may draw from
        "keras": _global_seeds(),
    }
    if state["keras"] is not None:
        # Through a tensor: on TensorFlow a variable of several replicas is no array.
        seeds = ops.stop_gradient(state["keras"].state.value)
        state["keras"] = np.array(ops.convert_to_numpy(seeds))
    if keras.backend.backend() == "torch":
        import torch

        state["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = [one.numpy() for one in torch.cuda.get_rng_state_all()]
    if keras.backend.backend() == "tensorflow":
        generator = _tensorflow_generator()
        state["tensorflow"] = None if generator is None else generator.state.numpy()
    return state


def set_random_state(state):
    """Set the global generators to what `random_state` returned, on whichever devices there are.

    Raises:
        ValueError: If it did not return that.
    """
    if state is None:  # of a version that did not save it
        return
    try:
        if state["keras"] is None:
            global_state.set_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR, None)
        else:
            seed_generator.global_seed_generator().state.assign(state["keras"])
        # After Keras's, which draws its seed from Python's where it is new.
        version, numbers, normal = state["python"]
        random.setstate((version, tuple(int(n) for n in numbers), normal))
        np.random.set_state(state["numpy"])  # noqa: NPY002 - what user code may draw from
        if "torch" in state:
            import torch

            torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
            if (
                torch.cuda.is_available()
                and len(state.get("cuda", ())) == torch.cuda.device_count()
            ):
                torch.cuda.set_rng_state_all([torch.from_numpy(np.array(s)) for s in state["cuda"]])
        if state.get("tensorflow") is not None:
            generator = _tensorflow_generator()
            if generator is not None:
                generator.reset(state["tensorflow"])
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected a checkpoint with the states of random generators. Received: one with "
            f"{type(error).__name__}: {error}"
        ) from error


def _global_seeds():
    """Return Keras's global `SeedGenerator`, or None where nothing has asked for it."""
    return global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)


def _tensorflow_generator():
    """Return TensorFlow's global generator, or None where there can be none."""
    import tensorflow as tf

    # In a strategy's scope it would be another, one for each replica.
    if tf.distribute.has_strategy():
        return None
    try:
        return tf.random.get_global_generator()
    except RuntimeError:  # deterministic operations were asked for, and it was given no seed
        return None
