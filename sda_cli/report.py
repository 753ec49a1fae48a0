"""`sda report`: runs as one page."""

import pathlib

import click

from sda_cli import options
from sda_cli.terminal import echo


@click.command(cls=options.Command)
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False)
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    show_default="report.html in the first RUN",
    help="The .html file; a report that is there is replaced, and nothing else.",
)
@click.option("--title", show_default="the names of the runs", help="Heading of the page.")
@click.option(
    "--rows", type=click.IntRange(10), default=2000, help="Judge by at most so many rows."
)
def report(runs, out, title, rows):
    """Write one HTML page on one or several runs, side by side. It needs no other file.

    \b
    sda report runs/first
    sda report runs/first runs/second --out comparison.html
    """
    from sda import report
    from sda.files.writing import write_plain

    out = pathlib.Path(out or pathlib.Path(runs[0]) / "report.html")
    report.check_target(out)
    page = report.render(runs, title, rows)
    write_plain(out, page)
    echo(f"{out}: {len(page.encode()) / 1e6:.2f} MB")
