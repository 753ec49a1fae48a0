"""`sda.fit`: `Model.fit` with many steps a dispatch."""

import collections.abc
import contextlib
import functools

import keras
from keras import tree

from sda.checkpoints import folder, identity
from sda.checkpoints.starts import Begun, check_start
from sda.checks import check_count, check_flag
from sda.distribution import processes
from sda.rows.iterated import is_iterated
from sda.rows.iterated import read_once as read_rows
from sda.rows.orders import brings_order, order_of
from sda.rows.reading import in_any_order
from sda.streams import check_seed, fresh_seed
from sda.training import validation as validating
from sda.training.batches import Batches
from sda.training.checks import (
    argument_names,
    check_callbacks,
    check_compiled,
    check_streamed,
    checked_batches,
    checked_data,
    checked_validation,
)
from sda.training.drivers import driver_for
from sda.training.evaluate import Evaluator
from sda.training.feed import leaves, map_leaves
from sda.training.feeding import Feeding, new_scratch
from sda.training.loop import Trainer
from sda.training.optimizers import exclusions
from sda.training.run import Run


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
            `sda.datasets.read` returns, a matrix of `scipy.sparse`, …), or a nested structure of
            arrays for a model with several inputs. Or a source of batches `(x, y)` or
            `(x, y, sample_weight)`: a `tf.data.Dataset`, `keras.utils.PyDataset`, PyTorch
            `DataLoader`, or a generator. It is asked for them anew in each epoch, so that what
            it shuffles and augments differs from epoch to epoch; a thread asks, some batches ahead.
            `y` and `sample_weight` are None then. A generator cannot be asked twice: more than one
            epoch of it need `steps_per_epoch`, and training ends, with a warning, where it does.
            Nothing is scaled: values of dtype uint8 stay uint8 on the device, and the model's own
            layers, a `Rescaling` among them, see them as they are. NaN is a missing value: allowed
            where the model has an answer for it, as those of a stack with a `fill_value` do.
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
            batches is shuffled; other sources of batches bring their own. A model with a method
            `training_order(shuffle, seed)` brings the order of its rows: a `sda.rows.orders.Order`,
            in which some may come more often than others.
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
        sda.TrainingDivergedError: If the loss or the weights become NaN or infinite.
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
    for count, name in ((batch_size, "batch_size"), (steps_per_execution, "steps_per_execution")):
        if count is not None:
            check_count(count, name)
    feeding = Feeding(
        [batch_size],
        shuffle,
        validation_split,
        validation_batch_size,
        validation_freq,
        steps_per_epoch,
        validation_steps,
    )
    read_once = check_flag(read_once, "read_once")
    check_count(epochs, "epochs")
    check_count(initial_epoch, "initial_epoch", least=0)
    seed = check_seed(seed)
    check_callbacks(callbacks)
    folder.check_checkpoints(checkpoint_dir, checkpoint_every)
    streamed = is_iterated(x) and not read_once
    if is_iterated(x) and (y is not None or sample_weight is not None):
        raise ValueError(
            "Expected `y` and `sample_weight` to be None where `x` yields batches, which "
            f"hold them. Received: y of type {type(y).__name__}, sample_weight of type "
            f"{type(sample_weight).__name__}"
        )
    if streamed:
        splits = feeding.validation_split > 0 and validation_data is None
        check_streamed(x, epochs - initial_epoch, steps_per_epoch, splits, feeding.shuffle)
    with contextlib.ExitStack() as resources:
        scratch = resources.enter_context(new_scratch())
        if read_once:
            x = feeding.limited(x)
            validation_data = feeding.limited_validation(validation_data)
        if is_iterated(x) and read_once:
            x, y, sample_weight = (*read_rows(x, "x", scratch), None, None)[:3]
        if streamed:
            check = functools.partial(checked_batches, model, "x", class_weight)
            data = Batches(x, "x", steps_per_epoch, check)
            data.first()
        else:
            data = checked_data(model, (x, y, sample_weight), argument_names("x"))
        once = isinstance(validation_data, collections.abc.Iterator)
        once = once and feeding.validation_steps is None
        if is_iterated(validation_data) and (read_once or once):
            validation_data = read_rows(validation_data, "validation_data", scratch)
        validation = checked_validation(model, validation_data, feeding.validation_steps)
        data, validation = feeding.split(data, validation)
        orders_rows = None if streamed else model
        if streamed:
            # What brings its own order draws nothing for one.
            feeding.shuffle = feeding.shuffle and isinstance(x, keras.utils.PyDataset)
        make_order = functools.partial(order_of, feeding.shuffle, model=orders_rows)
        if not streamed:
            # Weights of classes are those of training, not of the rows that are held out.
            if class_weight is not None:
                weights = validating.weights_of_classes(class_weight, data[1], data[2])
                data = (*data[:2], weights)
            batch_size = validating.usual_batch_size(
                batch_size, len(leaves(data)[0]), feeding.steps_per_epoch
            )
            processes.check_together(
                leaves(data)[0],
                [batch_size],
                getattr(model, "distribute_strategy", None),
                epochs=epochs,
                shuffle=feeding.shuffle,
                seed=seed,
            )
            data = map_leaves(lambda rows: in_any_order(rows, scratch, make_order(seed)), data)
        run = Run(
            model,
            data,
            batch_size,
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=feeding.steps_per_epoch,
            steps_per_execution=steps_per_execution,
            callbacks=callbacks,
            verbose=verbose,
        )
        if checkpoint_dir is not None:
            begun = Begun(model, checkpoint_dir)
            settings = _settings(run, validation, begun, feeding, seed)
            if brings_order(orders_rows):
                settings["order"] = identity.object_settings(make_order(seed), "order")
            run.checkpoints = resources.enter_context(
                folder.Checkpoints(checkpoint_dir, settings, checkpoint_every, begun)
            )
            seed = fresh_seed() if seed is None else seed
            seed = run.checkpoints.context.setdefault("seed", seed)
        driver = driver_for(model, data.example if streamed else data)
        if run.checkpoints is not None:
            _check_start(run)
        if validation is not None:
            size = feeding.evaluation_size(model, validation)
            run.evaluate = Evaluator(model, validation, size, driver, feeding.validation_freq)
        if seed is None and (feeding.shuffle or brings_order(orders_rows)):
            seed = fresh_seed()
        run.order = make_order(seed)
        return Trainer(run).fit()


