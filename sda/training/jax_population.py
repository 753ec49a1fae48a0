"""The driver of a population: members trained side by side on JAX."""

import contextlib

import jax
import numpy as np


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
