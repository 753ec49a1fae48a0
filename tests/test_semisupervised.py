"""Labels spread over the neighbour graph of the codes."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_digits

from sda.semisupervised import neighbour_graph, pseudo_labels, spread_labels, targets


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x[:300] / 16).astype("float32"), y[:300]


def few(y, each=2):
    """Return `y` with labels for the first `each` of a class, and -1 for all others."""
    known = np.full(len(y), -1)
    for label in np.unique(y):
        first = np.flatnonzero(y == label)[:each]
        known[first] = label
    return known


# The graph


def test_the_graph_is_the_formula(digits):
    x = digits[0][:40].astype("float64")
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=-1))
    expected = np.zeros((40, 40))
    for i, row in enumerate(distance):
        nearest = np.argsort(row)[1:6]
        expected[i, nearest] = np.exp(-((row[nearest] / row[nearest].mean()) ** 2))
    expected = np.maximum(expected, expected.T)
    graph = neighbour_graph(x, neighbours=5, components=None)
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-5)


def test_components_that_hold_everything_change_nothing():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(50, 3)) @ generator.normal(size=(3, 8))
    full = neighbour_graph(x, components=None).toarray()
    np.testing.assert_allclose(neighbour_graph(x, components=3).toarray(), full, atol=1e-5)
    assert abs(neighbour_graph(x, components=1).toarray() - full).max() > 0.1


def test_rows_that_coincide_are_joined_fully():
    graph = neighbour_graph(np.ones((4, 3)), neighbours=2)
    assert set(graph.data) == {1.0}


# Spreading


def test_it_converges_to_the_closed_form(digits):
    """F* = (1-α)(I - αS)⁻¹Y, in float64, then scaled to the classes' shares."""
    x, y = digits
    graph, known, alpha = neighbour_graph(x, 7), few(y), 0.9
    w = graph.toarray().astype("float64")
    root = 1 / np.sqrt(w.sum(axis=1))
    s = root[:, None] * w * root
    start = (known[:, None] == np.arange(10)).astype("float64")
    f = (1 - alpha) * np.linalg.solve(np.eye(len(x)) - alpha * s, start)
    f /= f.sum(axis=0)
    f /= f.sum(axis=1, keepdims=True)
    spread = spread_labels(graph, known, 10, alpha, iterations=300)
    np.testing.assert_allclose(spread, f, atol=1e-4)


def test_two_labels_a_class_go_far(digits):
    x, y = digits
    known = few(y)
    wrong = spread_labels(neighbour_graph(x), known, 10).argmax(axis=1) != y
    assert wrong[known == -1].mean() < 0.15


def test_rows_are_probabilities_also_where_no_label_comes():
    islands = neighbour_graph(np.array([[0.0], [0.1], [9.0], [9.1]]), neighbours=1)
    spread = spread_labels(islands, [1, -1, -1, -1], 2)
    np.testing.assert_allclose(spread, [[0, 1]] * 4)
    spread = spread_labels(islands, np.array([1, 0, -1, -1]), 2)
    np.testing.assert_allclose(spread[2:], [[0.5, 0.5]] * 2)


def test_the_classes_keep_their_shares():
    x = np.random.default_rng(1).normal(size=(200, 3))
    known = np.r_[[0, 0, 0, 1], np.full(196, -1)]
    graph = neighbour_graph(x, 10)
    few_steps = spread_labels(graph, known, 2, iterations=200)
    assert few_steps[:, 0].mean() == pytest.approx(0.75, abs=0.1)


def test_labels_are_rows_of_one(digits):
    x, y = digits
    graph, known = neighbour_graph(x), few(y)
    rows = (known[:, None] == np.arange(10)).astype("float64")
    np.testing.assert_array_equal(spread_labels(graph, rows), spread_labels(graph, known, 10))
    np.testing.assert_array_equal(spread_labels(graph, known), spread_labels(graph, known, 10))


def test_it_smooths_errors_away(digits):
    """Of predictions a fifth of which are wrong, most are put right by their neighbours."""
    x, y = digits
    generator = np.random.default_rng(1)
    said = np.where(generator.random(len(y)) < 0.2, generator.integers(10, size=len(y)), y)
    smooth = spread_labels(neighbour_graph(x), np.eye(10)[said], alpha=0.8)
    assert np.mean(said != y) > 0.15
    assert np.mean(smooth.argmax(axis=1) != y) < 0.05


