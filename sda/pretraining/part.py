"""Which layers of a stack a `fit` trains."""

import warnings

import numpy as np
from keras import ops

from sda.checkpoints import arrays
from sda.checks import check_flag


class Part:
    """Some layers of a stack, or all: those that are trained, while the others stay as they are.

    Args:
        stack: A `sda.StackedDenoisingAutoencoder`.
        layers: List of the indices of layers, -1 for the top, or None for all.
        fresh: Whether they begin as their initialisers draw them.

    Raises:
        ValueError: If there is no such layer, one is named twice or none at all, or weights cannot
            be drawn again.
    """

    def __init__(self, stack, layers=None, fresh=False):
        self.stack = stack
        self.fresh = check_flag(fresh, "fresh")
        self.layers = _checked(layers, len(stack.autoencoders))
        if fresh:
            self._drawn()

    def __iter__(self):
        return iter(self.layers)

    def settings(self):
        """Return what the result depends on, as far as it is not the usual."""
        whole = len(self.layers) == len(self.stack.autoencoders)
        return {
            **({} if whole else {"layers": self.layers}),
            **({"fresh": True} if self.fresh else {}),
        }

    def draw(self):
        """Draw the weights and begin the noise again, if they are to be fresh."""
        if self.fresh:
            for variable, value in self._drawn():
                variable.assign(value)
            for k in self.layers:
                self.stack.autoencoders[k].corruption.restart()

    def warn(self):
        """Warn of layers above that have learned the codes that a layer is about to change.

        What tells a layer that has learned is that it is not as its initialisers draw it.
        """
        above = range(self.layers[0] + 1, len(self.stack.autoencoders))
        stale = [k for k in above if k not in self.layers and self._has_learned(k)]
        if stale:
            warnings.warn(
                f"Layer {self.layers[0]} is trained, and with it change the codes that the layers "
                f"{stale} above have learned: they stay as they are, and fit the old codes. Train "
                f"them too: layers={sorted({*self.layers, *stale})}.",
                stacklevel=5,
            )

    def _has_learned(self, k):
        try:
            drawn = self.stack.autoencoders[k].initial_values()
        except ValueError:  # adapted, or quantized
            return True
        values = arrays.values(variable for variable, _ in drawn)
        drawn = [ops.convert_to_numpy(value) for _, value in drawn]
        return not all(map(np.array_equal, values, drawn))

    def _drawn(self):
        # A stack that is not built yet is about to be drawn.
        layers = self.layers if self.stack.built else []
        return [pair for k in layers for pair in self.stack.autoencoders[k].initial_values()]


def _checked(layers, depth):
    """Return indices of layers, from the input up; raise `ValueError` unless they are such."""
    if layers is None:
        return list(range(depth))
    fit = isinstance(layers, (list, tuple, range)) and len(layers) > 0
    fit = fit and all(
        isinstance(k, (int, np.integer)) and not isinstance(k, bool) and -depth <= k < depth
        for k in layers
    )
    found = sorted({int(k) % depth for k in layers}) if fit else []
    if not fit or len(found) < len(layers):
        raise ValueError(
            f"Expected `layers` to be None, or a list of different integers from {-depth} to "
            f"{depth - 1}, at least one. Received: layers={layers!r}"
        )
    return found
