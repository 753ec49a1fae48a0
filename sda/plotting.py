"""Pictures of what a denoising autoencoder has learned: filters, reconstructions, curves.

Every function returns the picture as a uint8 array; `save_png` writes one to a file.
"""

import math
import re

import keras
import numpy as np

from sda.files.writing import replacing


def filter_tiles(kernel, image_shape, tile_shape=None, spacing=1, scale="each"):
    """Tiles the filters of a layer, the weights into each of its units, into one image.

    The picture of the dA tutorial: the first filters, each stretched to the unit interval (its
    least weight black, its greatest white), a black pixel between neighbours. A filter whose
    weights are all equal is black.

    Args:
        kernel: Array or Keras variable of shape `(visible, units)`, such as
            `dA.encoder.kernel`. Column j is the filter of unit j.
        image_shape: The shape in which the visible units form an image: `(height, width)`, or
            `(height, width, 3)` in colour.
        tile_shape: `(rows, columns)` of the tiling. `None` means 10x10, or for fewer units the
            nearest to a square that holds them. Tiles without a filter are black.
        spacing: Integer, black pixels between tiles.
        scale: `"each"` stretches every filter by itself, which shows its form. `"all"` stretches
            the filters shown by one common scale, which keeps their strengths comparable.

    Returns:
        uint8 array of shape `(rows * (height + spacing) - spacing,
        columns * (width + spacing) - spacing)`, with a last axis of 3 in colour.

    Raises:
        ValueError: An argument is not as described, or a weight is NaN or infinite.

    Example:

    >>> tiles = sda.plotting.filter_tiles(dA.encoder.kernel, (28, 28))
    >>> sda.plotting.save_png(tiles, "filters.png", zoom=3)
    """
    if scale not in ("each", "all"):
        raise ValueError(f"Expected `scale` to be 'each' or 'all'. Received: scale={scale!r}")
    filters = _as_images(_matrix(kernel, "kernel").T, image_shape, "kernel")
    tile_shape = _tile_shape(tile_shape, len(filters))
    filters = filters[: math.prod(tile_shape)]
    axes = tuple(range(1, filters.ndim)) if scale == "each" else None
    low = filters.min(axis=axes, keepdims=True)
    extent = filters.max(axis=axes, keepdims=True) - low
    return _tile((filters - low) / np.where(extent > 0, extent, 1), tile_shape, spacing)


def image_tiles(x, image_shape, tile_shape=None, spacing=1):
    """Tiles rows of grey levels, such as training examples or samples, into one image.

    Args:
        x: Array of shape `(rows, features)`, from 0 (black) to 1 (white). Values beyond are
            clipped.
        image_shape: `(height, width)`, or `(height, width, 3)` in colour.
        tile_shape: `(rows, columns)` of the tiling, as in `filter_tiles`.
        spacing: Integer, black pixels between tiles.

    Returns:
        uint8 image, as in `filter_tiles`.

    Raises:
        ValueError: An argument is not as described, or a value is NaN or infinite.

    Example:

    >>> tiles = sda.plotting.image_tiles(x_train[:50], (28, 28), tile_shape=(5, 10))
    """
    images = _as_images(_matrix(x, "x"), image_shape, "x")
    tile_shape = _tile_shape(tile_shape, len(images))
    return _tile(images[: math.prod(tile_shape)].clip(0, 1), tile_shape, spacing)


def reconstructions(x, corrupted, reconstructed, image_shape, columns=10):
    """Shows examples, their corruption and their reconstruction in three rows of tiles.

    Args:
        x: Array of shape `(rows, features)`, the clean examples, in [0, 1].
        corrupted: Array of the same shape, what the autoencoder was given.
        reconstructed: Array of the same shape, what it made of that.
        image_shape: `(height, width)`, or `(height, width, 3)` in colour.
        columns: Integer, how many examples to show: the first ones.

    Returns:
        uint8 image, as in `filter_tiles`: top row clean, middle corrupted, bottom reconstructed.

    Raises:
        ValueError: The three arrays differ in shape, or an argument is not as described.

    Example:

    >>> corrupted = dA.corruption(x_test, training=True)
    >>> image = sda.plotting.reconstructions(x_test, corrupted, dA(corrupted), (28, 28))
    """
    if not _is_count(columns):
        raise ValueError(
            f"Expected `columns` to be a positive integer. Received: columns={columns!r}"
        )
    strips = {"x": x, "corrupted": corrupted, "reconstructed": reconstructed}
    strips = {name: _matrix(rows, name) for name, rows in strips.items()}
    if len({rows.shape for rows in strips.values()}) > 1:
        received = ", ".join(f"{name}.shape={rows.shape}" for name, rows in strips.items())
        raise ValueError(
            f"Expected `x`, `corrupted` and `reconstructed` to have one shape. Received: {received}"
        )
    shown = [rows[:columns] for rows in strips.values()]
    return image_tiles(np.concatenate(shown), image_shape, tile_shape=(3, len(shown[0])))


