"""MNIST and Fashion-MNIST: two problems of one shape."""

from pathlib import Path

import numpy as np

from sda.datasets.files import download, keras_folder, user_folders
from sda.datasets.idx import read_idx
from sda.files.zips import read_npz

SHAPES = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}
NUM_CLASSES = 10

MNIST_HASHES = {
    "mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
}
FASHION_FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
FASHION_HASHES = {  # As published by the dataset's authors.
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def mnist(raw=False):
    """Loads MNIST: handwritten digits, 28x28 grey levels (LeCun and Cortes; CC BY-SA 3.0).

    Args:
        raw: Whether to return the stored uint8, as at `sda.datasets.load`.

    Returns:
        `((x_train, y_train), (x_test, y_test))`, as described at `sda.datasets.load`.
    """
    places = [folder / "mnist.npz" for folder in [*user_folders(), keras_folder()]]
    return _load("mnist", places, MNIST_HASHES, raw)


def fashion_mnist(raw=False):
    """Loads Fashion-MNIST: articles of clothing, 28x28 grey levels (Zalando; MIT licence).

    Classes: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Args:
        raw: Whether to return the stored uint8, as at `sda.datasets.load`.

    Returns:
        `((x_train, y_train), (x_test, y_test))`, as described at `sda.datasets.load`.
    """
    places = [DEBIAN_FOLDER, keras_folder() / "fashion-mnist"]
    for folder in user_folders():
        places = [folder / "fashion_mnist.npz", folder / "fashion-mnist", *places]
    return _load("fashion_mnist", places, FASHION_HASHES, raw)


def _load(name, places, hashes, raw):
    """Reads the first of `places` that is there; the last is Keras's, which a download fills."""
    path = next(filter(_is_there, places), None)
    if path is None:
        path = places[-1]
        download(name, hashes, path.parent if path.suffix == ".npz" else path, places)
    arrays = read_npz(path, SHAPES) if path.suffix == ".npz" else _read_folder(path)
    _check(arrays, path)
    return tuple(
        (_rows(arrays[f"x_{split}"], raw), arrays[f"y_{split}"].astype("int64"))
        for split in ("train", "test")
    )


def _is_there(path):
    if path.suffix == ".npz":
        return path.is_file()
    return all((path / file).is_file() for file in FASHION_FILES.values())


def _read_folder(path):
    return {name: read_idx(path / file, SHAPES[name]) for name, file in FASHION_FILES.items()}


def _check(arrays, path):
    for name, shape in SHAPES.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != "uint8":
            raise ValueError(
                f"Expected `{name}` to be uint8 of shape {shape}. "
                f"Received: {array.dtype} of shape {array.shape} in {path}"
            )
        if len(shape) == 1 and array.max() >= NUM_CLASSES:
            raise ValueError(
                f"Expected `{name}` to hold classes 0 to {NUM_CLASSES - 1}. "
                f"Received: class {array.max()} in {path}"
            )


def _rows(images, raw):
    rows = images.reshape(len(images), -1)
    return rows if raw else np.divide(rows, 255, dtype="float32")