def test_certainty_is_one_minus_the_relative_entropy():
    p = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0.1, 0.2, 0.7]])
    labels, weights = pseudo_labels(p)
    np.testing.assert_array_equal(labels, [0, 0, 0, 2])
    last = 1 + (0.1 * np.log(0.1) + 0.2 * np.log(0.2) + 0.7 * np.log(0.7)) / np.log(3)
    np.testing.assert_allclose(weights, [1, 0, 1 - np.log(2) / np.log(3), last], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [-1, -1, -1, -1]}, "`y` to hold labels from 0 to 1"),
        ({"y": [0, 2, -1, -1]}, "`y` to hold labels from 0 to 1"),
        ({"y": [0, -2, -1, -1]}, "`y` to hold labels from 0 to 1"),
        (
            {"y": [0, 1]},
            "`y` to hold one integer, or one row of probabilities, for each of the 4 rows",
        ),
        ({"y": [0.0, 1.0, 0.5, 0.5]}, "`y` to hold one integer"),
        ({"y": np.ones((4, 3))}, "`y` to hold rows of 2 probabilities"),
        ({"y": np.zeros((4, 2))}, "`y` to hold rows of 2 probabilities"),
        ({"y": np.full((4, 2), np.nan)}, "`y` to hold rows of 2 probabilities"),
        ({"y": -np.ones((4, 2))}, "`y` to hold rows of 2 probabilities"),
        ({"alpha": 1.0}, "`alpha` to be a number, in (0, 1)"),
        ({"iterations": 0}, "`iterations` to be an integer"),
        ({"num_classes": 0}, "`num_classes` to be an integer"),
    ],
)
def test_spreading_refuses(change, message):
    graph = neighbour_graph([[0.0], [1.0], [2.0], [3.0]], neighbours=1)
    arguments = {"graph": graph, "y": [0, 1, -1, -1], "num_classes": 2, **change}
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        spread_labels(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": 4}, "`neighbours` to be below the 4 rows"),
        ({"neighbours": 0}, "`neighbours` to be an integer"),
        ({"components": 0}, "`components` to be an integer"),
    ],
)
def test_the_graph_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        neighbour_graph(np.eye(4), **{"neighbours": 2, **change})


# What a classifier learns


def test_rows_without_a_label_learn_what_spreads_to_them(digits):
    x, y = digits
    graph, known = neighbour_graph(x), few(y)
    spread = spread_labels(graph, known, 10, 0.9)
    expected, certainty = pseudo_labels(spread)
    labels, weights = targets(graph, known, alpha=0.9)
    free = known < 0
    np.testing.assert_array_equal(labels[free], expected[free])
    np.testing.assert_array_equal(labels[~free], y[~free])
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    of_label = weights[~free][0]
    np.testing.assert_allclose(weights[~free], of_label)
    np.testing.assert_allclose(weights[free], certainty[free] * of_label, rtol=1e-5)


def test_one_class_is_certain():
    labels, certainty = pseudo_labels(np.ones((4, 1), "float32"))
    assert (labels.tolist(), certainty.tolist()) == ([0] * 4, [1.0] * 4)
    graph = neighbour_graph([[0.0], [0.1], [5.0], [5.1]], neighbours=1)
    for predictions in (None, np.ones((4, 1), "float32")):
        labels, weights = targets(graph, [0, -1, -1, -1], predictions)
        assert (labels.tolist(), weights.tolist()) == ([0] * 4, [1.0] * 4)


def test_predictions_are_smoothed_and_give_way_to_labels(digits):
    x, y = digits
    graph, known = neighbour_graph(x), few(y)
    generator = np.random.default_rng(1)
    # A classifier that is wrong on every fourth row, also on those with a label.
    said = np.where(generator.random(len(y)) < 0.25, (y + 1) % 10, y)
    predictions = 0.9 * np.eye(10, dtype="float32")[said] + 0.01
    labels, _ = targets(graph, known, predictions, alpha=0.9)
    assert np.mean(labels != y) < 0.5 * np.mean(said != y)
    np.testing.assert_array_equal(labels[known >= 0], y[known >= 0])


@pytest.mark.parametrize(
    ("y", "predictions", "said"),
    [
        ([-1, -1, -1, -1], None, "at least one"),
        ([0, 1, -1], None, "4 rows of `graph`"),
        ([0, 2, -1, -1], np.full((4, 2), 0.5), "labels from 0 to 1"),
        ([0, 1, -1, -1], np.full((3, 2), 0.5), r"`predictions` .* shape \(4, 2\).*\(3, 2\)"),
        ([0, 1, -1, -1], np.array([[0.5, 0.5]] * 3 + [[-0.5, 1.5]]), "values from -0.5"),
    ],
)
def test_targets_of_the_wrong_kind_are_refused(y, predictions, said):
    graph = neighbour_graph([[0.0], [0.1], [5.0], [5.1]], neighbours=1)
    with pytest.raises(ValueError, match=said):
        targets(graph, y, predictions)
