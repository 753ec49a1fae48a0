"""Line charts as inline SVG, in the colours of the page around them."""

import math
from html import escape

WIDTH, HEIGHT = 360, 220
# The page has so many.
COLOURS = 7
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 8, 42


def line_chart(curves, x_label, y_label, description):
    """Return an SVG element; the page's CSS gives `.run-1`, `.run-2`, … their colours.

    Args:
        curves: List of (index of the run, whether dashed, list of x, list of y).
        x_label, y_label: Strings at the axes.
        description: String, what a reader hears who cannot see it.
    """
    xs = [x for *_, at, _ in curves for x in at]
    ys = [y for *_, values in curves for y in values if math.isfinite(y)]
    # Epochs: whole ones that there are.
    x_ticks = [x for x in ticks(min(xs), max(xs)) if x == int(x) and min(xs) <= x <= max(xs)]
    y_ticks = ticks(*(min(ys), max(ys)) if ys else (0, 1))
    to_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(description)}">'
    ]
    for y in y_ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{to_y(y):.1f}" '
            f'y2="{to_y(y):.1f}"/><text x="{LEFT - 8}" y="{to_y(y) + 4:.1f}" '
            f'text-anchor="end">{y:g}</text>'
        )
    for x in x_ticks:
        parts.append(
            f'<text x="{to_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(y_label)}</text>"
    )
    for run, dashed, at, values in curves:
        points = [(to_x(x), to_y(y)) for x, y in zip(at, values, strict=True) if math.isfinite(y)]
        style = f'class="curve run-{run % COLOURS + 1}{" dashed" if dashed else ""}"'
        if len(points) == 1:
            parts.append(f'<circle {style} cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
        else:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline {style} points="{line}"/>')
    return "".join([*parts, "</svg>"])


def ticks(low, high, most=5):
    """Return round numbers, evenly spaced, from at most `low` to at least `high`.

    The steps are 1, 2 or 5 times a power of ten, the smallest with at most `most` of them.
    """
    if not high - low > 1e-300:  # a step has to be a number, too
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(f * power for f in (1, 2, 5, 10, 20) if (high - low) / (f * power) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _scale(low, high, start, end):
    """Return the function that maps low to `start` and high to `end`."""
    span = (high - low) or 1
    offset = 0.5 if high == low else 0
    return lambda value: start + (end - start) * ((value - low) / span + offset)
