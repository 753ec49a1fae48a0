"""One dA on MNIST at seven corruption levels: errors, losses, probe, repaired images, filters.

The notebook `notebooks/corruption_levels.py` tells the same story on few digits, with the functions
of this module.
"""

import dataclasses

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import sda
from experiments import parts, recipes
from experiments.filters import neighbour_correlation
from sda import diagnostics

NAME = "corruption_levels"
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
QUICK_LEVELS = (0.0, 0.5)
PRETRAINING = recipes.Pretraining(units=(500,), epochs=20, batch_size=100, rate=0.3)
FINETUNING = recipes.Finetuning(epochs=10, batch_size=20, rate=0.5, patience=5)
QUICK = (
    dataclasses.replace(PRETRAINING, units=(36,), epochs=1),
    dataclasses.replace(FINETUNING, epochs=1),
)
# Digits with labels for the probe.
PROBED = 1000
IMAGE = (28, 28)


def corrupted(x, level, seed):
    """Return `x` with a share `level` of each row masked."""
    noise = sda.MaskingNoise(level, seed=seed)
    return keras.ops.convert_to_numpy(noise(x, training=True))


def repair_errors(stack, x, levels, seed=2):
    """Return, for each level, the squared error of `x` repaired by the stack, an image."""
    rebuilt = [stack.reconstruct(corrupted(x, level, seed)) for level in levels]
    return [round(float(np.mean(np.sum((z - x) ** 2, axis=1))), 3) for z in rebuilt]


def probe_error(train, y_train, test, y_test):
    """Return the test error in percent of logistic regression on codes (or pixels)."""
    return round(100 * (1 - diagnostics.probe_accuracy(train, y_train, test, y_test)), 3)


# Figures.


def draw_filters(tilings):
    """Return the figure of the filters at each level, side by side.

    Args:
        tilings: Dictionary of levels to images, as `sda.plotting.filter_tiles` makes them.
    """
    figure = Figure(figsize=(2.04 * len(tilings), 2.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(tilings)))
    for (level, tiles), axis in zip(tilings.items(), axes, strict=True):
        axis.imshow(tiles, cmap="gray")
        axis.set_title(f"corruption {level:.0%}")
        axis.axis("off")
    return figure


def draw_repair(errors, test_levels, levels):
    """Return the figure of `repair_errors`, the best of each row in bold.

    Args:
        errors: Array of shape (levels of the test images, levels in training).
        test_levels: List of the former.
        levels: List of the latter.
    """
    errors = np.asarray(errors)
    rows, columns = errors.shape
    figure = Figure(figsize=(1 + 0.92 * columns, 0.8 * rows), layout="constrained")
    axis = figure.subplots()
    axis.imshow(np.log(errors), cmap="YlGn_r", aspect="auto")
    for i, row in enumerate(errors):
        for j, value in enumerate(row):
            weight = "bold" if value == row.min() else "normal"
            # Dark cells, the small errors, take light digits.
            dark = np.log(value / errors.min()) < 0.45 * np.log(errors.max() / errors.min())
            colour = "white" if dark else "black"
            style = {"ha": "center", "va": "center", "weight": weight, "color": colour}
            axis.text(j, i, f"{value:.1f}", **style)
    axis.set_xticks(range(columns), [f"{level:.0%}" for level in levels])
    axis.set_yticks(range(rows), [f"{level:.0%}" for level in test_levels])
    axis.set(xlabel="corruption in training", ylabel="corruption of the test images")
    return figure


