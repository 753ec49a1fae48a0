"""Kinds of noise, with and without emphasis, on two problems; and what noise makes of filters.

Two questions of Vincent et al., JMLR 11 (2010). First: masking, salt-and-pepper or Gaussian noise,
and emphasis on the corrupted features (sections 3.3 and 6.4), on the problems `rot` and `bg-rand`
of Larochelle 2007: levels and rates are chosen on the validation rows, the emphasis (double or
full) at the level that was best without. Second: the filters of one dA on patches of natural images
(section 5.2): with noise they should become oriented edges, without it they should not.
"""

import dataclasses
import functools

import keras
import numpy as np

import sda
from experiments import larochelle2007, parts, recipes, selection
from experiments.networks import NOISES, Protocol
from sda.datasets.larochelle2007 import SIZES
from sda.datasets.natural_images import natural_images, patches

NAME = "noise_types"
PROBLEMS = ("rot", "bg-rand")
EMPHASISED = ("masking", "salt and pepper")
# α and β: double and full emphasis.
EMPHASES = ((1.0, 0.5), (1.0, 0.0))
PLAIN = (1.0, 1.0)
# What the paper reports for three layers: masking, and salt-and-pepper with emphasis.
PUBLISHED = {
    ("rot", "masking"): 9.53,
    ("bg-rand", "masking"): 10.30,
    ("rot", "salt and pepper, emphasised"): 8.76,
    ("bg-rand", "salt and pepper, emphasised"): 8.52,
}
SIDE = 12
VARIANCE = 0.1


@dataclasses.dataclass(frozen=True)
class Patches:
    """How one dA learns patches of natural images: a linear decoder, squared error, and Adam."""

    rows: int = 100_000
    units: int = 100
    epochs: int = 30
    batch_size: int = 50
    rate: float = 0.003


@dataclasses.dataclass(frozen=True)
class Search:
    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    rates: tuple = (0.1, 0.25, 0.4)
    deviations: tuple = (0.1, 0.3, 0.5)
    sizes: tuple | None = None
    patches: Patches = dataclasses.field(default_factory=Patches)
    # (noise, level) of each tiling.
    tilings: tuple = ((None, 0.0), ("gaussian", 0.5), ("masking", 0.5), ("salt and pepper", 0.1))


QUICK = Search(
    Protocol((6,), 100, 20, 0.1, 100, 20, 0.9, 0.1, 0.1, (1.0,)), (0.25,), (0.3,), (50, 20, 30),
    Patches(200, 9, 1), ((None, 0.0), ("gaussian", 0.5)),
)  # fmt: skip


# On the problems.


def arms():
    """Return the names of the arms: noises, and those of them that select with emphasis."""
    return [*NOISES, *(f"{noise}, emphasised" for noise in EMPHASISED)]


def candidates(problem, arm, search, seed, out):
    """Return the settings of what an arm tries; none, where it needs what is not there yet."""
    noise, _, emphasised = arm.partition(", ")
    common = {
        "problem": problem,
        "sizes": search.sizes or SIZES[problem],
        "seed": seed,
        "protocol": dataclasses.asdict(search.protocol),
        "noise": noise,
    }
    levels = search.deviations if noise == "gaussian" else search.rates
    if not emphasised:
        return [{**common, "level": level, "emphasis": PLAIN} for level in levels]
    plain, _, _ = selection.found(candidates(problem, noise, search, seed, out), out)
    if plain is None:
        return []
    level = plain["settings"]["level"]
    return [{**common, "level": level, "emphasis": emphasis} for emphasis in EMPHASES]


def compute(problem, sizes, seed, protocol, scored_on, **arm):
    """Return the result of one candidate on the rows `scored_on`."""
    data = larochelle2007.problem_data(problem, tuple(sizes), seed)
    _, classifier, record = larochelle2007.trained_network(
        problem, sizes, data, seed, protocol, **arm
    )
    if scored_on == "test":
        return {"error": recipes.error(classifier, *data[2])}
    return record


# On patches.


def whiten(image):
    """Return an image with its spectrum flattened, of mean 0 and variance 1.

    Olshausen and Field, Nature 381 (1996): the filter |f| exp(-(f/f₀)⁴), with f₀ at 0.4 cycles a
    pixel, undoes the 1/f amplitudes of natural images and cuts off the corners of the spectrum.
    """
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, image.shape), indexing="ij"))
    spectrum = np.fft.fft2(image.astype("float64") - image.mean())
    white = np.fft.ifft2(spectrum * frequency * np.exp(-((frequency / 0.4) ** 4))).real
    return (white - white.mean()) / white.std()


def natural_patches(rows, seed):
    """Return rows of whitened patches, of mean 0 each and variance 0.1 over all.

    The variance of Olshausen's own whitened images, which the paper takes its patches from: noise
    of a standard deviation of 0.5 is more than the signal.
    """
    generator = np.random.default_rng(seed)
    drawn = patches(generator, rows, [whiten(image) for image in natural_images()], SIDE)
    x = drawn.reshape(rows, -1)
    x = x - x.mean(axis=1, keepdims=True)
    return (x * (VARIANCE**0.5 / x.std())).astype("float32")


