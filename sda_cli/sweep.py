"""`sda sweep`: many runs that differ in a few settings."""

import click

from sda_cli import options
from sda_cli.pretrain import pretraining_options, stack_options
from sda_cli.terminal import echo

# Ranges of all others are of real numbers.
WHOLE = ("units", "depth", "epochs", "batch_size", "finetune_epochs", "finetune_batch_size", "seed")
# Options that are settings of a run: of its `sda.Recipe`.
RUN = {"depth", *options.PRETRAINING.values(), *options.FINETUNING.values()}


class Vary(click.ParamType):
    """NAME=VALUE VALUE …, with commas in a value with an entry a layer; or NAME=LOW..HIGH."""

    name = "NAME=VALUES"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not text.strip():
            self.fail(f"{value!r} is not NAME=VALUE VALUE …", param, ctx)
        words = text.split()
        if ".." not in words[0]:
            return name, [_value(word) for word in words]
        ends = [_value(end) for end in words[0].split("..")]
        is_range = len(ends) == 2 and all(type(end) in (int, float) for end in ends)
        if not is_range or words[1:] not in ([], ["log"]):
            self.fail(f"{value!r} is not NAME=LOW..HIGH or NAME=LOW..HIGH log", param, ctx)
        if name.rstrip("0123456789").rstrip("_") not in WHOLE:
            ends = [float(end) for end in ends]
        return name, (*ends, bool(words[1:]))


def _value(word):
    """Return a word as what it looks like: a list, an integer, a float, a boolean, None or text."""
    if "," in word:
        return [_value(part) for part in word.split(",")]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(word.lower(), word)


@click.command(cls=options.Command)
@options.data
@options.labels
@options.validation_split
@click.option(
    "--vary",
    type=Vary(),
    multiple=True,
    required=True,
    help="A setting and its values, with blanks between them, and commas within one that has an "
    'entry a layer; or, with a sampler that draws, its range: "corruption=0.1 0.3", '
    '"units=500,500 900,300", "corruption_3=0.1 0.3" (of the third layer), '
    '"learning_rate=0.01..1 log". May be given again.',
)
@click.option(
    "--objective",
    type=click.Choice(["error", "probe", "denoising"]),
    default="error",
    help="What is to be small on the rows held out: the error of the fine-tuned classifier, that "
    "of a linear one on the codes, or the squared error of repaired rows.",
)
@click.option(
    "--sampler",
    default="grid",
    help="grid: all combinations; random; or one of Optuna's: tpe, cmaes, gp, qmc, …",
)
@click.option("--trials", type=int, help="Number of runs, of all samplers but grid.")
@click.option("--pruner", help="One of Optuna's, such as median: ends fine-tunings that do worse.")
@click.option(
    "--storage",
    show_default="SQLite in the folder",
    help="journal:FILE, for workers on several machines with a common disk, or the address of a "
    "database, such as postgresql://….",
)
@click.option("--name", show_default="that of the folder", help="Name of the sweep in the storage.")
@click.option("--limit", type=int, help="Most runs for this worker.")
@click.option(
    "--cache-bytes",
    type=click.IntRange(0),
    default=2**33,
    help="Limit of the layers kept for other runs, in bytes; 0 to share none.",
)
@stack_options
@click.option("--depth", type=int, help="Number of layers; lists may be longer then.")
@pretraining_options
@click.option("--dropout", type=options.PerLayer(float), default="0", help="Of the classifier.")
@click.option("--finetune-optimizer", default="sgd", help="Of the fine-tuning.")
@click.option("--finetune-learning-rate", type=float, default=0.1, help="Of the fine-tuning.")
@click.option("--finetune-epochs", type=int, default=30, help="At most so many.")
@click.option("--finetune-batch-size", type=int, default=20, help="Of the fine-tuning.")
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=10,
    help="Epochs without progress after which fine-tuning ends; 0 for no early end.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=1,
    help="Of each run, and of what the sampler draws.",
)
@options.backend
@options.out
@options.quiet
@click.pass_context
def sweep(ctx, out, quiet, data, labels, validation_split, vary, limit, backend, **asked):
    """Do runs that differ in a few settings; find the best on rows held out.

    The same command, in other shells or on other machines, joins in; after an interruption it
    carries on. Runs that agree on their first layers train these once.

    \b
    sda sweep --data mnist_5k --vary "corruption=0.1 0.3 0.5" --out runs/levels
    sda sweep --data mnist --vary "learning_rate=0.01..1 log" --sampler tpe --trials 40 --out tpe
    """
    import numpy as np

    from sda import runs
    from sda.sweep import Range, Sweep, report
    from sda_cli.training import Interrupted

    if data is None:
        raise click.UsageError("Missing option '--data'.", ctx)
    space = {n: Range(*v) if isinstance(v, tuple) else v for n, v in vary}
    fixed = {name: asked.pop(name) for name in list(asked) if name in RUN}
    fixed = {name: value for name, value in fixed.items() if value is not None}
    one_width = len(fixed["units"]) == 1
    if one_width:
        fixed["units"] = fixed["units"][0]
    made = Sweep(
        out,
        space,
        {name: value for name, value in fixed.items() if name not in space},
        seed=fixed["seed"],
        **asked,
    )
    rows, held_out = runs.read_rows(
        {"data": data, "labels": labels, "validation_split": validation_split}
    )
    if held_out is None:
        raise ValueError(
            "Expected `validation_split` to hold rows out, by which to compare the runs. "
            f"Received: {validation_split} of {len(rows.x)} rows"
        )
    parts = [(rows.x, None), (held_out.x, None)]
    if asked["objective"] != "denoising":
        if rows.y is None:
            raise ValueError("Expected `labels` to say what the rows are. Received: none")
        classes = np.unique(np.concatenate([rows.y, held_out.y]))
        parts = [(part.x, np.searchsorted(classes, part.y)) for part in (rows, held_out)]
    try:
        table = made.run(*parts[0], parts[1], limit=limit, verbose=0 if quiet else 1)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted. The same command carries on.") from error
    done = [row for row in table if row["state"] == "complete"]
    echo(f"{len(done)} of {len(table)} runs: {made.path / 'results.md'}")
    if done:
        best = report.best_of(done, made.objective)
        what = ", ".join(f"{name} {best[name]}" for name in made.vary)
        echo(f"best: {made.objective} {best[made.objective]:.4g} with {what}")
        echo(made.path / "best.keras")
