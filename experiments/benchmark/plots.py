"""The measurements as pictures."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from PIL import Image

from experiments.benchmark.report import LABELS

# Colours that the colour-blind can tell apart (Okabe and Ito).
COLOURS = {"tensorflow": "#d55e00", "jax": "#0072b2", "torch": "#009e73", "numpy": "#7f7f7f"}
STYLES = {
    "sda": {"linewidth": 2.6, "marker": "o", "markersize": 6, "zorder": 4},
    "fit": {"linewidth": 1.2, "linestyle": ":", "marker": "s", "markersize": 4},
    "loop": {"linewidth": 1.2, "linestyle": "-", "marker": "^", "markersize": 4, "alpha": 0.7},
    "by_hand": {"linewidth": 1.2, "linestyle": "-.", "marker": "v", "markersize": 4, "alpha": 0.7},
}
MEANINGS = {
    "sda": "sda",
    "fit": "Keras fit",
    "loop": "loop, automatic gradient",
    "by_hand": "loop, gradient by hand",
}


def speed(works, path):
    """Draw examples a second against the batch size, one panel a network, limits dashed."""
    panels = {}
    for work in works:
        panels.setdefault(work["title"], []).append(work)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 3.9 * rows + 1.2), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (title, points) in zip(axes, panels.items(), strict=False):
        _speed_panel(axis, title, sorted(points, key=lambda work: work["batch"]))
    for axis in list(axes)[len(panels) :]:
        axis.remove()
    figure.legend(handles=_legend(works), loc="outside lower center", ncols=9, frameon=False)
    _save(figure, path)


def _speed_panel(axis, title, points):
    batches = [work["batch"] for work in points]
    for name in points[0]["contestants"]:
        backend, kind = name.split("/")
        if kind in STYLES:
            speeds = [work["contestants"][name]["examples_per_second"] for work in points]
            axis.plot(batches, speeds, color=COLOURS[backend], **STYLES[kind])
    axis.plot(batches, [work["limit"] for work in points], color="black", linestyle="--")
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel("examples a batch")
    axis.set_ylabel("examples a second")
    _logarithmic(axis, batches)


def _legend(works):
    from matplotlib.lines import Line2D

    names = {name.split("/")[0] for name in works[0]["contestants"]}
    kinds = {name.split("/")[1] for name in works[0]["contestants"]}
    backends = [
        Line2D([], [], color=COLOURS[b], lw=4, label=LABELS[b]) for b in COLOURS if b in names
    ]
    styles = [
        Line2D([], [], color="#444444", label=MEANINGS[kind], **style)
        for kind, style in STYLES.items()
        if kind in kinds
    ]
    return [*backends, *styles, Line2D([], [], color="black", ls="--", label="products alone")]


def scaling(found, path):
    """Draw time against examples and against widths, and memory against examples."""
    figure = Figure(figsize=(14.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, 3)
    for backend, result in found.items():
        style = {"color": COLOURS[backend], "marker": "o", "linewidth": 1.8}
        for axis, key in zip(axes, ("examples", "product_of_widths"), strict=False):
            label = f"{LABELS[backend]}: exponent {result[key]['exponent']:.2f}"
            axis.plot(result[key]["sizes"], result[key]["seconds"], label=label, **style)
        memory = result["memory"]
        label = f"{LABELS[backend]}: {memory['bytes_per_example'] / 1024:.1f} KiB an example"
        peaks = [peak / 2**20 for peak in memory["peak_bytes"]]
        axes[2].plot(memory["examples"], peaks, label=label, **style)
    for axis, key in zip(axes, ("examples", "product_of_widths"), strict=False):
        _logarithmic(axis, next(iter(found.values()))[key]["sizes"])
        axis.set_ylabel("seconds an epoch")
    axes[0].set_xlabel("examples")
    axes[1].set_xlabel("visible × hidden units")
    axes[2].set_xlabel("examples")
    axes[2].set_ylabel("peak memory of pretraining, MiB")
    axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.legend(frameon=False, fontsize=9)
        _plain(axis)
    _save(figure, path)


def _logarithmic(axis, ticks):
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(ticks)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for ruler in (axis.xaxis, axis.yaxis):
        ruler.set_minor_locator(NullLocator())
        ruler.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axis.grid(alpha=0.25, linewidth=0.6)
    _plain(axis)


def _plain(axis):
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure, path):
    canvas = FigureCanvasAgg(figure)  # Straight to Agg: no display, no pyplot state.
    canvas.draw()
    # A palette: a quarter of the bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64).save(path)