def _settings(run, validation, begun, feeding, seed):
    """Return what must be equal for a run to go on, in plain values."""
    model, left_out = run.model, []
    # A `CallbackList` holds a list.
    callbacks = tree.flatten(getattr(run.callbacks, "callbacks", run.callbacks) or [])
    settings = {
        "phase": "fit",
        "data": run.data.settings()
        if isinstance(run.data, Batches)
        else dict(zip("xyw", map(identity.data_settings, run.data), strict=True)),
        "validation_data": validation.settings()
        if isinstance(validation, Batches)
        else identity.data_settings(validation),
        "steps_per_epoch": feeding.steps_per_epoch,
        "validation_steps": feeding.validation_steps,
        "validation_batch_size": feeding.validation_batch_size,
        "validation_freq": feeding.validation_freq,
        "batch_size": run.batch_size,
        "epochs": run.epochs,
        "initial_epoch": run.initial_epoch,
        "shuffle": feeding.shuffle,
        "seed": seed,
        "model": begun.read(model, lambda: identity.model_settings(model, left_out)),
        "compile": begun.read(
            model.optimizer,
            lambda: {
                **identity.compile_settings(model, left_out),
                **exclusions(model.optimizer, model.trainable_variables),
            },
        ),
        "callbacks": begun.callbacks(callbacks, left_out),
    }
    identity.warn_of(left_out, "checkpoints")
    return settings


def _check_start(run):
    """Raise `ValueError` where the model has other weights than one of the run may have."""
    model, progress = run.model, run.checkpoints.progress
    newest = progress and [
        *progress["variables"]["trainable"],
        *progress["variables"]["non-trainable"],
    ]
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    check_start(run.checkpoints, model, variables, newest, run.verbose)
