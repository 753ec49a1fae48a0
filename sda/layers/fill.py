"""What stands for missing values."""

import numpy as np

from sda.checks import check_number


def checked_fill(missing):
    """Return what stands for missing values: a float, a list of floats, or None."""
    if missing is None:
        return None
    if isinstance(missing, (list, tuple)) or (isinstance(missing, np.ndarray) and missing.ndim):
        return [check_number(value, "missing", "finite", np.isfinite) for value in missing]
    return check_number(missing, "missing", "finite, or a list with one a feature", np.isfinite)
