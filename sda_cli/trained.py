"""What the commands share that use a trained run. Imported when they run: it takes Keras along."""

import pathlib

import numpy as np

from sda import runs
from sda_cli.terminal import cell


def load_stack(run):
    """Return the stack of a run and the settings that it was pretrained with."""
    phase = runs.finished(run, "pretrain")
    return runs.load_stack(phase), phase.settings


def read_rows(run, settings, data, labels, image_shape=None):
    """Return the rows that the options name, or all of those that the settings name.

    The columns of a table are in the order in which the run was pretrained on them.
    """
    if data is not None:
        settings = {**settings, "data": data, "labels": labels}
    if image_shape is not None:
        settings = {**settings, "image_shape": image_shape}
    return runs.read_rows({**settings, "validation_split": 0}, runs.columns(run))[0]


def image_shape(rows):
    """Return what the rows are as images; raise `ValueError` if they are none."""
    if rows.image_shape is None:
        raise ValueError("Expected rows that are images, see --image-shape. Received: other rows")
    return rows.image_shape


def layer_index(stack, layer):
    """Return the index of a layer that is named "top" or counted from 1."""
    depth = len(stack.autoencoders)
    if layer != "top" and not (str(layer).isdigit() and 1 <= int(layer) <= depth):
        raise ValueError(f"Expected `layer` to be top or from 1 to {depth}. Received: {layer}")
    return depth - 1 if layer == "top" else int(layer) - 1


def check_new(out, overwrite, suffixes):
    """Raise `ValueError` unless `out` may be written and says by its suffix how."""
    path = pathlib.Path(out)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"Expected `out` to end in {', '.join(suffixes)}. Received: {out}")
    if path.exists() and not overwrite:
        raise ValueError(f"Expected a new file, or --overwrite. Received: {out}, which exists")


def error_line(scores, rows):
    """Return a line on what `sda.diagnostics.classification` says."""
    low, high = (100 * end for end in scores["interval"])
    error = f"error {100 * scores['error']:.2f} % ({low:.2f} to {high:.2f})"
    return f"{error} on {scores['rows']} rows, {rows}"


def layer_table(reports):
    """Return the reports of `sda.diagnostics.diagnose` as lines of text."""
    names = [n for n in vars(reports[0]) if any(getattr(r, n) is not None for r in reports)]
    lines = [[_cell(getattr(report, name)) for name in names] for report in reports]
    return aligned([[name.replace("_", " ") for name in names], *lines])


def aligned(lines):
    """Return lines of cells as text, in columns."""
    lines = [[cell(text) for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _cell(value):
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
