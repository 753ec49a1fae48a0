"""What each layer learns: rows for the first one, the codes of the layers below for the others."""

from sda.layers import preprocessing as before
from sda.rows import codes
from sda.rows.reading import in_any_order, on_arrays


class Inputs:
    """What a layer is trained and validated on: asked for from the input up.

    Codes are computed when a layer is trained on them, not before, and those below are let go then.

    Args:
        pretrainer: The `sda.GreedyPretrainer`, which says where codes live.
        data: Tuple of rows: `(x,)`, or `(noisy, clean)`.
        validation: Like `data`, or None.
    """

    def __init__(self, pretrainer, data, validation):
        self.stack = pretrainer.stack
        self.storage, self.budget = pretrainer.codes_storage, pretrainer.codes_budget
        self.data, self.validation = data, validation
        self.folder = None  # for the files of codes
        self._layer = 0

    def check_places(self, last):
        """Raise `ValueError` if the codes that layers up to `last` learn will not fit."""
        for rows in (self.data, self.validation):
            if rows is not None:
                shape = before.build(self.stack.preprocessing, tuple(rows[-1].shape))
                for autoencoder in self.stack.autoencoders[:last]:
                    shape = autoencoder.code_shape(shape)
                    codes.place_codes(self.storage, self.budget, shape)

    def order(self, scratch, order):
        """Copy rows that are slow to read in such an order to `scratch`."""
        self.data = tuple(in_any_order(rows, scratch, order) for rows in self.data)

    def of(self, k):
        """Return what layer `k` learns, and what it is validated on or None, both in tuples."""
        while self._layer < k:
            self._climb()
        return self.data, self.validation

    def _climb(self):
        """Put the codes of the layer that is reached in the place of what it learns."""
        encode = on_arrays(self.stack.lift(self._layer))
        self._layer += 1
        name = f"below_{self._layer}"
        self.data = self._codes(encode, self.data, name)
        if self.validation is not None:
            self.validation = self._codes(encode, self.validation, f"{name}_validation")

    def _codes(self, encode, data, name):
        rows = data[-1]  # the layers above know clean rows only
        shape = (len(rows), *encode(rows[:1]).shape[1:])
        place = codes.place_codes(self.storage, self.budget, shape)
        found = codes.encode_rows(encode, rows, shape, place, self.folder, name)
        for below in data:
            below.discard()
        return (found,)
