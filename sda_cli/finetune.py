"""`sda finetune`: a classifier on a pretrained stack, from labelled rows."""

import click

from sda_cli import options
from sda_cli.options import PerLayer


@click.command(cls=options.Command)
@options.run
@click.option("--data", show_default="that of the pretraining", help=options.DATA)
@options.labels
@options.image_shape
@click.option(
    "--validation-split",
    type=click.FloatRange(0, 1, max_open=True),
    show_default="that of the pretraining",
    help="Share of the rows that is held out.",
)
@click.option(
    "--dropout",
    type=PerLayer(float),
    default="0",
    help="Dropout rate, or one for the input and one for each code.",
)
@click.option("--optimizer", default="sgd", help="Name of a Keras optimizer.")
@click.option("--learning-rate", type=float, default=0.1, help="Learning rate.")
@click.option("--epochs", type=int, default=30, help="At most so many passes over the rows.")
@click.option("--batch-size", type=int, default=20, help="Rows an update.")
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=10,
    help="Epochs without progress on the rows held out, doubled by progress, after which training "
    "ends, with the best weights; 0 for no early end.",
)
@options.seed
@options.backend
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    show_default="RUN itself",
    help="Folder of another run, which gets a copy of the pretraining.",
)
@options.resume
@options.overwrite
@options.quiet
@click.pass_context
def finetune(ctx, run, out, resume, overwrite, quiet, **_):
    """Train a classifier on the stack of RUN, weights of the stack included.

    \b
    sda finetune runs/first
    sda finetune runs/second --data rows.h5::train/x --labels train/y
    sda finetune runs/first --out runs/third --dropout 0.1,0.3,0.3
    """
    if resume:
        options.use_backend_of(out or run, "finetune")
    from sda_cli import training

    training.finetune(ctx, run, out, resume, overwrite, options.verbosity(quiet))
