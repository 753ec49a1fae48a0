"""Many training steps a dispatch on PyTorch: a plain loop over data that stays on the device."""

import torch
from keras import ops, tree

from sda.training.rows import batch


class Driver:
    """Runs steps of a compiled model; between dispatches the model's variables are up to date."""

    def __init__(self, model):
        self.model = model

    def put(self, array):
        """Return `array` on the device."""
        return ops.convert_to_tensor(array)

    def train(self, data, batches, steps):
        """Take one step on each of the first `steps` rows of indices in `batches`."""
        self._run(self.model.train_step, data, batches, steps)

    def test(self, data, batches, steps):
        """Update the metrics on the same rows, without training."""
        with torch.no_grad():
            self._run(self.model.test_step, data, batches, steps)

    def _run(self, step, data, batches, steps):
        for rows in ops.convert_to_tensor(batches[:steps], "int64"):
            gathered = tree.map_structure(
                lambda a, rows=rows: None if a is None else a.index_select(0, rows), data
            )
            step(batch(gathered))
