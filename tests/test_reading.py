"""What reads rows for a training: mapped files, a thread ahead, and scratch."""

import itertools
import pathlib
import tempfile
import threading
import tracemalloc
import weakref

import h5py
import keras
import numpy as np
import pytest

import sda
from sda.rows import base, iterated, reading, scratch
from sda.rows.mapped import MappedRows
from sda.rows.read_ahead import ahead
from sda.rows.scratch import Scratch
from sda.training import feed


def numbers(count, width=5, dtype="float32"):
    return np.arange(count * width, dtype=dtype).reshape(count, width)


@pytest.fixture
def tmp(tmp_path, monkeypatch):
    """A folder for temporary files that a test can look into."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sda-reader")]


# Mapped files


def mapped(array, path, mode="r"):
    array.tofile(path)
    return np.memmap(path, array.dtype, mode, shape=array.shape)


@pytest.mark.parametrize("count", [10, 3000])  # of one thread, and of several
def test_rows_of_a_mapped_file_are_those_of_the_array(tmp_path, count):
    array = numbers(count)
    source = MappedRows(mapped(array, tmp_path / "rows"))
    order = np.random.default_rng(1).permutation(count).astype("int32")
    near = order[(order % 100 < 60) & (order % 7 > 0)]  # runs, once sorted, and not
    indices = (order, near, np.repeat(order, 2), -order, order[:0])
    for index in (slice(None), slice(2, 9), slice(1, None, 3), slice(9, 9), *indices):
        found = source[index]
        assert type(found) is np.ndarray
        assert found.flags.owndata
        np.testing.assert_array_equal(found, array[index])
    for index in (3, [1, 2], array[:, 0] > 20, (slice(1, 4), 2), np.array([[1, 2], [3, 4]])):
        np.testing.assert_array_equal(source[index], array[index])
    for wrong in ([0, count], [count - 1, count], [-count - 1, -count]):
        with pytest.raises(IndexError):
            source[np.array(wrong)]


def test_what_was_written_to_a_private_map_is_kept(tmp_path):
    array = mapped(numbers(3000), tmp_path / "rows", "c")
    array[7] = -1.0
    source = MappedRows(array)
    for index in (slice(None), np.arange(3000)[::-1], slice(5, 9), np.array([7])):
        assert (source[index] == -1.0).sum() == 5


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_what_was_read_of_a_mapped_file_takes_no_memory(tmp_path):
    array = mapped(numbers(40_000, 400), tmp_path / "rows")  # 64 MB

    def resident():
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("RssFile")]
        return int(line.split()[1]) * 1024

    before = resident()
    source = MappedRows(array)
    for start in range(0, 40_000, 4000):
        source[start : start + 4000]
        source[np.arange(start, start + 4000)[::-1]]
    assert resident() - before < 2**23
    assert float(array[:, 0].sum()) > 0
    assert resident() - before > 2**25  # it would show


def cut(path):
    """Leave one page of a file."""
    with open(path, "r+b") as file:
        file.truncate(4096)


def test_a_mapped_file_that_is_cut_short_is_refused(tmp_path):
    # Read through the map, what is gone kills the process.
    array = mapped(numbers(3000), tmp_path / "rows")
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["x"] = numbers(3000)
    h5 = sda.datasets.read(tmp_path / "rows.h5")
    assert h5.any_order
    stack = sda.StackedDenoisingAutoencoder([2], seed=1)
    stack.build((None, 5))
    for source in (MappedRows(array), MappedRows(array[100:200]), h5):
        source[np.array([2, 1])]
    for name in ("rows", "rows.h5"):
        cut(tmp_path / name)
    for source in (MappedRows(array), MappedRows(array[100:200]), h5):
        for index in (slice(None), np.array([2, 1]), [2]):
            with pytest.raises(ValueError, match=r"rows.* bytes 4096 are left"):
                source[index]
    with pytest.raises(ValueError, match="60000 bytes 4096 are left"):
        stack.encode(array)


def test_a_file_that_is_cut_short_between_epochs_stops_the_training(tmp_path, monkeypatch):
    # Each epoch reads the file.
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 6000)
    array = mapped(np.full((3000, 5), 0.5, "float32"), tmp_path / "rows")

    class Cut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            cut(tmp_path / "rows")

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    y = np.zeros((3000, 1), "float32")
    with pytest.raises(ValueError, match="rows, of whose 60000 bytes 4096 are left"):
        sda.fit(model, array, y, epochs=2, callbacks=[Cut()], verbose=0)


def test_types_that_numpy_does_not_have_are_not_mapped(tmp_path):
    values = np.array([[-10, 5], [1, -1], [2, 0]])
    twelve = h5py.h5t.STD_I16LE.copy()
    twelve.set_precision(12)
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_size(2)
    bfloat16.set_ebias(127)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        for name, kind in ((b"twelve", twelve), (b"bfloat16", bfloat16)):
            space = h5py.h5s.create_simple(values.shape)
            dataset = h5py.h5d.create(file.id, name, kind, space)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        file["plain"] = values
        file["yes"] = values > 0
    for name, is_mapped in {"twelve": False, "bfloat16": False, "plain": True, "yes": True}.items():
        source = sda.datasets.read(tmp_path / "rows.h5", name)
        assert source.any_order == is_mapped
        for index in (slice(None), np.array([2, 0])):
            expected = (values > 0 if name == "yes" else values)[index]
            np.testing.assert_array_equal(source[index], expected)


def test_another_file_under_the_name_of_one_that_is_open_is_not_mapped(tmp_path):
    for name, array in (("rows.h5", numbers(30)), ("other.h5", -numbers(30))):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = array
    with h5py.File(tmp_path / "rows.h5") as file:
        (tmp_path / "other.h5").replace(tmp_path / "rows.h5")
        np.testing.assert_array_equal(reading.as_rows(file["x"])[:], numbers(30))


# A thread ahead


def test_results_come_in_order_and_at_most_two_exist():
    alive, most = weakref.WeakSet(), []

    class Result:
        pass

    def make(number):
        result = Result()
        result.number = number
        alive.add(result)
        most.append(len(alive))
        return result

    results, seen = ahead(make, range(20)), []
    while (result := next(results, None)) is not None:
        seen.append(result.number)
        del result
    assert seen == list(range(20))
    assert max(most) <= 2
    assert not readers()


def test_the_next_is_made_while_one_is_in_use():
    made = [threading.Event() for _ in range(3)]

    def make(number):
        made[number].set()

    results = ahead(make, range(3))
    next(results)
    assert made[1].wait(30)
    assert not made[2].is_set()
    results.close()
    assert not made[2].is_set()
    assert not readers()


def test_errors_of_the_thread_come_in_their_place():
    def make(number):
        if number == 2:
            raise OSError("the disk is gone")
        return number

    results = ahead(make, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert not readers()


# Scratch


def batches(array, size=100):
    for start in range(0, len(array), size):
        yield [array[start : start + size], array[start : start + size, 0]]


def test_few_rows_are_kept_in_memory(tmp):
    array = numbers(950)
    with Scratch(memory=10**6) as kept:
        x, y = kept.keep(batches(array), "x")
        np.testing.assert_array_equal(x, array)
        np.testing.assert_array_equal(y, array[:, 0])
        assert not list(tmp.iterdir())


def test_many_rows_are_kept_in_files_that_go_with_the_context(tmp):
    array = numbers(950)
    with pytest.raises(KeyboardInterrupt), Scratch(memory=5000) as kept:  # noqa: PT012
        for _ in range(2):
            x, y = kept.keep(batches(array), "x")
            assert isinstance(x, np.memmap)
            np.testing.assert_array_equal(x, array)
            np.testing.assert_array_equal(y, array[:, 0])
        assert len([path for path in tmp.rglob("*") if path.stat().st_size > 1]) == 1 + 4
        raise KeyboardInterrupt
    assert not list(tmp.iterdir())


def test_memory_is_that_of_the_budget(tmp):
    array = np.zeros((1000, 100))
    with Scratch(memory=2**21) as kept:
        tracemalloc.start()
        try:
            (x,) = kept.keep(([array] for _ in range(50)), "x")  # 40 MB
            assert tracemalloc.get_traced_memory()[1] < 3 * 2**21
        finally:
            tracemalloc.stop()
        assert x.shape == (50_000, 100)


@pytest.mark.parametrize("memory", [None, 1000])
def test_a_source_may_use_its_buffer_again(tmp, memory):
    def one_buffer():
        buffer = np.empty((50, 5))
        for number in range(10):
            buffer[:] = number
            yield [buffer]

    with Scratch(memory) as kept:
        (x,) = kept.keep(one_buffer(), "x")
        np.testing.assert_array_equal(x[:, 0], np.repeat(np.arange(10), 50))


@pytest.mark.parametrize("memory", [None, 1000])
@pytest.mark.parametrize("other", [[np.zeros((5, 4))], [np.zeros((5, 5)), np.zeros(5)]])
def test_batches_that_differ_are_refused(tmp, memory, other):
    with Scratch(memory) as kept, pytest.raises(ValueError, match="`x` to yield batches of one"):
        kept.keep([[np.zeros((50, 5))], other], "x")


def test_other_types_than_those_in_the_file_are_refused(tmp):
    with Scratch(1000) as kept, pytest.raises(ValueError, match=r"rows of int32 \(5,\) and of fl"):
        kept.keep([[np.zeros((100, 5), "int32")], [np.zeros((9, 5), "float32")]], "x")


def test_what_never_ends_is_stopped_before_the_disk_is_full(tmp, monkeypatch):
    class Disk:
        def __init__(self, path):
            used = sum(f.stat().st_size for f in tmp.rglob("*") if f.is_file())
            self.free = 100_000 - used

    monkeypatch.setattr(scratch.shutil, "disk_usage", Disk)
    endless = ([np.zeros((10, 5))] for _ in itertools.count())
    message = rf"`x` to end, and to fit 90% of the free disk space in {tmp}.*TMPDIR.*examples"
    with Scratch(1000) as kept:
        with pytest.raises(ValueError, match=message):
            kept.keep(endless, "x")
        assert 80_000 < 100_000 - Disk(tmp).free <= 90_000
    assert not list(tmp.iterdir())


# Sources


def test_a_path_is_refused_and_told_how_to_be_read():
    for path in ("rows.h5", pathlib.Path("rows.h5")):
        with pytest.raises(ValueError, match=r"`x` to be rows.*'rows.h5'.*sda\.datasets\.read"):
            reading.as_rows(path)


def test_chunks_are_unpacked_for_any_order_where_there_are_many(tmp):
    array = numbers(300)
    with h5py.File(tmp / "rows.h5", "w") as file, Scratch(1000) as kept:
        packed = file.create_dataset("packed", data=array, chunks=(7, 5), compression="gzip")
        plain = file.create_dataset("plain", data=array)
        for dataset, same in ((packed, False), (plain, True)):
            source = reading.as_rows(dataset)
            found = reading.in_any_order(source, kept)
            assert (found is source) == same
            np.testing.assert_array_equal(found[np.arange(300)[::-1]], array[::-1])
        small = reading.as_rows(file.create_dataset("small", data=array[:9], chunks=(3, 5)))
        assert reading.in_any_order(small, kept) is small


def test_so_are_those_of_a_part(tmp):
    array = numbers(300)
    with h5py.File(tmp / "rows.h5", "w") as file, Scratch(1000) as kept:
        dataset = file.create_dataset("packed", data=array, chunks=(7, 5), compression="gzip")
        for some, expected in (
            (reading.as_rows(dataset).part(20, 280), array[20:280]),
            (reading.as_rows(dataset).take(np.arange(0, 300, 2)), array[::2]),
        ):
            found = reading.in_any_order(some, kept)
            assert found is not some
            assert found.any_order
            np.testing.assert_array_equal(found[:], expected)


def test_some_rows_of_any_source_are_rows(tmp_path):
    array = numbers(30)

    class Source:
        shape, dtype = array.shape, array.dtype

        def __len__(self):
            return 30

        def __getitem__(self, rows):
            return array[rows]

    order = np.array([4, 0, 4, 2])
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["x"] = array
        for source in (array, mapped(array, tmp_path / "rows"), file["x"], Source()):
            rows = reading.as_rows(source)
            for some, expected in (
                (rows, array),
                (rows.part(5, 25), array[5:25]),
                (rows.part(5, 25).part(2, 9), array[7:14]),
                (rows.take(np.arange(29, 3, -2)), array[29:3:-2]),
                (rows.take(np.arange(9)).part(1, 8), array[1:8]),
            ):
                assert (some.shape, some.dtype, len(some)) == (
                    expected.shape, expected.dtype, len(expected)
                )  # fmt: skip
                for index in (slice(None), slice(1, 4), slice(0, None, 3), order):
                    np.testing.assert_array_equal(some[index], expected[index])
                np.testing.assert_array_equal(np.concatenate(list(some.pieces(4))), expected)
                assert some.digest() == reading.as_rows(expected).digest()


@pytest.mark.parametrize("settings", [{"chunks": (7, 5), "compression": "gzip"}, {"dtype": ">f4"}])
def test_near_rows_of_a_dataset_that_is_not_mapped_are_read_in_spans(tmp, settings):
    array, generator = numbers(3000), np.random.default_rng(1)
    with h5py.File(tmp / "rows.h5", "w") as file:
        source = reading.as_rows(file.create_dataset("x", data=array, **settings))
        assert not source.any_order
        dataset, read = source.dataset, []

        class Counted:
            def __getitem__(self, index):
                read.append(index)
                return dataset[index]

            def __getattr__(self, name):
                return getattr(dataset, name)

        source.dataset = Counted()
        window = np.concatenate([np.arange(a, a + 200) for a in (2800, 0, 900, 1100)])
        for share, most in ((1.0, 3), (0.5, 5)):
            chosen = generator.permutation(window)[: round(share * len(window))]
            chosen = np.append(chosen, chosen[-1:])  # twice
            np.testing.assert_array_equal(source[chosen], array[chosen])
            assert all(isinstance(index, slice) for index in read)
            assert len(read) <= most
            read.clear()
        far = generator.permutation(3000)[:20]
        np.testing.assert_array_equal(source[far], array[far])
        assert len(read) == 1


def test_pieces_are_bounded_in_rows_and_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "PIECE_ROWS", 8)
    monkeypatch.setattr(base, "PIECE_BYTES", 100)
    for width, longest in ((1, 8), (5, 4), (500, 1)):
        array = numbers(30, width)
        for source in (array, MappedRows(mapped(array, tmp_path / str(width)))):
            found = list(reading.pieces(source))
            np.testing.assert_array_equal(np.concatenate(found), array)
            assert len(found[0]) == longest


class Batches(keras.utils.PyDataset):
    def __init__(self, yielded):
        super().__init__()
        self.yielded = yielded

    @property
    def num_batches(self):
        return len(self.yielded)

    def __getitem__(self, i):
        return self.yielded[i]


def test_batches_may_be_nested():
    a, b, y = numbers(9), numbers(9, 2), np.arange(9)
    dataset = Batches([({"a": a[:5], "b": b[:5]}, y[:5]), ({"a": a[5:], "b": b[5:]}, y[5:])])
    x, labels = iterated.read_once(dataset, "x")
    np.testing.assert_array_equal(x["a"], a)
    np.testing.assert_array_equal(x["b"], b)
    np.testing.assert_array_equal(labels, y)
    np.testing.assert_array_equal(reading.as_rows(Batches([(a, y)]))[:], a)
