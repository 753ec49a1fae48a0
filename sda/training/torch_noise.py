"""The draws of the written-out steps of PyTorch: masks of noises and of dropout."""

import torch

from sda.layers.corruption import Corruption
from sda.layers.masking import MaskingNoise


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


def noise_of(corruption, x, draws):
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
