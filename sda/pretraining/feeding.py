"""The arguments that say how many rows an epoch and an evaluation have, and in which order."""

import dataclasses
import math

from sda.checks import check_count
from sda.rows.iterated import first_batches, is_iterated, length
from sda.rows.orders import check_shuffle
from sda.training import validation as validating


@dataclasses.dataclass
class Feeding:
    """The arguments of `fit` that say which rows an epoch and an evaluation have, checked.

    Raises:
        ValueError: If one is out of its range.
    """

    validation_split: float
    validation_batch_size: int | None
    validation_freq: int | list
    steps_per_epoch: int | None
    validation_steps: int | None
    batch_size: list  # of each layer
    shuffle: bool | str

    def __post_init__(self):
        self.shuffle = check_shuffle(self.shuffle)
        self.validation_split = validating.check_split(self.validation_split)
        self.validation_freq = validating.check_frequency(self.validation_freq)
        for name in ("validation_batch_size", "steps_per_epoch", "validation_steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        several = len(set(self.batch_size)) > 1
        if several and self.validation_steps is not None and self.validation_batch_size is None:
            raise ValueError(
                "Expected `validation_batch_size` beside `validation_steps` where the layers have "
                f"batch sizes of their own. Received: batch_size={self.batch_size}"
            )

    def read(self, x, validation_data):
        """Return both, with as many batches as are to be read of a source of such."""
        steps = self.steps_per_epoch
        if is_iterated(x) and steps is not None and length(x) in (None, math.inf):
            x, self.steps_per_epoch = first_batches(x, steps, "x"), None
        steps = self.validation_steps
        if is_iterated(validation_data) and steps is not None:
            validation_data = first_batches(validation_data, steps, "validation_data")
            self.validation_steps = None
        return x, validation_data

    def split(self, data, validation):
        """Return the rows to train on, and those to validate on or None, both in tuples."""
        if validation is None and self.validation_split:
            rows = len(data[0])
            first = validating.split_at(rows, self.validation_split)
            validation = tuple(part.part(first, rows) for part in data)
            data = tuple(part.part(0, first) for part in data)
        if validation is not None and self.validation_steps is not None:
            size = self.validation_batch_size or self.batch_size[0]
            some = validating.rows_of_steps(len(validation[0]), size, self.validation_steps)
            validation = tuple(part.part(0, some) for part in validation)
        return data, validation

    def settings(self):
        """Return what the result depends on, as far as it is not the usual."""
        usual = {"steps_per_epoch": None, "validation_batch_size": None, "validation_freq": 1}
        return {k: getattr(self, k) for k, v in usual.items() if getattr(self, k) != v}
