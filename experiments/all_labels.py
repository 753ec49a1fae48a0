"""MNIST with all labels: rectified units, noise and dropout, on all 60,000 digits.

Three layers of 1,000 rectified units, pretrained with a quarter masked, fine-tuned with Gaussian
noise on the input, dropout on the codes and smoothed labels, by SGD with momentum and a rate that
falls to 0 over a fixed number of epochs, so that no validation digits are needed. `--select` trains
on 50,000 digits and scores the other 10,000: what settings are chosen by.
"""

import dataclasses
import pathlib
import shutil

import numpy as np

import sda
from experiments import parts, recipes
from experiments.recipes import Finetuning, Pretraining

NAME = "all_labels"
# From which a fine-tuning of half an hour goes on when it was cut off.
CHECKPOINTS = pathlib.Path("runs/all_labels")
PRETRAINING = Pretraining(
    corruption=0.25,
    activation="relu",
    # Codes of rectified units have no upper bound.
    decoder_activation=("sigmoid", "linear", "linear"),
    optimizer="Adam",
    epochs=(20, 12, 12),
    batch_size=100,
    rate=0.001,
)
FINETUNING = Finetuning(
    epochs=90,
    batch_size=100,
    rate=0.05,
    momentum=0.9,
    linear_decay=True,
    dropout=(0.1, 0.4, 0.4, 0.4),
    noise=0.3,
    smoothing=0.1,
)
QUICK = (
    Pretraining(units=(16, 12, 8), epochs=1),
    dataclasses.replace(FINETUNING, epochs=2),
)
# Errors in percent, without knowledge of the image's layout. Those with dropout: Srivastava et al.,
# JMLR 15 (2014); the others: Glorot et al., AISTATS 2011, quoted from memory.
PUBLISHED = {
    "rectified units, pretrained": 1.20,
    "rectified units, from random weights": 1.43,
    "rectified units, dropout and max-norm, from random weights": 1.06,
    "dropout, on top of a deep belief network": 0.92,
    "dropout, on top of a deep Boltzmann machine": 0.79,
}
ARMS = {"pretrained": "pretrained", "random": "from random weights"}


def plan(pretraining, finetuning, noises, seeds, select):
    """Return the settings of the parts: for each noise both arms, one seed after the other."""
    return [
        {
            "arm": arm,
            "seed": seed,
            "select": select,
            "pretraining": dataclasses.asdict(pretraining),
            "finetuning": dataclasses.asdict(dataclasses.replace(finetuning, noise=noise)),
        }
        for noise in noises
        for seed in seeds
        for arm in ARMS
    ]


def compute(data, verbose=2):
    """Return the function that trains and scores the network of one part."""
    train, valid, test = data
    everything = tuple(np.concatenate(both) for both in zip(train, valid, strict=True))

    def part(arm, seed, select, pretraining, finetuning):
        known, scored = (train, valid) if select else (everything, test)
        recipe = recipes.Pretraining(**pretraining)
        result = {}
        settings = [arm, seed, select, pretraining, finetuning, recipes.matmul_precision()]
        key = recipes.cache_key(settings)
        if arm == "pretrained":
            stack, outcome = recipes.pretrained(recipe, known[0], seed, verbose=verbose)
            result["pretraining_seconds"] = outcome["seconds"]
        else:
            stack = recipes.untrained(recipe, known[0].shape[1], seed)
        recipe = recipes.Finetuning(**finetuning)
        model = stack.classifier(10, dropout=recipe.dropout, noise=recipe.noise)
        history = recipes.finetune(
            model, recipe, known, seed=seed, verbose=verbose, checkpoint_dir=CHECKPOINTS / key
        )
        return {
            **result,
            "validation_error" if select else "test_error": recipes.error(model, *scored),
            "history": history.history,
        }

    return part


def by_title(found):
    """Return the parts of each network in a list, by the title that it has in table and picture."""
    titles = {}
    for part in found:
        arm, noise = ARMS[part["settings"]["arm"]], part["settings"]["finetuning"]["noise"]
        titles.setdefault(f"{arm}, input noise {noise:g}", []).append(part)
    return titles


def report(found, out):
    """Write the table and the curves of the first seed."""
    score = "validation_error" if found[0]["settings"]["select"] else "test_error"
    rows = []
    if score == "test_error":
        rows = [[f"{title}, published", f"{e:.2f}", ""] for title, e in PUBLISHED.items()]
    for title, of_title in by_title(found).items():
        rows += [
            [f"{title}, seed {p['seed']}", f"{p['result'][score]:.2f}", f"{p['seconds'] / 60:.0f}"]
            for p in of_title
        ]
        if len(of_title) > 1:
            rows.append(
                [
                    f"**{title}, mean of {len(of_title)} ± deviation**",
                    parts.mean([p["result"][score] for p in of_title]),
                    parts.mean([p["seconds"] / 60 for p in of_title], "{:.0f}"),
                ]
            )
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Errors of the last weights, none were picked. Minutes include pretraining, unless the "
        "stack was there already.",
        parts.table(["", f"{score.replace('_', ' ')}, %", "minutes"], rows),
        "![Curves of the first seed](training_curves.png)",
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")
    curves = {title: some[0]["result"]["history"] for title, some in by_title(found).items()}
    sda.plotting.learning_curves(curves, out / "training_curves.png", yscale="log")


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    parser.add_argument("--select", action="store_true", help="train on 50,000, score 10,000")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[FINETUNING.noise], help="when fine-tuning"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    a = parser.parse_args(arguments)
    if a.fresh:
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    out = a.out / "selection" if a.select else a.out
    seeds = range(a.seed, a.seed + (1 if a.quick else a.seeds))
    pretraining, finetuning = QUICK if a.quick else (PRETRAINING, FINETUNING)
    parts.complete(
        plan(pretraining, finetuning, a.noise, seeds, a.select),
        compute(recipes.digits(a.quick)),
        report,
        out,
        a.arms,
    )
    print(f"Results are in {out}/")


if __name__ == "__main__":
    main()
