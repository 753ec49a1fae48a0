"""Training steps of a chain of Dense layers on PyTorch, written out."""

import keras
import torch

from sda.layers.corruption import Corruption
from sda.layers.masking import MaskingNoise
from sda.layers.preprocessing import affine, apply
from sda.losses.base import ReconstructionLoss
from sda.losses.cross_entropy import CrossEntropy


class ChainSteps:
    """Steps of a `Chain` on batches of one size.

    With h the inputs of a layer, a its pre-activations and δ = ∂L/∂a, the gradient of its kernel is
    hᵀ δ, or δᵀ h where the kernel is transposed. The one kernel of a tied dA gets both from one
    product of the joined rows, [x̃; δ]ᵀ [δʸ; y].

    Args:
        chain: A `Chain`.
        model: The compiled model that it was found in.
        size: Integer, the rows of a batch.
    """

    def __init__(self, chain, model, size):
        self.chain, self.model, self.size = chain, model, size
        self.kernels = [_raw(layer.kernel) for layer in chain.layers]
        self.biases = [_raw(layer.bias) for layer in chain.layers]
        # y = h W + b for all, with W a view.
        self.maps = [
            w.T if layer.transposed else w
            for w, layer in zip(self.kernels, chain.layers, strict=True)
        ]
        self._make_arrays()
        draws = {}
        self.noise = chain.corruption and _noise(chain.corruption, self.clean, draws)
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
        loss_sum = _raw(self.model.metrics[0].variables[0])
        # Made for each dispatch: callbacks may have changed the optimizer.
        sums = list(zip(self.biases, self.deltas, strict=True))
        self.update = _update(self.model, self.products, sums)
        self.update.begin()
        for rows in batches:
            loss_sum.add_(self._step(x, y, rows))
        self.model.metrics[0].variables[1].assign_add(float(batches.numel()))
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
        if len(self.model.metrics) > 1:
            self.model.compute_metrics(self.clean, target, p)
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


class FusedSGD:
    """Plain SGD or SGD with momentum, added to the weights inside the products of the gradient.

    Args:
        model: The compiled model.
        products: List of `(kernel, left, right)`: the kernel's gradient is leftᵀ right. One a
            layer, or one for a kernel that two layers share.
        sums: List of `(bias, delta)`, one a layer: the bias's gradient is the sum of delta's rows.
    """

    def __init__(self, model, products, sums):
        self.optimizer = model.optimizer
        # Anything but a variable is computed anew in each step.
        self.scheduled = not isinstance(model.optimizer.learning_rate, keras.Variable)
        self.size = len(sums[0][1])
        self.ones = torch.ones_like(sums[0][1][:, 0])
        self.momentum = self.optimizer.momentum
        velocities = {}
        if self.momentum:
            pairs = zip(model.trainable_variables, self.optimizer.momentums, strict=True)
            velocities = {v.value.data_ptr(): _raw(velocity) for v, velocity in pairs}
        self.products = [(w, velocities.get(w.data_ptr()), a.T, b) for w, a, b in products]
        self.sums = [(b, velocities.get(b.data_ptr()), delta.T) for b, delta in sums]

    def begin(self):
        self.scale = -float(self.optimizer.learning_rate) / self.size

    def __call__(self, k):
        """Update layer `k`; a shared kernel with the first layer, which comes last."""
        if k < len(self.products):
            weight, velocity, left, right = self.products[k]
            if velocity is None:
                weight.addmm_(left, right, alpha=self.scale)
            else:
                weight.add_(velocity.addmm_(left, right, beta=self.momentum, alpha=self.scale))
        bias, velocity, delta = self.sums[k]
        if velocity is None:
            bias.addmv_(delta, self.ones, alpha=self.scale)
        else:
            bias.add_(velocity.addmv_(delta, self.ones, beta=self.momentum, alpha=self.scale))
        if self.scheduled and k == 0:
            self.optimizer.iterations.assign_add(1)
            self.begin()

    def end(self, steps):
        if not self.scheduled:
            self.optimizer.iterations.assign_add(steps)


class AnyOptimizer:
    """The model's own optimizer on gradients in arrays; arguments as for `FusedSGD`."""

    def __init__(self, model, products, sums):
        self.optimizer, self.variables = model.optimizer, model.trainable_variables
        self.size = len(sums[0][1])
        self.products, self.sums = products, sums

    def begin(self):
        pass

    def __call__(self, k):
        if k > 0:
            return  # all at once, with the first layer
        found = {w.data_ptr(): (a.T @ b).div_(self.size) for w, a, b in self.products}
        found.update({b.data_ptr(): delta.sum(0).div_(self.size) for b, delta in self.sums})
        # As if the loss had been scaled: `apply` undoes it.
        scale = self.optimizer.scale_loss(torch.ones_like(self.sums[0][0][0]))
        gradients = [found[v.value.data_ptr()].mul_(scale) for v in self.variables]
        self.optimizer.apply(gradients, self.variables)

    def end(self, steps):
        pass


