"""The loop of epochs, dispatches and checkpoints."""

import collections.abc
import contextlib
import dataclasses
import functools
import math
import signal
import threading

import keras
from keras import ops

from sda.checkpoints import identity, state
from sda.distribution import processes
from sda.rows.iterated import warn_of_end
from sda.rows.orders import epoch_order
from sda.streams import fresh_seed
from sda.training import validation as validating
from sda.training.batches import Batches
from sda.training.drivers import driver_for, feed_for, noise_levels
from sda.training.evaluate import metric_logs, run_joined, steps_of, usual_steps
from sda.training.feed import leaves
from sda.training.softmax import kept_alive

DISPATCHES = 32


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


class Trainer:
    """Trains one compiled model on one set of data.

    Args:
        model: A compiled `keras.Model`.
        data: Nested structure of row sources of equal length, as the model's `train_step` takes it,
            or `Batches` of such.
        batch_size: Integer, the examples a step.
        steps_per_execution: Integer, the steps a dispatch, or None.
        steps_per_epoch: Integer, the steps of an epoch of rows, or None for all.
    """

    def __init__(self, model, data, batch_size, steps_per_execution=None, steps_per_epoch=None):
        self.model = model
        if steps_per_execution is None and model.steps_per_execution > 1:
            steps_per_execution = model.steps_per_execution
        self.batches = data if isinstance(data, Batches) else None
        self.driver = driver_for(model, data if self.batches is None else data.example)
        # A step that was compiled keeps the levels of its noises.
        self.drivers = {noise_levels(model): self.driver}
        if self.batches is not None:
            self.steps = data.length()
            self.steps_of = functools.partial(steps_of, model, steps_per_execution)
            return
        self.rows = len(leaves(data)[0])
        self.batch_size = min(batch_size, self.rows)
        self.feed = feed_for(self.driver, data)
        self.steps_of_all = math.ceil(self.rows / self.batch_size)
        self.steps = steps_per_epoch or self.steps_of_all
        self.steps_per_dispatch = min(
            steps_per_execution or self._usual_steps_per_dispatch(), self.steps, self.steps_of_all
        )

    def _usual_steps_per_dispatch(self):
        return max(math.ceil(self.steps / DISPATCHES), usual_steps(self.model, self.batch_size))

    def check_start(self, checkpoints, begun, verbose):
        """Raise `ValueError` where the model has other weights than one of the run may have.

        Args:
            checkpoints: The `checkpoint.Checkpoints` of the run.
            begun: Its `identity.Begun`.
            verbose: 0 for silence.
        """
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        context, progress = checkpoints.context, checkpoints.progress
        if progress is None:
            context["start"] = identity.start_of(variables)
        else:
            held = [*progress["variables"]["trainable"], *progress["variables"]["non-trainable"]]
            identity.resume_from(
                checkpoints.path, self.model, variables, context.get("start"), held, begun.weights,
                verbose,
            )  # fmt: skip
        begun.train(variables)

    def fit(
        self,
        epochs,
        initial_epoch,
        verbose,
        callbacks,
        evaluate,
        shuffle,
        seed,
        checkpoints=None,
    ):
        """Run the epochs, or what is left of them; return the `keras.callbacks.History`."""
        model = self.model
        if shuffle and seed is None:
            seed = fresh_seed()
        verbose = 1 if verbose == "auto" else verbose
        if processes.rank() > 0:
            verbose = 0
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0,
                model=model,
                verbose=verbose,
                epochs=epochs,
                steps=self.steps,
            )
        model.stop_training = False
        self.first_epoch = initial_epoch
        position = _Position(epoch=initial_epoch)
        self.watched = None
        if checkpoints is not None and checkpoints.progress is not None:
            position = self._resume(callbacks, checkpoints.progress)
            self._go_through(position.epoch, evaluate, shuffle, seed)
            state.set_random_state(checkpoints.progress.get("random"))
            self.watched = state.Watched(callbacks.callbacks, model.optimizer)
        else:
            callbacks.on_train_begin()
            # `BackupAndRestore` says there where it was.
            position.epoch = model._initial_epoch or initial_epoch
            self._save(checkpoints, callbacks, position)
        if position.finished:
            return model.history
        with _ctrl_c(checkpoints) as pressed, _left(self.batches, evaluate and evaluate.batches):
            while position.epoch < epochs and not model.stop_training:
                if self.batches is not None and not self.batches.more():
                    break
                self._run_epoch(callbacks, evaluate, shuffle, seed, position, checkpoints, pressed)
                if pressed:
                    raise _interrupted(checkpoints, position)
        if epochs > 0:
            # Optimizers that average the weights put the averages in their place.
            model.optimizer.finalize_variable_values(model.trainable_variables)
        callbacks.on_train_end(position.logs)
        position.finished = True
        self._save(checkpoints, callbacks, position)
        return model.history

    def _run_epoch(self, callbacks, evaluate, shuffle, seed, position, checkpoints, pressed):
        """Run the epoch of `position` from its step on, and move it to the next."""
        model, epoch = self.model, position.epoch
        if position.step == 0:
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
        levels = noise_levels(model)
        if levels not in self.drivers:
            self.drivers[levels] = type(self.driver)(model)
        self.driver = self.drivers[levels]
        good = self._good_state()
        with contextlib.closing(self._dispatches_of(position, shuffle, seed)) as dispatches:
            for start, steps, run in dispatches:
                callbacks.on_train_batch_begin(start)
                with kept_alive(model):
                    run(self.driver.train)
                logs = metric_logs(model)
                position.step, position.logs = start + steps, logs
                callbacks.on_train_batch_end(position.step - 1, logs)
                if not math.isfinite(logs.get("loss", 0.0)):
                    self._diverged(good, f"loss became {logs['loss']}", position)
                if model.stop_training:
                    break
                if pressed and self.batches is not None:
                    # What a source yields next cannot be saved.
                    raise _interrupted(checkpoints, _Position(epoch))
                due = checkpoints is not None and checkpoints.due() and self.batches is None
                if pressed or due:
                    self._save(checkpoints, callbacks, position)
                    if pressed:
                        raise _interrupted(checkpoints, position)
        # The last step may have spoilt the weights, after its loss was taken.
        if not _all_finite(model.trainable_variables):
            self._diverged(good, "weights became NaN or infinite", position)
        if evaluate is not None and validating.is_due(epoch, evaluate.frequency):
            callbacks.on_test_begin()
            scores = evaluate()
            callbacks.on_test_end(scores)
            position.logs = {
                **position.logs,
                **{f"val_{name}": score for name, score in scores.items()},
            }
        callbacks.on_epoch_end(epoch, position.logs)
        position.epoch, position.step = epoch + 1, 0
        self._save(checkpoints, callbacks, position)

    def _dispatches_of(self, position, shuffle, seed):
        """Yield (first step, steps, function that runs them) for what is left of an epoch."""
        if self.batches is not None:
            start = 0
            for data, steps, most in self._batches_of(position.epoch, shuffle, seed):
                yield start, steps, functools.partial(run_joined, self.driver, data, steps, most)
                start += steps
            return
        # The epochs of a pass share its rows, in the order of the pass.
        epochs_a_pass = math.ceil(self.steps_of_all / self.steps)
        number, part = divmod(position.epoch - self.first_epoch, epochs_a_pass)
        order = epoch_order(shuffle, seed, self.first_epoch + number, self.rows)
        first = part * self.steps
        end = min(first + self.steps, self.steps_of_all)
        first += position.step
        matrices = (batches for _, batches in self._dispatches(order, first, end))
        with self.feed.reading(matrices, self.steps_per_dispatch) as run:
            for start, batches in self._dispatches(order, first, end):
                yield (
                    start - part * self.steps,
                    len(batches),
                    functools.partial(run, batches=batches),
                )
        if end - part * self.steps < self.steps:
            warn_of_end("x", end - part * self.steps, self.steps)

    def _batches_of(self, epoch, shuffle, seed):
        order = functools.partial(epoch_order, shuffle, seed, epoch)
        return self.batches.dispatches(self.steps_of, order)

    def _variables(self):
        """The variables that training changes, by what they are."""
        model = self.model
        return {
            "trainable": model.trainable_variables,
            "non-trainable": model.non_trainable_variables,  # noise counters among them
            "optimizer": model.optimizer.variables,
            "metrics": model.metrics_variables,
        }

    def _save(self, checkpoints, callbacks, position):
        if checkpoints is None:
            return
        groups = self._variables().items()
        if self.watched is None:
            self.watched = state.Watched(callbacks.callbacks, self.model.optimizer)
        self.watched.tell()
        checkpoints.save(
            {
                "position": vars(position),
                "stop_training": self.model.stop_training,
                "variables": {name: state.values(group) for name, group in groups},
                "callbacks": state.callback_states(callbacks.callbacks),
                "random": state.random_state(),
            }
        )

    def _resume(self, callbacks, progress):
        """Bring the model and the callbacks to where they were; return the position."""
        model = self.model
        position = _Position(**progress["position"])
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
        return position

    def _go_through(self, end, evaluate, shuffle, seed):
        """Ask sources of batches for those of the epochs before `end`, which others were."""
        for epoch in range(self.first_epoch, end):
            if self.batches is not None and self.batches.more():
                collections.deque(self._batches_of(epoch, shuffle, seed), maxlen=0)
            if evaluate is not None and validating.is_due(epoch, evaluate.frequency):
                evaluate.go_through()

    def _good_state(self):
        """Return copies of all variables on the device, to be put back if training diverges."""
        return [ops.copy(ops.stop_gradient(v.value)) for v in self._variables_to_keep()]

    def _variables_to_keep(self):
        return [v for name, group in self._variables().items() if name != "metrics" for v in group]

    def _diverged(self, good, what, position):
        """Put the last good weights back and raise `TrainingDivergedError`."""
        model = self.model
        for variable, value in zip(self._variables_to_keep(), good, strict=True):
            variable.assign(value)
        # A `MultiOptimizer` has several.
        rate = getattr(model.optimizer, "learning_rate", None)
        lower = "lower learning rates"
        if rate is not None:
            lower = f"a learning rate below {float(ops.convert_to_numpy(rate)):g}"
        raise TrainingDivergedError(
            f"Training {model.name!r} diverged: the {what} in epoch {position.epoch + 1}, by step "
            f"{position.step} of {self.steps}. The model has the weights again with which this "
            f"epoch began. Try {lower}, gradients that are clipped "
            f"(keras.optimizers.{type(model.optimizer).__name__}(..., global_clipnorm=1.0)), or "
            "data that are scaled, to [0, 1] or to mean 0 and deviation 1",
            model.history,
        )

    def _dispatches(self, order, step=0, end=None):
        """Yield (first step, index matrix of the steps) for each dispatch from `step` to `end`."""
        end = self.steps_of_all if end is None else end
        whole = self.rows // self.batch_size
        batches = order[: whole * self.batch_size].reshape(whole, self.batch_size)[:end]
        for start in range(step, len(batches), self.steps_per_dispatch):
            yield start, batches[start : start + self.steps_per_dispatch]
        if step <= whole < end:
            yield whole, order[None, whole * self.batch_size :]


