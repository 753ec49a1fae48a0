"""The progress of a schedule: bars and the time left."""

import datetime
import time

import keras


class Clock:
    """Estimates the time left of a schedule from the share of its work that is done.

    Args:
        epochs: List with the epochs of each layer.
        work: List with the relative work of an epoch of each layer.
    """

    def __init__(self, epochs, work):
        self.epochs = epochs
        self.work = work
        self.left = [e * w for e, w in zip(epochs, work, strict=True)]
        self.done = 0
        self.start = time.monotonic()

    def epoch_begins(self, k, epoch):
        self.left[k] = (self.epochs[k] - epoch) * self.work[k]

    def epoch_ends(self, k):
        self.done += self.work[k]
        self.left[k] -= self.work[k]

    def layer_ends(self, k):
        self.left[k] = 0

    def time_left(self):
        """Return ", about m:ss left", or nothing before the first epoch has ended."""
        if not self.done:
            return ""
        seconds = (time.monotonic() - self.start) * sum(self.left) / self.done
        return f", about {datetime.timedelta(seconds=round(seconds))} left"


class Progress(keras.callbacks.ProgbarLogger):
    """Keras's progress bar under a line that says which layer of how many, and the time left."""

    def __init__(self, k, autoencoder, clock):
        super().__init__()
        self.k = k
        sizes = f"{autoencoder.features} -> {autoencoder.units}"
        self.title = f"Layer {k + 1}/{len(clock.epochs)} ({sizes})"
        self.clock = clock

    def on_epoch_begin(self, epoch, logs=None):
        self._reset_progbar()
        self._maybe_init_progbar()
        self.clock.epoch_begins(self.k, epoch)
        print(f"{self.title}, epoch {epoch + 1}/{self.epochs}{self.clock.time_left()}")

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.clock.epoch_ends(self.k)

    def on_train_end(self, logs=None):
        self.clock.layer_ends(self.k)
