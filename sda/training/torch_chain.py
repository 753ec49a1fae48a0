"""Training steps of a chain of Dense layers on PyTorch, written out."""

import torch

from sda.layers.preprocessing import affine, apply
from sda.losses.base import ReconstructionLoss
from sda.losses.cross_entropy import CrossEntropy
from sda.training.torch_noise import Dropout, noise_of
from sda.training.torch_updates import raw, update_of


class ChainSteps:
    """Steps of a `Chain` on batches of one size.

    With h the inputs of a layer, a its pre-activations and δ = ∂L/∂a, the gradient of its kernel is
    hᵀ δ, or δᵀ h where the kernel is transposed. The one kernel of a tied dA gets both from one
    product of the joined rows, [x̃; δ]ᵀ [δʸ; y].

    Args:
        driver: The driver of the compiled model that the chain was found in.
        chain: A `Chain`.
        size: Integer, the rows of a batch.
    """

    def __init__(self, driver, chain, size):
        self.driver, self.chain, self.size = driver, chain, size
        self.kernels = [raw(layer.kernel) for layer in chain.layers]
        self.biases = [raw(layer.bias) for layer in chain.layers]
        # y = h W + b for all, with W a view.
        self.maps = [
            w.T if layer.transposed else w
            for w, layer in zip(self.kernels, chain.layers, strict=True)
        ]
        self._make_arrays()
        draws = {}
        self.noise = chain.corruption and noise_of(chain.corruption, self.clean, draws)
        self.dropouts = [
            layer.dropout and Dropout(layer.dropout, h, draws)
            for layer, h in zip(chain.layers, self.inputs, strict=True)
        ]
        self.draws = list(draws.values())
        self.affine = affine(chain.preprocessing)
        loss = chain.loss
        reconstructs = isinstance(loss, ReconstructionLoss)
        self.weighted = self.noise and reconstructs and loss.emphasised

    def _make_arrays(self):
        def empty(rows, width):
            return torch.empty(rows, width, device=self.biases[0].device)

        size, widths = self.size, [len(self.maps[0]), *(len(b) for b in self.biases)]
        if self.chain.layers[-1].transposed:
            left, right = empty(2 * size, widths[0]), empty(2 * size, widths[1])
            self.inputs, self.deltas = [left[:size], right[size:]], [right[:size], left[size:]]
            self.products = [(self.kernels[0], left, right)]
        else:
            self.inputs = [empty(size, n) for n in widths[:-1]]
            self.deltas = [empty(size, n) for n in widths[1:]]
            self.products = list(zip(self.kernels, self.inputs, self.deltas, strict=True))
        changed = self.chain.corruption or self.chain.layers[0].dropout
        self.clean = empty(size, widths[0]) if changed else self.inputs[0]
        # A code is written where the next layer reads it, unless dropout comes between.
        self.codes = [
            empty(size, len(code[0])) if layer.dropout else code
            for code, layer in zip(self.inputs[1:], self.chain.layers[1:], strict=True)
        ] + [empty(size, widths[-1])]

    @torch.no_grad()
    def run(self, x, y, batches):
        """Take one step on each row of indices."""
        for draw in self.draws:
            draw.begin()
        model = self.driver.model
        loss_sum = raw(model.metrics[0].variables[0])
        # Made for each dispatch: callbacks may have changed the optimizer.
        sums = list(zip(self.biases, self.deltas, strict=True))
        self.update = update_of(model, self.products, sums)
        self.update.begin()
        for rows in batches:
            loss_sum.add_(self._step(x, y, rows))
        model.metrics[0].variables[1].assign_add(float(batches.numel()))
        self.update.end(len(batches))
        for draw in self.draws:
            draw.end()

    def _step(self, x, y, rows):
        """Take one step; return the loss summed over the batch."""
        clean = self.clean
        self._prepare(x, rows, clean)
        if self.noise:
            self.noise(clean, self.inputs[0])
        # Dropout on the input acts on what the noise has left of it, in place.
        self._forward(self.inputs[0] if self.noise else clean)
        selected = self.noise.selected() if self.weighted else None
        target = clean
        if y is not None and isinstance(self.chain.loss, ReconstructionLoss):
            target = torch.empty_like(clean)
            self._prepare(y, rows, target)
        elif y is not None:
            target = y.index_select(0, rows)
        loss = self._loss(target, selected)
        self._backward()
        return loss

    def _prepare(self, x, rows, out):
        """Write the rows that are named, after the preprocessing, to `out`."""
        if self.affine is not None:
            scale, offset = self.affine
            torch.mul(x.index_select(0, rows), scale, out=out)
            if offset:
                out.add_(offset)
        elif self.chain.preprocessing:
            out.copy_(apply(self.chain.preprocessing, x.index_select(0, rows)))
        elif x.dtype == out.dtype:
            torch.index_select(x, 0, rows, out=out)
        else:
            out.copy_(x.index_select(0, rows))

    def _forward(self, h):
        for k, layer in enumerate(self.chain.layers):
            if self.dropouts[k]:
                self.dropouts[k](h, self.inputs[k])
            h = self.codes[k]
            torch.addmm(self.biases[k], self.inputs[k], self.maps[k], out=h)
            if layer is not self.chain.layers[-1]:
                ACTIVATE[layer.activation](h)

    def _backward(self):
        """Pass δ down, and update each layer as soon as its kernel has been used."""
        for k in range(len(self.maps) - 1, 0, -1):
            delta = torch.mm(self.deltas[k], self.maps[k].T, out=self.deltas[k - 1])
            if self.dropouts[k]:
                self.dropouts[k].gradient(delta)
            MULTIPLY_BY_SLOPE[self.chain.layers[k - 1].activation](delta, self.codes[k - 1])
            self.update(k)
        self.update(0)

    def _loss(self, target, selected):
        """Write δ, summed over the batch, of the last layer; return the loss, summed likewise."""
        a, delta = self.codes[-1], self.deltas[-1]
        if not isinstance(self.chain.loss, ReconstructionLoss):
            return self._categorical_loss(a, delta, target)
        loss, activation = self.chain.loss, self.chain.layers[-1].activation
        if isinstance(loss, CrossEntropy):
            torch.sigmoid(a, out=delta).sub_(target)
            if selected is None:
                softplus = torch.nn.functional.softplus(a).sum()
                if loss.alpha != 1:
                    delta.mul_(loss.alpha)
                return softplus.sub_(torch.dot(target.view(-1), a.view(-1))).mul_(loss.alpha)
            values = torch.nn.functional.softplus(a).sub_(target * a)
        else:
            z = ACTIVATE[activation](a)
            torch.sub(z, target, out=delta)
            values = delta.square()
            MULTIPLY_BY_SLOPE[activation](delta.mul_(2), z)
        if selected is not None:
            weights = torch.where(selected, loss.alpha, loss.beta)
            values.mul_(weights)
            delta.mul_(weights)
        elif loss.alpha != 1:
            values.mul_(loss.alpha)
            delta.mul_(loss.alpha)
        return values.sum()

    def _categorical_loss(self, a, delta, target):
        """Write δ = p - t, with p the softmax of `a`; return -Σ t log p."""
        log_p = torch.log_softmax(a, 1)
        p = torch.exp(log_p, out=delta)
        model = self.driver.model
        if len(model.metrics) > 1:
            model.compute_metrics(self.clean, target, p)
        if self.chain.loss == "categorical_crossentropy":
            smoothing = self.chain.smoothing
            target = target.to(p.dtype).mul(1 - smoothing).add_(smoothing / p.shape[1])
            # Targets need not add up to 1.
            p.mul_(target.sum(1, keepdim=True)).sub_(target)
            return -torch.dot(target.view(-1), log_p.view(-1))
        target = target.long()[:, None]
        p.scatter_add_(1, target, p.new_full(target.shape, -1.0))
        return -log_p.gather(1, target).sum()


def _multiply_by_sigmoid_slope(delta, y):
    torch.ops.aten.sigmoid_backward(delta, y, grad_input=delta)


def _multiply_by_tanh_slope(delta, y):
    torch.ops.aten.tanh_backward(delta, y, grad_input=delta)


ACTIVATE = {
    "linear": lambda a: a,
    "relu": torch.relu_,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}
MULTIPLY_BY_SLOPE = {
    "linear": lambda delta, y: delta,
    "relu": lambda delta, y: delta.mul_(y > 0),
    "sigmoid": _multiply_by_sigmoid_slope,
    "tanh": _multiply_by_tanh_slope,
}
