"""What the replicas of a TensorFlow `MirroredStrategy` need: noise of their own, their share."""

import keras

# 2³² over the golden ratio: the seeds of replicas are far apart, and the first has the seed itself.
FAR = 0x9E3779B9


class SeedGenerator(keras.random.SeedGenerator):
    """Keras's seeds, but another one in every replica of TensorFlow's `MirroredStrategy`.

    There all replicas have the same state, and would draw the same mask for their parts of a batch.
    """

    def next(self, ordered=True):
        seed = super().next(ordered)
        if count() == 1:
            return seed
        import tensorflow as tf

        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return seed + keras.ops.cast([replica, 0], seed.dtype) * keras.ops.cast(FAR, seed.dtype)


def count():
    """Return how many replicas take the step that is being traced."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    in_replica = tf.distribute.get_replica_context() is not None
    return tf.distribute.get_strategy().num_replicas_in_sync if in_replica else 1


def share(loss):
    """Return what a replica adds to the loss of the batch: gradients of replicas are summed."""
    return loss / count() if count() > 1 else loss
