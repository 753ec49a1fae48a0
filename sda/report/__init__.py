"""Runs as one HTML page that needs no other file: `render`."""

import base64
import datetime
import io
import math
import os
import pathlib

import numpy as np

from sda import diagnostics, plotting, runs
from sda.files import opening
from sda.report.charts import line_chart
from sda.version import __version__

# Bytes that all filters of a page may take; pictures of weights hardly compress.
FILTER_BYTES = 900_000
# How a page begins.
HEAD = b'<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="keras-sda">'
# Classes of which a confusion matrix is shown, and bytes of a page.
MOST_CLASSES = 50
PAGE_BYTES = 10_000_000
# Rows shown rebuilt.
REBUILT = 10
COLUMNS = {
    "units": ("units", "{}"),
    "loss": ("loss", "{:.4g}"),
    "identity_loss": ("loss of the identity", "{:.4g}"),
    "clean_loss": ("loss without noise", "{:.4g}"),
    "error": ("squared error", "{:.4g}"),
    "identity_error": ("squared error of the identity", "{:.4g}"),
    "probe_accuracy": ("probe accuracy", "{:.1%}"),
    "dead": ("dead units", "{}"),
    "saturated": ("saturated units", "{}"),
    "effective_rank": ("effective rank", "{:.1f}"),
}


def render(folders, title=None, most_rows=2000):
    """Return the page on one or several runs, side by side, as a string.

    Settings (those that differ are marked), curves, filters of each layer, reconstructions, a
    confusion matrix, and what `sda.diagnostics.diagnose` says of each layer. The data of a run are
    read again; where that fails, the page says so and goes without what needs them.

    Args:
        folders: List of the folders of runs.
        title: String, the heading, or None for the names of the runs.
        most_rows: Integer, the rows that layers are judged by, evenly spaced among those held out;
            the probe learns as many of the others.

    Raises:
        ValueError: If a folder is not that of a run, or a run has no model.
        ImportError: If `jinja2`, `pillow` or `scikit-learn` is not installed.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    >>> stack.build((None, 64))
    >>> phase = sda.runs.Phase("runs/first", "pretrain")
    >>> with phase.begin({"data": "digits"}, seed=1) as log:
    ...     stack.save(phase.path / "stack.keras")
    >>> sda.report.render(["runs/first"], most_rows=50)[:15]
    '<!doctype html>'
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "Expected the package `jinja2`, which lays out the report, to be installed. "
            'Run `pip install "keras-sda[cli]"`.'
        ) from error
    names = _names(folders)
    phases = [runs.phases(folder) for folder in folders]
    stacks = [_load_stack(folder) for folder in folders]
    layers = sum(len(stack.autoencoders) for stack in stacks)
    shown = [
        _run(index, *of_run, most_rows, FILTER_BYTES // layers)
        for index, of_run in enumerate(zip(names, phases, stacks, strict=True))
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html").render(
        title=title or ", ".join(names),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        runs=shown,
        settings=_settings(phases),
        charts=_charts(phases, [len(stack.autoencoders) for stack in stacks]),
        columns=[(name, head) for name, (head, _) in COLUMNS.items()],
    )
    if len(page) > PAGE_BYTES:
        raise opening.Damaged(
            f"Expected runs that make a page of at most {PAGE_BYTES} bytes. Received: {len(page)}"
        )
    return page


def check_target(path):
    """Raise `ValueError` unless a page may be written to `path`: over a page, but nothing else."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"Expected `out` to end in .html. Received: {path}")
    if not os.path.lexists(path):
        return
    try:
        with opening.open_plain(path, links=False) as file:
            found = file.read(len(HEAD))
    except ValueError:
        found = None
    if found != HEAD:
        raise ValueError(f"Expected `out` to be new, or a report. Received: {path}, something else")


def _names(folders):
    """Return the last parts of the paths, as many as it takes to tell them apart."""
    paths = [pathlib.Path(folder).resolve() for folder in folders]
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"Expected each run once. Received: {', '.join(map(str, folders))}")


def _load_stack(folder):
    return runs.load_stack(runs.finished(folder, "pretrain"))


