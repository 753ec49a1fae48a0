"""PyTorch: an eager loop on raw tensors, data resident, SGD in place under `no_grad`.

`loop` leaves the gradient to autograd. `by_hand` writes it out: arrays allocated once, and
`addmm_`, which adds the gradient to the kernel inside the product.
"""

import torch
from torch.nn import functional

from experiments.benchmark import limits
from experiments.benchmark.loops import Loop

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def contestants(work):
    by_hand = TiedByHand if work.kind == "dA" else ClassifierByHand
    trained = {"loop": Differentiated, "by_hand": by_hand}
    return {**trained, **{name: _products(name) for name in limits.steps(work.kind, None)}}


class Eager(Loop):
    """A plain loop over the rows of an index matrix."""

    def __init__(self, work, x, y, weights):
        super().__init__(work, x, y, weights)
        self.x, self.y = _put(x), _put(y).long()
        self.weights = [_put(w) for w in weights]
        self.clean = self.x[: work.batch].clone()

    def epoch(self, batches):
        total = torch.zeros((), device=DEVICE)
        for rows in _put(batches):
            total += self.step(rows)
        return total / len(batches)

    def mask(self, out):
        """Write a mask of zeros and ones to `out`; `bernoulli_` would take three times as long."""
        return torch.ge(torch.rand(out.shape, device=DEVICE), self.work.corruption, out=out)


class Differentiated(Eager):
    def __init__(self, work, x, y, weights):
        super().__init__(work, x, y, weights)
        for w in self.weights:
            w.requires_grad_()

    def step(self, rows):
        x = self.x.index_select(0, rows)
        loss = self.tied_loss(x) if self.work.kind == "dA" else self.class_loss(x, self.y[rows])
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.sub_(gradient, alpha=self.work.rate)
        return loss.detach()

    def tied_loss(self, x):
        kernel, bias, visible_bias = self.weights
        noisy = x * self.mask(torch.empty_like(x)) if self.work.corruption else x
        z = torch.addmm(visible_bias, torch.addmm(bias, noisy, kernel).sigmoid(), kernel.T)
        loss = functional.binary_cross_entropy_with_logits(z, x, reduction="sum")
        return loss / self.work.batch

    def class_loss(self, x, y):
        *hidden, (kernel, bias) = zip(self.weights[::2], self.weights[1::2], strict=True)
        for k, b in hidden:
            x = torch.addmm(b, x, k).sigmoid()
        return functional.cross_entropy(torch.addmm(bias, x, kernel), y)


class TiedByHand(Eager):
    def __init__(self, work, x, y, weights):
        super().__init__(work, x, y, weights)
        self.left = torch.empty(2 * work.batch, work.visible, device=DEVICE)
        self.right = torch.empty(2 * work.batch, work.width, device=DEVICE)
        self.z = torch.empty_like(self.clean)

    @torch.no_grad()
    def step(self, rows):
        batch, rate = self.work.batch, self.work.rate / self.work.batch
        kernel, bias, visible_bias = self.weights
        noisy, delta = self.left[:batch], self.left[batch:]
        delta_y, y = self.right[:batch], self.right[batch:]
        x = torch.index_select(self.x, 0, rows, out=self.clean)
        if self.work.corruption:
            self.mask(noisy).mul_(x)
        else:
            noisy.copy_(x)
        torch.addmm(bias, noisy, kernel, out=y).sigmoid_()
        z = torch.addmm(visible_bias, y, kernel.T, out=self.z)
        loss = functional.binary_cross_entropy_with_logits(z, x, reduction="sum")
        torch.sigmoid(z, out=delta).sub_(x)
        torch.mm(delta, kernel, out=delta_y)
        torch.ops.aten.sigmoid_backward(delta_y, y, grad_input=delta_y)
        kernel.addmm_(self.left.T, self.right, alpha=-rate)
        bias.sub_(delta_y.sum(0), alpha=rate)
        visible_bias.sub_(delta.sum(0), alpha=rate)
        return loss / batch


class ClassifierByHand(Eager):
    def __init__(self, work, x, y, weights):
        super().__init__(work, x, y, weights)
        self.kernels, self.biases = self.weights[::2], self.weights[1::2]
        self.codes = [torch.empty(work.batch, n, device=DEVICE) for n in work.sizes]
        self.deltas = [torch.empty_like(code) for code in self.codes]

    @torch.no_grad()
    def step(self, rows):
        codes, deltas, rate = self.codes, self.deltas, self.work.rate / self.work.batch
        torch.index_select(self.x, 0, rows, out=codes[0])
        labels = self.y[rows][:, None]
        last = len(self.kernels) - 1
        for k, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            torch.addmm(bias, codes[k], kernel, out=codes[k + 1])
            if k < last:
                codes[k + 1].sigmoid_()
        scores = functional.log_softmax(codes[-1], 1)
        loss = -scores.gather(1, labels).mean()
        torch.exp(scores, out=deltas[-1])
        deltas[-1].scatter_add_(1, labels, deltas[-1].new_full(labels.shape, -1.0))
        for k in range(last, -1, -1):
            if k:
                torch.mm(deltas[k + 1], self.kernels[k].T, out=deltas[k])
                torch.ops.aten.sigmoid_backward(deltas[k], codes[k], grad_input=deltas[k])
            self.kernels[k].addmm_(codes[k].T, deltas[k + 1], alpha=-rate)
            self.biases[k].sub_(deltas[k + 1].sum(0), alpha=rate)
        return loss


def _put(array):
    return torch.tensor(array, device=DEVICE)


def _products(name):
    class Products(Loop):
        def __init__(self, work, x, y, weights):
            super().__init__(work, x, y, weights)
            self.step = limits.steps(work.kind, self._concatenate)[name]
            self.operands = [_put(w) for w in (x[: work.batch], *weights) if w.ndim == 2]
            self.buffers = []

        @torch.no_grad()
        def epoch(self, batches):
            for _ in batches:
                self.position = 0
                last = self.step(self._multiply, *self.operands)
            return last[0].sum()

        def _buffer(self, shape):
            # A step makes the same products in the same order, so each finds its own array again.
            if self.position == len(self.buffers):
                self.buffers.append(torch.empty(shape, device=DEVICE))
            self.position += 1
            return self.buffers[self.position - 1]

        def _multiply(self, a, b, ta=False, tb=False):
            a, b = a.T if ta else a, b.T if tb else b
            return torch.mm(a, b, out=self._buffer((a.shape[0], b.shape[1])))

        def _concatenate(self, parts):
            shape = (sum(len(part) for part in parts), parts[0].shape[1])
            return torch.cat(parts, out=self._buffer(shape))

    return Products
