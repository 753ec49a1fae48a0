"""NumPy: gradients by hand, every large array allocated once and written by `out=`."""

import numpy as np

from experiments.benchmark import limits
from experiments.benchmark.loops import Loop


def contestants(work):
    trained = {"by_hand": TiedAutoencoder if work.kind == "dA" else Classifier}
    return {**trained, **{name: _products(name) for name in limits.steps(work.kind, None)}}


class TiedAutoencoder(Loop):
    """The kernel's gradient is one product over [x̃; δ] and [δʸ; y], which live side by side."""

    def __init__(self, work, x, y, weights, dtype="float32"):
        super().__init__(work, x, y, weights)
        self.x = x.astype(dtype)
        self.weights = [w.astype(dtype) for w in weights]
        batch, visible, hidden = work.batch, work.visible, work.width
        self.clean, self.u, self.z, self.e, self.loss = (
            np.empty((batch, visible), dtype) for _ in range(5)
        )
        self.left = np.empty((2 * batch, visible), dtype)
        self.right = np.empty((2 * batch, hidden), dtype)
        self.gradient = np.empty((visible, hidden), dtype)
        self.bits = np.random.Generator(np.random.SFC64(1))

    def epoch(self, batches):
        with np.errstate(over="ignore"):
            return sum(self.step(rows) for rows in batches) / len(batches)

    def step(self, rows):
        work, (kernel, bias, visible_bias) = self.work, self.weights
        noisy, delta = self.left[: work.batch], self.left[work.batch :]
        delta_y, y = self.right[: work.batch], self.right[work.batch :]
        clean, z, rate = self.clean, self.z, work.rate / work.batch
        # Any mode but "raise" writes straight to `out`.
        np.take(self.x, rows, axis=0, out=clean, mode="clip")
        if work.corruption:
            self.bits.random(out=self.u, dtype=self.u.dtype)
            np.multiply(clean, self.u >= work.corruption, out=noisy)
        else:
            noisy[:] = clean
        np.matmul(noisy, kernel, out=y)
        y += bias
        _sigmoid(y)
        np.matmul(y, kernel.T, out=z)
        z += visible_bias
        loss = self._loss_and_delta(clean, z, delta)
        np.matmul(delta, kernel, out=delta_y)
        delta_y *= y
        delta_y *= 1 - y
        visible_bias -= rate * delta.sum(0)
        bias -= rate * delta_y.sum(0)
        np.matmul(self.left.T, self.right, out=self.gradient)
        self.gradient *= rate
        kernel -= self.gradient
        return loss / work.batch

    def _loss_and_delta(self, clean, z, delta):
        """Write σ(z) - x to `delta`; return the sum of softplus(z) - x·z."""
        e, loss = self.e, self.loss
        np.abs(z, out=e)
        np.negative(e, out=e)
        np.exp(e, out=e)  # of -|z|: never too large
        np.add(e, 1, out=loss)
        np.divide(1, loss, out=delta)
        np.log(loss, out=loss)
        np.multiply(e, delta, out=delta, where=z < 0)
        delta -= clean
        total = loss.sum() + np.maximum(z, 0, out=e).sum()
        return total - np.vdot(clean, z)


class Classifier(Loop):
    """Sigmoid layers under a softmax."""

    def __init__(self, work, x, y, weights, dtype="float32"):
        super().__init__(work, x, y, weights)
        self.x, self.y = x.astype(dtype), y
        weights = [w.astype(dtype) for w in weights]
        self.kernels, self.biases = weights[::2], weights[1::2]
        self.codes = [np.empty((work.batch, n), dtype) for n in work.sizes]
        self.deltas = [np.empty_like(code) for code in self.codes]
        self.gradients = [np.empty_like(kernel) for kernel in self.kernels]
        self.each = np.arange(work.batch)

    def epoch(self, batches):
        with np.errstate(over="ignore"):
            return sum(self.step(rows) for rows in batches) / len(batches)

    def step(self, rows):
        codes, deltas, rate = self.codes, self.deltas, self.work.rate / self.work.batch
        np.take(self.x, rows, axis=0, out=codes[0], mode="clip")
        last = len(self.kernels) - 1
        for k, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            code = np.matmul(codes[k], kernel, out=codes[k + 1])
            code += bias
            if k < last:
                _sigmoid(code)
        loss = self._loss_and_delta(codes[-1], self.y[rows], deltas[-1])
        for k in range(last, -1, -1):
            delta = deltas[k + 1]
            np.matmul(codes[k].T, delta, out=self.gradients[k])
            if k:
                np.matmul(delta, self.kernels[k].T, out=deltas[k])
                deltas[k] *= codes[k]
                deltas[k] *= 1 - codes[k]
            self.gradients[k] *= rate
            self.kernels[k] -= self.gradients[k]
            self.biases[k] -= rate * delta.sum(0)
        return loss / self.work.batch

    def _loss_and_delta(self, z, labels, delta):
        """Write softmax(z) - onehot to `delta`; return the sum of -log softmax at the labels."""
        z -= z.max(1, keepdims=True)
        np.exp(z, out=delta)
        total = delta.sum(1, keepdims=True)
        loss = np.log(total).sum() - z[self.each, labels].sum()
        delta /= total
        delta[self.each, labels] -= 1
        return loss


def _sigmoid(z):
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1
    np.divide(1, z, out=z)


def _products(name):
    class Products(Loop):
        def __init__(self, work, x, y, weights):
            super().__init__(work, x, y, weights)
            self.step = limits.steps(work.kind, self._concatenate)[name]
            self.operands = [x[: work.batch].copy(), *(w for w in weights if w.ndim == 2)]
            self.buffers = []

        def epoch(self, batches):
            for _ in batches:
                self.position = 0
                self.step(self._multiply, *self.operands)
            return 0.0

        def _buffer(self, shape):
            # A step makes the same products in the same order, so each finds its own array again.
            if self.position == len(self.buffers):
                self.buffers.append(np.empty(shape, "float32"))
            self.position += 1
            return self.buffers[self.position - 1]

        def _multiply(self, a, b, ta=False, tb=False):
            a, b = a.T if ta else a, b.T if tb else b
            return np.matmul(a, b, out=self._buffer((a.shape[0], b.shape[1])))

        def _concatenate(self, parts):
            shape = (sum(len(part) for part in parts), parts[0].shape[1])
            return np.concatenate(parts, out=self._buffer(shape))

    return Products
