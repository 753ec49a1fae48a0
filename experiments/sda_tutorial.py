"""The Theano tutorial's SdA (784-1000-1000-1000-10) on MNIST, beside the same network unpretrained.

Recipe and published results: deeplearning.net's tutorial, `SdA.py`. The preset `faithful` is its
recipe, one example an update; `fast` takes 20 an update, at rates that make the same steps: 20
times the tutorial's rate in pretraining and 10 times in fine-tuning, where twice as much would be
too much for one step. `tuned` is the same network trained by a recipe that was chosen on the
validation digits: a quarter masked in every layer for three times as long, then momentum, a rate
that falls to 0, Gaussian noise on the input and smoothed labels; no dropout.
"""

import dataclasses
import time

import sda
from experiments import parts, recipes
from experiments.recipes import Finetuning, Pretraining
from experiments.record import timed

NAME = "sda_tutorial"
PRESETS = {
    "faithful": (
        Pretraining(batch_size=1, rate=0.001),
        Finetuning(epochs=1000, batch_size=1, rate=0.1, patience=10),
    ),
    "fast": (
        Pretraining(batch_size=20, rate=0.02),
        Finetuning(epochs=16, batch_size=20, rate=1.0, patience=10),
    ),
    "tuned": (
        Pretraining(corruption=0.25, epochs=45, batch_size=100, rate=0.1),
        Finetuning(
            epochs=40,
            batch_size=100,
            rate=0.5,
            momentum=0.9,
            linear_decay=True,
            noise=0.3,
            smoothing=0.1,
            patience=40,
        ),
    ),
}
QUICK = (
    Pretraining(units=(16, 12, 8), epochs=1),
    Finetuning(epochs=2, patience=10),
)
ARMS = {"pretrained": "pretrained", "random": "from random weights"}
# What the tutorial's page prints: errors in percent, minutes, epochs.
PUBLISHED = {"validation": 1.39, "test": 1.30, "pretraining": 585.01, "finetuning": 444.2}


def plan(preset, seeds):
    """Return the settings of the parts: all seeds of one arm, then of the other."""
    pretraining, finetuning = map(dataclasses.asdict, preset)
    return [
        {"arm": arm, "seed": seed, "pretraining": pretraining, "finetuning": finetuning}
        for arm in ARMS
        for seed in seeds
    ]


def compute(data, verbose=2):
    """Return the function that trains and scores the network of one part."""
    train, valid, test = data

    def part(arm, seed, pretraining, finetuning):
        recipe = recipes.Pretraining(**pretraining)
        result = {}
        if arm == "pretrained":
            stack, outcome = recipes.pretrained(recipe, train[0], seed, verbose=verbose)
            result["pretraining_seconds"] = outcome["seconds"]
            result["pretraining_cpu_seconds"] = outcome["cpu_seconds"]
        else:
            stack = recipes.untrained(recipe, train[0].shape[1], seed)
        finetuning = recipes.Finetuning(**finetuning)
        model = stack.classifier(10, noise=finetuning.noise)
        clock = {}
        with (
            timed(clock, "finetuning_seconds"),
            timed(clock, "finetuning_cpu_seconds", time.process_time),
        ):
            history = recipes.finetune(model, finetuning, train, valid, seed, verbose)
        return {
            **result,
            **clock,
            "epochs": len(history.history["loss"]),
            "validation_error": recipes.error(model, *valid),
            "test_error": recipes.error(model, *test),
            "history": history.history,
        }

    return part


def report(found, out):
    """Write the table, published beside measured, and the curves of the first seed."""
    rows = [
        [
            "tutorial, as published",
            f"{PUBLISHED['validation']:.2f}",
            f"{PUBLISHED['test']:.2f}",
            f"{PUBLISHED['pretraining']:.0f}",
            f"{PUBLISHED['finetuning']:.0f}",
            36,
        ]
    ]
    for arm, title in ARMS.items():
        of_arm = [part for part in found if part["settings"]["arm"] == arm]
        results = [part["result"] for part in of_arm]
        rows += [[f"{title}, seed {part['seed']}", *_cells([part["result"]])] for part in of_arm]
        if len(results) > 1:
            rows.append([f"**{title}, mean of {len(results)} ± deviation**", *_cells(results)])
    header = [
        "",
        "validation, %",
        "test, %",
        "pretraining, CPU min",
        "fine-tuning, CPU min",
        "epochs",
    ]
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Errors of the weights that are best on the 10,000 validation digits; trained on 50,000. "
        "Minutes are those of one core: the tutorial's was a 2.66 GHz Xeon E5430, and ours had "
        "other work besides, which makes a core slower.",
        parts.table(header, rows),
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")
    seed = found[0]["seed"]
    curves = {
        ARMS[part["settings"]["arm"]]: part["result"]["history"]
        for part in found
        if part["seed"] == seed
    }
    sda.plotting.learning_curves(curves, out / "finetuning_curves.png", yscale="log")


def _cells(results):
    """Return the cells of one run, or of several as mean ± standard deviation."""

    def cell(name, form, scale=1):
        return parts.mean([r[name] / scale for r in results if name in r], form)

    return [
        cell("validation_error", "{:.2f}"),
        cell("test_error", "{:.2f}"),
        cell("pretraining_cpu_seconds", "{:.1f}", 60),
        cell("finetuning_cpu_seconds", "{:.1f}", 60),
        cell("epochs", "{:.0f}"),
    ]


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    a = parser.parse_args(arguments)
    out = a.out / a.preset
    seeds = range(a.seed, a.seed + (1 if a.quick else a.seeds))
    parts.complete(
        plan(QUICK if a.quick else PRESETS[a.preset], seeds),
        compute(recipes.digits(a.quick)),
        report,
        out,
    )
    print(f"Results are in {out}/")


if __name__ == "__main__":
    main()