def coherence(filters):
    """Return how far each filter has one orientation: 0 for none, 1 for stripes.

    |Σ (gₓ + i g_y)²| / Σ |g|² over the gradients g of the image: the anisotropy of its structure
    tensor.

    Args:
        filters: Array of shape `(count, height, width)`.
    """
    down, right = np.gradient(filters, axis=(1, 2))
    squared = (right + 1j * down) ** 2
    return np.abs(squared.sum((1, 2))) / np.abs(squared).sum((1, 2))


def learn_filters(seed, noise, level, settings, out):
    """Train one dA on patches, save its filters as a picture, and return what they are like."""
    settings = Patches(**settings)
    x = natural_patches(settings.rows, seed)
    stack = sda.StackedDenoisingAutoencoder(
        settings.units, NOISES[noise](level, **_extent(noise, x)) if noise else 0.0,
        decoder_activation="linear", kernel_initializer=small_weights(seed), seed=seed,
    )  # fmt: skip
    stack.build((None, SIDE * SIDE))
    before = coherence(_filters(stack))
    (history,) = sda.GreedyPretrainer(
        stack,
        keras.optimizers.Adam(settings.rate),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
    ).fit(x, verbose=0)
    filters = _filters(stack)
    tiles = sda.plotting.filter_tiles(filters.reshape(len(filters), -1).T, (SIDE, SIDE))
    sda.plotting.save_png(tiles, out / picture(noise), zoom=3)
    after = coherence(filters)
    return {
        "loss": history.history["loss"][-1],
        "coherence_before": float(np.median(before)),
        "coherence": float(np.median(after)),
        "oriented": float(np.mean(after > 0.6)),
    }


def small_weights(seed):
    """Return an initializer of weights so small that a filter shows what it has learned."""
    return keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)


def picture(noise):
    return f"filters_{(noise or 'none').replace(' ', '_')}.png"


def _filters(stack):
    kernel = keras.ops.convert_to_numpy(stack.autoencoders[0].encoder.kernel)
    return np.array(kernel.T).reshape(-1, SIDE, SIDE)


def _extent(noise, x):
    """Salt and pepper of real values: two standard deviations from the mean"""
    if noise != "salt and pepper":
        return {}
    return {"minimum": -2 * float(x.std()), "maximum": 2 * float(x.std())}


def tiling_plan(search, seed):
    settings = dataclasses.asdict(search.patches)
    return [
        {"seed": seed, "noise": noise, "level": level, "settings": settings}
        for noise, level in search.tilings
    ]


def report(found, out, search, seed):
    """Write the tables, from all that is in `out`."""
    rows, shown = [], list(found)
    for problem in PROBLEMS:
        for arm in arms():
            tries = candidates(problem, arm, search, seed, out)
            best, final, _ = selection.found(tries, out)
            published = PUBLISHED.get((problem, arm))
            row = [problem, arm, "" if published is None else f"{published:.2f}"]
            if final is not None:
                error, settings = final["result"]["error"], best["settings"]
                width = selection.half_width(error, settings["sizes"][2])
                emphasis = "{}, {}".format(*settings["emphasis"])
                row += [f"{error:.2f} ± {width:.2f}", f"{best['result']['error']:.2f}"]
                row += [f"{settings['level']:g}", emphasis, f"{best['result']['rate']:g}"]
                shown.append(final)
            rows.append(row + [""] * (8 - len(row)))
    header = [
        "problem",
        "noise",
        "published, %",
        "test, %",
        "validation, %",
        "level",
        "α, β",
        "rate",
    ]
    tilings = parts.chosen(tiling_plan(search, seed), out)
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Three layers each; errors in percent, ± half of the 95 % interval. Levels are rates, and "
        "standard deviations for Gaussian noise. What is missing has not been run yet.",
        parts.table(header, rows),
        "Filters of one dA on whitened 12x12 patches of natural images. Coherence is 1 for a "
        "filter with one orientation, and 0 for one with none; oriented means above 0.6.",
        parts.table(
            ["noise", "level", "median coherence", "at random weights", "oriented", "filters"],
            [
                [
                    p["settings"]["noise"] or "none",
                    f"{p['settings']['level']:g}",
                    f"{p['result']['coherence']:.2f}",
                    f"{p['result']['coherence_before']:.2f}",
                    f"{100 * p['result']['oriented']:.0f} %",
                    f"![]({picture(p['settings']['noise'])})",
                ]
                for p in tilings
            ],
        ),
        parts.machines([*shown, *tilings]),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    a = parser.parse_args(arguments)
    search = QUICK if a.quick else Search()
    write = functools.partial(report, search=search, seed=a.seed)
    parts.complete(
        tiling_plan(search, a.seed), functools.partial(learn_filters, out=a.out), write, a.out
    )
    for problem in a.problems:
        for arm in arms():
            print(f"\n{problem}: {arm}")
            selection.select(candidates(problem, arm, search, a.seed, a.out), compute, write, a.out)
    print(f"Results are in {a.out}/")


if __name__ == "__main__":
    main()
