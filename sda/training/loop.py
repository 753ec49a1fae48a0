"""The loop of epochs, dispatches and checkpoints."""

import contextlib
import dataclasses
import math

import keras
from keras import ops

from sda.checkpoints import arrays, state
from sda.distribution import generators, processes
from sda.training.drivers import driver_for, noise_levels
from sda.training.epochs import epochs_of
from sda.training.evaluate import metric_logs
from sda.training.interrupts import ctrl_c, interrupted
from sda.training.softmax import kept_alive


class TrainingDivergedError(RuntimeError):
    """The loss or the weights are no longer finite; the model has its last good weights again.

    These are the weights of the end of the last good epoch: those that the epoch of the failure
    began with. In a schedule, layers that were trained before keep what they learned. `history` is
    the `keras.callbacks.History` of the epochs before.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1e38), "mse")
    >>> try:
    ...     history = sda.fit(model, np.ones((8, 1)), np.zeros((8, 1)), epochs=9, verbose=0)
    ... except sda.TrainingDivergedError as error:
    ...     history = error.history
    >>> bool(np.all(np.isfinite(model.get_weights()[0])))
    True
    """

    def __init__(self, message, history):
        super().__init__(message)
        self.history = history

    def __reduce__(self):
        # To another process goes what was logged, without the model.
        history = keras.callbacks.History()
        names = ("history", "params", "epoch")
        vars(history).update({n: v for n, v in vars(self.history).items() if n in names})
        return type(self), (*self.args, history)


@dataclasses.dataclass
class Position:
    """Where a training is: `step` steps of `epoch` are done; `logs` are the last ones."""

    epoch: int
    step: int = 0
    logs: dict = dataclasses.field(default_factory=dict)
    finished: bool = False


