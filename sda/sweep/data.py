"""The rows by which a sweep trains and compares."""

import numpy as np

from sda.rows.arrays import in_place
from sda.rows.reading import as_rows, check_finite


def checked(x, y, validation_data, labelled):
    """Return the rows to train on and those held out, each with its labels, in memory.

    Args:
        x, y, validation_data: As in `Sweep.run`.
        labelled: Whether the objective needs labels; without, they are None.

    Raises:
        ValueError: If they do not fit each other.
    """
    if not labelled:
        if isinstance(validation_data, (tuple, list)) and len(validation_data) == 2:
            validation_data = validation_data[0]
        pairs = {"x": (x, None), "validation_data": (validation_data, None)}
    else:
        is_pair = isinstance(validation_data, (tuple, list)) and len(validation_data) == 2
        if y is None or not is_pair:
            raise ValueError(
                "Expected `y`, and `validation_data` as (x, y), by which to compare the runs. "
                f"Received: y={type(y).__name__}, "
                f"validation_data={type(validation_data).__name__}"
            )
        pairs = {"x": (x, y), "validation_data": tuple(validation_data)}
    found = []
    for name, (rows, labels) in pairs.items():
        if rows is None:
            raise ValueError(f"Expected `{name}` to hold rows. Received: None")
        rows = np.asarray(as_rows(rows, name)[:])
        check_finite(rows, name)
        if labels is not None:
            labels = np.asarray(in_place(labels, f"the labels of {name}"))
            if labels.shape != (len(rows),) or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"Expected the labels of `{name}` to be {len(rows)} integers. "
                    f"Received: {labels.dtype} of shape {labels.shape}"
                )
        found.append((rows, labels))
    if (found[0][0].dtype == "uint8") != (found[1][0].dtype == "uint8"):
        raise ValueError(
            "Expected `x` and `validation_data` to be both of dtype uint8, pixels to be scaled "
            f"to [0, 1], or neither. Received: {found[0][0].dtype} and {found[1][0].dtype}"
        )
    if found[0][0].shape[1:] != found[1][0].shape[1:]:
        raise ValueError(
            "Expected `validation_data` with rows like those of `x`. "
            f"Received: shapes {found[0][0].shape} and {found[1][0].shape}"
        )
    return found
