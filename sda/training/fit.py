"""`fit`: epochs of many steps a dispatch, with the manners of `keras.Model.fit`."""

import collections.abc
import contextlib
import dataclasses
import functools
import importlib
import math
import signal
import threading

import keras
import numpy as np
from keras import ops, tree

from sda import checkpoint, processes
from sda.checkpoints import identity
from sda.checks import check_count, check_flag
from sda.corruption import Corruption
from sda.devices import accelerators
from sda.forks import check_process
from sda.optimizers import exclusions
from sda.seeding import check_seed, check_shuffle, epoch_order, fresh_seed
from sda.training import feed
from sda.training import validation as validating
from sda.training.batches import Batches
from sda.training.feed import host, leaves, map_leaves
from sda.training.rows import (
    arrays_of_lists,
    as_rows,
    check_finite,
    first_batches,
    in_any_order,
    is_iterated,
    length,
    pieces,
    warn_of_end,
)
from sda.training.rows import read_once as read_rows
from sda.training.scratch import Scratch
from sda.training.softmax import kept_alive

# A dispatch should take long enough to hide its own cost, and short enough for a live progress bar:
# a quarter of a second to half a second on two cores.
DISPATCH_FLOPS = 6e10
DISPATCHES = 32
# On a GPU a dispatch costs some 2 ms, in which it could do as many times the arithmetic.
FASTER = 160
# With fewer rows a step waits: on a processor for memory, on a GPU for launches.
LEAST_ROWS, LEAST_ROWS_OF_GPU = 16, 500
# Of batches that come one by one a dispatch waits for no more than so many.
MOST_BATCHES = 32
# Keras's losses that compare targets of the output's own shape. With others in their place, most
# would be stretched to fit.
ELEMENTWISE = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "categorical_hinge": keras.losses.CategoricalHinge,
    "cosine_similarity": keras.losses.CosineSimilarity,
    "hinge": keras.losses.Hinge,
    "huber": keras.losses.Huber,
    "kl_divergence": keras.losses.KLDivergence,
    "log_cosh": keras.losses.LogCosh,
    "mean_absolute_error": keras.losses.MeanAbsoluteError,
    "mean_absolute_percentage_error": keras.losses.MeanAbsolutePercentageError,
    "mean_squared_error": keras.losses.MeanSquaredError,
    "mean_squared_logarithmic_error": keras.losses.MeanSquaredLogarithmicError,
    "poisson": keras.losses.Poisson,
    "squared_hinge": keras.losses.SquaredHinge,
}
SPARSE = "sparse_categorical_crossentropy"
LOSSES = {**ELEMENTWISE, SPARSE: keras.losses.SparseCategoricalCrossentropy}


class TrainingDiverged(RuntimeError):
    """The loss or the weights are no longer finite; the model has its last good weights again.

    These are the weights of the end of the last good epoch: those that the epoch of the failure
    began with. In a schedule, layers that were trained before keep what they learned. `history` is
    the `keras.callbacks.History` of the epochs before.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1e38), "mse")
    >>> try:
    ...     history = sda.fit(model, np.ones((8, 1)), np.zeros((8, 1)), epochs=9, verbose=0)
    ... except sda.TrainingDiverged as error:
    ...     history = error.history
    >>> bool(np.all(np.isfinite(model.get_weights()[0])))
    True
    """

    def __init__(self, message, history):
        super().__init__(message)
        self.history = history


