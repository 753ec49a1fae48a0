"""What Keras's callbacks lack."""

import keras
import numpy as np

from sda.checks import check_number
from sda.layers.corruption import Corruption


class GeometricPatience(keras.callbacks.Callback):
    """Early stopping whose patience grows with each real improvement, as in the Theano tutorials.

    Patience is a number of updates, at first `patience` epochs of them. When the validation error
    falls below `improvement_threshold` times the best so far, at update t, patience becomes at
    least `increase`·t. Training stops when patience runs out. The rule is that of the tutorial's
    `SdA.py`, with validation at the end of each epoch; an epoch whose end could no longer be
    validated is not begun. The best weights are put back at the end, which the tutorial's script
    leaves out.

    Args:
        monitor: String, the log to watch. An accuracy `a` counts as the error 1 - a; anything else
            is itself an error or a loss, at least 0 and better if smaller.
        patience: Number ≥ 1, the first patience, in epochs.
        increase: Number ≥ 1, the factor on the update of an improvement.
        improvement_threshold: Float in (0, 1]: a relative improvement below 1 minus this is
            recorded, but does not prolong training.
        restore_best_weights: Whether to put the best weights back when training ends.
        verbose: 1 to say when and why training stopped.

    Raises:
        ValueError: If an argument is out of its range, or `monitor` is missing from the logs.

    Example:

    >>> sda.callbacks.GeometricPatience("val_accuracy", patience=5).increase
    2.0
    """

    def __init__(
        self,
        monitor="val_accuracy",
        patience=10,
        increase=2.0,
        improvement_threshold=0.995,
        restore_best_weights=True,
        verbose=0,
    ):
        super().__init__()
        check_number(patience, "patience", "at least 1", lambda p: p >= 1)
        check_number(increase, "increase", "at least 1", lambda f: f >= 1)
        check_number(
            improvement_threshold, "improvement_threshold", "in (0, 1]", lambda t: 0 < t <= 1
        )
        self.monitor = monitor
        self.patience = patience
        self.increase = float(increase)
        self.improvement_threshold = improvement_threshold
        self.restore_best_weights = restore_best_weights
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        self.best = np.inf
        self.best_epoch = None
        self.best_weights = None
        self.stopped_epoch = None
        self.patience_updates = None
        self._count_in(self.params["steps"])

    def on_train_batch_end(self, batch, logs=None):
        self.last_step = batch

    def _count_in(self, steps):
        self.steps = steps
        # None of a source of batches that does not say how many it has.
        if steps is not None:
            self.patience_updates = self.patience * steps

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            raise ValueError(
                f"Expected `monitor` to be one of the logs {sorted(logs or {})}. "
                f"Received: monitor={self.monitor!r}"
            )
        if self.steps is None:
            self._count_in(self.last_step + 1)
        error = logs[self.monitor]
        if "acc" in self.monitor:
            error = 1.0 - error
        # The tutorial counts updates from 0.
        update = (epoch + 1) * self.steps - 1
        if error < self.best:
            if error < self.best * self.improvement_threshold:
                self.patience_updates = max(self.patience_updates, update * self.increase)
            self.best, self.best_epoch = error, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
        if self.patience_updates <= update + self.steps - 1:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
            self.best_weights = None
        if self.verbose and self.stopped_epoch is not None:
            best = (
                f"No {self.monitor} was ever a number."
                if self.best_epoch is None
                else f"Best {self.monitor} in epoch {self.best_epoch + 1}."
            )
            print(f"Epoch {self.stopped_epoch + 1}: out of patience. {best}")


class CorruptionSchedule(keras.callbacks.Callback):
    """Sets the level of a noise at the begin of each epoch, as `LearningRateScheduler` the rate.

    Curricula from much noise to little are those of Geras and Sutton, "Scheduled denoising
    autoencoders", ICLR 2015. It acts under `sda.fit` and `sda.GreedyPretrainer`. A run that resumes
    has the level of its epoch. Validation under noise keeps the level that training began with.

    Args:
        layer: A `sda.DenoisingAutoencoder`, whose noise is meant, or a `sda.Corruption`.
        schedule: Function from the number of the epoch, counted from 0, to the level: a rate, a
            standard deviation, or a list where the noise has one.

    Raises:
        ValueError: If `layer` has no noise with a level, `schedule` is no function, or what it
            returns is out of the level's range.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([20, 10], corruption=0.5, seed=1)
    >>> def schedules(k):
    ...     layer = stack.autoencoders[k]
    ...     return [sda.callbacks.CorruptionSchedule(layer, lambda epoch: 0.5 / (1 + epoch))]
    >>> pretrainer = sda.GreedyPretrainer(stack, epochs=2, callbacks=schedules, seed=1)
    >>> histories = pretrainer.fit(np.random.rand(40, 30), verbose=0)
    >>> stack.autoencoders[0].corruption.level
    0.25
    """

    def __init__(self, layer, schedule):
        super().__init__()
        noise = getattr(layer, "corruption", layer)
        if not isinstance(noise, Corruption) or noise.level is None:
            raise ValueError(
                "Expected `layer` to be an sda.DenoisingAutoencoder or an sda.Corruption whose "
                f"noise has a level. Received: layer={layer!r}"
            )
        if not callable(schedule):
            raise ValueError(
                "Expected `schedule` to be a function from the epoch to a level. "
                f"Received: schedule={schedule!r}"
            )
        self.schedule = schedule
        self._noise = noise

    def on_epoch_begin(self, epoch, logs=None):
        self._noise.level = self.schedule(epoch)
