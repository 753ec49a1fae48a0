"""`sda encode`: the codes of rows."""

import click

from sda_cli import options
from sda_cli.terminal import echo


@click.command(cls=options.Command)
@options.run
@click.option("--data", show_default="that of the pretraining", help=options.DATA)
@options.labels
@options.layer
@options.output
@options.overwrite_file
def encode(run, data, labels, layer, out, overwrite):
    """Write the codes that the stack of RUN gives rows, without noise.

    A column that --labels names is left out of the input.

    \b
    sda encode runs/first --data mnist_5k::test --out codes.npy
    sda encode runs/first --layer all --out codes.parquet
    """
    import numpy as np

    from sda.datasets import writing
    from sda_cli import trained

    trained.check_new(out, overwrite, writing.SUFFIXES)
    stack, settings = trained.load_stack(run)
    depth = len(stack.autoencoders)
    layers = range(depth) if layer == "all" else [trained.layer_index(stack, layer)]
    rows = trained.read_rows(run, settings, data, labels)
    width = sum(stack.autoencoders[k].units for k in layers)

    def codes(x):
        return np.hstack([stack.encode(x, k) for k in layers])

    writing.write(out, rows.x, codes, width, "code")
    echo(f"{out}: {len(rows.x)} rows of {width} values")
