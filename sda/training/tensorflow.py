"""Many training steps a dispatch on TensorFlow: one graph with a loop over an index matrix."""

import contextlib

import keras
import tensorflow as tf
from keras import tree
from tensorflow.python.framework import ops

from sda.training.drivers import BaseDriver


class Driver(BaseDriver):
    """The driver of TensorFlow."""

    def __init__(self, model):
        super().__init__(model)
        self._functions = {}

    def put(self, array):
        return tf.convert_to_tensor(array)

    def train(self, data, batches, steps):
        self._run(self.model.train_step, data, batches, steps)

    def test(self, data, batches, steps):
        self._run(self.model.test_step, data, batches, steps)

    def _run(self, step, data, batches, steps):
        # tf.function takes no None among its arguments.
        leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]

        strategy = self.model.distribute_strategy
        replicas = strategy.num_replicas_in_sync

        def take(leaves, rows):
            step(_like(data, [tf.gather(leaf, rows) for leaf in leaves]))

        def take_part(leaves, rows):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            part, rest = divmod(rows.shape[0], replicas)
            if not rest:
                return take(leaves, rows[replica * part : (replica + 1) * part])
            # A batch that the replicas cannot divide is computed by all of them, and counts once.
            metrics = self.model.metrics_variables
            before = [tf.identity(v.value) for v in metrics]
            take(leaves, rows)
            for variable, value in zip(metrics, before, strict=True):
                variable.assign(tf.where(replica == 0, variable.value, value))

        def loop(leaves, batches):
            for i in tf.range(tf.shape(batches)[0]):
                if replicas > 1:
                    strategy.run(take_part, args=(leaves, batches[i]))
                else:
                    take(leaves, batches[i])

        batches = tf.convert_to_tensor(batches[:steps])
        if self.model.run_eagerly:
            return loop(leaves, batches)
        specs = [tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype) for leaf in leaves]
        # One trace a batch size: the last batch of an epoch may be smaller.
        given = tree.map_structure(lambda leaf: leaf is not None, data)
        key = (step.__name__, batches.shape[1], str(given), *specs)
        if key not in self._functions:
            # A concrete function: TensorFlow would take the loops of several models, which come
            # from this one line, for one function that is traced too often, and warn.
            function = tf.function(
                loop,
                input_signature=[specs, tf.TensorSpec([None, batches.shape[1]], batches.dtype)],
                jit_compile=self.model.jit_compile,
            )
            with _one_pass_sgd(self.model.optimizer), _graphs_set_free():
                self._functions[key] = function.get_concrete_function()
        self._functions[key](leaves, batches)


def _like(data, leaves):
    """Return `leaves` in the structure of `data`, None where it has None."""
    rest = iter(leaves)
    return tree.map_structure(lambda a: None if a is None else next(rest), data)


@contextlib.contextmanager
def _graphs_set_free():
    """Let the graphs that are traced meanwhile be freed with their model.

    TensorFlow registers a gradient of one's own under a name, for ever, and with it the graph that
    it is part of: 1.6 MB a layer and pretraining. The tape of a step has the gradient already and
    looks for no name.
    """
    registered = getattr(ops.gradient_registry, "_registry", {})
    before = set(registered)
    try:
        yield
    finally:
        for name in set(registered) - before:
            if name.startswith("CustomGradient-"):
                registered.pop(name, None)


@contextlib.contextmanager
def _one_pass_sgd(optimizer):
    """While a step is traced, let plain SGD update a variable by one kernel, W ← W - rate·g.

    Keras multiplies and subtracts: the same numbers, in two passes over the weights and one over a
    temporary as large. At the batch sizes of this field that is much of a step.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if type(optimizer) is not keras.optimizers.SGD or optimizer.momentum or replicas > 1:
        yield
        return

    def update_step(gradient, variable, learning_rate):
        if isinstance(variable, keras.Variable):
            variable = variable.value
        tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle,
            alpha=tf.cast(learning_rate, variable.dtype),
            delta=tf.cast(gradient, variable.dtype),
        )

    optimizer.update_step = update_step
    try:
        yield
    finally:
        del optimizer.update_step
