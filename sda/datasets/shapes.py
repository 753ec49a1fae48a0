"""White shapes on black, 28x28: the rectangles and the convex sets of Larochelle et al. (2007)."""

import numpy as np

SIDE = 28
DIAGONAL = SIDE * 2**0.5


def sides_of(allowed):
    """Returns the heights and widths from 1 to 28 for which `allowed(height, width)` holds.

    To draw a row of the result is to draw both sides uniformly and to refuse what is not allowed.

    Args:
        allowed: Function of two integer arrays to a boolean array.

    Returns:
        Integer array of shape `(pairs, 2)`.

    Example:

    >>> sides_of(lambda height, width: height * width > 27 * 27).tolist()
    [[27, 28], [28, 27], [28, 28]]
    """
    sides = np.arange(1, SIDE + 1)
    return np.argwhere(allowed(sides[:, None], sides[None, :])) + 1


def place_rectangles(generator, count, sides):
    """Draws rectangles: their sides from `sides`, their corner wherever they fit.

    Args:
        generator: `numpy.random.Generator`.
        count: Integer, the number of rectangles.
        sides: Integer array of shape `(pairs, 2)`, heights and widths to choose from.

    Returns:
        Three boolean arrays: `filled` and `outline` of shape `(count, 28, 28)`, true inside and
        on the border, and true on the border alone; and `tall` of shape `(count,)`, true where the
        height exceeds the width.
    """
    height, width = sides[generator.integers(len(sides), size=count)].T
    in_rows, edge_rows = _spans(generator, height)
    in_columns, edge_columns = _spans(generator, width)
    filled = in_rows[:, :, None] & in_columns[:, None, :]
    outline = filled & (edge_rows[:, :, None] | edge_columns[:, None, :])
    return filled, outline, height > width


def _spans(generator, length):
    """Draws spans of `length` on a line of 28: which pixels they cover, and which are their ends"""
    first = generator.integers(SIDE + 1 - length)[:, None]
    last = first + length[:, None] - 1
    pixel = np.arange(SIDE)
    return (pixel >= first) & (pixel <= last), (pixel == first) | (pixel == last)


def convex_sets(generator, count, stop, least):
    """Draws convex sets of pixels: intersections of half-planes.

    The half-planes of a set share one point, uniform on the image, so that there is something in
    all of them. Their angles are uniform, and their edges lie at uniform distances from the point,
    up to the diagonal of the image. Their number is geometric with success probability `stop`: 1,
    2, 3, …. (The authors say "location and orientation uniform" and no more. Of the laws tried,
    this one gives what they report with their parameters: equally many white pixels in both
    classes, and the error of a support vector machine.)

    Args:
        generator: `numpy.random.Generator`.
        count: Integer, the number of sets.
        stop: Float in (0, 1], the parameter of the geometric distribution.
        least: Integer, the pixels below which a set is refused and drawn again.

    Returns:
        Boolean array of shape `(count, 28, 28)`.
    """
    return _collect(count, lambda n: _intersections(generator, n, stop, least))


def non_convex_sets(generator, count):
    """Draws unions of two to four convex sets that are not convex.

    The parts have 0.07 for `stop` and at least 10 pixels each.

    Args:
        generator: `numpy.random.Generator`.
        count: Integer, the number of sets.

    Returns:
        Boolean array of shape `(count, 28, 28)`.
    """

    def unions(n):
        parts = generator.integers(2, 5, size=n)
        sets = convex_sets(generator, parts.sum(), 0.07, 10)
        sets = np.logical_or.reduceat(sets, np.cumsum(parts) - parts)
        return sets[~is_convex(sets)]

    return _collect(count, unions)


def is_convex(sets):
    """Tells which sets of pixels are convex: equal to the lattice points of their own convex hull.

    Column by column. Between the columns a and b, the chord of their top pixels runs below the top
    of the hull; the hull's top in a column is the highest chord over it, and likewise its bottom.
    All in integers, so exact.

    Args:
        sets: Boolean array of shape `(count, height, width)`.

    Returns:
        Boolean array of shape `(count,)`. An empty set is convex.

    Example:

    >>> bend, bar = [[True, False], [True, True]], [[False, True], [False, True]]
    >>> is_convex(np.array([bend, bar])).tolist()
    [True, True]
    """
    count, height, width = sets.shape
    rows = np.arange(height, dtype="int32")[:, None]
    # Far enough outside for no chord from an empty column to reach the highest one.
    nowhere = height * (width + 1)
    bottom = np.where(sets, rows, -nowhere).max(axis=1)
    top = -np.where(sets, rows, nowhere).min(axis=1)
    pixels = sets.sum(axis=1)
    convex = np.ones(count, bool)
    for column in range(width):
        low = _highest_chord(bottom, column)
        high = _highest_chord(top, column)
        # Rows -high to low, if any, are in the hull.
        convex &= pixels[:, column] == np.maximum(low + high + 1, 0)
    return convex


def _highest_chord(heights, column):
    """The floor of the highest chord over `column`, of all between two columns around it"""
    count, width = heights.shape
    highest = heights[:, column].copy()
    left, right = np.arange(column), np.arange(column + 1, width)
    if len(left) and len(right):
        a, b = heights[:, left, None], heights[:, None, right]
        to_left, to_right = column - left[:, None], right - column
        chords = (a * to_right + b * to_left) // (to_left + to_right)
        np.maximum(highest, chords.reshape(count, -1).max(axis=1), out=highest)
    return highest


def _intersections(generator, count, stop, least):
    """The sets, of `count` intersections, that have `least` pixels"""
    centres = np.arange(SIDE, dtype="float32") + 0.5
    left = generator.geometric(stop, size=count)
    points = generator.uniform(0, SIDE, (count, 2)).astype("float32")
    sets = np.ones((count, SIDE, SIDE), bool)
    drawn = []
    while len(sets):
        angle = generator.uniform(0, 2 * np.pi, (len(sets), 1)).astype("float32")
        distance = generator.uniform(0, DIAGONAL, (len(sets), 1, 1)).astype("float32")
        down = np.sin(angle) * (centres - points[:, :1])
        right = np.cos(angle) * (centres - points[:, 1:])
        sets &= down[:, :, None] + right[:, None, :] <= distance
        left = left - 1
        # What is already too small need not be cut further.
        large = sets.sum(axis=(1, 2)) >= least
        drawn.append(sets[large & (left == 0)])
        going_on = large & (left > 0)
        sets, left, points = sets[going_on], left[going_on], points[going_on]
    drawn = np.concatenate(drawn)
    return drawn[generator.permutation(len(drawn))]


def _collect(count, draw):
    """Calls `draw(n)`, which returns at most n images, until there are `count`"""
    pieces, missing = [np.empty((0, SIDE, SIDE), bool)], count
    while missing > 0:
        # Pieces small enough for a small memory.
        piece = draw(min(2 * missing + 10, 10000))[:missing]
        pieces.append(piece)
        missing -= len(piece)
    return np.concatenate(pieces)