def draw_errors(levels, panels):
    """Return the figure of errors against the level in training, one panel a measure.

    Args:
        levels: List of the levels.
        panels: Dictionary of the label of a vertical axis to the curves there: a dictionary of a
            name to one list of values a level (one value a seed), or to a number, a level line.
    """
    figure = Figure(figsize=(4.4 * len(panels), 3.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    percent = [100 * level for level in levels]
    for (label, curves), axis in zip(panels.items(), axes, strict=True):
        for k, (name, values) in enumerate(curves.items()):
            colour = sda.plotting.HUES[k]
            if not isinstance(values, list):
                axis.axhline(values, color="grey", linestyle="--", label=name)
                continue
            axis.plot(percent, [np.mean(v) for v in values], color=colour, label=name)
            for x, of_level in zip(percent, values, strict=True):
                axis.plot([x] * len(of_level), of_level, "o", color=colour, markersize=4)
        axis.set(xlabel="corruption in training (%)", ylabel=label)
        axis.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            axis.legend(frameon=False)
    return figure


# The experiment.


def plan(pretraining, finetuning, levels, seeds):
    """Return the settings of the parts: all levels for one seed after the other."""
    return [
        {
            "seed": seed,
            "pretraining": dataclasses.asdict(dataclasses.replace(pretraining, corruption=level)),
            "finetuning": dataclasses.asdict(finetuning),
        }
        for seed in seeds
        for level in levels
    ]


def picture(level):
    """Return the name of the tiling of one level."""
    return f"filters_corruption_{100 * level:.0f}.png"


def compute(data, out, verbose=2):
    """Return the function that trains the dA of one part and measures it."""
    train, valid, test = data
    few = slice(min(PROBED, len(train[0])))
    of_pixels = probe_error(train[0][few], train[1][few], *test)

    def part(seed, pretraining, finetuning):
        recipe = recipes.Pretraining(**pretraining)
        stack, outcome = recipes.pretrained(recipe, train[0], seed, valid[0], verbose)
        losses = outcome["losses"][0]
        model = stack.classifier(10, copy=True)
        history = recipes.finetune(
            model, recipes.Finetuning(**finetuning), train, valid, seed, verbose
        )
        kernel = stack.autoencoders[0].encoder.kernel
        if not (out / picture(recipe.corruption)).exists():  # that of the first seed
            tiles = sda.plotting.filter_tiles(kernel, IMAGE, (6, 6))
            sda.plotting.save_png(tiles, out / picture(recipe.corruption))
        codes = stack.encode(train[0][few]), stack.encode(test[0])
        return {
            "test_error": recipes.error(model, *test),
            "validation_error": recipes.error(model, *valid),
            "epochs": len(history.history["loss"]),
            "denoising_loss": losses["val_loss"][-1],
            "clean_loss": losses["val_clean_loss"][-1],
            "probe_error": probe_error(codes[0], train[1][few], codes[1], test[1]),
            "pixels_error": of_pixels,
            "repair_errors": repair_errors(stack, test[0], LEVELS),
            "neighbour_correlation": round(neighbour_correlation(kernel, IMAGE), 3),
        }

    return part


MEASURES = {
    "test_error": "fine-tuned: test error, %",
    "probe_error": "probe on codes: test error, %",
    "denoising_loss": "denoising loss, nats",
    "clean_loss": "loss without noise, nats",
    "neighbour_correlation": "neighbour correlation of the filters",
}


def report(found, out):
    """Write the table and the figures of the levels that are there."""
    results = {level: [p["result"] for p in found if level_of(p) == level] for level in LEVELS}
    results = {level: of_level for level, of_level in results.items() if of_level}
    rows = [
        [f"{level:.0%}", *(parts.mean([r[measure] for r in of_level]) for measure in MEASURES)]
        for level, of_level in results.items()
    ]
    pixels = found[0]["result"]["pixels_error"]
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Mean ± deviation over the seeds. The probe is logistic regression on the codes of "
        f"{PROBED:,} labelled digits; on their pixels it has {pixels:.1f} % error. The losses are "
        "those of the validation digits: under the level's own noise, which does not compare, and "
        "without noise, which does.",
        parts.table(["corruption", *MEASURES.values()], rows),
        "![Errors against the level](errors.png)",
        "![Filters](filters.png)",
        "![Squared error of repaired test images](repair.png)",
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")

    def values(measure):
        return [[r[measure] for r in of_level] for of_level in results.values()]

    panels = {
        "test error (%), fine-tuned": {"": values("test_error")},
        "test error (%) of the probe": {"codes": values("probe_error"), "pixels": pixels},
        "loss (nats an image)": {
            "under the level's noise": values("denoising_loss"),
            "without noise": values("clean_loss"),
        },
    }
    draw_errors(list(results), panels).savefig(out / "errors.png", dpi=110)
    tilings = {level: np.asarray(Image.open(out / picture(level))) for level in results}
    draw_filters(tilings).savefig(out / "filters.png", dpi=110)
    # In grey alone, as it is: half of the bytes.
    Image.open(out / "filters.png").convert("L").save(out / "filters.png", optimize=True)
    repair = [np.mean([r["repair_errors"] for r in of], axis=0) for of in results.values()]
    draw_repair(np.transpose(repair), LEVELS, list(results)).savefig(out / "repair.png", dpi=110)


def level_of(part):
    """Return the corruption level of a part."""
    return part["settings"]["pretraining"]["corruption"]


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    a = parser.parse_args(arguments)
    pretraining, finetuning = QUICK if a.quick else (PRETRAINING, FINETUNING)
    seeds = range(a.seed, a.seed + (1 if a.quick else a.seeds))
    parts.complete(
        plan(pretraining, finetuning, QUICK_LEVELS if a.quick else LEVELS, seeds),
        compute(recipes.digits(a.quick), a.out),
        report,
        a.out,
    )
    print(f"Results and pictures are in {a.out}/")


if __name__ == "__main__":
    main()
