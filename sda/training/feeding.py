"""The arguments that say how a training is fed: how many rows, in which order, what is held out."""

import dataclasses
import math

from sda.checks import check_count
from sda.forks import check_process
from sda.rows.iterated import first_batches, is_iterated, length
from sda.rows.orders import check_shuffle
from sda.rows.scratch import Scratch
from sda.training import feed
from sda.training import validation as validating
from sda.training.batches import Batches
from sda.training.feed import leaves, map_leaves


@dataclasses.dataclass
class Feeding:
    """What every training is asked first: these arguments of `fit`, checked.

    Raises:
        ValueError: If one is out of its range.
        RuntimeError: If this process is a fork of one that has trained.
    """

    batch_size: list  # of each layer, or of the one model
    shuffle: bool | str = True
    validation_split: float = 0.0
    validation_batch_size: int | None = None
    validation_freq: int | list = 1
    steps_per_epoch: int | None = None
    validation_steps: int | None = None

    def __post_init__(self):
        check_process()
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

    def limited(self, x):
        """Return `x`; of batches that do not say when they end, as many as are to be read."""
        steps = self.steps_per_epoch
        if is_iterated(x) and steps is not None and length(x) in (None, math.inf):
            x, self.steps_per_epoch = first_batches(x, steps, "x"), None
        return x

    def limited_validation(self, data):
        """Return what to validate on; of batches, as many as are to be read."""
        steps = self.validation_steps
        if is_iterated(data) and steps is not None:
            data, self.validation_steps = first_batches(data, steps, "validation_data"), None
        return data

    def split(self, data, validation):
        """Return what to train on, and what to validate on or None, in the structure of `data`."""
        if validation is None and self.validation_split:
            rows = len(leaves(data)[0])
            first = validating.split_at(rows, self.validation_split)
            validation = map_leaves(lambda a: a.part(first, rows), data)
            data = map_leaves(lambda a: a.part(0, first), data)
        if validation is not None and not isinstance(validation, Batches):
            rows = len(leaves(validation)[0])
            size = self._validation_size(rows)
            some = validating.rows_of_steps(rows, size, self.validation_steps)
            if some < rows:
                validation = map_leaves(lambda a: a.part(0, some), validation)
        return data, validation

    def _validation_size(self, rows):
        given = self.validation_batch_size or self.batch_size[0]
        return validating.usual_batch_size(given, rows, self.validation_steps)

    def evaluation_size(self, model, validation):
        """Return the examples a step of an evaluation; None where batches bring their sizes."""
        if self.validation_batch_size is not None or isinstance(validation, Batches):
            return self.validation_batch_size
        return validating.batch_size_for(model, self._validation_size(len(leaves(validation)[0])))

    def settings(self):
        """Return what the result depends on, as far as it is not the usual."""
        usual = {"steps_per_epoch": None, "validation_batch_size": None, "validation_freq": 1}
        return {k: getattr(self, k) for k, v in usual.items() if getattr(self, k) != v}


def new_scratch():
    """Return the `Scratch` of one training."""
    return Scratch(feed.RESIDENT_BYTES // feed.PIECES)
