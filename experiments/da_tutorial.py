"""The Theano tutorial's dA (784-500) on MNIST, without noise and with 30 % masking.

Recipe: deeplearning.net's tutorial, `dA.py`: plain SGD at rate .1, 20 examples an update in fixed
order, 15 epochs of the 50,000 training digits, tied weights, cross-entropy summed over pixels. What
comes out is the tutorial's pictures, the tilings of the first 100 filters.
"""

import dataclasses

import sda
from experiments import parts, recipes
from experiments.filters import neighbour_correlation

NAME = "da_tutorial"
LEVELS = (0.0, 0.3)
RECIPE = recipes.Pretraining(units=(500,), epochs=15, batch_size=20, rate=0.1, shuffle=False)
QUICK = dataclasses.replace(RECIPE, units=(30,), epochs=1)


def plan(recipe, seed):
    """Return the settings of the parts: the recipe at either level."""
    return [
        {"seed": seed, "recipe": dataclasses.asdict(dataclasses.replace(recipe, corruption=level))}
        for level in LEVELS
    ]


def picture(level):
    """Return the name of the tiling of one level."""
    return f"filters_corruption_{level:.0%}.png".replace("%", "")


def compute(data, out, verbose=2):
    """Return the function that trains the dA of one part, and draws its filters."""
    (x, _), _, _ = data

    def part(seed, recipe):
        recipe = recipes.Pretraining(**recipe)
        start = recipes.untrained(recipe, x.shape[1], seed).autoencoders[0].encoder.kernel
        correlation_at_start = neighbour_correlation(start, (28, 28))
        stack, outcome = recipes.pretrained(recipe, x, seed, verbose=verbose)
        kernel = stack.autoencoders[0].encoder.kernel
        tiles = sda.plotting.filter_tiles(kernel, (28, 28))
        sda.plotting.save_png(tiles, out / picture(recipe.corruption), zoom=2)
        return {
            "training_seconds": outcome["seconds"],
            "neighbour_correlation": round(neighbour_correlation(kernel, (28, 28)), 3),
            "neighbour_correlation_at_start": round(correlation_at_start, 3),
            "loss": outcome["losses"][0]["loss"],
        }

    return part


def report(found, out):
    """Write the table and the learning curves."""
    header = [
        "corruption",
        "training loss, nats",
        "neighbour correlation of the filters",
        "at their random start",
        "seconds",
        "filters",
    ]
    rows = [
        [
            f"{level:.0%}",
            f"{result['loss'][-1]:.1f}",
            f"{result['neighbour_correlation']:.2f}",
            f"{result['neighbour_correlation_at_start']:.2f}",
            f"{result['training_seconds']:.0f}",
            f"![]({picture(level)})",
        ]
        for level, result in ((p["settings"]["recipe"]["corruption"], p["result"]) for p in found)
    ]
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Each tile is one of the first 100 of 500 hidden units, scaled by itself. The correlation "
        "between the weights of adjacent pixels is a number for what the tiles show: 0 is speckle. "
        "The losses do not compare: it is harder to rebuild what was erased.",
        parts.table(header, rows),
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")
    curves = {
        f"corruption {p['settings']['recipe']['corruption']:.0%}": {"loss": p["result"]["loss"]}
        for p in found
    }
    labels = {"loss": "cross-entropy (nats an image)"}
    sda.plotting.learning_curves(curves, out / "training_curves.png", labels=labels)


def main(arguments=None):
    a = parts.Parser(NAME, __doc__).parse_args(arguments)
    recipe = QUICK if a.quick else RECIPE
    data = recipes.digits(a.quick)
    parts.complete(plan(recipe, a.seed), compute(data, a.out), report, a.out)
    print(f"Results and pictures are in {a.out}/")


if __name__ == "__main__":
    main()
