"""`sda filters`: what the units of a layer look for, as a picture."""

import click

from sda_cli import options
from sda_cli.terminal import echo


@click.command(cls=options.Command)
@options.run
@click.option(
    "--layer", type=click.IntRange(1), default=1, help="Layer, counted from 1 at the input."
)
@click.option("--units", type=click.IntRange(1), default=100, help="At most so many units.")
@click.option(
    "--zoom", type=click.IntRange(1), default=3, help="Pixels a value, in each direction."
)
@options.image_shape
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="A .png file.")
@options.overwrite_file
def filters(run, layer, units, zoom, image_shape, out, overwrite):
    """Draw the filters of a layer of the stack of RUN.

    Above the first layer: the filters below it, summed with the layer's weights.

    \b
    sda filters runs/first --out filters.png
    """
    from sda import diagnostics, plotting
    from sda_cli import trained

    trained.check_new(out, overwrite, (".png",))
    stack, settings = trained.load_stack(run)
    trained.layer_index(stack, layer)
    shape = trained.image_shape(trained.read_rows(run, settings, None, None, image_shape))
    weights = diagnostics.input_weights(stack, layer)[:, :units]
    plotting.save_png(plotting.filter_tiles(weights, shape), out, zoom)
    echo(out)
