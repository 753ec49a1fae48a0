"""Draws docs/architecture.png, the picture of docs/architecture.md: python docs/house.py

The floors are those that tests/test_architecture.py enforces; a room's width is its lines of code.
"""

import ast
import pathlib

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = pathlib.Path(__file__).parents[1]
INK, PAPER = "#26323d", "#ffffff"
# The ground, the network, the training, and what people reach for.
COLOURS = {
    "version checks streams forks files distribution": "#d9dee3",
    "losses layers rows models": "#cfe3f1",
    "checkpoints training callbacks pretraining": "#d5ead2",
    "saving tables recipe datasets semisupervised diagnostics plotting": "#fbe6c8",
    "estimators sweep runs report": "#f4d4d3",
}
# The least width of a room, and of a letter of its name.
LEAST, LETTER = 0.05, 0.0138
HEIGHT, GAP = 0.8, 0.012
ROUND = "round,pad=0,rounding_size=0.012"
CENTRED = {"ha": "center", "va": "center", "color": INK}


def floors():
    """Return the floors, from the ground up, as lists of names of rooms."""
    source = (ROOT / "tests" / "test_architecture.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            return [[name.value for name in floor.elts] for floor in node.value.elts]
    raise LookupError("tests/test_architecture.py has no FLOORS")


def lines(room):
    """Return the lines of a room's files."""
    path = ROOT / "sda" / room
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return sum(len(file.read_text().splitlines()) for file in files)


def colour(room):
    return next(c for rooms, c in COLOURS.items() if room in rooms.split())


def draw(out):
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    house = floors()
    widest = max(sum(map(lines, floor)) for floor in house)
    figure, axes = plt.subplots(figsize=(9, 8.4), dpi=120, facecolor=PAPER)
    for level, floor in enumerate(house):
        widths = [max(LEAST + LETTER * len(room), lines(room) / widest) for room in floor]
        left = -(sum(widths) + GAP * (len(widths) - 1)) / 2
        for room, width in zip(floor, widths, strict=True):
            box = FancyBboxPatch((left, level), width, HEIGHT, boxstyle=ROUND, mutation_aspect=18)
            box.set(facecolor=colour(room), edgecolor=INK, linewidth=0.8)
            axes.add_patch(box)
            middle = left + width / 2
            axes.text(middle, level + HEIGHT * 0.64, room, fontsize=9.5, **CENTRED)
            axes.text(middle, level + HEIGHT * 0.22, f"{lines(room):,}", fontsize=7, **CENTRED)
            left += width + GAP
    top = len(house) - 1 + HEIGHT
    axes.annotate(
        "", xy=(-0.72, 0), xytext=(-0.72, top), arrowprops={"arrowstyle": "-|>", "color": INK}
    )
    axes.text(-0.75, top / 2, "imports point down", rotation=90, fontsize=10, **CENTRED)
    axes.set(xlim=(-0.8, 0.74), ylim=(-0.25, len(house)))
    axes.axis("off")
    figure.savefig(out, bbox_inches="tight", pad_inches=0.1)


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.png")
