"""The updates of the written-out steps of PyTorch: SGD of their own, or any other optimizer."""

import keras
import torch


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
            velocities = {v.value.data_ptr(): raw(velocity) for v, velocity in pairs}
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


def update_of(model, products, sums):
    """Return how the weights are updated under the model's optimizer."""
    optimizer = model.optimizer
    fused = (
        # Not keras.optimizers.SGD, but PyTorch's own of it.
        type(optimizer) is type(keras.optimizers.SGD())
        and all(getattr(optimizer, name) in (None, False) for name in MORE_THAN_PLAIN)
    )
    return (FusedSGD if fused else AnyOptimizer)(model, products, sums)


def raw(variable):
    """Return the tensor that holds a variable's value; what is written to it is the variable's."""
    return variable.value.detach()
