"""Orders of the examples: all of them once an epoch, well mixed, and readable from a disk."""

import numpy as np
import pytest

import sda
from sda import streams
from sda.rows import orders
from sda.rows.orders import BLOCK, WINDOW, Blocks, InOrder, Permutation, order_of


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK * WINDOW, 3 * BLOCK * WINDOW + 1000])
def test_every_row_comes_once(rows):
    order = Blocks(1).indices(0, rows)
    assert order.dtype == "int32"
    np.testing.assert_array_equal(np.sort(order), np.arange(rows))


def test_an_order_is_a_function_of_seed_and_epoch():
    at = ((1, 0), (1, 1), (2, 0), (1, 0))
    orders = [Blocks(seed).indices(epoch, 20_000) for seed, epoch in at]
    np.testing.assert_array_equal(orders[0], orders[3])
    for other in orders[1:3]:
        assert np.mean(orders[0] == other) < 0.01
        # Not only the rows of a block, the blocks too come in another order.
        assert np.mean(orders[0] // BLOCK == other // BLOCK) < 0.2


def test_a_window_is_made_of_whole_blocks():
    rows = 100 * BLOCK + 7
    order, count = Blocks(1).indices(0, rows), 0
    while len(order):
        # The last block of the rows is shorter, wherever it comes.
        window = order[: BLOCK * WINDOW]
        if np.any(window >= 100 * BLOCK) or 100 * BLOCK in order[: BLOCK * WINDOW + 1]:
            window = order[: BLOCK * (WINDOW - 1) + 7]
        order, count = order[len(window) :], count + 1
        firsts = np.unique(window // BLOCK) * BLOCK
        assert len(firsts) <= WINDOW
        whole = np.concatenate([np.arange(a, min(a + BLOCK, rows)) for a in firsts])
        np.testing.assert_array_equal(np.sort(window), whole)
    assert count == -(-101 // WINDOW)


def test_rows_and_blocks_are_mixed():
    rows = 40 * BLOCK * WINDOW
    order = Blocks(1).indices(0, rows)
    windows = order.reshape(40, -1)
    # A batch is drawn from most blocks of its window, and neighbours do not stay together.
    batches = order.reshape(-1, 128) // BLOCK
    assert np.mean([len(np.unique(batch)) for batch in batches]) > WINDOW - 1
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.001
    # A random permutation moves a row by a third of the whole, on average.
    displacement = np.abs(order - np.arange(rows)).mean() / rows
    assert abs(displacement - 1 / 3) < 0.03
    for window in windows:
        rank = np.argsort(np.argsort(window))
        displacement = np.abs(rank - np.arange(len(rank))).mean() / len(rank)
        assert abs(displacement - 1 / 3) < 0.02
    # The blocks of a window lie anywhere.
    apart = [np.diff(np.unique(window // BLOCK)) for window in windows]
    assert np.mean(np.concatenate(apart) == 1) < 0.1


def test_every_row_may_come_at_every_place(monkeypatch):
    monkeypatch.setattr(orders, "BLOCK", 2)
    monkeypatch.setattr(orders, "WINDOW", 3)
    counts = np.zeros((20, 20))
    for seed in range(2000):
        counts[np.arange(20), Blocks(seed).indices(0, 20)] += 1
    # 100 each, with a standard deviation of 9.7.
    assert np.abs(counts - 100).max() < 50


@pytest.mark.parametrize(
    ("shuffle", "kind"), [(True, Permutation), (False, InOrder), ("blocks", Blocks)]
)
def test_shuffle_is_the_name_of_an_order(shuffle, kind):
    order = order_of(shuffle, 3)
    assert type(order) is kind
    assert order.get_config() == {"seed": 3}
    assert order.length(90) == 90
    np.testing.assert_array_equal(order.indices(2, 90), kind(3).indices(2, 90))


def test_what_is_drawn_stays_what_it_was(monkeypatch):
    """Runs of older versions go on in the same orders."""
    monkeypatch.setattr(orders, "BLOCK", 2)
    monkeypatch.setattr(orders, "WINDOW", 2)
    assert InOrder().indices(5, 4).tolist() == [0, 1, 2, 3]
    assert Permutation(3).indices(2, 10).tolist() == [2, 0, 7, 5, 6, 9, 1, 4, 8, 3]
    assert Blocks(3).indices(2, 10).tolist() == [4, 2, 5, 3, 0, 8, 1, 9, 6, 7]


def test_no_two_streams_of_one_seed_begin_with_the_same_integer():
    """Also those that stack, dA and fine-tuning derive from the same seed."""
    for seed in (0, 1, 7, 2**31 - 1):
        found = [streams.stream(seed, name, k) for name in streams.STREAMS for k in range(8)]
        found += [
            streams.stream(streams.spawn(seed, k), name, i)
            for name in ("initialiser", "noise")
            for k in range(8)
            for i in range(2)
        ]
        found += [streams.spawn(seed, k) for k in range(8)]
        assert len(set(found)) == len(found)
    assert streams.stream(None, "order", 1) is None


def test_parts_that_share_a_seed_share_no_integer():
    stack = sda.StackedDenoisingAutoencoder([6, 5, 4], tied=False, seed=3)
    stack.build((None, 7))
    classifier = stack.classifier(2, dropout=0.5, noise=0.1)
    seeds = [la.seed for la in classifier.layers if getattr(la, "seed", None) is not None]
    for dA in stack.autoencoders:
        seeds += [dA.seed, dA.corruption.seed, dA.encoder.kernel_initializer.seed]
    seeds += [streams.stream(3, "order", k) for k in range(3)]
    assert len(seeds) == 5 + 9 + 3
    assert len(set(seeds)) == len(seeds)
