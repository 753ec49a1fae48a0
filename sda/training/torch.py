"""The driver of PyTorch."""

import torch
from keras import ops, tree

from sda.layers.chain import find_chain
from sda.layers.preprocessing import apply
from sda.losses.base import ReconstructionLoss
from sda.training.drivers import BaseDriver
from sda.training.torch_chain import ChainSteps


class Driver(BaseDriver):
    """The driver of PyTorch."""

    def __init__(self, model):
        super().__init__(model)
        self.chain = find_chain(model)
        self._chain_steps = {}

    def put(self, array):
        return ops.convert_to_tensor(array)

    def train(self, data, batches, steps):
        batches = ops.convert_to_tensor(batches[:steps], "int64")
        x, y, weight = (*data, None, None)[:3]
        if not self._is_chain_data(x, y) or weight is not None:
            return self._run(self.model.train_step, data, batches)
        size = batches.shape[1]
        if size not in self._chain_steps:
            self._chain_steps[size] = ChainSteps(self, self.chain, size)
        self._chain_steps[size].run(x, y, batches)

    def _is_chain_data(self, x, y):
        if self.chain is None or apply(self.chain.preprocessing, x[:1]).ndim != 2:
            return False
        if isinstance(self.chain.loss, ReconstructionLoss):
            return y is None or y.shape == x.shape
        return y is None or y.ndim == (2 if self.chain.loss == "categorical_crossentropy" else 1)

    def test(self, data, batches, steps):
        with torch.no_grad():
            batches = ops.convert_to_tensor(batches[:steps], "int64")
            self._run(self.model.test_step, data, batches)

    def _run(self, step, data, batches):
        for rows in batches:
            gathered = tree.map_structure(
                lambda a, rows=rows: None if a is None else a.index_select(0, rows), data
            )
            step(gathered)
