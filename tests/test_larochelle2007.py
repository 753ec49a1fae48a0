"""The Larochelle 2007 problems: each construction against what does not share its code."""

import doctest
import sys

import numpy as np
import pytest

import sda
from sda.datasets import amat, larochelle2007, natural_images, shapes
from sda.datasets.larochelle2007 import NAMES, SIZES, SPLITS, generate, load, turn

DIGITS = ("basic", "rot", "bg-rand", "bg-img", "bg-img-rot")
WITH_IMAGES = ("bg-img", "bg-img-rot", "rect-img")


@pytest.fixture(autouse=True)
def _packages(request):
    parameters = getattr(request.node, "callspec", None)
    if parameters and parameters.params.get("name") in WITH_IMAGES:
        pytest.importorskip("skimage", reason="needs scikit-image, which ships the images")
        pytest.importorskip("sklearn", reason="needs scikit-learn, which ships the images")


@pytest.fixture
def pool(monkeypatch):
    """Puts images in the place of MNIST's, with the labels 0, 1, …, 9, 0, …"""

    def put(images):
        images = np.asarray(images, "float32")
        monkeypatch.setattr(larochelle2007, "_pool", lambda: (images, np.arange(len(images)) % 10))

    put(np.tile(np.linspace(0, 1, 400)[:, None, None], (1, 28, 28)))
    return put


def images(pair):
    return pair[0].reshape(-1, 28, 28)


# What all eight have in common


@pytest.mark.parametrize("name", NAMES)
def test_form(pool, name):
    sizes = (60, 20, 30)
    data = generate(name, sizes, seed=3)
    for (x, y), size in zip(data, sizes, strict=True):
        assert x.shape == (size, 784)
        assert x.dtype == "float32"
        assert y.shape == (size,)
        assert y.dtype == "int64"
        assert x.min() >= 0
        assert x.max() <= 1
    assert set(data[0][1].tolist()) == set(range(10 if name in DIGITS else 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_the_seed(pool, name):
    first, again, other = (generate(name, (20, 20, 20), seed) for seed in (1, 1, 2))
    for (x, y), (x_again, y_again), (x_other, _) in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)
        assert not np.array_equal(x, x_other)
    assert not np.array_equal(first[0][0], first[1][0])


def test_the_published_sizes_are_the_default():
    assert [len(x) for x, _ in generate("rect")] == [1000, 200, 50000]
    digits = (10000, 2000, 50000)
    assert {name: tuple(sizes) for name, sizes in SIZES.items()} == {
        **dict.fromkeys(DIGITS, digits),
        "rect": (1000, 200, 50000),
        "rect-img": digits,
        "convex": (6000, 2000, 50000),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rott"}, r"`name` to be one of 'basic', 'rot'.*Received: name='rott'"),
        ({"sizes": (1, 2)}, r"`sizes` to be \(train, valid, test\).*Received: sizes=\(1, 2\)"),
        ({"sizes": (1, 2, 0)}, r"`sizes` to be an integer, at least 1.*Received: sizes=0"),
        ({"sizes": 7}, r"`sizes`.*Received: sizes=7"),
        ({"sizes": (300, 50, 51)}, r"`sizes` to add up to 400 digits or fewer.*\[300, 50, 51\]"),
        ({"seed": -1}, r"`seed` to be an integer, at least 0.*Received: seed=-1"),
        ({"seed": None}, r"`seed`.*Received: seed=None"),
    ],
)
def test_refused(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"name": "basic", "sizes": (1, 1, 1), **arguments})


# Digits


def test_base_digits_are_disjoint_and_keep_their_labels(pool):
    # The grey level of a digit is its number.
    data = generate("basic", (200, 80, 120), seed=1)
    numbers = [np.rint(x[:, 0] * 399).astype(int) for x, _ in data]
    assert sorted(np.concatenate(numbers)) == list(range(400))
    for number, (_, y) in zip(numbers, data, strict=True):
        np.testing.assert_array_equal(y, number % 10)


