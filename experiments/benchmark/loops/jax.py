"""JAX: one compiled `lax.scan` over the epoch, data resident, weights given back to the device.

`loop` is the plain `value_and_grad` inside the scan, with `jax.random.bernoulli` masks. `by_hand`
(dA only) writes the gradient out, with one product for the tied kernel, and draws 16 bits a mask
entry in place of 32.
"""

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmark import limits
from experiments.benchmark.loops import Loop


def contestants(work):
    trained = {"loop": Differentiated}
    if work.kind == "dA":
        trained["by_hand"] = TiedByHand
    return {**trained, **{name: _products(name) for name in limits.steps(work.kind, None)}}


class Scan(Loop):
    """One scan over the rows of an index matrix."""

    def __init__(self, work, x, y, weights):
        super().__init__(work, x, y, weights)
        self.data = jnp.asarray(x), jnp.asarray(y)
        self.weights = [jnp.array(w) for w in weights]
        self.key = jax.random.key(0)
        self.scan = jax.jit(self._scan, donate_argnums=0)

    def epoch(self, batches):
        self.key, key = jax.random.split(self.key)
        self.weights, loss = self.scan(self.weights, self.data, jnp.asarray(batches), key)
        return loss

    def _scan(self, weights, data, batches, key):
        def body(weights, step):
            rows, key = step
            return self.step(weights, data[0][rows], data[1][rows], key)

        weights, losses = lax.scan(body, weights, (batches, jax.random.split(key, len(batches))))
        return weights, losses.mean()


class Differentiated(Scan):
    def step(self, weights, x, y, key):
        if self.work.kind == "dA":
            loss, gradients = jax.value_and_grad(self.tied_loss)(weights, x, key)
        else:
            loss, gradients = jax.value_and_grad(_class_loss)(weights, x, y)
        return [w - self.work.rate * g for w, g in zip(weights, gradients, strict=True)], loss

    def tied_loss(self, weights, x, key):
        kernel, bias, visible_bias = weights
        noisy = x
        if self.work.corruption:
            noisy = jnp.where(jax.random.bernoulli(key, 1 - self.work.corruption, x.shape), x, 0)
        z = jax.nn.sigmoid(noisy @ kernel + bias) @ kernel.T + visible_bias
        return jnp.sum(jax.nn.softplus(z) - x * z) / self.work.batch


class TiedByHand(Scan):
    def step(self, weights, x, y, key):
        rate = self.work.rate / self.work.batch
        kernel, bias, visible_bias = weights
        noisy = x
        if self.work.corruption:
            threshold = round(self.work.corruption * 2**16)
            noisy = jnp.where(jax.random.bits(key, x.shape, "uint16") >= threshold, x, 0)
        y = jax.nn.sigmoid(noisy @ kernel + bias)
        z = y @ kernel.T + visible_bias
        loss = jnp.sum(jax.nn.softplus(z) - x * z) / self.work.batch
        delta = (jax.nn.sigmoid(z) - x) * rate
        delta_y = (delta @ kernel) * y * (1 - y)
        left, right = jnp.concatenate([noisy, delta]), jnp.concatenate([delta_y, y])
        weights = [kernel - left.T @ right, bias - delta_y.sum(0), visible_bias - delta.sum(0)]
        return weights, loss


def _class_loss(weights, x, y):
    *hidden, (kernel, bias) = zip(weights[::2], weights[1::2], strict=True)
    for k, b in hidden:
        x = jax.nn.sigmoid(x @ k + b)
    scores = jax.nn.log_softmax(x @ kernel + bias)
    return -jnp.take_along_axis(scores, y[:, None], 1).mean()


def _products(name):
    class Products(Loop):
        def __init__(self, work, x, y, weights):
            super().__init__(work, x, y, weights)
            self.step = limits.steps(work.kind, jnp.concatenate)[name]
            # Two batches by turns: nothing in the loop is the same in every turn.
            self.x = jnp.stack([jnp.asarray(x[: work.batch])] * 2)
            self.kernels = [jnp.asarray(w) for w in weights if w.ndim == 2]
            self.loop = jax.jit(self._loop)

        def epoch(self, batches):
            return self.loop(self.x, self.kernels, len(batches))[0].sum()

        def _loop(self, x, kernels, steps):
            def body(i, last):
                return self.step(_multiply, x[i % 2], *kernels)

            # All of it is returned: a product that nobody reads would be left out.
            return lax.fori_loop(1, steps, body, body(0, None))

    return Products


def _multiply(a, b, ta=False, tb=False):
    return (a.T if ta else a) @ (b.T if tb else b)
