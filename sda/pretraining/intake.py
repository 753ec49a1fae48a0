"""What `fit` is given, as rows that the first layer can learn."""

import numpy as np

from sda import losses
from sda.layers import preprocessing as before
from sda.rows.base import host
from sda.rows.iterated import is_iterated, read_pairs
from sda.rows.reading import as_rows, check_finite, on_arrays


class Intake:
    """Takes in what `fit` is given: rows are read where they have to be, and checked.

    Args:
        stack: The `sda.StackedDenoisingAutoencoder` that they are for.
        loss: The loss of its first layer.
        scratch: A `sda.rows.scratch.Scratch`, or None for one that keeps all in memory.
        feeding: The `Feeding` that says how many batches to read, or None where there are none.
    """

    def __init__(self, stack, loss, scratch=None, feeding=None):
        self.stack, self.loss, self.scratch, self.feeding = stack, loss, scratch, feeding

    def data(self, x, targets, pairs):
        """Return the rows to learn: `(x,)`, or `(noisy, clean)`."""
        x = self.feeding.limited(x)
        if is_iterated(x):
            if targets is not None:
                raise ValueError(
                    "Expected `targets` to be None where `x` is a dataset, whose batches hold them "
                    f"if `pairs`. Received: targets of type {type(targets).__name__}"
                )
            if pairs:
                noisy_and_clean = read_pairs(x, "x", self.scratch)
                return self._pair(noisy_and_clean, ("x", "the targets in `x`"))
        elif targets is not None:
            return self._pair((x, targets), ("x", "targets"))
        elif pairs:
            raise ValueError(
                "Expected `pairs` to be left out where `x` is no dataset of (noisy, clean) "
                f"batches; its clean rows are `targets=`. Received: x of type {type(x).__name__}"
            )
        return (self.rows(x),)

    def validation(self, validation, data, pairs):
        """Return the rows to validate on, like `data`, or None."""
        if validation is None:
            return None
        validation = self.feeding.limited_validation(validation)
        name = "validation_data"
        names = (f"{name}[0]", f"{name}[1]")
        shape = data[0].shape[1:]
        pair = isinstance(validation, tuple) and len(validation) in (2, 3)
        pair = pair and all(hasattr(part, "shape") for part in validation)
        if len(data) == 1:
            if pair:
                raise ValueError(
                    "Expected `validation_data` to be examples like `x`, without targets: those of "
                    "a layer are its own input, unless `fit` has `targets=`. Received: a tuple of "
                    f"{len(validation)} arrays"
                )
            return (self.rows(validation, name, shape),)
        if is_iterated(validation) and pairs:
            return self._pair(read_pairs(validation, name, self.scratch), names, shape)
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise ValueError(
                "Expected `validation_data` to be (noisy, clean), as `x` and its targets are, or a "
                f"dataset of such batches with `pairs=True`. Received: {_kind(validation)}"
            )
        return self._pair(validation, names, shape)

    def _pair(self, pair, names, shape=None):
        """Return noisy and clean rows, checked: shapes first, since they cost nothing."""
        noisy, clean = (as_rows(r, name, self.scratch) for r, name in zip(pair, names, strict=True))
        if tuple(clean.shape) != tuple(noisy.shape):
            raise ValueError(
                f"Expected `{names[1]}` of shape {tuple(noisy.shape)}, as `{names[0]}` has. "
                f"Received: shape {tuple(clean.shape)}"
            )
        noisy = self.rows(noisy, names[0], shape, learned=False)
        return noisy, self.rows(clean, names[1], shape)

    def rows(self, x, name="x", shape=None, learned=True):
        """Return `x` as rows that the first layer can learn, or raise `ValueError`.

        Unless they are `learned`, it only sees them, and is compared with others.
        """
        stack = self.stack
        rows = as_rows(x, name, self.scratch)
        expected = stack.example_shape if stack.built else shape
        if expected is None and len(rows.shape) != 2 and not stack.preprocessing:
            expected = ("features",)
        if expected is not None and tuple(rows.shape[1:]) != tuple(expected):
            raise ValueError(
                f"Expected `{name}` of shape (n, {', '.join(map(str, expected))}). "
                f"Received: shape {tuple(rows.shape)}"
            )
        missing = stack.fill_value is not None
        loss = self.loss
        prepared_shape = before.build(stack.preprocessing, tuple(rows.shape))
        before.check_adapted(stack.preprocessing)
        if isinstance(loss, losses.ColumnLoss):
            loss.layout.check_width(prepared_shape)
        inside = learned and getattr(loss, "in_unit_interval", False)
        if not np.any(inside):
            check_finite(rows, name, missing=missing)
            return rows
        prepare = on_arrays(stack.prepare)
        # One pass where it can be: what is NaN or infinite fails the comparison too.
        apart = bool(missing or stack.preprocessing or inside is not True)
        least, most = (np.fmin, np.fmax) if apart else (np.minimum, np.maximum)
        start = 0
        # What is not zero, where most is and nothing depends on the place.
        for piece in rows.pieces() if apart else rows.values():
            if apart:
                check_finite(piece, name, start, missing)
            prepared = prepare(piece) if stack.preprocessing else host(piece)
            prepared = prepared if inside is True else prepared[..., inside]
            low, high = least.reduce(prepared, axis=None), most.reduce(prepared, axis=None)
            all_missing = missing and np.isnan(low)
            if not (all_missing or (low >= 0 and high <= 1)):
                check_finite(rows, name, missing=missing)
                after = " after its preprocessing" if stack.preprocessing else ""
                raise ValueError(
                    f"Expected `{name}` to lie in [0, 1], as the cross-entropy of a sigmoid "
                    "decoder needs, and that of binary and categorical columns. Make the stack "
                    "with preprocessing=keras.layers.Rescaling(1 / 255), where the values are "
                    'pixels; use decoder_activation="linear" and loss="squared_error" for '
                    f"real-valued data. Received: values from {low:g} to {high:g}{after}"
                )
            start += len(piece)
        return rows


def _kind(thing):
    """Return in words what was given as data."""
    if isinstance(thing, (tuple, list)):
        return f"a {type(thing).__name__} of {len(thing)}"
    return type(thing).__name__
