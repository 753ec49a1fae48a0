"""MNIST with 100 to 3,000 labels: pretrained on all 60,000 digits, beside random weights.

Each size is measured on ten resampled sets with equally many labels of each class, from the first
50,000 training digits; a set is the same for all arms. Two arms train on the labelled digits alone:
the network from random weights, and the pretrained one, which is the plain SdA. Two train on all
digits, after Iscen et al. (CVPR 2019): the labels are spread over the neighbour graph of the
pixels, the network learns them, each digit weighted by its certainty, and in later rounds learns
from its own predictions, smoothed over the graph (`sda.semisupervised`). With 3,000 labels these
rounds are all: the network that has learnt the labelled digits knows more than the graph. Settings
were chosen on one or two further sets a size, by the labels of the last 10,000 training digits.
"""

import dataclasses
import functools
import math
import statistics

import numpy as np

import sda
from experiments import parts, recipes
from experiments.recipes import Finetuning, Pretraining

NAME = "few_labels"
SETS = 10
# The training digits from which labelled ones are drawn; the rest served to choose settings.
POOL = 50_000
PRETRAINING = Pretraining(corruption=0.5, epochs=(10, 6, 6), batch_size=100, rate=0.3)
# By labels: more of them take fewer epochs.
ALONE = {
    100: Finetuning(epochs=100, batch_size=20, rate=0.5),
    600: Finetuning(epochs=60, batch_size=20, rate=0.5),
    1000: Finetuning(epochs=50, batch_size=20, rate=0.5),
    3000: Finetuning(epochs=30, batch_size=20, rate=0.5),
}
# By labels: how far they spread.
ALPHA = {100: 0.99, 600: 0.98, 1000: 0.98}
ROUND = Finetuning(
    epochs=4,
    batch_size=100,
    rate=0.1,
    momentum=0.9,
    linear_decay=True,
    dropout=(0.1, 0.3, 0.3, 0.3),
)


@dataclasses.dataclass(frozen=True)
class Spreading:
    """How to learn from spread labels: `finetuning` is that of one round.

    The labelled digits are repeated until there are about `repeated` of them. `smoothing` is the
    alpha of the later rounds. With `first`, by which the network learns the labelled digits alone,
    all rounds are later ones, and there is no `alpha`.
    """

    alpha: float | None
    rounds: int = 2
    smoothing: float = 0.8
    repeated: int = 3000
    finetuning: Finetuning = ROUND
    first: Finetuning | None = None