# What makes more than plain SGD of `keras.optimizers.SGD`, where it is neither None nor False.
MORE_THAN_PLAIN = (
    "nesterov",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


def _update(model, products, sums):
    """Return how the weights are updated under the model's optimizer."""
    optimizer = model.optimizer
    fused = (
        # Not keras.optimizers.SGD, but PyTorch's own of it.
        type(optimizer) is type(keras.optimizers.SGD())
        and all(getattr(optimizer, name) in (None, False) for name in MORE_THAN_PLAIN)
    )
    return (FusedSGD if fused else AnyOptimizer)(model, products, sums)


class Draws:
    """The draws of a `keras.random.SeedGenerator`, counted without Keras in between.

    As in `keras.random`, draw c of seed s comes from a generator that starts at s + c.
    """

    def __init__(self, seed_generator):
        self.state = seed_generator.state
        self.generator = torch.Generator(device=self.state.value.device)

    def begin(self):
        self.seed, self.count = (int(n) for n in self.state.value)

    def next(self):
        self.generator.manual_seed((self.seed + self.count) & 0xFFFFFFFF)
        self.count += 1
        return self.generator

    def end(self):
        self.state.assign([self.seed, self.count])


class Mask:
    """Draws of zeros and ones, the same that `keras.random` makes, from `compare(u, level)`.

    Compared straight into floats: a product with a boolean tensor would convert it first. And
    `torch.bernoulli`, with the same result, takes three times as long.

    Args:
        compare: `torch.ge` or `torch.lt`, of u ~ U(0, 1).
        level: Float in (0, 1).
        like: Tensor of the shape of the mask.
        draws: `Draws`, or None for PyTorch's global state.
    """

    def __init__(self, compare, level, like, draws):
        self.compare, self.level, self.draws = compare, level, draws
        self.u, self.value = torch.empty_like(like), torch.empty_like(like)

    def draw(self):
        torch.rand(self.u.shape, generator=self.draws and self.draws.next(), out=self.u)
        return self.compare(self.u, self.level, out=self.value)


class Masking:
    """`sda.MaskingNoise` with one rate for all, 0 < rate < 1."""

    def __init__(self, corruption, x, draws):
        draws = draws.setdefault(id(corruption), Draws(corruption.seed_generator))
        self.mask = Mask(torch.ge, corruption.rate, x, draws)

    def __call__(self, x, out):
        """Write the corrupted x to `out`."""
        torch.mul(x, self.mask.draw(), out=out)

    def selected(self):
        """Return what the last call selected, or None."""
        return self.mask.value == 0


class AnyNoise:
    """Any other `sda.Corruption`."""

    def __init__(self, corruption):
        self.corruption = corruption

    def __call__(self, x, out):
        corrupted, self._selected = self.corruption.corrupt(x)
        out.copy_(corrupted)

    def selected(self):
        return self._selected


class KerasNoise:
    """A layer of Keras that is at work in training."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x, out):
        out.copy_(self.layer(x, training=True))

    def selected(self):
        return None


def _noise(corruption, x, draws):
    """Return the noise that a step makes in place of the layer `corruption`."""
    if not isinstance(corruption, Corruption):
        return KerasNoise(corruption)
    one_rate = type(corruption) is MaskingNoise and isinstance(corruption.rate, float)
    if one_rate and not corruption.groups and 0 < corruption.rate < 1:
        return Masking(corruption, x, draws)
    return AnyNoise(corruption)


class Dropout:
    """`keras.layers.Dropout`, and its gradient."""

    def __init__(self, layer, h, draws):
        if layer.seed is None:
            draws = None
        else:
            draws = draws.setdefault(id(layer), Draws(layer.seed_generator))
        self.keep = 1.0 - layer.rate
        self.mask = Mask(torch.lt, self.keep, h, draws)

    def __call__(self, h, out):
        torch.mul(h, self.mask.draw(), out=out).div_(self.keep)

    def gradient(self, delta):
        delta.mul_(self.mask.value).div_(self.keep)


def _raw(variable):
    """Return the tensor that holds a variable's value; what is written to it is the variable's."""
    return variable.value.detach()
