"""Digits sampled top-down from stacks that were pretrained without and with noise.

Vincent et al., JMLR 11 (2010), section 7: from the top code of a random example down, each layer's
mean is drawn as Bernoulli variables that feed the layer below; the picture is the mean at the
pixels. Their finding: a stack of ordinary autoencoders gives poor digits, a denoising one good and
varied ones. Two numbers stand beside the pictures: how many samples a classifier of real digits
reads as the class they started from, and how much the samples of one digit differ.
"""

import dataclasses

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

import sda
from experiments import parts, recipes

NAME = "samples"
LEVELS = (0.0, 0.25, 0.5)
RECIPE = recipes.Pretraining(epochs=(15, 10, 10), batch_size=100, rate=0.3)
QUICK = recipes.Pretraining(units=(30, 20), epochs=1)
# Samples of each digit: in the picture, and for the numbers of so many test digits.
COLUMNS, DRAWN, STARTS = 12, 20, 500


def plan(recipe, seed):
    """Return the settings of the parts: the recipe at each level."""
    return [
        {"seed": seed, "recipe": dataclasses.asdict(dataclasses.replace(recipe, corruption=level))}
        for level in LEVELS
    ]


def picture(level):
    """Return the name of the picture of one level."""
    return f"samples_corruption_{100 * level:.0f}.png"


def compute(data, out, starts=STARTS, verbose=2):
    """Return the function that pretrains the stack of one part and samples from it.

    Args:
        data: Train, validation and test pairs of (x, y).
        out: Folder for the pictures.
        starts: Integer, the test digits to start from for the numbers.
        verbose: As in `GreedyPretrainer.fit`.
    """
    (x, y), _, (x_test, y_test) = data
    judge = KNeighborsClassifier(3).fit(x[:10_000], y[:10_000])
    # One digit of each class in the picture.
    shown = x_test[[np.flatnonzero(y_test == label)[0] for label in range(10)]]
    x_test, y_test = x_test[:starts], y_test[:starts]

    def part(seed, recipe):
        recipe = recipes.Pretraining(**recipe)
        stack, outcome = recipes.pretrained(recipe, x, seed, verbose=verbose)
        rows = np.stack([shown, *(stack.sample(shown, seed=k) for k in range(COLUMNS))], axis=1)
        tiles = sda.plotting.image_tiles(rows.reshape(-1, 784), (28, 28), (10, COLUMNS + 1))
        sda.plotting.save_png(tiles, out / picture(recipe.corruption), zoom=2)
        drawn = np.stack([stack.sample(x_test, seed=k) for k in range(DRAWN)])
        return {
            "pretraining_seconds": outcome["seconds"],
            "read_as_start": round(100 * np.mean([judge.score(d, y_test) for d in drawn]), 2),
            "rebuilt_read_as_start": round(100 * judge.score(stack.reconstruct(x_test), y_test), 2),
            "deviation": round(float(np.mean(np.sum(drawn.var(axis=0, ddof=1), axis=1))), 3),
            "of_pixels": round(100 * judge.score(x_test, y_test), 2),
        }

    return part


def report(found, out):
    """Write the table, with the pictures in it."""
    rows = []
    for level, result in ((p["settings"]["recipe"]["corruption"], p["result"]) for p in found):
        rows.append(
            [
                f"{level:.0%}",
                f"{result['read_as_start']:.1f}",
                f"{result['rebuilt_read_as_start']:.1f}",
                f"{result['deviation']:.1f}",
                f"![]({picture(level)})",
            ]
        )
    real = found[0]["result"]["of_pixels"]
    header = ["corruption", "samples read right, %", "reconstructions, %", "variance", "samples"]
    text = [
        f"# {__doc__.splitlines()[0]}",
        "In each row of a picture, a test digit, and then samples from its top code. Read right: a "
        "3-nearest-neighbour classifier of 10,000 real digits sees the class that the sample "
        f"started from; of the test digits themselves it reads {real:.1f} % right. Variance: of "
        "the samples of one digit, summed over pixels.",
        parts.table(header, rows),
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")


def main(arguments=None):
    a = parts.Parser(NAME, __doc__).parse_args(arguments)
    recipe = QUICK if a.quick else RECIPE
    data = recipes.digits(a.quick)
    starts = 20 if a.quick else STARTS
    parts.complete(plan(recipe, a.seed), compute(data, a.out, starts), report, a.out)
    print(f"Results and pictures are in {a.out}/")


if __name__ == "__main__":
    main()
