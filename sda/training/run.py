"""What a training is."""

import dataclasses

from sda.rows.orders import InOrder, Order


@dataclasses.dataclass
class Run:
    """What a training is, all of it checked: a model, what it is trained on, and for how long.

    Args:
        model: A compiled `keras.Model`.
        data: Nested structure of row sources of equal length, as the model's `train_step` takes it,
            or `Batches` of such.
        batch_size: Integer, the examples a step, of rows.
        order: The `Order` in which an epoch has the rows, or the batches of a source that can be
            asked for them in any.
        epochs: Integer, the epoch to train up to.
        initial_epoch: Integer, the epoch to start from.
        steps_per_epoch: Integer, the steps of an epoch of rows, or None for all.
        steps_per_execution: Integer, the steps a dispatch; None for what `compile` was given, if
            above 1, or else a usual number.
        callbacks: List of `keras.callbacks.Callback`, a `CallbackList`, or None.
        evaluate: An `Evaluator`, or None.
        checkpoints: The open `Checkpoints`, or None.
        verbose: As in `sda.fit`.
    """

    model: object
    data: object
    batch_size: int | None = None
    order: Order = dataclasses.field(default_factory=InOrder)
    epochs: int = 1
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    steps_per_execution: int | None = None
    callbacks: object = None
    evaluate: object = None
    checkpoints: object = None
    verbose: object = 0

    def steps_per_dispatch(self):
        """Return how many steps were asked to share a dispatch, or None."""
        if self.steps_per_execution is None and self.model.steps_per_execution > 1:
            return self.model.steps_per_execution
        return self.steps_per_execution
