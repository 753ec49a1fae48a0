"""Tables: missing values filled in, and anomalies found, beside the usual ways.

First: cells of real tables are hidden at random, and filled in by a denoising autoencoder, by the
column's mean or most frequent value, by scikit-learn's nearest neighbours and by its chained
regressions. All learn from the very table that they fill in, without the hidden cells. Second: an
autoencoder learns the normal rows of a table, and new rows are ranked by their reconstruction
error; beside it principal components, and an isolation forest. Settings were chosen on seed 100 of
`breast_cancer` and `digits`, and serve all tables.
"""

import dataclasses

import keras
import numpy as np

import sda
from experiments import parts
from sda.tables import Columns

NAME = "tables"
SHARES = (0.1, 0.3, 0.5)
IMPUTERS = ("mean or mode", "nearest neighbours", "chained regressions", "autoencoder")
DETECTORS = (
    "PCA, 90 % of the variance",
    "PCA, best number in hindsight",
    "isolation forest",
    "autoencoder",
)
FILLED = ("breast_cancer", "wine", "diabetes", "auto_mpg")
WATCHED = {
    "breast_cancer": "benign; malignant are to be found",
    "wine": "the first cultivar; two others are to be found",
    "digits": "digits 0 to 4; 5 to 9 are to be found",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an autoencoder learns a table."""

    units: tuple = (256,)
    noise: str = "masking"
    rate: float = 0.4
    epochs: int = 200
    batch_size: int = 32
    learning_rate: float = 0.001


IMPUTATION = Recipe()
DETECTION = Recipe(noise="swap", rate=0.2)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much to run."""

    filled: tuple = FILLED
    shares: tuple = SHARES
    watched: tuple = tuple(WATCHED)
    seeds: int = 5
    imputation: Recipe = IMPUTATION
    detection: Recipe = DETECTION


FULL = Scale()
QUICK = Scale(
    ("auto_mpg",), (0.2,), ("wine",), 1, Recipe(units=(8,), epochs=2), Recipe(units=(8,), epochs=2)
)


# The tables


def load_table(name):
    """Return a table, its `Columns` by kind, and a class for each row, or None."""
    from sklearn import datasets

    if name == "auto_mpg":
        from mlxtend.data import autompg_data

        x, y = autompg_data()
        # Without the car's name; with what is predicted elsewhere, the miles a gallon.
        frame = np.column_stack([x[:, :7], y])
        return frame, {"categorical": [0, 6], "numeric": [1, 2, 3, 4, 5, 7]}, None
    if name == "diabetes":
        bunch = datasets.load_diabetes(scaled=False)
        frame = np.column_stack([bunch.data, bunch.target])
        return frame, {"binary": [1], "numeric": [0, *range(2, 11)]}, None
    bunch = getattr(datasets, f"load_{name}")()
    columns = np.flatnonzero(bunch.data.std(axis=0) > 0)
    return bunch.data, {"numeric": columns.tolist()}, bunch.target


def described(kinds):
    """Return the `Columns` of a table, with numbers scaled to mean 0 and deviation 1."""
    from sklearn.preprocessing import StandardScaler

    return Columns(**kinds, scaler=StandardScaler())


def trained(columns, x, recipe, seed):
    """Return a stack that has learned the features `x` of a table."""
    recipe = Recipe(**recipe)
    noise = getattr(columns, f"{recipe.noise}_noise")(recipe.rate)
    stack = sda.StackedDenoisingAutoencoder(
        list(recipe.units),
        [noise, *[0.2] * (len(recipe.units) - 1)],
        activation="relu",
        decoder_activation=[columns.activation(), *[None] * (len(recipe.units) - 1)],
        tied=False,
        seed=seed,
        fill_value=0.0,
    )
    sda.GreedyPretrainer(
        stack,
        keras.optimizers.Adam(recipe.learning_rate),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed,
    ).fit(x, verbose=0)
    return stack


# Filling in


def hidden_cells(shape, share, seed):
    """Return which cells are hidden: each with probability `share`, but never a whole row."""
    generator = np.random.default_rng(seed)
    hidden = generator.random(shape) < share
    whole = hidden.all(axis=1)
    hidden[whole, generator.integers(shape[1], size=whole.sum())] = False
    return hidden


def fill_in(x, columns, method, recipe, seed):
    """Return the features `x` without gaps."""
    from sklearn.impute import KNNImputer, SimpleImputer

    if method == "autoencoder":
        return trained(columns, x, recipe, seed).impute(x)
    if method == "chained regressions":
        return chained_regressions(x, np.array(columns.groups), seed)
    # The mean of one-hot code is largest at the most frequent value.
    imputer = SimpleImputer() if method == "mean or mode" else KNNImputer()
    return imputer.fit_transform(x)


def chained_regressions(x, groups, seed):
    """Return `x` without gaps, each column predicted from the others, in turn and again.

    The last value of a category is left out and follows from the others: with it, each of them
    would be predicted from the rest of its own group, which is missing too.
    """
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    sizes = groups[groups > 1]
    last = (np.cumsum(groups) - 1)[groups > 1]
    rest = np.setdiff1d(np.arange(x.shape[1]), last)
    known = x[:, rest]
    imputer = IterativeImputer(
        max_iter=20,
        random_state=seed,
        # Within what was seen: else the regressions can run away from each other.
        min_value=np.nanmin(known, axis=0),
        max_value=np.nanmax(known, axis=0),
    )
    filled = np.empty(x.shape)
    filled[:, rest] = imputer.fit_transform(known)
    for end, size in zip(last, sizes, strict=True):
        filled[:, end] = 1 - filled[:, end - size + 1 : end].sum(axis=1)
    return filled


def imputation_errors(filled, table, hidden, columns):
    """Return the errors at hidden cells, of numbers and of what is none.

    Numbers: the root of the mean squared error, in standard deviations of their column. Others: the
    share that is wrong.
    """
    numeric = np.array([kind == "numeric" for kind in columns.kinds])
    table, hidden = table[:, columns.names], hidden[:, columns.names]
    scaled = (filled - table)[:, numeric] / table[:, numeric].std(axis=0)
    errors = {"numbers": float(np.sqrt(np.mean(scaled[hidden[:, numeric]] ** 2)))}
    if not numeric.all():
        wrong = (filled != table)[:, ~numeric][hidden[:, ~numeric]]
        errors["others"] = float(wrong.mean())
    return errors


def impute(table, share, seed, recipe):
    """Return the errors of each method on one table with hidden cells."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    name = table
    table, kinds, _ = load_table(name)
    hidden = hidden_cells(table.shape, share, seed)
    gaps = np.where(hidden, np.nan, table)
    columns = described(kinds)
    x = columns.fit_transform(gaps)
    result = {}
    with warnings.catch_warnings():
        # Twenty rounds have to do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for method in IMPUTERS:
            filled = columns.inverse_transform(fill_in(x, columns, method, recipe, seed))
            result[method] = imputation_errors(filled, table, hidden, columns)
    return result


# Anomalies


def normal_rows(name, classes):
    """Return which rows of a table are normal."""
    return {
        "breast_cancer": classes == 1,
        "wine": classes == 0,
        "digits": classes < 5,
    }[name]


def split(normal, seed):
    """Return the rows to learn from, half of the normal ones, and the rows to judge."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(normal))
    half = len(rows) // 2
    return rows[:half], np.concatenate([rows[half:], np.flatnonzero(~normal)])


def components_error(x, x_new, count):
    """Return the squared error of rows rebuilt from principal components, and their number."""
    from sklearn.decomposition import PCA

    pca = PCA(count).fit(x)
    rebuilt = pca.inverse_transform(pca.transform(x_new))
    return np.square(x_new - rebuilt).sum(axis=1), pca.n_components_


def detect(table, seed, recipe):
    """Return the area under the ROC curve of each method on one table."""
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import roc_auc_score

    name = table
    table, kinds, classes = load_table(name)
    normal = normal_rows(name, classes)
    known, new = split(normal, seed)
    # A column that says nothing of the normal rows has no scale.
    varied = table[known].std(axis=0) > 0
    columns = described({"numeric": [c for c in kinds["numeric"] if varied[c]]})
    x = columns.fit_transform(table[known])
    x_new = columns.transform(table[new])

    def area(scores):
        return float(roc_auc_score(~normal[new], scores))

    usual, count = components_error(x, x_new, 0.9)
    by_number = [area(components_error(x, x_new, n)[0]) for n in range(1, min(x.shape[1], len(x)))]
    forest = IsolationForest(random_state=seed).fit(x)
    stack = trained(columns, x, recipe, seed)
    return {
        "PCA, 90 % of the variance": area(usual),
        "PCA, best number in hindsight": max(by_number),
        "isolation forest": area(-forest.score_samples(x_new)),
        "autoencoder": area(stack.reconstruction_error(x_new)),
        "components": int(count),
        "rows": [len(known), len(new)],
    }


# The experiment


def compute(task, **settings):
    return {"imputation": impute, "anomalies": detect}[task](**settings)


def plan(scale, seed):
    seeds = range(seed, seed + scale.seeds)
    filling = {"task": "imputation", "recipe": dataclasses.asdict(scale.imputation)}
    detecting = {"task": "anomalies", "recipe": dataclasses.asdict(scale.detection)}
    return [
        *[
            {**filling, "table": table, "share": share, "seed": s}
            for table in scale.filled
            for share in scale.shares
            for s in seeds
        ],
        *[{**detecting, "table": table, "seed": s} for table in scale.watched for s in seeds],
    ]


def of_task(found, task):
    return [part for part in found if part["settings"]["task"] == task]


def errors_of(found, kind):
    """Return {table: {share: {method: errors of the seeds}}}, of numbers or of others."""
    errors = {}
    for part in of_task(found, "imputation"):
        table, share = part["settings"]["table"], part["settings"]["share"]
        for method, values in part["result"].items():
            if kind in values:
                by_share = errors.setdefault(table, {}).setdefault(share, {})
                by_share.setdefault(method, []).append(values[kind])
    return errors


def areas_of(found):
    """Return {table: {method: areas of the seeds}}."""
    areas = {}
    for part in of_task(found, "anomalies"):
        for method in DETECTORS:
            by_method = areas.setdefault(part["settings"]["table"], {})
            by_method.setdefault(method, []).append(part["result"][method])
    return areas


def report(found, out):
    """Write the tables and the pictures."""

    def error_table(kind, scale, form):
        rows = [
            [table, f"{share:.0%}"]
            + [parts.mean([scale * v for v in by_method[m]], form) for m in IMPUTERS]
            for table, by_share in errors_of(found, kind).items()
            for share, by_method in by_share.items()
        ]
        return parts.table(["table", "hidden", *IMPUTERS], rows)

    areas = areas_of(found)
    text = [
        f"# {__doc__.splitlines()[0]}",
        "Mean ± standard deviation over the seeds, each of which hides other cells, splits the "
        "rows otherwise and starts from other weights.",
        "## Cells hidden at random, and filled in",
        "Numbers: root of the mean squared error at hidden cells, in standard deviations of the "
        "column. Less is better.",
        error_table("numbers", 1, "{:.3f}"),
        "Categories and yes or no: hidden cells that were filled in wrongly, %.",
        error_table("others", 100, "{:.1f}"),
        "![Errors against the share of hidden cells](imputation.png)",
        "## Rows that are unlike the others",
        "Area under the ROC curve of the score, on normal rows that were not learned from and on "
        "the others; 0.5 is chance. The number of components that is best in hindsight nobody "
        "would know: it is there as a bound.",
        parts.table(
            ["table", "normal", *DETECTORS],
            [
                [t, WATCHED[t], *[parts.mean(by_method[m], "{:.3f}") for m in DETECTORS]]
                for t, by_method in areas.items()
            ],
        ),
        "![Areas under the ROC curve](anomalies.png)",
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")
    numbers = errors_of(found, "numbers")
    if numbers:
        draw_errors(numbers).savefig(out / "imputation.png", dpi=110)
    if areas:
        draw_areas(areas).savefig(out / "anomalies.png", dpi=110)


def draw_errors(errors):
    """Return the figure of the errors of numbers: a panel a table, a line a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 2.1 * len(errors), 3.2), layout="constrained")
    axes = figure.subplots(1, len(errors), sharey=True, squeeze=False)[0]
    for axis, (table, by_share) in zip(axes, errors.items(), strict=True):
        for method, colour in zip(IMPUTERS, sda.plotting.HUES, strict=False):
            values = [by_method[method] for by_method in by_share.values()]
            shares = [100 * share for share in by_share]
            axis.plot(shares, [np.mean(v) for v in values], "-", color=colour, label=method)
            for share, of_seeds in zip(shares, values, strict=True):
                axis.plot([share] * len(of_seeds), of_seeds, "o", color=colour, ms=3, alpha=0.6)
        axis.set_title(table, fontsize=10)
        axis.set_xlabel("hidden cells (%)")
        axis.set_xticks(shares)
        axis.grid(color=sda.plotting.FAINT)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("error (standard deviations)")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside right")
    return figure


def draw_areas(areas):
    """Return the figure of the areas under the ROC curve: a group a table, a dot a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axis = figure.subplots()
    for i, (method, colour) in enumerate(zip(DETECTORS, sda.plotting.HUES, strict=False)):
        for place, by_method in enumerate(areas.values()):
            at = place + (i - 1.5) * 0.18
            values = by_method[method]
            axis.plot([at] * len(values), values, "o", color=colour, ms=4, alpha=0.6)
            label = method if place == 0 else None
            axis.plot([at - 0.07, at + 0.07], [np.mean(values)] * 2, color=colour, label=label)
    axis.set_xticks(range(len(areas)), list(areas))
    axis.set_ylabel("area under the ROC curve")
    axis.grid(axis="y", color=sda.plotting.FAINT)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right")
    return figure


def main(arguments=None):
    a = parts.Parser(NAME, __doc__).parse_args(arguments)
    scale = QUICK if a.quick else FULL
    parts.complete(plan(scale, a.seed), compute, report, a.out)
    print(f"Results are in {a.out}/")


if __name__ == "__main__":
    main()
