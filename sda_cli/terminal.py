"""What the commands show. Files may hold what a terminal would obey: it is shown as escapes."""

import contextlib
import traceback
import warnings

import click


def printable(text, kept="\n\t"):
    """Return text with all that a terminal would obey as escapes, but for the characters kept.

    The same as in `sda.files.cells`, which takes Keras along.
    """
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def cell(value):
    """Return a value for a place in a line: line ends are escapes, too."""
    return printable(value, kept="")


def echo(text, err=False):
    """Write text, and a line end, to stdout or stderr."""
    click.echo(printable(text), err=err)


def echo_traceback():
    echo(traceback.format_exc(), err=True)


@contextlib.contextmanager
def plain_warnings():
    """Context in which warnings, which may quote files, are shown as `echo` shows text."""

    def show(message, category, filename, lineno, file=None, line=None):
        echo(warnings.formatwarning(message, category, filename, lineno, line).rstrip(), err=True)

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
