"""Grey natural images that scikit-image and scikit-learn ship, and patches of them."""

import numpy as np

# Functions of `skimage.data`, and files of scikit-learn. All lie in the packages: no download.
SKIMAGE = (
    "astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel",
    "immunohistochemistry", "rocket", "stereo_motorcycle",
)  # fmt: skip
SKLEARN = ("china.jpg", "flower.jpg")
NAMES = SKIMAGE + SKLEARN


def natural_images(names=NAMES):
    """Loads natural images as grey levels.

    Args:
        names: Sequence of names out of `NAMES`.

    Returns:
        List of uint8 arrays of shape `(height, width)`, of 300x384 to 500x741 pixels.

    Raises:
        ImportError: `scikit-image` or `scikit-learn` is not installed.

    Example:

    >>> natural_images(["camera"])[0].shape
    (512, 512)
    """
    try:
        import skimage.data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError(
            "Expected the packages `scikit-image` and `scikit-learn`, which ship the natural "
            'images, to be installed. Run `pip install "keras-sda[images]"`.'
        ) from error

    def load(name):
        if name in SKLEARN:
            return load_sample_image(name)
        image = getattr(skimage.data, name)()
        return image[0] if name == "stereo_motorcycle" else image

    return [_grey(load(name)) for name in names]


def patches(generator, count, images, side, least_deviation=0):
    """Draws square patches: an image uniformly, and one of its places uniformly.

    Args:
        generator: `numpy.random.Generator`.
        count: Integer, the number of patches.
        images: List of arrays of shape `(height, width)`, of one dtype; uint8 where
            `least_deviation` is above 0.
        side: Integer, height and width of a patch.
        least_deviation: Number, the standard deviation of the grey levels in a patch, 0 to 127.5,
            below which the patch is refused.

    Returns:
        Array of shape `(count, side, side)` and of the images' dtype.

    Raises:
        ValueError: An image has no patch with so large a deviation.

    Example:

    >>> generator = np.random.default_rng(0)
    >>> patches(generator, 5, natural_images(["camera"]), 28, least_deviation=25).shape
    (5, 28, 28)
    """
    chosen = generator.integers(len(images), size=count)
    drawn = np.empty((count, side, side), images[0].dtype)
    for index, image in enumerate(images):
        mine = np.flatnonzero(chosen == index)
        rows, columns = np.nonzero(_deviates(image, side, least_deviation))
        if not len(rows):
            raise ValueError(
                f"Expected `least_deviation` that a patch of image {index} has. "
                f"Received: least_deviation={least_deviation!r} and side={side!r}"
            )
        places = generator.integers(len(rows), size=len(mine))
        windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
        drawn[mine] = windows[rows[places], columns[places]]
    return drawn


def _deviates(image, side, least_deviation):
    """Tells which patches deviate enough, by their top left pixels; in integers, so exact"""
    pixels = side * side
    values = image.astype("int64")
    squared_deviation = pixels * _sums(values**2, side) - _sums(values, side) ** 2
    return squared_deviation >= (pixels * least_deviation) ** 2


def _sums(values, side):
    """The sum of each square of `side` pixels, by its top left pixel"""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]


def _grey(image):
    """Luminance by ITU-R BT.601, the weights of grey JPEG and of most tools"""
    if image.ndim == 3:
        image = np.rint(image[..., :3] @ [0.299, 0.587, 0.114]).astype("uint8")
    return image