ARMS = {
    "random": "random weights, labelled digits alone",
    "pretrained": "pretrained (plain SdA), labelled digits alone",
    "pretrained_spread": "pretrained, spread labels",
    "random_spread": "random weights, spread labels",
}
# Error in percent at 100, 600, 1,000 and 3,000 labels.
PUBLISHED = {
    "neural network (Lee 2013, from memory)": (25.81, 11.44, 10.70, 6.04),
    "contractive autoencoders, fine-tuned (from memory)": (13.47, 6.30, 4.77, 3.22),
    "dropout, pseudo-labels, dA pretraining (Lee 2013, from memory)": (10.49, 4.01, 3.46, 2.69),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much to run."""

    sets: int
    pool: int
    pretraining: Pretraining
    alone: dict
    spread: dict


NOISY = {"batch_size": 100, "momentum": 0.9, "linear_decay": True, "noise": 0.3, "smoothing": 0.1}
SPREAD = {count: Spreading(alpha) for count, alpha in ALPHA.items()} | {
    3000: Spreading(
        alpha=None,
        rounds=5,
        smoothing=0.7,
        finetuning=Finetuning(epochs=6, rate=0.1, **NOISY),
        first=Finetuning(epochs=100, rate=0.2, **NOISY),
    )
}

FULL = Scale(SETS, POOL, PRETRAINING, ALONE, SPREAD)
QUICK = Scale(
    sets=2,
    pool=400,
    pretraining=Pretraining(units=(20, 16, 12), corruption=0.5, epochs=1),
    alone={100: Finetuning(epochs=2), 200: Finetuning(epochs=2)},
    spread={
        100: Spreading(0.9, repeated=100, finetuning=dataclasses.replace(ROUND, epochs=1)),
        200: Spreading(None, finetuning=Finetuning(epochs=1), first=Finetuning(epochs=1)),
    },
)


def labelled_rows(y, count, seed):
    """Return the indices of `count` rows of `y`, equally many of each of ten classes."""
    generator = np.random.default_rng([seed, count])
    return np.concatenate(
        [
            generator.choice(np.flatnonzero(y == label), count // 10, replace=False)
            for label in range(10)
        ]
    )


def plan(scale, seed):
    """Return the settings of the parts, one set after the other."""
    return [
        {
            "seed": seed + k,
            "labels": count,
            "arm": arm,
            "pool": scale.pool,
            "pretraining": {**dataclasses.asdict(scale.pretraining), "seed": seed},
            "training": dataclasses.asdict(
                (scale.spread if arm.endswith("spread") else scale.alone)[count]
            ),
        }
        for k in range(scale.sets)
        for arm in ARMS
        for count in scale.alone
    ]


def compute(data, scale, verbose=0):
    """Return the function that trains and scores the network of one part."""
    *known, (x_test, y_test) = data
    x, y = (np.concatenate(both) for both in zip(*known, strict=True))
    # Both are needed by many parts, and take minutes.
    graph = functools.cache(lambda: sda.semisupervised.neighbour_graph(x))
    stack = functools.cache(lambda seed: recipes.pretrained(scale.pretraining, x, seed)[0])

    def part(seed, labels, arm, pool, pretraining, training):
        rows = labelled_rows(y[:pool], labels, seed)
        if arm.startswith("pretrained"):
            start = stack(pretraining["seed"])
        else:
            start = recipes.untrained(scale.pretraining, x.shape[1], seed)
        result = {}
        if arm.endswith("spread"):
            spreading = _spreading(training)
            recipe = spreading.finetuning
            # Models of two names draw masks of their own.
            model = start.classifier(
                10, recipe.dropout, copy=True, noise=recipe.noise, name=f"labels_{labels}"
            )
            spread_errors = learn_all(model, x, y, rows, graph(), spreading, seed, verbose)
            result["spread_errors"] = spread_errors
        else:
            recipe = Finetuning(**training)
            model = start.classifier(10, copy=True)
            recipes.finetune(model, recipe, (x[rows], y[rows]), seed=seed, verbose=verbose)
        return {**result, "test_error": recipes.error(model, x_test, y_test)}

    return part


def _spreading(settings):
    """Return the `Spreading` of a dictionary."""
    recipes_of = {
        name: settings[name] and Finetuning(**settings[name]) for name in ("finetuning", "first")
    }
    return Spreading(**{**settings, **recipes_of})


def learn_all(model, x, y, rows, graph, spreading, seed, verbose=0):
    """Train on all of `x` from the labels of `rows`; return the errors of the spread labels.

    The other labels serve for these errors alone, in percent, one a round.
    """
    known = np.full(len(y), -1)
    known[rows] = y[rows]
    # Each row once, and the labelled ones again.
    again = np.concatenate([np.arange(len(y)), *[rows] * (spreading.repeated // len(rows))])
    if spreading.first:
        recipes.finetune(model, spreading.first, (x[rows], y[rows]), seed=seed, verbose=verbose)
    errors = []
    for k in range(spreading.rounds):
        said, alpha = None, spreading.alpha
        if k or spreading.first:
            said = model.predict(x, batch_size=1000, verbose=0)
            alpha = spreading.smoothing
        labels, weights = sda.semisupervised.targets(graph, known, said, alpha)
        errors.append(round(100 * float(np.mean((labels != y)[known == -1])), 3))
        train = x[again], labels[again], weights[again]
        recipes.finetune(model, spreading.finetuning, train, seed=seed + k, verbose=verbose)
    return errors


def report(found, out):
    """Write the errors, the paired differences with their intervals, and the figure."""
    errors = table_of(found)
    counts = sorted({labels for _, labels in errors})
    rows = [[name, *(f"{e:.2f}" for e in row)] for name, row in PUBLISHED.items()]
    if counts != list(ALONE):
        rows = []
    there = {arm for arm, _ in errors}
    rows += [
        [title, *(_mean(errors.get((arm, count), {}).values()) for count in counts)]
        for arm, title in ARMS.items()
        if arm in there
    ]
    differences = [
        [
            f"{ARMS[a]} − {ARMS[b]}",
            *(_difference(errors.get((a, n), {}), errors.get((b, n), {})) for n in counts),
        ]
        for a, b in (("random", "pretrained"), ("random_spread", "pretrained_spread"))
        if {a, b} <= there
    ]
    spread = [
        [
            f"{ARMS[arm]}, round {k + 1}",
            *(
                _mean(
                    [
                        p["result"]["spread_errors"][k]
                        for p in found
                        if (p["settings"]["arm"], p["settings"]["labels"]) == (arm, count)
                        and k < len(p["result"]["spread_errors"])
                    ]
                )
                for count in counts
            ),
        ]
        for arm in ("random_spread", "pretrained_spread")
        if arm in there
        for k in range(max([len(p["result"].get("spread_errors", [])) for p in found]))
    ]
    header = [f"{count:,} labels" for count in counts]
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Test error, %: mean ± deviation over the sets of labels (their number in brackets). One "
        "stack, pretrained once, serves all sets; random weights are new with each.",
        parts.table(["", *header], rows),
        "Differences on the same set, percentage points: mean and 95 % interval (Student's t over "
        "the sets).",
        parts.table(["", *header], differences),
        "The labels that the network learns, error on the unlabelled training digits, %. Those of "
        "the first round come from the graph of the pixels alone, up to 1,000 labels:",
        parts.table(["", *header], spread),
        "![Errors against the number of labels](errors.png)",
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")
    draw(errors, counts).savefig(out / "errors.png", dpi=110)


def table_of(found):
    """Return {(arm, labels): {seed of the set: test error}}."""
    errors = {}
    for part in found:
        key = part["settings"]["arm"], part["settings"]["labels"]
        errors.setdefault(key, {})[part["seed"]] = part["result"]["test_error"]
    return errors


def interval(differences):
    """Return the mean of paired differences, and half the width of its 95 % interval."""
    from scipy.stats import t

    n = len(differences)
    half = t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return statistics.mean(differences), float(half)


def draw(errors, counts):
    """Return the figure of the errors: a line through the means, a dot a set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for (arm, title), colour in zip(ARMS.items(), sda.plotting.HUES, strict=False):
        there = [n for n in counts if (arm, n) in errors]
        if not there:
            continue
        values = [list(errors[arm, n].values()) for n in there]
        style = "--" if arm.startswith("random") else "-"
        axis.plot(there, [np.mean(v) for v in values], style, color=colour, label=title)
        for n, of_sets in zip(there, values, strict=True):
            axis.plot([n] * len(of_sets), of_sets, "o", color=colour, markersize=3, alpha=0.6)
    axis.set(xscale="log", yscale="log", xlabel="labelled digits", ylabel="test error (%)")
    axis.set_xticks(counts, [f"{n:,}" for n in counts])
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.minorticks_off()
    ticks = [2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 80]
    low, high = axis.get_ylim()
    axis.set_yticks([tick for tick in ticks if low <= tick <= high])
    axis.grid(color=sda.plotting.FAINT)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def _mean(values):
    """Return the mean and how many values went into it; nothing for none."""
    return f"{parts.mean(values)} ({len(values)})" if values else ""


def _difference(a, b):
    both = sorted(set(a) & set(b))
    if len(both) < 2:
        return ""
    mean, half = interval([a[seed] - b[seed] for seed in both])
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    a = parser.parse_args(arguments)
    scale = QUICK if a.quick else FULL
    parts.complete(
        plan(scale, a.seed), compute(recipes.digits(a.quick), scale), report, a.out, a.arms
    )
    print(f"Results are in {a.out}/")


if __name__ == "__main__":
    main()
