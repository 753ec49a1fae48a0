"""`sda evaluate`: how good a run is."""

import click

from sda_cli import options
from sda_cli.terminal import echo


@click.command(cls=options.Command)
@options.run
@click.option(
    "--data", show_default="the test rows of the dataset, or those held out", help=options.DATA
)
@options.labels
def evaluate(run, data, labels):
    """Print the error of the classifier of RUN and its confusion matrix; write them into the run.

    Of a run that was only pretrained, print what each layer has learned.

    \b
    sda evaluate runs/first
    sda evaluate runs/second --data test.npz::x --labels y
    """
    from sda import diagnostics, runs
    from sda_cli import trained

    phases = runs.phases(run)
    phase = runs.finished(run, "finetune" if "finetune" in phases else "pretrain")
    if data is None:
        rows, words = runs.read_test_rows(phase.settings, runs.columns(run))
    else:
        labels = labels or phase.settings.get("labels")
        rows = trained.read_rows(run, phase.settings, data, labels)
        words = f"those of {data}"
    if phase.name == "pretrain":
        stack, settings = trained.load_stack(run)
        echo(f"{len(rows.x)} rows, {words}")
        reports = diagnostics.diagnose(stack, rows.x, rows.y, loss=settings.get("loss"))
        echo(trained.layer_table(reports))
        return
    scores = runs.score(phase, rows)
    phase.write_results(test={**scores, "data": words})
    echo(trained.error_line(scores, words))
    classes = [str(name) for name in phase.results.get("classes", [])]
    lines = [[name, *map(str, row)] for name, row in zip(classes, scores["confusion"], strict=True)]
    echo(trained.aligned([["true \\ predicted", *classes], *lines]))