def _run(index, name, phases, stack, most_rows, filter_bytes):
    """Return what the page shows of one run."""
    pretrain = phases["pretrain"]
    run = {
        "index": index,
        "name": name,
        "machine": _machine(pretrain.record),
        "facts": _facts(phases, stack),
        "scores": _scores(phases.get("finetune")),
        "notes": [],
    }
    run["confusion"] = _confusion(phases.get("finetune"))
    if run["confusion"] and len(run["confusion"]["classes"]) > MOST_CLASSES:
        run["notes"].append(f"Of more than {MOST_CLASSES} classes no confusion matrix is shown.")
        run["confusion"] = None
    try:
        train, held_out = runs.read_rows(pretrain.settings, runs.columns(pretrain.run))
    # Whatever has become of the data: the rest of the page does without.
    except (OSError, ValueError, ImportError) as error:
        # Settings may name any file, and a page is for others to see: nothing of it is quoted.
        run["notes"].append(f"The data could not be read ({type(error).__name__}).")
        rows = None
    else:
        rows = held_out or train
        run["judged"] = "held out" if held_out else "trained on, as none were held out"
    shape = rows and rows.image_shape
    run["filters"] = _filters(stack, shape, filter_bytes)
    run["rebuilt"] = run["layers"] = None
    if rows is not None:
        few = _few(rows, most_rows)
        if few.x.shape[1:] != stack.example_shape:
            run["notes"].append(
                f"The data now have {few.x.shape[1]} values a row, and had "
                f"{stack.example_shape[0]} in pretraining."
            )
            return run
        run["rows"] = len(few.x)
        known = None
        if held_out is not None and few.y is not None:
            known = _few(train, most_rows)
            known = (known.x, known.y)
        loss = pretrain.settings.get("loss")
        run["layers"] = [
            {key: _cell(form, getattr(report, key)) for key, (_, form) in COLUMNS.items()}
            for report in diagnostics.diagnose(stack, few.x, few.y, known, loss)
        ]
        if shape:
            run["rebuilt"] = _rebuilt(stack, few.x, shape)
    return run


def _few(rows, most):
    """Return at most so many rows, evenly spaced."""
    return rows.take(np.unique(np.linspace(0, len(rows.x) - 1, most).astype(int)))


def _facts(phases, stack):
    sizes = [stack.example_shape[-1], *(a.units for a in stack.autoencoders)]
    facts = [
        ("network", " – ".join(map(str, sizes))),
        ("weights", f"{stack.count_params():,}"),
    ]
    for name, word in (("pretrain", "pretraining"), ("finetune", "fine-tuning")):
        if name in phases:
            record = phases[name].record
            seconds = float(record.get("seconds", math.nan))
            facts.append((word, f"{_duration(seconds)}, seed {record.get('seed')}"))
    return facts


def _duration(seconds):
    return f"{seconds:.0f} s" if not seconds >= 120 else f"{seconds / 60:.0f} min"


def _machine(record):
    versions = ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())
    machine = record.get("machine", {})
    return f"{versions}; {runs.machine_name(machine)}"


def _scores(phase):
    """Return the errors of a classifier: a list of (what rows, error, interval)."""
    results = phase.results if phase else {}
    return [
        (words, f"{100 * scores['error']:.2f} %", _interval(scores))
        for words, scores in (
            ("validation error", results.get("validation")),
            ("test error", results.get("test")),
        )
        if scores
    ]


def _names_of(classes, count):
    """Return the names of classes, or their numbers where there are not as many names."""
    return [str(name) for name in (classes if len(classes) == count else range(count))]


def _interval(scores):
    low, high = (100 * end for end in scores["interval"])
    return f"{low:.2f} to {high:.2f}"


