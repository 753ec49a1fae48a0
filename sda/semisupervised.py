"""Few labels, many examples: labels spread over the neighbour graph of the codes."""

import numpy as np

from sda.checks import check_count, check_number
from sda.rows.arrays import in_place
from sda.rows.reading import as_rows


def neighbour_graph(codes, neighbours=10, components=64):
    """Return the graph that joins each row to its nearest, closer ones more strongly.

    Wᵢⱼ = exp(-dᵢⱼ²/d̄ᵢ²), d the Euclidean distance and d̄ᵢ the mean distance of row i to its
    neighbours; Wᵢⱼ and Wⱼᵢ become the larger of the two. The cost grows with the square of the
    rows.

    Args:
        codes: Array of shape `(n, features)`: codes of a stack, or any features.
        neighbours: Integer, the nearest rows that each row is joined to.
        components: Integer, the principal components in which distances are taken, or None for all
            features.

    Returns:
        `scipy.sparse.csr_matrix` of shape `(n, n)`, symmetric, zero on the diagonal.

    Raises:
        ValueError: If `neighbours` is not below the number of rows, or `components` is below 1.
        ImportError: If scikit-learn is not installed.

    Example:

    >>> graph = sda.semisupervised.neighbour_graph(np.random.rand(50, 8), neighbours=3)
    >>> graph.shape, graph.nnz >= 150
    ((50, 50), True)
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.neighbors import kneighbors_graph
    except ImportError as error:
        raise ImportError(
            "Expected the package `scikit-learn` to be installed. Run `pip install scikit-learn`."
        ) from error
    codes = np.asarray(as_rows(codes, "codes")[:], "float32")
    check_count(neighbours, "neighbours")
    if neighbours >= len(codes):
        raise ValueError(
            f"Expected `neighbours` to be below the {len(codes)} rows. "
            f"Received: neighbours={neighbours}"
        )
    if components is not None and check_count(components, "components") < min(codes.shape):
        codes = PCA(components, svd_solver="covariance_eigh").fit_transform(codes)
    graph = kneighbors_graph(codes, neighbours, mode="distance")
    distances = graph.data.reshape(-1, neighbours)
    # Rows that all coincide are as near as can be.
    scale = np.maximum(distances.mean(axis=1, keepdims=True), np.finfo("float32").tiny)
    graph.data = np.exp(-np.square(distances / scale)).reshape(-1)
    return graph.maximum(graph.T).tocsr()


def spread_labels(graph, y, num_classes=None, alpha=0.99, iterations=100):
    """Return class probabilities for every row, from the labels of some and a graph of all.

    F ← α S F + (1-α) Y with S = D^(-1/2) W D^(-1/2) passes labels on from neighbour to neighbour
    (Zhou et al., "Learning with local and global consistency", NIPS 2003). The columns of F are
    then scaled to the share of each class in Y, the rows to sum 1.

    Args:
        graph: Symmetric sparse matrix W of shape `(n, n)`, as `neighbour_graph` returns it.
        y: Integers of shape `(n,)`: the label of a row, or -1 where it is not known. Or Y itself,
            floats of shape `(n, num_classes)`, such as a classifier's predictions for all rows:
            then their errors are smoothed away.
        num_classes: Integer, or None for what `y` shows.
        alpha: Float in (0, 1), the share that comes from the neighbours. The fewer labels, the
            nearer to 1.
        iterations: Integer, the steps that a label can travel.

    Returns:
        float32 array of shape `(n, num_classes)`, each row of sum 1. A row that no label reaches
        has the shares of the classes in Y.

    Raises:
        ValueError: If no row has a label, or an argument is out of its range.

    Example:

    >>> graph = sda.semisupervised.neighbour_graph([[0.0], [0.1], [5.0], [5.1]], neighbours=1)
    >>> sda.semisupervised.spread_labels(graph, [0, -1, 1, -1]).argmax(axis=1).tolist()
    [0, 0, 1, 1]
    """
    check_count(iterations, "iterations")
    check_number(alpha, "alpha", "in (0, 1)", lambda a: 0 < a < 1)
    start = _start(y, num_classes, graph.shape[0])
    prior = start.sum(axis=0) / start.sum()
    degree = np.asarray(graph.sum(axis=1)).reshape(-1)
    root = (1 / np.sqrt(np.maximum(degree, np.finfo("float32").tiny))).astype("float32")
    normalised = graph.astype("float32").multiply(root[:, None]).multiply(root).tocsr()
    spread = start
    for _ in range(iterations):
        spread = alpha * (normalised @ spread) + (1 - alpha) * start
    mass = spread.sum(axis=0)
    spread = spread * (prior / np.where(mass > 0, mass, 1))
    total = spread.sum(axis=1, keepdims=True)
    return np.where(total > 0, spread / np.where(total > 0, total, 1), prior).astype("float32")


def pseudo_labels(probabilities):
    """Return the likeliest class of each row, and how certain it is: 1 - H(p) / log(classes).

    As labels and sample weights of all examples they let a classifier learn from those without
    labels too (Iscen et al., "Label propagation for deep semi-supervised learning", CVPR 2019).

    Args:
        probabilities: Array of shape `(n, num_classes)`, each row of sum 1.

    Returns:
        `(labels, weights)`: integers of shape `(n,)`, and float32 of the same shape from 0, where
        all classes are equally likely, to 1.

    Example:

    >>> labels, weights = sda.semisupervised.pseudo_labels(np.array([[0.0, 1.0], [0.5, 0.5]]))
    >>> labels.tolist(), weights.tolist()
    ([1, 0], [1.0, 0.0])
    """
    p = np.asarray(probabilities, "float64")
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)
    # Of one class all is certain, and log(1) = 0 says nothing.
    return p.argmax(axis=1), (1 - entropy / np.log(max(p.shape[1], 2))).astype("float32")


def targets(graph, y, predictions=None, alpha=0.99):
    """Return what a classifier can learn of all rows, where few have labels: classes and weights.

    The labels spread over the graph (`spread_labels`), or a classifier's predictions are smoothed
    over it; each row learns its likeliest class by its certainty (`pseudo_labels`), and those that
    have a label learn that, by weight 1 before all weights are divided by their mean. To train and
    predict in turns is self-training; with the graph, Iscen et al., CVPR 2019.

    Args:
        graph: Symmetric sparse matrix of shape `(n, n)`, as `neighbour_graph` returns it.
        y: Integers of shape `(n,)`: the label of a row, or -1 where it is not known.
        predictions: Class probabilities of shape `(n, num_classes)`, or None: then the labels
            spread.
        alpha: Float in (0, 1), the share that comes from the neighbours: near 1 for labels, .5 to
            .9 for predictions.

    Returns:
        `(labels, weights)`: integers and float32, both of shape `(n,)`; the mean of the weights
        is 1.

    Raises:
        ValueError: If no row has a label, or an argument is out of its range.

    Example:

    >>> graph = sda.semisupervised.neighbour_graph([[0.0], [0.1], [5.0], [5.1]], neighbours=1)
    >>> labels, weights = sda.semisupervised.targets(graph, [0, -1, 1, -1])
    >>> labels.tolist(), weights.shape
    ([0, 0, 1, 1], (4,))
    """
    y = np.asarray(in_place(y, "y"))
    classes = None if predictions is None else np.shape(predictions)[-1]
    start = _start(y, classes, graph.shape[0])  # refuses what are no labels
    known = y >= 0
    if predictions is not None:
        predictions = np.asarray(in_place(predictions, "predictions"), "float32")
        if predictions.shape != start.shape or not (predictions >= 0).all():
            raise ValueError(
                f"Expected `predictions` to hold probabilities, of shape {start.shape}. "
                f"Received: shape {predictions.shape}, values from {predictions.min():g}"
            )
        start = np.where(known[:, None], start, predictions)
    labels, weights = pseudo_labels(spread_labels(graph, start, alpha=alpha))
    labels[known], weights[known] = y[known], 1
    return labels, weights / weights.mean()


def _start(y, num_classes, rows):
    """Return `y` as the matrix Y of `spread_labels`, or raise `ValueError`."""
    y = np.asarray(in_place(y, "y"))
    kinds = {1: "iu", 2: "f"}.get(y.ndim, "")
    if y.shape[:1] != (rows,) or y.dtype.kind not in kinds:
        raise ValueError(
            "Expected `y` to hold one integer, or one row of probabilities, for each of the "
            f"{rows} rows of `graph`. Received: {y.dtype} of shape {y.shape}"
        )
    if num_classes is None:
        num_classes = y.shape[1] if y.ndim == 2 else max(int(y.max()) + 1, 1)
    check_count(num_classes, "num_classes")
    if y.ndim == 2:
        if y.shape[1] != num_classes or not (y >= 0).all() or not y.sum() > 0:
            raise ValueError(
                f"Expected `y` to hold rows of {num_classes} probabilities, not all 0. "
                f"Received: shape {y.shape}, values from {y.min():g} to {y.max():g}"
            )
        return y.astype("float32")
    if y.max() < 0 or y.min() < -1 or y.max() >= num_classes:
        raise ValueError(
            f"Expected `y` to hold labels from 0 to {num_classes - 1}, at least one, and -1 where "
            f"there is none. Received: values from {y.min()} to {y.max()}"
        )
    return (y[:, None] == np.arange(num_classes)).astype("float32")