def learning_curves(histories, path=None, title=None, labels=None, yscale="linear"):
    """Draws training and validation curves, one panel a metric.

    Training is solid, validation (`val_...`) dashed, one colour a run. Accuracies are drawn as the
    field reports them, as errors in per cent.

    Args:
        histories: A `keras.callbacks.History`; a list of them, one a layer, as
            `GreedyPretrainer.fit` returns; or a dict of named runs. In place of a `History` its
            `history` will do, a dict of metric names to one value an epoch. Validation values
            fewer than the epochs are taken as evenly spaced.
        path: Optional path of a PNG file to write as well.
        title: Optional string above the figure.
        labels: Optional dict of metric names to what to write at their axes, units included, such
            as `{"loss": "cross-entropy (nats per example)", "accuracy": "misclassified (%)"}`.
        yscale: `"linear"`, or `"log"` to tell small values apart.

    Returns:
        uint8 array of shape `(height, width, 3)`.

    Raises:
        ValueError: There is nothing to draw, or `histories` or `yscale` is not as described.
        ImportError: `matplotlib` is not installed.

    Example:

    >>> runs = {"from random weights": plain, "pretrained": pretrained}
    >>> image = sda.plotting.learning_curves(runs, "curves.png")
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _missing("matplotlib") from error
    if yscale not in ("linear", "log"):
        raise ValueError(f"Expected `yscale` to be 'linear' or 'log'. Received: yscale={yscale!r}")
    panels = _panels(_named(histories))
    if not panels:
        raise ValueError(
            f"Expected `histories` to hold at least one epoch. Received: histories={histories!r}"
        )
    names = list(dict.fromkeys(curve[0] for curves in panels.values() for curve in curves))
    colours = dict(zip(names, _colours(len(names)), strict=True))
    figure = Figure(figsize=(5.2 * len(panels), 3.9), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # Straight to Agg: no display, no pyplot state.
    labels = labels or {}
    for column, (metric, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), column, yscale=yscale)
        _draw_panel(axes, curves, colours, labels.get(metric, _axis_label(metric)))
    _draw_legend(figure, panels, colours)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    canvas.draw()
    image = np.array(canvas.buffer_rgba())[..., :3]
    if path is not None:
        save_png(image, path)
    return image


def save_png(image, path, zoom=1):
    """Writes an image to a PNG file, whole or not at all.

    Args:
        image: uint8 array of shape `(height, width)`, or `(height, width, 3)` in colour.
        path: Path of the file.
        zoom: Positive integer. Every pixel becomes a square of this side, with sharp edges, so
            that small filters can be looked at.

    Raises:
        ValueError: `image` or `zoom` is not as described.
        ImportError: `pillow` is not installed.

    Example:

    >>> sda.plotting.save_png(tiles, "filters.png", zoom=3)
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise _missing("pillow") from error
    image = np.asarray(image)
    if image.dtype != "uint8" or not _is_image_shape(image.shape):
        raise ValueError(
            "Expected `image` to be uint8 of shape (height, width) or (height, width, 3). "
            f"Received: {image.dtype} of shape {image.shape}"
        )
    if not _is_count(zoom):
        raise ValueError(f"Expected `zoom` to be a positive integer. Received: zoom={zoom!r}")
    zoomed = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    with replacing(path) as temporary:
        Image.fromarray(zoomed).save(temporary, format="PNG")


# Tiles.


def _matrix(values, name):
    values = values.value if isinstance(values, keras.Variable) else values
    values = keras.ops.convert_to_numpy(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"Expected `{name}` to have two axes, neither empty. "
            f"Received: {name}.shape={values.shape}"
        )
    values = values.astype("float32", copy=False)
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected `{name}` to be finite. "
            f"Received: {np.count_nonzero(~np.isfinite(values))} values that are NaN or infinite"
        )
    return values


def _as_images(rows, image_shape, name):
    shape = tuple(image_shape)
    if not _is_image_shape(shape):
        raise ValueError(
            "Expected `image_shape` to be (height, width) or (height, width, 3). "
            f"Received: image_shape={image_shape!r}"
        )
    if math.prod(shape) != rows.shape[1]:
        raise ValueError(
            f"Expected `image_shape` to hold the {rows.shape[1]} values of each image in `{name}`. "
            f"Received: image_shape={image_shape!r}, which holds {math.prod(shape)}"
        )
    return rows.reshape(len(rows), *shape)