def _confusion(phase):
    """Return the confusion matrix that was measured last, with what the page needs beside it."""
    results = phase.results if phase else {}
    scores = results.get("test") or results.get("validation")
    if not scores:
        return None
    counts = np.asarray(scores["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "rows": scores.get("data", "the rows held out"),
        "total": scores["rows"],
        "classes": _names_of(results.get("classes", []), len(counts)),
        "lines": [
            [(int(n), round(100 * math.sqrt(s))) for n, s in zip(*line, strict=True)]
            for line in zip(counts, shares, strict=True)
        ],
    }


def _cell(form, value):
    return "–" if value is None else form.format(value)


def _settings(phases):
    """Return a dictionary of phases to (setting, values of the runs, whether they differ)."""
    lines = {}
    for phase in runs.PHASES:
        of_runs = [run[phase].settings if phase in run else {} for run in phases]
        for name in dict.fromkeys(name for settings in of_runs for name in settings):
            values = [settings.get(name) for settings in of_runs]
            differ = any(value != values[0] for value in values)
            lines.setdefault(phase, []).append((name, [_text(value) for value in values], differ))
    return lines


def _text(value):
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _charts(phases, depths):
    """Return (heading, SVG, table of the last values) for each layer and the classifier."""
    panels = {}
    for run, (of_run, depth) in enumerate(zip(phases, depths, strict=True)):
        for phase in of_run.values():
            for row in phase.curves:
                if phase.name == "pretrain" and row["layer"] > depth:
                    raise opening.Damaged(
                        f"Expected curves of the {depth} layers of {phase.run}. "
                        f"Received: layer {row['layer']:.0f}"
                    )
                at = f"layer {row['layer']:.0f}" if phase.name == "pretrain" else "classifier"
                for key, value in row.items():
                    metric = key.removeprefix("val_")
                    if metric in ("loss", "accuracy"):
                        if metric == "accuracy":
                            metric, value = "error (%)", 100 * (1 - value)
                        curves = panels.setdefault((at, metric), {})
                        curve = curves.setdefault((run, key.startswith("val_")), ([], []))
                        curve[0].append(row["epoch"])
                        curve[1].append(value)
    charts = []
    for (at, metric), curves in sorted(panels.items(), key=lambda item: item[0][0] == "classifier"):
        heading = f"{at.capitalize()}: {metric}"
        lines = [(run, dashed, *curve) for (run, dashed), curve in curves.items()]
        last = {key: f"{values[-1]:.4g}" for key, (_, values) in curves.items()}
        svg = line_chart(lines, "epoch", metric, f"Curves of the {metric}, {at}, by epoch")
        charts.append({"heading": heading, "svg": svg, "last": last})
    return charts


def _filters(stack, shape, most_bytes):
    """Return a picture of the filters of each layer, or of its weights where rows are no images."""
    pictures = []
    for layer, autoencoder in enumerate(stack.autoencoders, start=1):
        weights = diagnostics.input_weights(stack, layer)
        if shape is None:
            weights = weights[:200, :200]
            scale = np.abs(weights).max() or 1
            image = np.rint(127.5 + 127.5 * weights / scale).astype("uint8")
            words = f"Weights from {weights.shape[0]} inputs (down) to {weights.shape[1]} units"
        else:
            most = max(1, min(100, most_bytes // weights.shape[0]))
            columns = min(10, most, autoencoder.units)
            rows = min(most, autoencoder.units) // columns
            # Those that have learned most: random weights are all about as strong.
            order = np.argsort(-np.linalg.norm(weights, axis=0), kind="stable")
            chosen = weights[:, order[: rows * columns]]
            image = plotting.filter_tiles(chosen, shape, (rows, columns))
            count = rows * columns
            strongest = "all" if count == autoencoder.units else f"the {count} strongest of"
            words = f"Filters of {strongest} {autoencoder.units} units"
        pictures.append({"layer": layer, "words": words, **_picture(image)})
    return pictures


def _rebuilt(stack, x, shape):
    """Return a picture: rows, under noise, and rebuilt from that through one layer, two, …."""
    x = np.asarray(x[:: max(1, len(x) // REBUILT)][:REBUILT])
    clean, corrupted, first = diagnostics.denoised(stack, x, 0)
    through = [first] + [
        diagnostics.denoised(stack, x, k)[2] for k in range(1, len(stack.autoencoders))
    ]
    strips = [clean, corrupted, *through]
    image = plotting.image_tiles(np.concatenate(strips), shape, (len(strips), len(x)))
    return {"depth": len(through), **_picture(image)}


def _picture(image):
    """Return the image as a data URI, and its size."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"uri": uri, "width": image.shape[1], "height": image.shape[0]}