def test_turning_agrees_with_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    generator = np.random.default_rng(1)
    for shape in ((28, 28), (5, 8)):
        # More than a piece, to see that the pieces fit together.
        before = generator.random((1002, *shape)).astype("float32")
        angles = generator.uniform(0, 2 * np.pi, len(before))
        after = turn(before, angles)
        middle = (np.array(shape) - 1) / 2
        for i in (0, 1, 999, 1000, 1001):
            sin, cos = np.sin(angles[i]), np.cos(angles[i])
            matrix = np.array([[cos, sin], [-sin, cos]])
            expected = ndimage.affine_transform(
                before[i], matrix, middle - matrix @ middle, order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(after[i], expected, atol=1e-4)


def test_angles_are_uniform(pool):
    stats = pytest.importorskip("scipy.stats")
    hand = np.zeros((28, 28))
    hand[13:15, 14:24] = 1  # from the middle to the right
    pool(np.tile(hand, (1500, 1, 1)))
    turned = images(generate("rot", (1400, 1, 1), seed=1)[0])
    row, column = np.arange(28)[:, None] - 13.5, np.arange(28) - 13.5
    angle = np.arctan2((turned * row).sum((1, 2)), (turned * column).sum((1, 2)))
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01
    # The hand turns as a whole: its ink neither fades nor leaves the canvas.
    np.testing.assert_allclose(turned.sum((1, 2)), hand.sum(), rtol=0.04)


def test_noise_is_uniform_and_behind_the_digit(pool):
    stats = pytest.importorskip("scipy.stats")
    digit = np.zeros((28, 28))
    digit[:, 10:14], digit[:, 14:18] = 0.5, 1
    pool(np.tile(digit, (300, 1, 1)))
    x = images(generate("bg-rand", (280, 10, 10), seed=1)[0])
    assert (x[:, :, 14:18] == 1).all()
    np.testing.assert_allclose(np.mean(x[:, :, 10:14] == 0.5), 128 / 256, atol=0.02)
    levels = np.rint(x[:, :, :10] * 255).astype(int)
    assert stats.chisquare(np.bincount(levels.ravel(), minlength=256)).pvalue > 0.01
    # Neighbours know nothing of each other, and no two images share their noise.
    pairs = np.corrcoef(levels[:, :, 0].ravel(), levels[:, :, 1].ravel())[0, 1]
    assert abs(pairs) < 0.04
    assert len({image.tobytes() for image in levels}) == len(levels)


def is_patch_of(patch, image):
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)
    candidates = np.argwhere((windows[:, :, 0, :9] == patch[0, :9]).all(axis=-1))
    return any((windows[row, column] == patch).all() for row, column in candidates)


@pytest.mark.parametrize("name", ["bg-img", "bg-img-rot"])
def test_backgrounds_are_patches_of_the_images_of_the_split(pool, name):
    pool(np.zeros((40, 28, 28)))
    for split, data in zip(SPLITS, generate(name, (6, 3, 3), seed=1), strict=True):
        sources = natural_images.natural_images(larochelle2007.IMAGES[split])
        for x in images(data):
            patch = np.rint(x * 255).astype("uint8")
            assert any(is_patch_of(patch, image) for image in sources)
            assert patch.std() >= 25


def test_no_image_is_in_two_splits():
    names = [name for split in SPLITS for name in larochelle2007.IMAGES[split]]
    assert sorted(names) == sorted(natural_images.NAMES)