@processes.together()
def fit(
    model,
    x,
    y=None,
    batch_size=None,
    epochs=1,
    verbose="auto",
    callbacks=None,
    validation_data=None,
    shuffle=True,
    sample_weight=None,
    initial_epoch=0,
    steps_per_execution=None,
    seed=None,
    checkpoint_dir=None,
    checkpoint_every=600,
    *,
    class_weight=None,
    validation_split=0.0,
    validation_batch_size=None,
    validation_freq=1,
    steps_per_epoch=None,
    validation_steps=None,
    read_once=False,
):
    """Train a compiled Keras model like `model.fit`, with many steps a dispatch.

    The data stay on the device, and a compiled loop takes the steps (`lax.fori_loop` on JAX, a
    `tf.function` loop on TensorFlow, a plain loop on PyTorch), through the model's own
    `train_step`. Data of more than 1 GiB stay where they are, and travel in pieces: one is read
    while the one before it is trained on. The result depends neither on that nor on how many steps
    share a dispatch. It is that of `model.fit` in the same order, but for one thing: on JAX and
    PyTorch a categorical cross-entropy of probabilities keeps its gradient below p = 1e-7, where
    Keras cuts it off.

    Args:
        model: A compiled `keras.Model`.
        x: Array of shape `(n, ...)` (NumPy array, `np.memmap`, `h5py.Dataset`, what
            `sda.datasets.read` returns, …), or a nested structure of arrays for a model with
            several inputs. Or a source of batches `(x, y)` or `(x, y, sample_weight)`: a
            `tf.data.Dataset`, `keras.utils.PyDataset`, PyTorch `DataLoader`, or a generator. It is
            asked for them anew in each epoch, so that what it shuffles and augments differs from
            epoch to epoch; a thread asks, some batches ahead. `y` and `sample_weight` are None
            then. A generator cannot be asked twice: more than one epoch of it need
            `steps_per_epoch`, and training ends, with a warning, where it does.
            Nothing is scaled: values of dtype uint8 stay uint8 on the device, and the model's own
            layers, a `Rescaling` among them, see them as they are. NaN is a missing value: allowed
            where the model has an answer for it, as those of a stack with `missing` do.
        y: Array of targets, or a nested structure, or None.
        batch_size: Integer, the examples a step, of all devices together where several share it
            (`keras.distribution` on JAX, `MirroredStrategy` on TensorFlow). The last batch of an
            epoch may be smaller. None for 32, or for as many as make `steps_per_epoch` steps of all
            examples. Sources of batches have sizes of their own.
        epochs: Integer, the epoch to train up to.
        verbose: 0 silent, 1 progress bar, 2 one line an epoch, "auto" means 1.
        callbacks: List of `keras.callbacks.Callback`. `on_train_batch_begin` and
            `on_train_batch_end` fire once a dispatch, with the index of its last step at the end.
        validation_data: `(x, y)` or `(x, y, sample_weight)`, or a source of such batches,
            evaluated after each epoch. A generator without `validation_steps` is read once.
        shuffle: True for a new order of all examples in each epoch, False for none, "blocks" for a
            new one that a disk can follow: blocks of 512 consecutive rows in random order, and the
            rows of 16 of them shuffled among themselves. Orders are functions of `seed`, the
            epoch and the number of examples. Of a `PyDataset` that has an end, the order of the
            batches is shuffled; other sources of batches bring their own.
        sample_weight: Array of shape `(n,)`, or None.
        initial_epoch: Integer, the epoch to start from.
        steps_per_execution: Integer, the steps a dispatch; None for what `compile` was given, if
            above 1, or else a number that keeps the progress bar alive.
        seed: Integer for the orders, or None for a random one.
        checkpoint_dir: Path of a folder from which the run can go on when it was cut off, or None.
            Another call with the same data, settings and code, on a model made and compiled in the
            same way, then carries on, and ends with the same weights, bit for bit; after the end it
            returns at once. The model may have the weights with which the run began, those of its
            newest checkpoint, those that it was left with, or fresh ones. Ctrl-C stops after the
            dispatch and saves first. The global random generators of Python, NumPy, Keras and the
            backend are saved and set, too. Where `x` is a source of batches, there are checkpoints
            at the ends of epochs only, and a run that carries on first asks for the batches of the
            epochs before, without training on them: what shuffles by a seed of its own has to be
            made anew, as for the first call.
        checkpoint_every: Seconds after which there is a checkpoint within an epoch; there is one
            at the end of each epoch anyway.
        class_weight: Dictionary from class to the weight of its examples in the loss, or None. A
            class that is not named has the weight 1.
        validation_split: Float in [0, 1), the share of the rows that is held out for validation:
            the last ones, before any shuffling. Of arrays, and of batches under `read_once`;
            ignored where there is `validation_data`.
        validation_batch_size: Integer, the examples a step of an evaluation, or None for
            `batch_size`; then more of them where the results do not depend on it.
        validation_freq: Integer, the epochs from one evaluation to the next, or a list of the
            epochs, counted from 1, that end with one.
        steps_per_epoch: Integer, the steps of an epoch, or None for all examples. The next epoch
            goes on where one has ended; where the examples or batches come to an end within an
            epoch, it is a shorter one, with a warning, and the next begins with them anew. Sources
            without an end need it.
        validation_steps: Integer, the steps of an evaluation, which takes the first ones, or None
            for all.
        read_once: Whether a source of batches is read once, to a file for temporary use if it is
            large, and its rows are trained on like those of an array. Of one that does not say when
            it ends, the first `steps_per_epoch` batches are an epoch then, or all.

    Returns:
        A `keras.callbacks.History`.

    Raises:
        ValueError: If the model is not compiled, or was but `trainable` has changed since or its
            optimizer has trained other variables, if data or settings are out of range, or if
            `checkpoint_dir` is in use or is that of another run, or, with it, if the code of a loss
            or the like cannot be told from another. Nothing is changed then.
        OSError: If a checkpoint cannot be written. The one before is whole.
        sda.TrainingDiverged: If the loss or the weights become NaN or infinite.
        RuntimeError: If one of several processes that train together has ended.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> x, y = np.random.rand(100, 4), np.random.randint(2, size=100)
    >>> history = sda.fit(model, x, y, batch_size=10, epochs=3, verbose=0)
    >>> len(history.history["loss"])
    3
    """
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            f"Expected `model` to be a compiled keras.Model. Received: model={model!r}"
        )
    check_compiled(model)
    for count, name in (
        (batch_size, "batch_size"),
        (steps_per_execution, "steps_per_execution"),
        (validation_batch_size, "validation_batch_size"),
        (steps_per_epoch, "steps_per_epoch"),
        (validation_steps, "validation_steps"),
    ):
        if count is not None:
            check_count(count, name)
    read_once = check_flag(read_once, "read_once")
    check_count(epochs, "epochs")
    check_count(initial_epoch, "initial_epoch", least=0)
    seed = check_seed(seed)
    shuffle = check_shuffle(shuffle)
    check_callbacks(callbacks)
    checkpoint.check_checkpoints(checkpoint_dir, checkpoint_every)
    validation_split = validating.check_split(validation_split)
    validation_freq = validating.check_frequency(validation_freq)
    check_process()
    splits = validation_split > 0 and validation_data is None
    streamed = is_iterated(x) and not read_once
    if is_iterated(x) and (y is not None or sample_weight is not None):
        raise ValueError(
            "Expected `y` and `sample_weight` to be None where `x` yields batches, which "
            f"hold them. Received: y of type {type(y).__name__}, sample_weight of type "
            f"{type(sample_weight).__name__}"
        )
    if streamed:
        _check_streamed(x, epochs - initial_epoch, steps_per_epoch, splits, shuffle)
    with new_scratch() as scratch:
        if is_iterated(x) and read_once:
            if steps_per_epoch is not None and length(x) in (None, math.inf):
                x, steps_per_epoch = first_batches(x, steps_per_epoch, "x"), None
            x, y, sample_weight = (*read_rows(x, "x", scratch), None, None)[:3]
        if streamed:
            check = functools.partial(_checked_batches, model, "x", class_weight)
            data = Batches(x, "x", steps_per_epoch, check)
            data.first()
            # What brings its own order draws nothing for one.
            shuffle = shuffle and isinstance(x, keras.utils.PyDataset)
        else:
            data = _checked_data(model, (x, y, sample_weight), _names("x"))
            if class_weight is not None:
                weights = validating.weights_of_classes(class_weight, data[1], data[2])
                data = (*data[:2], weights)
        if is_iterated(validation_data) and (
            read_once
            or (validation_steps is None and isinstance(validation_data, collections.abc.Iterator))
        ):
            if validation_steps is not None:
                validation_data = first_batches(
                    validation_data, validation_steps, "validation_data"
                )
                validation_steps = None
            validation_data = read_rows(validation_data, "validation_data", scratch)
        validation = _checked_validation(model, validation_data, validation_steps)
        if splits:
            rows = len(leaves(data)[0])
            first = validating.split_at(rows, validation_split)
            # Weights of classes are those of training.
            held = (*data[:2], None) if class_weight is not None else data
            validation = map_leaves(lambda a: validating.part(a, first, rows), held)
            data = map_leaves(lambda a: validating.part(a, 0, first), data)
        validation_size = validation_batch_size or batch_size
        if not streamed:
            rows = len(leaves(data)[0])
            batch_size = validating.usual_batch_size(batch_size, rows, steps_per_epoch)
            processes.check_together(
                leaves(data)[0],
                [batch_size],
                getattr(model, "distribute_strategy", None),
                epochs=epochs,
                shuffle=shuffle,
                seed=seed,
            )
            if shuffle:
                data = map_leaves(lambda rows: in_any_order(rows, scratch, shuffle), data)
        if validation is not None and not isinstance(validation, Batches):
            rows = len(leaves(validation)[0])
            validation_size = validating.usual_batch_size(validation_size, rows, validation_steps)
            some = validating.rows_of_steps(rows, validation_size, validation_steps)
            if some < rows:
                validation = map_leaves(lambda a: validating.part(a, 0, some), validation)

        def train(checkpoints=None, seed=seed, begun=None):
            trainer = Trainer(model, data, batch_size, steps_per_execution, steps_per_epoch)
            if checkpoints is not None:
                trainer.check_start(checkpoints, begun, verbose)
            evaluate = None
            if validation is not None:
                size = validation_batch_size
                if size is None and not isinstance(validation, Batches):
                    size = validating.batch_size_for(model, validation_size)
                evaluate = Evaluator(model, validation, size, trainer.driver, validation_freq)
            return trainer.fit(
                epochs, initial_epoch, verbose, callbacks, evaluate, shuffle, seed, checkpoints
            )

        if checkpoint_dir is None:
            return train()
        kept = getattr(model, "_sda_driver", None)
        begun = identity.Begun(checkpoint_dir, kept and kept.begun)
        left_out = []
        settings = {
            "phase": "fit",
            "data": data.settings()
            if streamed
            else dict(zip("xyw", map(identity.data_settings, data), strict=True)),
            "validation_data": validation.settings()
            if isinstance(validation, Batches)
            else identity.data_settings(validation),
            "steps_per_epoch": steps_per_epoch,
            "validation_steps": validation_steps,
            "validation_batch_size": validation_batch_size,
            "validation_freq": validation_freq,
            "batch_size": batch_size,
            "epochs": epochs,
            "initial_epoch": initial_epoch,
            "shuffle": shuffle,
            "seed": seed,
            "model": begun.read(model, lambda: identity.model_settings(model, left_out)),
            "compile": begun.read(
                model.optimizer,
                lambda: {
                    **identity.compile_settings(model, left_out),
                    **exclusions(model.optimizer, model.trainable_variables),
                },
            ),
            # A `CallbackList` holds a list.
            "callbacks": begun.callbacks(
                tree.flatten(getattr(callbacks, "callbacks", callbacks) or []), left_out
            ),
        }
        identity.warn_of(left_out, "checkpoints")
        try:
            with checkpoint.Checkpoints(checkpoint_dir, settings, checkpoint_every) as checkpoints:
                seed = fresh_seed() if seed is None else seed
                return train(checkpoints, checkpoints.context.setdefault("seed", seed), begun)
        finally:
            begun.leave()
            if getattr(model, "_sda_driver", None) is not None:
                model._sda_driver.begun = begun


