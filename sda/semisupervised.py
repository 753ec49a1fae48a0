"""Few labels, many examples: labels spread over the neighbour graph of the codes."""

import numpy as np

from sda.checks import check_count, check_number


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
    codes = np.asarray(codes, "float32")
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


def spread_labels(graph, y, num_classes, alpha=0.99, iterations=100):
    """Return class probabilities for every row, from the labels of some and a graph of all.

    F ← α S F + (1-α) Y with S = D^(-1/2) W D^(-1/2) passes labels on from neighbour to neighbour
    (Zhou et al., "Learning with local and global consistency", NIPS 2003). The columns of F are
    then scaled to the share of each class among the labels, the rows to sum 1.

    A classifier that is fine-tuned on the probabilities (`stack.classifier`, with
    "categorical_crossentropy") learns from the examples without labels too.

    Args:
        graph: Symmetric sparse matrix W of shape `(n, n)`, as `neighbour_graph` returns it.
        y: Integers of shape `(n,)`: the label of a row, or -1 where it is not known.
        num_classes: Integer.
        alpha: Float in (0, 1), the share that comes from the neighbours.
        iterations: Integer, the steps that a label can travel.

    Returns:
        float32 array of shape `(n, num_classes)`, each row of sum 1. A row that no label reaches
        has the shares of the classes among the labels.

    Raises:
        ValueError: If no row has a label, or an argument is out of its range.

    Example:

    >>> graph = sda.semisupervised.neighbour_graph([[0.0], [0.1], [5.0], [5.1]], neighbours=1)
    >>> sda.semisupervised.spread_labels(graph, [0, -1, 1, -1], num_classes=2).argmax(axis=1)
    array([0, 0, 1, 1])
    """
    check_count(num_classes, "num_classes")
    check_count(iterations, "iterations")
    check_number(alpha, "alpha", "in (0, 1)", lambda a: 0 < a < 1)
    y = np.asarray(y)
    if y.shape != graph.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"Expected `y` to hold one integer for each of the {graph.shape[0]} rows of `graph`. "
            f"Received: {y.dtype} of shape {y.shape}"
        )
    (labelled,) = np.nonzero(y != -1)
    if not labelled.size or y.min() < -1 or y.max() >= num_classes:
        raise ValueError(
            f"Expected `y` to hold labels from 0 to {num_classes - 1}, at least one, and -1 where "
            f"there is none. Received: values from {y.min()} to {y.max()}"
        )
    start = np.zeros((len(y), num_classes), "float32")
    start[labelled, y[labelled]] = 1
    prior = start.sum(axis=0) / labelled.size
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
