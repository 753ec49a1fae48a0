"""Many training steps a dispatch on JAX: one compiled loop over the rows of an index matrix."""

import contextlib

import jax
import numpy as np
from jax import lax


class Driver:
    """Runs steps of a compiled model; between dispatches the model's variables are up to date."""

    def __init__(self, model):
        self.model = model
        self._train = self._compiled(self._train_steps)
        self._test = self._compiled(self._test_steps)

    def _compiled(self, function):
        return jax.jit(function)

    def put(self, array):
        """Return `array` on the device."""
        return jax.numpy.asarray(array)

    def train(self, data, batches, steps):
        """Take one step on each of the first `steps` rows of indices in `batches`."""
        self._run(self._train, self._train_variables(), data, batches, steps)

    def test(self, data, batches, steps):
        """Update the metrics on the same rows, without training."""
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


class Population:
    """Runs steps of several compiled models of one architecture in one program.

    The models may differ in the values of all their variables (learning rate and seeds among them)
    and in the levels of their noises.

    Args:
        drivers: List of the `Driver` of each model.
        noises: List of the `sda.Corruption` of each model.
        level: String, the name of the attribute of the noises that is their level, or None.
        same: Whether all have the same data; if not, data have an axis of members first.
    """

    def __init__(self, drivers, noises, level, same):
        self.drivers = drivers
        self.noise = noises[0]
        self.name = level
        self.levels = jax.numpy.asarray(
            [getattr(noise, self.name) if self.name else 0.0 for noise in noises], "float32"
        )
        axes = (0, 0, None if same else 0, 0, None)
        self._together = jax.vmap(self._train_steps, axes)
        self._train = jax.jit(self._train_all)

    def put(self, array):
        """Return `array` on the device."""
        return self.drivers[0].put(array)

    def train(self, data, batches):
        """Take one step of each member on each of its rows of indices, `batches[member]`.

        Returns:
            Array of booleans: whose weights are finite.
        """
        variables = [driver._train_variables() for driver in self.drivers]
        states = [tuple([v.value for v in group] for group in groups) for groups in variables]
        states, finite = self._train(states, self.levels, data, batches, batches.shape[1])
        for groups, state in zip(variables, states, strict=True):
            for group, values in zip(groups, state, strict=True):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(value)
        return np.asarray(finite)

    def _train_all(self, states, levels, data, batches, steps):
        # Joined and taken apart in the compiled program: one by one that is hundreds of dispatches.
        stacked = jax.tree.map(lambda *values: jax.numpy.stack(values), *states)
        stacked = self._together(stacked, levels, data, batches, steps)
        finite = [jax.numpy.isfinite(w).all(range(1, w.ndim)) for w in stacked[0]]
        states = [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(len(states))]
        return states, jax.numpy.stack(finite).all(0)

    def _train_steps(self, state, level, data, batches, steps):
        with self._at(level):
            return self.drivers[0]._train_steps(state, (data,), batches, steps)

    @contextlib.contextmanager
    def _at(self, level):
        """Let the noise of the model that is traced have a level that is traced, too."""
        if self.name is None:
            yield
            return
        before = getattr(self.noise, self.name)
        setattr(self.noise, self.name, level)
        try:
            yield
        finally:
            setattr(self.noise, self.name, before)