@pytest.mark.parametrize("name", ["bg-img-rot"])
def test_the_digit_is_turned_before_the_background_is_there(pool, name, monkeypatch):
    generator = np.random.default_rng(1)
    digits = generator.random((30, 28, 28)).astype("float32")
    background = generator.integers(256, size=(28, 28)).astype("uint8")
    pool(digits)
    angles = []

    def noted(images, angle):
        angles.extend(angle)
        return turn(images, angle)

    monkeypatch.setattr(larochelle2007, "turn", noted)
    monkeypatch.setattr(
        larochelle2007, "patches", lambda generator, count, *_: np.tile(background, (count, 1, 1))
    )
    x, y = generate(name, (10, 10, 10), seed=1)[0]
    assert len(set(angles)) == 30
    candidates = np.maximum(turn(np.repeat(digits, 10, 0), angles[:10] * 30), background / 255)
    candidates = candidates.reshape(30, 10, 784)
    for i in range(10):
        matches = np.abs(candidates[:, i] - x[i]).max(axis=1) < 1e-5
        assert matches.sum() == 1
        assert matches.argmax() % 10 == y[i]


# Natural images


@pytest.fixture
def camera():
    pytest.importorskip("skimage", reason="needs scikit-image, which ships the images")
    pytest.importorskip("sklearn", reason="needs scikit-learn, which ships the images")
    return natural_images.natural_images(["camera"])[0]


def test_natural_images_are_grey(camera):
    loaded = natural_images.natural_images()
    assert len(loaded) == 13
    for image in loaded:
        assert image.dtype == "uint8"
        assert image.ndim == 2
        assert min(image.shape) >= 300
        assert image.std() > 25
    import skimage.data

    np.testing.assert_array_equal(camera, skimage.data.camera())
    colour, grey = skimage.data.astronaut(), loaded[natural_images.NAMES.index("astronaut")]
    from PIL import Image

    difference = np.asarray(Image.fromarray(colour).convert("L")).astype(int) - grey
    assert abs(difference).max() <= 1


def test_patches_come_from_every_allowed_place():
    generator = np.random.default_rng(1)
    image = generator.integers(256, size=(9, 11)).astype("uint8")
    image[:5, :5] = 100
    windows = np.lib.stride_tricks.sliding_window_view(image, (4, 4)).reshape(-1, 4, 4)
    deviations = windows.std(axis=(1, 2))
    for least in (0, np.sort(deviations)[20:22].mean()):
        drawn = natural_images.patches(generator, 2000, [image], 4, least)
        allowed = {w.tobytes() for w, d in zip(windows, deviations, strict=True) if d >= least}
        assert {patch.tobytes() for patch in drawn} == allowed


def test_every_image_has_the_same_chance():
    small, large = np.zeros((5, 5), "uint8"), np.full((50, 50), 200, "uint8")
    drawn = natural_images.patches(np.random.default_rng(1), 2000, [small, large], 4)
    assert np.mean(drawn == 0) == pytest.approx(0.5, abs=0.04)


def test_a_deviation_that_no_patch_has():
    flat = np.zeros((30, 30), "uint8")
    with pytest.raises(ValueError, match=r"`least_deviation`.*Received: least_deviation=1"):
        natural_images.patches(np.random.default_rng(1), 3, [flat], 28, 1)


def test_without_the_packages_it_says_which_extra_has_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"`scikit-image`.*keras-sda\[images\]"):
        generate("rect-img", (1, 1, 1))


# Rectangles


def box(image):
    """The height, width and corner of the least rectangle around the white pixels"""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1, rows[0], columns[0]


def test_rectangles_are_outlines_that_differ_in_height_and_width():
    x, y = generate("rect", (3000, 1, 1), seed=1)[0]
    assert set(np.unique(x)) == {0, 1}
    seen = set()
    for image, label in zip(x.reshape(-1, 28, 28), y, strict=True):
        height, width, top, left = box(image)
        seen.add((height, width))
        assert abs(height - width) >= 4
        assert label == (height > width)
        expected = np.zeros((28, 28))
        expected[top : top + height, left : left + width] = 1
        expected[top + 1 : top + height - 1, left + 1 : left + width - 1] = 0
        np.testing.assert_array_equal(image, expected)
    allowed = {(h, w) for h in range(1, 29) for w in range(1, 29) if abs(h - w) >= 4}
    assert seen <= allowed
    assert len(seen) > 0.98 * len(allowed)