def new_scratch():
    """Return the `Scratch` of one training."""
    return Scratch(feed.RESIDENT_BYTES // feed.PIECES)


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
        self.drivers = {_levels(model): self.driver}
        if self.batches is not None:
            self.steps = data.length()
            self.steps_of = functools.partial(_steps_of, model, steps_per_execution)
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
        return max(math.ceil(self.steps / DISPATCHES), _usual_steps(self.model, self.batch_size))

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
            checkpoint.set_random_state(checkpoints.progress.get("random"))
            self.watched = checkpoint.Watched(callbacks.callbacks, model.optimizer)
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
        levels = _levels(model)
        if levels not in self.drivers:
            self.drivers[levels] = type(self.driver)(model)
        self.driver = self.drivers[levels]
        good = self._good_state()
        with contextlib.closing(self._dispatches_of(position, shuffle, seed)) as dispatches:
            for start, steps, run in dispatches:
                callbacks.on_train_batch_begin(start)
                with kept_alive(model):
                    run(self.driver.train)
                logs = _logs(model)
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
                yield start, steps, functools.partial(_run_joined, self.driver, data, steps, most)
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
            self.watched = checkpoint.Watched(callbacks.callbacks, self.model.optimizer)
        self.watched.tell()
        checkpoints.save(
            {
                "position": vars(position),
                "stop_training": self.model.stop_training,
                "variables": {name: checkpoint.values(group) for name, group in groups},
                "callbacks": checkpoint.callback_states(callbacks.callbacks),
                "random": checkpoint.random_state(),
            }
        )

    def _resume(self, callbacks, progress):
        """Bring the model and the callbacks to where they were; return the position."""
        model = self.model
        position = _Position(**progress["position"])
        # What callbacks do to the model as they begin, they have done before.
        if not position.finished:
            with checkpoint.continued_logs(callbacks.callbacks, progress["callbacks"]):
                callbacks.on_train_begin()
            if position.step:
                callbacks.on_epoch_begin(position.epoch)
        for name, group in self._variables().items():
            checkpoint.assign(group, progress["variables"][name], name)
        checkpoint.restore_callbacks(callbacks.callbacks, progress["callbacks"])
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
        """Put the last good weights back and raise `TrainingDiverged`."""
        model = self.model
        for variable, value in zip(self._variables_to_keep(), good, strict=True):
            variable.assign(value)
        rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
        raise TrainingDiverged(
            f"Training {model.name!r} diverged: the {what} in epoch {position.epoch + 1}, by step "
            f"{position.step} of {self.steps}. The model has the weights again with which this "
            f"epoch began. Try a learning rate below {rate:g}, gradients that are clipped "
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


class Evaluator:
    """Evaluates a compiled model on one set of data; called, it returns the logs.

    Args:
        model: A compiled `keras.Model`.
        data: Nested structure of row sources, as the model's `test_step` takes it.
        batch_size: Integer, the examples a step.
        driver: The driver to share, or None for a new one.
        frequency: After which epochs it is called, as `sda.fit`'s `validation_freq`.
    """

    def __init__(self, model, data, batch_size, driver=None, frequency=1):
        self.model = model
        self.frequency = frequency
        self.batches = data if isinstance(data, Batches) else None
        self.driver = driver or driver_for(model, data)
        if self.batches is not None:
            return
        self.feed = feed_for(self.driver, data)
        rows = len(leaves(data)[0])
        batch_size = min(batch_size, rows)
        whole = rows // batch_size
        order = np.arange(rows, dtype="int32")
        self.steps = whole
        self.dispatches = [
            m
            for m in (
                order[: whole * batch_size].reshape(whole, batch_size),
                order[None, whole * batch_size :],
            )
            if m.size
        ]

    def __call__(self):
        self.model.reset_metrics()
        if self.batches is not None:
            for data, steps, most in self._batches():
                _run_joined(self.driver, data, steps, most, self.driver.test)
            return _logs(self.model)
        with self.feed.reading(self.dispatches, self.steps) as run:
            for batches in self.dispatches:
                run(self.driver.test, batches)
        return _logs(self.model)

    def go_through(self):
        """Ask a source of batches for those of one evaluation, and do nothing with them."""
        if self.batches is not None:
            collections.deque(self._batches(), maxlen=0)

    def _batches(self):
        self.batches.restart()
        return self.batches.dispatches(functools.partial(_steps_of, self.model, None))


def _steps_of(model, given, batch):
    """Return how many batches like this one share a dispatch."""
    if given is not None:
        return given
    size = sum(a.nbytes for a in leaves(batch))
    usual = min(MOST_BATCHES, _usual_steps(model, len(leaves(batch)[0])))
    return max(1, min(usual, feed.RESIDENT_BYTES // feed.PIECES // size))


def _usual_steps(model, batch_size):
    """Return how many steps make a dispatch of a good length."""
    least, faster = (LEAST_ROWS_OF_GPU, FASTER) if accelerators() else (LEAST_ROWS, 1)
    flops = 6 * max(batch_size, least) * max(model.count_params(), 1)
    return max(int(faster * DISPATCH_FLOPS / flops), 1)


def _run_joined(driver, data, steps, most, function):
    """Let the driver run on the rows of `steps` batches, of at most as many a dispatch."""
    rows = len(leaves(data)[0])
    batches = np.arange(rows, dtype="int32").reshape(steps, -1)
    if 1 < steps < most:
        # Of one shape, so that a backend compiles once.
        last = batches[-1]
        data = map_leaves(lambda a: np.concatenate([a, *[a[last]] * (most - steps)]), data)
    with feed_for(driver, data).reading([batches], most) as run:
        run(function, batches)


@contextlib.contextmanager
def _left(*sources):
    """Leave sources of batches, as far as there are any, at the end of a training."""
    try:
        yield
    finally:
        for source in sources:
            if source is not None:
                source.close()


def driver_for(model, data):
    """Return the backend's driver, with everything built that a step would build.

    A model keeps its driver, and with it what was compiled, until something changes that a step
    was compiled for. `compile` does: it makes new metrics.
    """
    made_for = _made_for(model, data)
    kept = getattr(model, "_sda_driver", None)
    if kept is not None and _identical(kept.made_for, made_for):
        return kept.driver
    first = map_leaves(lambda a: ops.convert_to_tensor(host(a[:1])), data)
    x, y, weight = (*first, None, None)[:3]
    try:
        y_pred = model(x, training=False)
        model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=False)
        model.compute_metrics(x, y, y_pred, sample_weight=weight)
    # What a backend raises where shapes or types do not fit.
    except Exception as error:
        raise ValueError(
            "Expected `x` and `y` to be what the model, its loss and its metrics take. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    model.optimizer.build(model.trainable_variables)
    # What was just built is part of it.
    driver = _backend().Driver(model)
    model._sda_driver = _Kept(driver, _made_for(model, data), kept and kept.begun)
    return driver


def check_compiled(model):
    """Raise `ValueError` unless a model is, and its optimizer knows, what it was at `compile`."""
    now = {layer: layer.trainable for layer in model._compiled_trainable_state}
    changed = [
        la.name for la, before in model._compiled_trainable_state.items() if before != now[la]
    ]
    if changed:
        raise ValueError(
            "Expected the `trainable` of all layers to be what it was when the model was compiled: "
            "it acts from `compile` on, so compile again. Received: another one of "
            f"{', '.join(map(repr, changed))}"
        )
    optimizer = model.optimizer
    known = getattr(optimizer, "_trainable_variables", [])
    if optimizer.built and not _identical(known, model.trainable_variables):
        raise ValueError(
            "Expected an optimizer that has trained no other variables, whose momentum and the "
            "like it keeps: make one per compile. Received: optimizer="
            f"{type(optimizer).__name__} of {len(known)} variables, some of which are not the "
            f"{len(model.trainable_variables)} of model {model.name!r}"
        )


def feed_for(driver, data):
    """Return what brings `data` to the driver."""
    return getattr(_backend(), "Feed", feed.Feed)(driver, data)


def _backend():
    """Return the module with the driver: the backend's, or that of a mesh of devices."""
    name = keras.backend.backend()
    if name == "jax" and keras.distribution.distribution() is not None:
        name = "mesh"
    return importlib.import_module(f"sda.training.{name}")


def _made_for(model, data):
    """Return what a driver is made for: objects, and words for what is no object."""
    words = [str(model.run_eagerly), str(model.jit_compile), keras.config.floatx()]
    words += [f"{host(a[:1]).dtype} {a.shape[1:]}" for a in leaves(data)]
    words.append(_levels(model))
    return [*words, model.optimizer, *model.metrics, *model.trainable_variables]


def _levels(model):
    """Return the levels of all noises in a model, in words."""
    layers = model._flatten_layers()
    return str([layer.level for layer in layers if isinstance(layer, Corruption)])


class _Kept:
    """A driver and what it was made for; in a list, Keras would count that as the model's own."""

    def __init__(self, driver, made_for, begun):
        self.driver = driver
        self.made_for = made_for
        self.begun = begun  # the `identity.Begun` of the last run with checkpoints


def _identical(some, others):
    """Whether two lists hold the same objects; strings are compared by their characters."""
    return len(some) == len(others) and all(
        a == b if isinstance(a, str) and isinstance(b, str) else a is b
        for a, b in zip(some, others, strict=True)
    )


def _logs(model):
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def check_callbacks(callbacks):
    """Raise `ValueError` unless `callbacks` is None, or one or several callbacks of Keras."""
    known = (keras.callbacks.Callback, keras.callbacks.CallbackList)
    given = [] if callbacks is None else tree.flatten(callbacks)
    if not all(isinstance(callback, known) for callback in given):
        raise ValueError(
            "Expected `callbacks` to be a list of Keras callbacks. "
            f"Received: callbacks={callbacks!r}"
        )


def _check_streamed(x, epochs, steps_per_epoch, splits, shuffle):
    """Raise `ValueError` where batches cannot be asked for anew in each of the epochs."""
    once = isinstance(x, collections.abc.Iterator)
    if steps_per_epoch is None and (length(x) == math.inf or (once and epochs > 1)):
        has = "an end, which could not be asked twice" if once else "no end"
        raise ValueError(
            f"Expected `steps_per_epoch` where `x` has {has}. Received: x of type "
            f"{type(x).__name__}, {epochs} epochs; or use read_once=True to keep its rows"
        )
    if splits:
        raise ValueError(
            "Expected `validation_split` to be left out where `x` yields batches, unless "
            "read_once=True keeps their rows. Received: x of type " + type(x).__name__
        )
    if shuffle == "blocks":
        raise ValueError(
            "Expected `shuffle` to be True or False where `x` yields batches, unless "
            f"read_once=True keeps their rows. Received: shuffle={shuffle!r}"
        )
    if processes.count() > 1:
        raise ValueError(
            "Expected `x` to be rows, or read_once=True, where several processes train together: "
            f"each reads its part of a batch. Received: x of type {type(x).__name__}"
        )


def _checked_validation(model, data, steps):
    if data is None:
        return None
    if is_iterated(data):
        if steps is None and length(data) == math.inf:
            raise ValueError(
                "Expected `validation_steps` where `validation_data` has no end. Received: "
                f"validation_data of type {type(data).__name__}"
            )
        check = functools.partial(_checked_batches, model, "validation_data", None)
        return Batches(data, "validation_data", steps, check)
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise ValueError(
            "Expected `validation_data` to be (x, y) or (x, y, sample_weight). "
            f"Received: {type(data).__name__}"
        )
    return _checked_data(model, (*data, None)[:3], _names("validation_data"))


def _checked_batches(model, name, class_weight, data):
    """Return the rows of one or several batches, checked, and with the weights of their classes."""
    x, y, weight = _checked_data(model, data, _names(name))
    if class_weight is not None:
        weight = validating.weights_of_classes(class_weight, y, weight)
    return x, y, weight


def _names(name):
    if name == "x":
        return "x", "y", "sample_weight"
    return [f"{name}[{i}]" for i in range(3)]


def _checked_data(model, data, names):
    data = [arrays_of_lists(part, name) for part, name in zip(data, names, strict=True)]
    for part, name in zip(data, names, strict=True):
        if part is not None and not leaves(part):
            raise ValueError(f"Expected `{name}` to hold arrays. Received: {name}={part!r}")
    if data[0] is None:
        raise ValueError(f"Expected `{names[0]}` to hold arrays. Received: {names[0]}=None")
    rows = tuple(
        tree.map_structure(lambda a, name=name: None if a is None else as_rows(a, name), part)
        for part, name in zip(data, names, strict=True)
    )
    for part, name in zip(rows, names, strict=True):
        for leaf in leaves(part):
            if len(leaf) != len(leaves(rows)[0]):
                raise ValueError(
                    f"Expected `{name}` to have {len(leaves(rows)[0])} examples, as "
                    f"`{names[0]}` has. Received: {len(leaf)} examples"
                )
    x, y, weight = rows
    missing = {
        names[0]: lambda: _takes_missing(model, x),
        names[1]: lambda: getattr(model.loss, "missing_values", False),
    }
    for part, name in zip(rows, names, strict=True):
        for leaf in leaves(part):
            try:
                check_finite(leaf, name)
            except ValueError:
                # Asked only where something is wrong: most data are whole.
                if not missing.get(name, bool)():
                    raise
                check_finite(leaf, name, missing=True)
    if y is None and model.loss is not None:
        raise ValueError(f"Expected `{names[1]}` to be targets for the loss. Received: None")
    if hasattr(weight, "shape") and len(weight.shape) != 1:
        raise ValueError(
            f"Expected `{names[2]}` of shape (n,). Received: shape {tuple(weight.shape)}"
        )
    if hasattr(x, "shape") and not isinstance(getattr(model, "input_shape", None), (list, dict)):
        expected = getattr(model, "input_shape", None)
        if expected is not None and not _matches(x.shape, expected):
            raise ValueError(
                f"Expected `{names[0]}` of shape {expected}, as the model takes it. "
                f"Received: shape {tuple(x.shape)}"
            )
    if y is not None:
        _check_targets(model, y, names[1])
    return rows


def _takes_missing(model, x):
    """Return whether a model has an answer where all of its input is missing (NaN)."""
    nothing = map_leaves(lambda a: np.full_like(host(a[:1]), np.nan, keras.config.floatx()), x)
    try:
        y = model(map_leaves(ops.convert_to_tensor, nothing), training=False)
    # Whatever it is that does not fit, missing values are one thing more.
    except Exception:
        return False
    return all(np.isfinite(ops.convert_to_numpy(leaf)).all() for leaf in leaves(y))


def _matches(shape, expected):
    return len(shape) == len(expected) and all(
        e is None or s == e for s, e in zip(shape[1:], expected[1:], strict=True)
    )


def _check_targets(model, y, name):
    """Raise `ValueError` where targets do not fit a loss of Keras's own."""
    shapes = getattr(model, "output_shape", None)
    if isinstance(shapes, tuple):
        losses = _losses(model)
        if len(losses) == 1 and len(leaves(y)) == 1:
            _check_labels(losses[0], leaves(y)[0], shapes, name)
        return
    if isinstance(shapes, list) and isinstance(y, (list, tuple)) and len(y) == len(shapes):
        losses = dict(zip(model.output_names, _losses(model), strict=False))
        if isinstance(model.loss, dict):
            losses = model.loss
        for i, (output, shape) in enumerate(zip(model.output_names, shapes, strict=True)):
            if y[i] is not None:
                _check_labels(losses.get(output), y[i], shape, f"{name}[{i}]")
    if isinstance(shapes, dict) and isinstance(y, dict) and isinstance(model.loss, dict):
        for output in shapes.keys() & y.keys() & model.loss.keys():
            if hasattr(y[output], "shape"):
                _check_labels(model.loss[output], y[output], shapes[output], f"{name}[{output!r}]")


def _check_labels(loss, y, shape, name):
    """Raise `ValueError` where the targets of one output are not what its loss compares."""
    loss_name = _loss_name(loss)
    if not isinstance(shape, tuple) or not shape or not isinstance(shape[-1], int):
        return
    classes = shape[-1]
    # As in Keras, a single output and its targets may have an axis of one, or not.
    one = shape[:-1] if classes == 1 else shape
    if loss_name in ELEMENTWISE and not (_matches(y.shape, shape) or _matches(y.shape, one)):
        raise ValueError(
            f"Expected `{name}` of shape {shape}, as the model's output. "
            f"Received: shape {tuple(y.shape)}"
        )
    if loss_name in ("binary_crossentropy", "categorical_crossentropy"):
        for piece in pieces(y):
            if piece.min() < 0 or piece.max() > 1:
                raise ValueError(
                    f"Expected `{name}` to lie in [0, 1] under {loss_name}. "
                    f"Received: values from {piece.min()} to {piece.max()}"
                )
    if loss_name != SPARSE:
        return
    if not _matches(y.shape, shape[:-1]) and not _matches(y.shape, (*shape[:-1], 1)):
        raise ValueError(
            f"Expected `{name}` of shape {shape[:-1]}, a label an example. "
            f"Received: shape {tuple(y.shape)}"
        )
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    ignored = config.get("ignore_class")
    for labels in pieces(y):
        wrong = (labels < 0) | (labels >= classes) | (labels != np.floor(labels))
        wrong = labels[wrong & (labels != ignored)] if ignored is not None else labels[wrong]
        if wrong.size:
            raise ValueError(
                f"Expected `{name}` to hold labels from 0 to {classes - 1}, as the model has "
                f"{classes} outputs. Received: {wrong.flat[0]}"
            )


def _losses(model):
    """Return the losses that a model was compiled with, in a list."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict):
        return list(loss.values())
    return list(loss) if isinstance(loss, (list, tuple)) else [loss]


def _loss_name(loss):
    """Return the name of Keras's own loss, given as a string, a function or an object, or None.

    Losses of others are theirs, also where they have the name of one of Keras's.
    """
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return None
    for name, kind in LOSSES.items():
        if type(loss) is kind or loss is getattr(keras.losses, name):
            return name
    return None
