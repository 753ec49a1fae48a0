import sys

import keras
import numpy as np
import pytest

from sda import plotting

RNG = np.random.default_rng(0)


def tiled_by_hand(images, rows, columns, spacing):
    """The tiling as two loops over tiles; `images` are uint8."""
    height, width = images.shape[1:3]
    sheet = np.zeros(
        (
            rows * height + (rows - 1) * spacing,
            columns * width + (columns - 1) * spacing,
            *images.shape[3:],
        ),
        dtype="uint8",
    )
    for row in range(rows):
        for column in range(columns):
            index = row * columns + column
            if index < len(images):
                top, left = row * (height + spacing), column * (width + spacing)
                sheet[top : top + height, left : left + width] = images[index]
    return sheet


def grey(unit):
    return np.round(unit * 255).astype("uint8")


def stretched(values):
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("image_shape", [(4, 4), (2, 8), (2, 3, 3)])
@pytest.mark.parametrize("spacing", [0, 1, 3])
@pytest.mark.parametrize("units", [5, 6, 9])
def test_filter_tiles_by_hand(image_shape, spacing, units):
    kernel = RNG.normal(size=(np.prod(image_shape), units)).astype("float32")
    kept = kernel.copy()
    tiles = plotting.filter_tiles(kernel, image_shape, tile_shape=(2, 3), spacing=spacing)
    filters = np.stack([grey(stretched(kernel[:, j])) for j in range(min(units, 6))])
    expected = tiled_by_hand(filters.reshape(-1, *image_shape), 2, 3, spacing)
    assert tiles.dtype == "uint8"
    np.testing.assert_array_equal(tiles, expected)
    np.testing.assert_array_equal(kernel, kept)


def test_common_scale_is_that_of_the_filters_shown():
    kernel = RNG.normal(size=(16, 8)).astype("float32") * np.arange(1, 9, dtype="float32")
    tiles = plotting.filter_tiles(kernel, (4, 4), tile_shape=(2, 3), scale="all")
    shown = grey(stretched(kernel[:, :6])).T.reshape(6, 4, 4)
    np.testing.assert_array_equal(tiles, tiled_by_hand(shown, 2, 3, 1))


def test_the_tutorials_picture():
    tiles = plotting.filter_tiles(RNG.normal(size=(784, 500)), (28, 28))
    assert tiles.shape == (289, 289)
    assert not tiles[28::29].any()
    assert not tiles[:, 28::29].any()
    for row in range(10):
        for column in range(10):
            tile = tiles[29 * row : 29 * row + 28, 29 * column : 29 * column + 28]
            assert (tile.min(), tile.max()) == (0, 255)


@pytest.mark.parametrize(
    ("units", "rows", "columns"),
    [(1, 1, 1), (2, 1, 2), (5, 2, 3), (12, 3, 4), (99, 10, 10), (100, 10, 10), (1000, 10, 10)],
)
def test_default_tile_shape(units, rows, columns):
    tiles = plotting.filter_tiles(RNG.normal(size=(4, units)), (2, 2), spacing=0)
    assert tiles.shape == (2 * rows, 2 * columns)


@pytest.mark.parametrize("scale", ["each", "all"])
def test_constant_filters_are_black(scale):
    with np.errstate(all="raise"):
        tiles = plotting.filter_tiles(np.full((4, 3), 0.7), (2, 2), scale=scale)
    assert not tiles.any()


def test_filter_tiles_takes_a_keras_variable():
    layer = keras.layers.Dense(6)
    layer.build((None, 16))
    kernel = RNG.normal(size=(16, 6)).astype("float32")
    layer.kernel.assign(kernel)
    expected = plotting.filter_tiles(kernel, (4, 4))
    np.testing.assert_array_equal(plotting.filter_tiles(layer.kernel, (4, 4)), expected)


def test_image_tiles_clips_and_keeps_grey_levels():
    x = RNG.uniform(-0.5, 1.5, size=(7, 6)).astype("float32")
    expected = tiled_by_hand(grey(np.minimum(np.maximum(x, 0), 1)).reshape(7, 2, 3), 3, 3, 2)
    np.testing.assert_array_equal(plotting.image_tiles(x, (2, 3), spacing=2), expected)


