"""Many training steps a dispatch on JAX: one compiled loop over the rows of an index matrix."""

import jax
from jax import lax

from sda.training.drivers import BaseDriver


class Driver(BaseDriver):
    """The driver of JAX, on one device."""

    def __init__(self, model):
        super().__init__(model)
        self._train = self._compiled(self._train_steps)
        self._test = self._compiled(self._test_steps)

    def _compiled(self, function):
        return jax.jit(function)

    def put(self, array):
        return jax.numpy.asarray(array)

    def train(self, data, batches, steps):
        self._run(self._train, self._train_variables(), data, batches, steps)

    def test(self, data, batches, steps):
        self._run(self._test, self._test_variables(), data, batches, steps)

    def _run(self, function, variables, data, batches, steps):
        state = tuple([v.value for v in group] for group in variables)
        with jax.disable_jit(self.model.run_eagerly):
            state = function(state, data, batches, steps)
        for group, values in zip(variables, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)

    def _train_variables(self):
        model = self.model
        return (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )

    def _test_variables(self):
        trainable, non_trainable, _, metrics = self._train_variables()
        return trainable, non_trainable, metrics

    # The number of steps is an argument, not a shape: a loop compiled for it would be compiled
    # again for every length, and might round differently at each.
    def _train_steps(self, state, data, batches, steps):
        return lax.fori_loop(0, steps, self._body(self.model.train_step, data, batches), state)

    def _test_steps(self, state, data, batches, steps):
        return lax.fori_loop(0, steps, self._body(self.model.test_step, data, batches), state)

    def _body(self, step, data, batches):
        def body(i, state):
            _, state = step(state, self._rows(data, batches, i))
            return tuple(list(group) for group in state)

        return body

    def _rows(self, data, batches, i):
        """Return the rows of step `i`."""
        rows = batches[i]
        return jax.tree.map(lambda a: a[rows], data)