def _tile_shape(tile_shape, count):
    if tile_shape is None:
        columns = min(10, math.ceil(math.sqrt(count)))
        return min(10, math.ceil(count / columns)), columns
    tile_shape = tuple(tile_shape)
    if len(tile_shape) != 2 or not all(map(_is_count, tile_shape)):
        raise ValueError(
            "Expected `tile_shape` to be two positive integers, (rows, columns). "
            f"Received: tile_shape={tile_shape!r}"
        )
    return tile_shape


def _tile(images, tile_shape, spacing):
    """Lays out images in the unit interval, at most one a tile, row by row."""
    if isinstance(spacing, bool) or not isinstance(spacing, (int, np.integer)) or spacing < 0:
        raise ValueError(
            f"Expected `spacing` to be a non-negative integer. Received: spacing={spacing!r}"
        )
    (rows, columns), (height, width, *channels) = tile_shape, images.shape[1:]
    cells = np.zeros((rows * columns, height + spacing, width + spacing, *channels), dtype="uint8")
    cells[: len(images), :height, :width] = np.rint(images * 255)
    sheet = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + spacing), columns * (width + spacing), *channels)
    return sheet[: len(sheet) - spacing, : sheet.shape[1] - spacing].copy()


def _is_image_shape(shape):
    return all(map(_is_count, shape)) and (len(shape) == 2 or shape[2:] == (3,))


def _is_count(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


# Curves.

INK, FAINT = "#333333", "#dddddd"
ACCURACY = re.compile("acc(uracy)?$")
# Okabe and Ito's colours, told apart with any colour vision; their yellow is too pale for a line.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def _colours(count):
    if count <= len(HUES):
        return HUES[:count]
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count))


def _named(histories):
    """Returns a dict of run names to `History` objects or dicts of metrics."""
    runs = {"": histories}
    if isinstance(histories, (list, tuple)):
        runs = {f"layer {index}": run for index, run in enumerate(histories, start=1)}
    elif isinstance(histories, dict) and all(map(_is_run, histories.values())):
        runs = histories
    if not all(map(_is_run, runs.values())):
        raise ValueError(
            "Expected `histories` to be a History, a list of them, or a dict of named ones. "
            f"Received: histories={histories!r}"
        )
    return runs


def _is_run(value):
    return isinstance(getattr(value, "history", value), dict)


def _panels(runs):
    """Groups curves by metric: a dict of metrics to `(run, is_validation, epochs, values)`."""
    panels = {}
    for name, run in runs.items():
        metrics = getattr(run, "history", run)
        last = max(map(len, metrics.values()), default=0)
        epochs = getattr(run, "epoch", ())
        if len(epochs) != last:  # A dict, or a History that has seen several calls of `fit`.
            epochs = range(last)
        epochs = np.asarray(epochs) + 1
        for key, values in metrics.items():
            if len(values) == 0:
                continue
            metric, values = key.removeprefix("val_"), np.asarray(values, dtype="float64")
            if ACCURACY.search(metric):
                values = 100 * (1 - values)
            step = last // len(values)
            at = epochs[step - 1 :: step][: len(values)]
            panels.setdefault(metric, []).append((name, key.startswith("val_"), at, values))
    return panels


def _draw_panel(axes, curves, colours, label):
    from matplotlib.ticker import MaxNLocator

    for name, is_validation, epochs, values in curves:
        axes.plot(
            epochs,
            values,
            color=colours[name],
            linestyle="--" if is_validation else "-",
            linewidth=1.8,
            marker="o" if len(values) == 1 else None,  # A line through one point is invisible.
        )
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)


def _axis_label(metric):
    return ACCURACY.sub("error (%)", metric).replace("_", " ")


def _draw_legend(figure, panels, colours):
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=hue, linewidth=4, label=run) for run, hue in colours.items() if run
    ]
    kinds = {is_validation for curves in panels.values() for _, is_validation, *_ in curves}
    if True in kinds:
        handles += [
            Line2D([], [], color=INK, linewidth=1.8, linestyle=style, label=label)
            for label, style in (("training", "-"), ("validation", "--"))
        ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 3 * len(figure.axes)),
            frameon=False,
            labelcolor=INK,
        )


def _missing(package):
    return ImportError(
        f"Expected the package `{package}`, which draws this picture, to be installed. "
        f"Run `pip install {package}`."
    )