@pytest.mark.parametrize("rows", [3, 12])
def test_reconstructions_are_three_strips(rows):
    strips = [RNG.uniform(size=(rows, 6)) for _ in range(3)]
    image = plotting.reconstructions(*strips, (2, 3), columns=5)
    columns = min(rows, 5)
    shown = np.concatenate([grey(strip[:columns]).reshape(-1, 2, 3) for strip in strips])
    np.testing.assert_array_equal(image, tiled_by_hand(shown, 3, columns, 1))


BAD_TILES = {
    "image_shape product": ({"image_shape": (2, 3)}, r"`image_shape`.*4 values.*=\(2, 3\).*6"),
    "image_shape rank": ({"image_shape": (4,)}, r"`image_shape`.*image_shape=\(4,\)"),
    "image_shape channels": ({"image_shape": (2, 1, 2)}, r"`image_shape`.*=\(2, 1, 2\)"),
    "image_shape sign": ({"image_shape": (-2, -2)}, r"`image_shape`.*=\(-2, -2\)"),
    "tile_shape rank": ({"tile_shape": (2,)}, r"`tile_shape`.*tile_shape=\(2,\)"),
    "tile_shape zero": ({"tile_shape": (0, 3)}, r"`tile_shape`.*tile_shape=\(0, 3\)"),
    "spacing": ({"spacing": -1}, "`spacing`.*spacing=-1"),
    "scale": ({"scale": "units"}, "`scale`.*scale='units'"),
    "rank": ({"kernel": np.zeros(4)}, r"`kernel`.*kernel.shape=\(4,\)"),
    "empty": ({"kernel": np.zeros((4, 0))}, r"`kernel`.*kernel.shape=\(4, 0\)"),
    "nan": ({"kernel": np.array([[0], [1], [np.nan], [np.inf]])}, "`kernel`.*finite.*2 values"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_TILES.values(), ids=BAD_TILES)
def test_filter_tiles_errors(changed, message):
    arguments = {"kernel": np.zeros((4, 3)), "image_shape": (2, 2)} | changed
    with pytest.raises(ValueError, match=f"(?s)Expected {message}"):
        plotting.filter_tiles(**arguments)


def test_reconstructions_errors():
    x = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"one shape.*reconstructed.shape=\(2, 4\)"):
        plotting.reconstructions(x, x, x[:2], (2, 2))
    with pytest.raises(ValueError, match=r"`corrupted`.*corrupted.shape=\(4,\)"):
        plotting.reconstructions(x, x[0], x, (2, 2))
    with pytest.raises(ValueError, match=r"`columns`.*columns=0"):
        plotting.reconstructions(x, x, x, (2, 2), columns=0)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_save_png_zooms_without_blur(tmp_path, shape):
    image_module = pytest.importorskip("PIL.Image", reason="needs pillow")
    image = RNG.integers(0, 256, shape, dtype="uint8")
    plotting.save_png(image, tmp_path / "image", zoom=4)
    with image_module.open(tmp_path / "image") as png:
        assert png.format == "PNG"
        written = np.asarray(png)
    for row in range(12):
        for column in range(20):
            np.testing.assert_array_equal(written[row, column], image[row // 4, column // 4])


@pytest.mark.parametrize(
    ("image", "zoom", "message"),
    [
        (np.zeros((2, 2)), 1, "`image`.*float64"),
        (np.zeros((2, 2, 2), "uint8"), 1, r"`image`.*\(2, 2, 2\)"),
        (np.zeros((2, 2), "uint8"), 0, "`zoom`.*zoom=0"),
        (np.zeros((2, 2), "uint8"), 1.5, "`zoom`.*zoom=1.5"),
    ],
)
def test_save_png_errors(tmp_path, image, zoom, message):
    pytest.importorskip("PIL", reason="needs pillow")
    with pytest.raises(ValueError, match=f"Expected {message}"):
        plotting.save_png(image, tmp_path / "image.png", zoom)
    assert not list(tmp_path.iterdir())


def test_missing_packages(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="`pip install pillow`"):
        plotting.save_png(np.zeros((2, 2), "uint8"), tmp_path / "image.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="`pip install matplotlib`"):
        plotting.learning_curves({"loss": [1.0]})


@pytest.fixture
def drawn(monkeypatch):
    """The figures that `learning_curves` makes, for a look at their parts."""
    figure = pytest.importorskip("matplotlib.figure", reason="needs matplotlib")
    figures = []

    class RecordedFigure(figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(figure, "Figure", RecordedFigure)
    return figures


def lines(axes):
    return [
        (line.get_linestyle(), line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.get_lines()
    ]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_learning_curves_of_one_run(drawn):
    run = {"loss": [3.0, 2.0], "accuracy": [0.5, 0.75], "val_loss": [4.0, 3.5]}
    image = plotting.learning_curves(run, title="A run", labels={"loss": "nats"})
    assert image.dtype == "uint8"
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.min() < 60
    assert image.max() == 255
    (figure,) = drawn
    loss, error = figure.axes
    assert lines(loss) == [("-", [1, 2], [3.0, 2.0]), ("--", [1, 2], [4.0, 3.5])]
    assert lines(error) == [("-", [1, 2], [50.0, 25.0])]
    assert (loss.get_ylabel(), error.get_ylabel()) == ("nats", "error (%)")
    assert loss.get_xlabel() == error.get_xlabel() == "epoch"
    assert legend(figure) == ["training", "validation"]


def test_learning_curves_of_named_runs(drawn):
    runs = {
        "plain": {"loss": [2.0, 1.0]},
        "pretrained": {"loss": [1.0, 0.5], "val_loss": [1.0, 1.0]},
    }
    plotting.learning_curves(runs, yscale="log")
    (axes,) = drawn[0].axes
    assert legend(drawn[0]) == ["plain", "pretrained", "training", "validation"]
    plain, train, validation = (line.get_color() for line in axes.get_lines())
    assert train == validation != plain
    assert axes.get_yscale() == "log"


def test_learning_curves_of_layers(drawn):
    plotting.learning_curves([{"loss": [2.0, 1.0]}, {"loss": [4.0, 3.0]}])
    assert legend(drawn[0]) == ["layer 1", "layer 2"]


def test_learning_curves_tell_many_runs_apart(drawn):
    plotting.learning_curves({str(level): {"loss": [level, 1.0]} for level in range(12)})
    colours = {tuple(line.get_color()) for line in drawn[0].axes[0].get_lines()}
    assert len(colours) == 12


def test_learning_curves_of_a_keras_history(drawn):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    history = model.fit(
        x, y, epochs=6, initial_epoch=2, validation_data=(x, y), validation_freq=2, verbose=0
    )
    plotting.learning_curves(history)
    (training, validation) = lines(drawn[0].axes[0])
    assert training == ("-", [3, 4, 5, 6], history.history["loss"])
    assert validation == ("--", [4, 6], history.history["val_loss"])


def test_learning_curves_of_one_epoch_leave_a_mark():
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    blue = np.array([0x00, 0x72, 0xB2])
    image = plotting.learning_curves({"loss": [1.0]})
    assert (image == blue).all(axis=-1).any()


def test_learning_curves_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    image_module = pytest.importorskip("PIL.Image", reason="needs pillow")
    image = plotting.learning_curves({"loss": [2.0, 1.0]}, tmp_path / "curves.png")
    with image_module.open(tmp_path / "curves.png") as png:
        np.testing.assert_array_equal(np.asarray(png), image)


def test_learning_curves_leave_pyplot_alone():
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    plotting.learning_curves({"loss": [2.0, 1.0]})
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


@pytest.mark.parametrize("histories", [{}, [], {"loss": []}, [{}], 3, [3]])
def test_learning_curves_without_anything_to_draw(histories):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    with pytest.raises(ValueError, match=r"Expected `histories`.*Received: histories="):
        plotting.learning_curves(histories)


def test_learning_curves_unknown_scale():
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    with pytest.raises(ValueError, match=r"`yscale`.*yscale='cubic'"):
        plotting.learning_curves({"loss": [1.0]}, yscale="cubic")