def test_rectangles_lie_wherever_they_fit():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    filled, _, tall = shapes.place_rectangles(generator, 8000, np.array([[20, 24]]))
    corners = np.array([box(image)[2:] for image in filled])
    counts = np.zeros((9, 5))
    np.add.at(counts, tuple(corners.T), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 0.01
    assert not tall.any()


@pytest.mark.parametrize("name", ["rect-img"])
def test_rectangles_of_images(name, monkeypatch):
    calls = []

    def plain(generator, count, *_):
        calls.append(count)
        return np.full((count, 28, 28), 100 + len(calls), "uint8")

    monkeypatch.setattr(larochelle2007, "patches", plain)
    x, y = generate(name, (2000, 1, 1), seed=1)[0]
    assert calls == [2000, 2000, 1, 1, 1, 1]  # one patch for the inside, another around it
    levels = np.rint(x.reshape(-1, 28, 28) * 255)
    assert set(np.unique(levels)) == {101, 102}
    for image, label in zip(levels == 101, y, strict=True):
        height, width, *_ = box(image)
        assert image.sum() == height * width  # filled
        assert 0.25 * 784 <= height * width <= 0.75 * 784
        assert min(height, width) >= 10
        assert abs(height - width) >= 5
        assert label == (height > width)
    assert np.mean(y) == pytest.approx(0.5, abs=0.05)


# Convex sets


def hulls(sets):
    """The lattice points of the convex hulls: what no half-plane with all the pixels leaves out.

    The edges of the hull of a set of pixels have whole-number normals no longer than the image, so
    these half-planes are enough; for pixels on one line, with those along the sides of the image.
    """
    count, height, width = sets.shape
    longest = max(width - 1, 1), max(height - 1, 1)
    a, b = np.meshgrid(*(np.arange(-length, length + 1) for length in longest))
    normals = np.stack([a.ravel(), b.ravel()], axis=1)
    points = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
    heights = normals @ points.reshape(-1, 2).T
    inside = np.empty((count, height * width), bool)
    for i, pixels in enumerate(sets.reshape(count, -1)):
        furthest = heights[:, pixels].max(axis=1, initial=-(10**6))
        inside[i] = (heights <= furthest[:, None]).all(axis=0)
    return inside.reshape(sets.shape)


def is_its_hull(sets):
    return (hulls(sets) == sets).all(axis=(1, 2))


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (2, 6), (1, 8)])
def test_all_small_sets_are_convex_or_not_as_their_hulls_say(shape):
    size = shape[0] * shape[1]
    sets = (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(bool).reshape(-1, *shape)
    expected = is_its_hull(sets)
    np.testing.assert_array_equal(shapes.is_convex(sets), expected)
    assert 0.02 < expected.mean() < 0.6


def test_convex_images_are_their_hulls_and_the_others_are_not():
    x, y = generate("convex", (120, 1, 1), seed=1)[0]
    assert set(np.unique(x)) == {0, 1}
    sets = x.reshape(-1, 28, 28).astype(bool)
    np.testing.assert_array_equal(is_its_hull(sets), y == 1)
    np.testing.assert_array_equal(shapes.is_convex(sets), y == 1)


def test_convex_sets_are_not_too_small():
    x, y = generate("convex", (3000, 1, 1), seed=1)[0]
    pixels = x.sum(axis=1)
    assert pixels[y == 1].min() == 19
    assert pixels[y == 0].min() >= 11  # two different parts of 10 or more
    parts = shapes.convex_sets(np.random.default_rng(1), 3000, 0.07, 10).sum(axis=(1, 2))
    assert parts.min() == 10


def test_the_number_of_white_pixels_does_not_tell_the_class():
    x, y = generate("convex", (12000, 1, 1), seed=1)[0]
    pixels = x.sum(axis=1)
    means = [pixels[y == label].mean() for label in (0, 1)]
    errors = [pixels[y == label].std() / np.sqrt(np.sum(y == label)) for label in (0, 1)]
    assert abs(means[0] - means[1]) < 3 * np.hypot(*errors)
    assert np.hypot(*errors) < 0.01 * np.mean(means)
    assert np.mean(y) == pytest.approx(0.5, abs=0.02)


# The authors' files


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(larochelle2007, "SIZES", dict.fromkeys(NAMES, (4, 2, 3)))


def write_amat(path, x, y):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        " ".join(f"{value:.6f}" for value in (*row, label)) for row, label in zip(x, y, strict=True)
    ]
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("name", "files", "by_column"),
    [
        ("basic", ("mnist_train.amat", "mnist_test.amat"), False),
        ("rot", ("mnist_all_rotation_normalized_float_train_valid.amat",
                 "mnist_all_rotation_normalized_float_test.amat"), False),
        ("bg-rand", ("mnist_background_random_train.amat",
                     "mnist_background_random_test.amat"), True),
        ("bg-img", ("mnist_background_images_train.amat",
                    "mnist_background_images_test.amat"), True),
        ("bg-img-rot", ("mnist_all_background_images_rotation_normalized_train_valid.amat",
                        "mnist_all_background_images_rotation_normalized_test.amat"), True),
        ("rect", ("rectangles_train.amat", "rectangles_test.amat"), False),
        ("rect-img", ("rectangles_im_train.amat", "rectangles_im_test.amat"), False),
        ("convex", ("convex_train.amat", "50k/convex_test.amat"), False),
    ],
)  # fmt: skip
def test_the_files_of_the_authors(small, tmp_path, name, files, by_column):
    generator = np.random.default_rng(1)
    x = generator.random((9, 28, 28)).astype("float32")
    y = np.arange(9) % 2
    stored = (x.transpose(0, 2, 1) if by_column else x).reshape(9, -1)
    write_amat(tmp_path / "unpacked" / files[0], stored[:6], y[:6])
    write_amat(tmp_path / "unpacked" / files[1], stored[6:], y[6:])
    data = load(name, tmp_path)
    assert [len(part[0]) for part in data] == [4, 2, 3]
    np.testing.assert_allclose(
        np.concatenate([part[0] for part in data]), x.reshape(9, -1), atol=1e-6
    )
    np.testing.assert_array_equal(np.concatenate([part[1] for part in data]), y)
    assert data[0][0].dtype == "float32"
    assert data[0][1].dtype == "int64"


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(
        sda.datasets.DatasetUnavailableError, match=r"`folder` to hold convex_train"
    ):
        load("convex", tmp_path)
    with pytest.raises(ValueError, match=r"`name`.*Received: name='konvex'"):
        load("konvex", tmp_path)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        ("0 0.5 1\n0 1 0\n", "a table of shape"),  # a row too few
        ("0 1\n0 1\n0 1\n", "a table of shape"),
        ("0 0.5 1\n0 1.5 0\n0 0 0\n", "values from 0.0 to 1.5"),
        ("0 0.5 1\n0 nan 0\n0 0 0\n", "values from nan"),
        ("0 0.5 1\n0 0 2\n0 0 0\n", "labels from 0.0 to 2.0"),
        ("0 0.5 1\n0 0 0.5\n0 0 0\n", "labels from 0.0 to 1.0"),
        ("0 0.5 1\n0 what 0\n0 0 0\n", "what"),
        ("0 0.5 1\n0 0\n0 0 0\n", "columns"),
    ],
)
def test_malformed_files(tmp_path, content, received):
    path = tmp_path / "some.amat"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"(?s)`path` to hold 3 rows of 2 .*{received}"):
        amat.read_amat(path, rows=3, features=2, classes=2)


@pytest.mark.parametrize("module", [shapes, natural_images, larochelle2007])
def test_examples(module):
    if module is natural_images:
        pytest.importorskip("skimage", reason="needs scikit-image, which ships the images")
    ran = 0
    for test in doctest.DocTestFinder().find(module, extraglobs={"sda": sda}):
        if test.examples and not test.name.endswith(".load"):  # reads files
            assert doctest.DocTestRunner().run(test).failed == 0
            ran += 1
    assert ran > 0