class Trainer:
    """Trains one compiled model on one set of data.

    Args:
        run: A `Run`.
    """

    def __init__(self, run):
        self.run, self.model = run, run.model
        self.driver = driver_for(run.model, getattr(run.data, "example", run.data))
        # A step that was compiled keeps the levels of its noises.
        self.drivers = {noise_levels(run.model): self.driver}
        self.epochs = epochs_of(run, self.driver)
        self.position = Position(run.initial_epoch)
        self.watched = None

    def fit(self):
        """Run the epochs, or what is left of them; return the `keras.callbacks.History`."""
        run, model = self.run, self.model
        callbacks = self.callbacks = self._callback_list()
        model.stop_training = False
        self.watched = None
        position = self.position = Position(run.initial_epoch)
        if run.checkpoints is not None and run.checkpoints.progress is not None:
            position = self._resume(run.checkpoints.progress)
        else:
            callbacks.on_train_begin()
            # `BackupAndRestore` says there where it was.
            position.epoch = model._initial_epoch or run.initial_epoch
            self._save()
        if position.finished:
            return model.history
        with contextlib.ExitStack() as resources:
            pressed = resources.enter_context(ctrl_c(run.checkpoints))
            for source in (self.epochs, run.evaluate):
                if source is not None:
                    resources.callback(source.close)
            while position.epoch < run.epochs and not model.stop_training and self.epochs.more():
                self._run_epoch(pressed)
                if pressed:
                    raise interrupted(run.checkpoints, position.epoch)
        if run.epochs > 0:
            # Optimizers that average the weights put the averages in their place.
            model.optimizer.finalize_variable_values(model.trainable_variables)
        callbacks.on_train_end(position.logs)
        position.finished = True
        self._save()
        return model.history

    def _callback_list(self):
        """Return the callbacks of the run in a list of Keras's, with History and progress bar."""
        run = self.run
        if isinstance(run.callbacks, keras.callbacks.CallbackList):
            return run.callbacks
        verbose = 1 if run.verbose == "auto" else run.verbose
        if processes.rank() > 0:
            verbose = 0
        return keras.callbacks.CallbackList(
            run.callbacks,
            add_history=True,
            add_progbar=verbose != 0,
            model=run.model,
            verbose=verbose,
            epochs=run.epochs,
            steps=self.epochs.steps,
        )

    def _run_epoch(self, pressed):
        """Run the epoch of the position from its step on, and move it to the next."""
        model, position, epoch = self.model, self.position, self.position.epoch
        if position.step == 0:
            model.reset_metrics()
            self.callbacks.on_epoch_begin(epoch)
        levels = noise_levels(model)
        if levels not in self.drivers:
            self.drivers[levels] = type(self.driver)(model)
        self.driver = self.drivers[levels]
        good = self._good_state()
        with contextlib.closing(self.epochs.dispatches(epoch, position.step)) as dispatches:
            for start, steps, run in dispatches:
                self._run_dispatch(start, steps, run)
                if not math.isfinite(position.logs.get("loss", 0.0)):
                    self._diverged(good, f"loss became {position.logs['loss']}")
                if model.stop_training:
                    break
                self._between_dispatches(pressed)
        # The last step may have spoilt the weights, after its loss was taken.
        if not _all_finite(model.trainable_variables):
            self._diverged(good, "weights became NaN or infinite")
        self._evaluate()
        self.callbacks.on_epoch_end(epoch, position.logs)
        position.epoch, position.step = epoch + 1, 0
        self._save()

    def _run_dispatch(self, start, steps, run):
        self.callbacks.on_train_batch_begin(start)
        with kept_alive(self.model):
            run(self.driver.train)
        self.position.step, self.position.logs = start + steps, metric_logs(self.model)
        self.callbacks.on_train_batch_end(start + steps - 1, self.position.logs)

    def _between_dispatches(self, pressed):
        """Save what is due within an epoch; raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        checkpoints, position = self.run.checkpoints, self.position
        if pressed and not self.epochs.repeatable:
            raise interrupted(checkpoints, position.epoch)
        if pressed or (checkpoints is not None and checkpoints.due() and self.epochs.repeatable):
            self._save()
        if pressed:
            raise interrupted(checkpoints, position.epoch, position.step)

    def _evaluate(self):
        evaluate, position = self.run.evaluate, self.position
        if evaluate is None or not evaluate.is_due(position.epoch):
            return
        self.callbacks.on_test_begin()
        scores = evaluate()
        self.callbacks.on_test_end(scores)
        scores = {f"val_{name}": score for name, score in scores.items()}
        position.logs = {**position.logs, **scores}

    # Checkpoints

    def _variables(self):
        """The variables that training changes, by what they are."""
        model = self.model
        return {
            "trainable": model.trainable_variables,
            "non-trainable": model.non_trainable_variables,  # noise counters among them
            "optimizer": model.optimizer.variables,
            "metrics": model.metrics_variables,
        }

    def _save(self):
        if self.run.checkpoints is None:
            return
        callbacks = self.callbacks.callbacks
        if self.watched is None:
            self.watched = state.Watched(callbacks, self.model.optimizer)
        self.watched.tell()
        self.run.checkpoints.save(
            {
                "position": dataclasses.asdict(self.position),
                "stop_training": self.model.stop_training,
                "variables": {n: arrays.values(group) for n, group in self._variables().items()},
                "callbacks": state.callback_states(callbacks),
                "random": generators.random_state(),
            }
        )

    def _resume(self, progress):
        """Bring model, callbacks and data to where they were; return the position."""
        model, callbacks = self.model, self.callbacks
        position = self.position = Position(**progress["position"])
        # What callbacks do to the model as they begin, they have done before.
        if not position.finished:
            with state.continued_logs(callbacks.callbacks, progress["callbacks"]):
                callbacks.on_train_begin()
            if position.step:
                callbacks.on_epoch_begin(position.epoch)
        for name, group in self._variables().items():
            state.assign(group, progress["variables"][name], name)
        state.restore_callbacks(callbacks.callbacks, progress["callbacks"])
        model.stop_training = progress["stop_training"]
        self._skip_epochs()
        generators.set_random_state(progress.get("random"))
        self.watched = state.Watched(callbacks.callbacks, model.optimizer)
        return position

    def _skip_epochs(self):
        """Ask sources of batches for those of the epochs before, which others were."""
        evaluate = self.run.evaluate
        for epoch in range(self.run.initial_epoch, self.position.epoch):
            if self.epochs.more():
                self.epochs.skip(epoch)
            if evaluate is not None and evaluate.is_due(epoch):
                evaluate.skip()

    # Divergence

    def _good_state(self):
        """Return copies of all variables on the device, to be put back if training diverges."""
        return [ops.copy(ops.stop_gradient(v.value)) for v in self._variables_to_keep()]

    def _variables_to_keep(self):
        return [v for name, group in self._variables().items() if name != "metrics" for v in group]

    def _diverged(self, good, what):
        """Put the last good weights back and raise `TrainingDivergedError`."""
        model, position = self.model, self.position
        for variable, value in zip(self._variables_to_keep(), good, strict=True):
            variable.assign(value)
        # A `MultiOptimizer` has several.
        rate = getattr(model.optimizer, "learning_rate", None)
        lower = "lower learning rates"
        if rate is not None:
            lower = f"a learning rate below {float(ops.convert_to_numpy(rate)):g}"
        raise TrainingDivergedError(
            f"Training {model.name!r} diverged: the {what} in epoch {position.epoch + 1}, by step "
            f"{position.step} of {self.epochs.steps}. The model has the weights again with which "
            f"this epoch began. Try {lower}, gradients that are clipped "
            f"(keras.optimizers.{type(model.optimizer).__name__}(..., global_clipnorm=1.0)), or "
            "data that are scaled, to [0, 1] or to mean 0 and deviation 1",
            model.history,
        )


def _all_finite(variables):
    if not variables:
        return True
    finite = [ops.all(ops.isfinite(v.value)) for v in variables]
    return bool(ops.all(ops.stack(finite)))
