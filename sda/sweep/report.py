"""What came out of a sweep: a table, and figures."""

import csv
import io
import statistics

import numpy as np

from sda import plotting
from sda.files.cells import csv_cell, markdown_cell
from sda.files.writing import replacing, write_plain
from sda.sweep.space import Range, decoded
from sda.sweep.studies import counted, facts_of, is_lost, point

# Curves in one figure: as many as there are colours.
SHOWN = 7
OBJECTIVES = {
    "error": "error on the rows held out (%)",
    "probe": "error of the probe on the rows held out (%)",
    "denoising": "squared error of repaired rows",
}


def rows_of(sweep, study):
    """Return the table of a sweep: a list with one dictionary a point."""
    points = {}
    for found in counted(study):
        # What has a result before what has none; of several, the first.
        rank = ("COMPLETE", "PRUNED", "FAIL", "RUNNING").index(found.state.name)
        if is_lost(found):
            rank = 9
        number = point(found)
        if number not in points or rank < points[number][0]:
            points[number] = (rank, found)
    rows = []
    for number, (_, found) in sorted(points.items()):
        facts = facts_of(found)
        values = decoded(found.params)
        rows.append(
            {
                "run": number,
                **{name: values.get(name) for name in sweep.vary},
                sweep.objective: found.value if found.state.name != "FAIL" else None,
                "trial": found.number,
                "state": "lost" if is_lost(found) else found.state.name.lower(),
                "seconds": facts.get("seconds"),
                "cpu_seconds": facts.get("cpu_seconds"),
                "layers_shared": facts.get("layers_shared"),
                "layers_trained": facts.get("layers_trained"),
                "digest": facts.get("digest"),
                "note": facts.get("error", facts.get("failure")),
            }
        )
    return rows


def write_table(sweep, study):
    """Write results.csv and results.md; return the rows."""
    rows = rows_of(sweep, study)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    write_plain(sweep.path / "results.csv", text.getvalue())
    write_plain(sweep.path / "results.md", _markdown(sweep, rows))
    return rows


def _markdown(sweep, rows):
    measure = sweep.objective
    done = [row for row in rows if row["state"] == "complete"]
    best = best_of(done, measure)
    shown = ["run", *sweep.vary, measure, "state", "seconds", "layers_shared", "layers_trained"]
    cells = [
        [f"**{_cell(row[name])}**" if row is best else _cell(row[name]) for name in shown]
        for row in rows
    ]
    parts = [
        f"# Sweep: {markdown_cell(sweep.name)}",
        f"{len(done)} of {len(rows)} runs are complete. `{measure}`: {OBJECTIVES[measure]}; the "
        "best in bold. Fixed: "
        + (", ".join(f"{name} {_cell(value)}" for name, value in sweep.fixed.items()) or "nothing")
        + ".",
        _table([name.replace("_", " ") for name in shown], cells),
    ]
    if len({row.get("seed") for row in done}) > 1:
        parts += ["Mean ± deviation over the seeds:", _over_seeds(sweep, done)]
    for name in ("comparison.png", "curves.png"):
        if (sweep.path / name).exists():
            parts.append(f"![{name.removesuffix('.png')}]({name})")
    return "\n\n".join(parts) + "\n"


def best_of(rows, objective):
    """Return the row of the best run, the earliest trial of several, or None."""
    return min(rows, key=lambda row: (row[objective], row["trial"]), default=None)


def _over_seeds(sweep, done):
    names = [name for name in sweep.vary if name != "seed"]
    groups = {}
    for row in done:
        groups.setdefault(tuple(_cell(row[name]) for name in names), []).append(
            row[sweep.objective]
        )
    cells = [
        [
            *key,
            _text(statistics.mean(values)),
            _text(statistics.stdev(values)) if len(values) > 1 else "",
            len(values),
        ]
        for key, values in groups.items()
    ]
    return _table([*names, "mean", "deviation", "runs"], cells)


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(value):
    return markdown_cell(_text(value))


def _text(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)


# Figures


def draw(sweep, study, rows):
    """Draw comparison.png, and curves.png of the best runs, where matplotlib is installed."""
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        return
    try:
        draw_comparison(sweep, done)
        _draw_curves(sweep, study, done)
    except ImportError:
        return
    write_plain(sweep.path / "results.md", _markdown(sweep, rows))


def draw_comparison(sweep, done):
    """Draw the objective against each setting that varies: a dot a run, and a line of the means."""
    from matplotlib.figure import Figure

    names = list(sweep.vary)
    figure = Figure(figsize=(4.2 * len(names), 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    for name, axis in zip(names, axes, strict=True):
        values = sweep.vary[name]
        is_range = isinstance(values, Range)
        if is_range:
            places = {row[name]: row[name] for row in done}
        else:
            places = {_text(value): place for place, value in enumerate(values)}
            axis.set_xticks(range(len(values)), [_text(value) or "none" for value in values])
        at = {}
        for row in done:
            place = places[row[name] if is_range else _text(row[name])]
            at.setdefault(place, []).append(row[sweep.objective])
        for place, measured in at.items():
            axis.plot([place] * len(measured), measured, "o", color=plotting.HUES[0], markersize=4)
        if not is_range:
            line = sorted((place, statistics.mean(measured)) for place, measured in at.items())
            axis.plot(*zip(*line, strict=True), color=plotting.HUES[0], alpha=0.6)
        elif values.log:
            axis.set_xscale("log")
        axis.set_xlabel(name.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(OBJECTIVES[sweep.objective])
    _save(figure, sweep.path / "comparison.png")


def _draw_curves(sweep, study, done):
    """Draw the error after each epoch of fine-tuning, of the best runs."""
    best = sorted(done, key=lambda row: (row[sweep.objective], row["trial"]))[:SHOWN]
    trials = {point(t): t for t in reversed(study.get_trials()) if t.state.name == "COMPLETE"}
    curves = {
        ", ".join(f"{name} {_text(row[name])}" for name in sweep.vary): {
            "val_error": [
                value for _, value in sorted(trials[row["run"]].intermediate_values.items())
            ]
        }
        for row in best
        if trials[row["run"]].intermediate_values
    }
    if curves:
        image = plotting.learning_curves(curves, labels={"error": OBJECTIVES["error"]})
        plotting.save_png(image, sweep.path / "curves.png")


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
