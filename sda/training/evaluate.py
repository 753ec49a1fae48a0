"""Evaluation of a compiled model on rows or batches."""

from sda.training import validation as validating
from sda.training.drivers import driver_for
from sda.training.epochs import epochs_of
from sda.training.run import Run


class Evaluator:
    """Evaluates a compiled model on one set of data; called, it returns the logs.

    Args:
        model: A compiled `keras.Model`.
        data: Nested structure of `Rows`, as the model's `test_step` takes it, or `Batches`.
        batch_size: Integer, the examples a step, of rows.
        driver: The driver to share, or None for the model's own.
        frequency: After which epochs it is called, as `sda.fit`'s `validation_freq`.
    """

    def __init__(self, model, data, batch_size, driver=None, frequency=1):
        self.model = model
        self.frequency = frequency
        self.driver = driver or driver_for(model, data)
        self.epochs = epochs_of(Run(model, data, batch_size), self.driver, at_once=True)

    def is_due(self, epoch):
        """Return whether the epoch, counted from 0, ends with an evaluation."""
        return validating.is_due(epoch, self.frequency)

    def __call__(self):
        self.model.reset_metrics()
        self.epochs.restart()
        for _, _, run in self.epochs.dispatches(0):
            run(self.driver.test)
        return metric_logs(self.model)

    def skip(self):
        """Leave an evaluation out, which another process had."""
        self.epochs.restart()
        self.epochs.skip(0)

    def close(self):
        self.epochs.close()


def metric_logs(model):
    return {name: float(value) for name, value in model.get_metrics_result().items()}