@dataclasses.dataclass
class _Position:
    """Where a training is: `step` steps of `epoch` are done; `logs` are the last ones."""

    epoch: int
    step: int = 0
    logs: dict = dataclasses.field(default_factory=dict)
    finished: bool = False


@contextlib.contextmanager
def _ctrl_c(checkpoints):
    """Yield a list that is no longer empty once Ctrl-C was pressed; a second one is immediate.

    Only where there are checkpoints and in the main thread, where Python handles signals, and not
    where the process was told to ignore it, or trains with others, who were not told.
    """
    pressed = []
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    alone = processes.count() == 1
    if checkpoints is None or not (alone and in_main_thread) or before in (signal.SIG_IGN, None):
        yield pressed
        return

    def press(*_):
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(checkpoints, position):
    done = f"{position.epoch} epochs" + (f" and {position.step} steps" if position.step else "")
    return KeyboardInterrupt(
        f"Stopped after {done}, which are saved in {str(checkpoints.path)!r}. To carry on, call "
        "`fit` again with the same data and settings and this `checkpoint_dir`"
    )


def _all_finite(variables):
    if not variables:
        return True
    finite = [ops.all(ops.isfinite(v.value)) for v in variables]
    return bool(ops.all(ops.stack(finite)))


@contextlib.contextmanager
def _left(*sources):
    """Leave sources of batches, as far as there are any, at the end of a training."""
    try:
        yield
    finally:
        for source in sources:
            if source is not None:
                source.close()
