"""`sda reconstruct`: rows rebuilt from their codes."""

import pathlib

import click

from sda_cli import options
from sda_cli.terminal import echo

PICTURED = 10


@click.command(cls=options.Command)
@options.run
@click.option("--data", show_default="that of the pretraining", help=options.DATA)
@options.labels
@click.option("--layer", default="top", help="Layer, counted from 1 at the input, or top.")
@options.image_shape
@options.output
@options.overwrite_file
def reconstruct(run, data, labels, layer, image_shape, out, overwrite):
    """Write rows as the stack of RUN rebuilds them: up to a layer and down again, without noise.

    Into a .png file: ten rows, the same under the noise of the first layer, and rebuilt from that.

    \b
    sda reconstruct runs/first --data mnist_5k::test --out rebuilt.npy
    sda reconstruct runs/first --data mnist_5k::test --layer 1 --out rebuilt.png
    """
    from sda import diagnostics, plotting
    from sda.datasets import writing
    from sda_cli import trained

    trained.check_new(out, overwrite, (".png", *writing.SUFFIXES))
    stack, settings = trained.load_stack(run)
    layer = trained.layer_index(stack, layer)
    rows = trained.read_rows(run, settings, data, labels, image_shape)
    if pathlib.Path(out).suffix.lower() == ".png":
        shape = trained.image_shape(rows)
        strips = diagnostics.denoised(stack, rows.x[:PICTURED], layer)
        plotting.save_png(plotting.reconstructions(*strips, shape), out, zoom=2)
        echo(out)
        return
    width = rows.x.shape[1]
    writing.write(out, rows.x, lambda x: stack.reconstruct(x, layer), width, "x")
    echo(f"{out}: {len(rows.x)} rows of {width} values")
