"""`sda pretrain`: a stack, from unlabelled rows."""

import click

from sda_cli import options
from sda_cli.options import PerLayer

# As in `sda.layers.noises`, which takes Keras along.
NOISES = ("masking", "salt_and_pepper", "gaussian", "swap")

# What a stack is.
stack_options = options.several(
    click.option(
        "--units",
        type=PerLayer(int, always_list=True),
        default="500,500,500",
        help="Hidden units of each layer, from the input up.",
    ),
    click.option(
        "--noise",
        type=PerLayer(click.Choice(NOISES)),
        default="masking",
        help="Kind of corruption.",
    ),
    click.option(
        "--corruption",
        type=PerLayer(float),
        default="0.3",
        help="Share of the entries that is corrupted, or the standard deviation of gaussian noise.",
    ),
    click.option(
        "--activation", type=PerLayer(str), default="sigmoid", help="Activation of the units."
    ),
    click.option(
        "--decoder-activation",
        type=PerLayer(str),
        show_default="sigmoid for rows in [0, 1] and above sigmoid units, else linear",
        help="Activation of the reconstructions.",
    ),
    click.option("--tied/--untied", default=True, help="Decode with the encoder's own weights."),
)
# How it is trained.
pretraining_options = options.several(
    click.option(
        "--loss",
        type=PerLayer(click.Choice(["cross_entropy", "squared_error"])),
        show_default="cross_entropy under a sigmoid decoder, else squared_error",
        help="Loss, summed over features.",
    ),
    click.option("--optimizer", default="sgd", help="Name of a Keras optimizer."),
    click.option("--learning-rate", type=PerLayer(float), default="0.1", help="Learning rate."),
    click.option("--epochs", type=PerLayer(int), default="15", help="Passes over the rows."),
    click.option("--batch-size", type=PerLayer(int), default="20", help="Rows an update."),
)


@click.command(cls=options.Command)
@options.data
@options.labels
@options.image_shape
@options.validation_split
@stack_options
@pretraining_options
@options.seed
@options.backend
@options.out
@options.resume
@options.overwrite
@options.quiet
@click.pass_context
def pretrain(ctx, out, resume, overwrite, quiet, **_):
    """Train the layers of a stack, one above the other, without labels.

    The rows that --labels names are left out of the input.

    \b
    sda pretrain --data mnist_5k --units 500,500 --corruption 0.1,0.2 --out runs/first
    sda pretrain --data rows.h5::train/x --out runs/second
    sda pretrain --out runs/second --resume
    """
    if resume:
        options.use_backend_of(out, "pretrain")
    from sda_cli import training

    training.pretrain(ctx, out, resume, overwrite, options.verbosity(quiet))
