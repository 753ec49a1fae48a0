"""The matrix products of a step and nothing else: what no contestant can be faster than.

The steps are those of training with linear layers, no noise, no loss and no update: product by
product the shapes and the dependencies are the same. `mm(a, b, ta=False, tb=False)` multiplies,
with either side transposed.
"""


def tied_step(mm, x, kernel):
    """The five products of a tied dA: two forward, one back, two for the kernel."""
    y = mm(x, kernel)
    delta = mm(y, kernel, tb=True)
    delta_y = mm(delta, kernel)
    return [mm(x, delta_y, ta=True), mm(delta, y, ta=True)]


def joined_step(mm, x, kernel, concatenate):
    """The same with one product for the kernel: xᵀ δʸ + δᵀ y = [x; δ]ᵀ [δʸ; y]."""
    y = mm(x, kernel)
    delta = mm(y, kernel, tb=True)
    delta_y = mm(delta, kernel)
    return [mm(concatenate([x, delta]), concatenate([delta_y, y]), ta=True)]


def classifier_step(mm, x, *kernels):
    """Forward, and backward to every kernel; the input needs no gradient."""
    codes = [x]
    for kernel in kernels:
        codes.append(mm(codes[-1], kernel))
    delta = codes.pop()
    gradients = []
    for code, kernel in zip(reversed(codes), reversed(kernels), strict=True):
        gradients.append(mm(code, delta, ta=True))
        if code is not x:
            delta = mm(delta, kernel, tb=True)
    return gradients


def steps(kind, concatenate):
    """Return the ways to do the products of a work: {name: function(mm, x, *kernels)}."""
    if kind != "dA":
        return {"products": classifier_step}
    return {
        "products": tied_step,
        "products_joined": lambda mm, x, kernel: joined_step(mm, x, kernel, concatenate),
    }
