"""TensorFlow: a `tf.function` with a loop over the epoch that gathers from a resident tensor.

`loop` differentiates with `GradientTape`. `by_hand` (dA only: a classifier's products would be the
same) writes the gradient out, with one product for the tied kernel. No XLA: on the CPU it is
slower.
"""

import tensorflow as tf

from experiments.benchmark import limits
from experiments.benchmark.loops import Loop


def contestants(work):
    trained = {"loop": Differentiated}
    if work.kind == "dA":
        trained["by_hand"] = TiedByHand
    return {**trained, **{name: _products(name) for name in limits.steps(work.kind, None)}}


class Graph(Loop):
    """One graph that loops over the rows of an index matrix."""

    def __init__(self, work, x, y, weights):
        super().__init__(work, x, y, weights)
        self.x, self.y = tf.constant(x), tf.constant(y)
        self.weights = [tf.Variable(w) for w in weights]
        signature = [tf.TensorSpec([None, work.batch], tf.int32)]
        self.graph = tf.function(self.loop, input_signature=signature)

    def epoch(self, batches):
        return self.graph(tf.constant(batches))

    def loop(self, batches):
        steps = tf.shape(batches)[0]
        total = tf.constant(0.0)
        for i in tf.range(steps):
            x, y = tf.gather(self.x, batches[i]), tf.gather(self.y, batches[i])
            total += self.step(x, y)
        return total / tf.cast(steps, tf.float32)

    def corrupted(self, x):
        if not self.work.corruption:
            return x
        return tf.where(tf.random.uniform(tf.shape(x)) >= self.work.corruption, x, 0.0)


class Differentiated(Graph):
    def step(self, x, y):
        with tf.GradientTape() as tape:
            loss = self.tied_loss(x) if self.work.kind == "dA" else self.class_loss(x, y)
        gradients = tape.gradient(loss, self.weights)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.assign_sub(self.work.rate * gradient)
        return loss

    def tied_loss(self, x):
        kernel, bias, visible_bias = self.weights
        y = tf.sigmoid(tf.matmul(self.corrupted(x), kernel) + bias)
        z = tf.matmul(y, kernel, transpose_b=True) + visible_bias
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=z)
        return tf.reduce_sum(losses) / self.work.batch

    def class_loss(self, x, y):
        *hidden, (kernel, bias) = zip(self.weights[::2], self.weights[1::2], strict=True)
        for k, b in hidden:
            x = tf.sigmoid(tf.matmul(x, k) + b)
        logits = tf.matmul(x, kernel) + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return tf.reduce_mean(losses)


class TiedByHand(Graph):
    def step(self, x, y):
        rate = self.work.rate / self.work.batch
        kernel, bias, visible_bias = self.weights
        noisy = self.corrupted(x)
        y = tf.sigmoid(tf.matmul(noisy, kernel) + bias)
        z = tf.matmul(y, kernel, transpose_b=True) + visible_bias
        loss = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=z))
        delta = (tf.sigmoid(z) - x) * rate
        delta_y = tf.matmul(delta, kernel) * y * (1 - y)
        left, right = tf.concat([noisy, delta], 0), tf.concat([delta_y, y], 0)
        kernel.assign_sub(tf.matmul(left, right, transpose_a=True))
        bias.assign_sub(tf.reduce_sum(delta_y, 0))
        visible_bias.assign_sub(tf.reduce_sum(delta, 0))
        return loss / self.work.batch


def _products(name):
    class Products(Loop):
        def __init__(self, work, x, y, weights):
            super().__init__(work, x, y, weights)
            self.step = limits.steps(work.kind, lambda parts: tf.concat(parts, 0))[name]
            # Two batches by turns: nothing in the loop is the same in every turn.
            self.x = tf.stack([tf.constant(x[: work.batch])] * 2)
            self.kernels = [tf.Variable(w) for w in weights if w.ndim == 2]
            self.graph = tf.function(self.loop, input_signature=[tf.TensorSpec([], tf.int32)])

        def epoch(self, batches):
            return self.graph(tf.constant(len(batches)))

        def loop(self, steps):
            last = self.step(_multiply, self.x[0], *self.kernels)
            for i in tf.range(1, steps):
                last = self.step(_multiply, self.x[i % 2], *self.kernels)
            # All of it: a product that nobody reads would be left out.
            return tf.add_n([tf.reduce_sum(gradient) for gradient in last])

    return Products


def _multiply(a, b, ta=False, tb=False):
    return tf.matmul(a, b, transpose_a=ta, transpose_b=tb)
