"""`sda.fit`: `Model.fit` with many steps a dispatch."""

import collections.abc
import functools
import math

import keras
from keras import tree

from sda.checkpoints import folder, identity
from sda.checks import check_count, check_flag
from sda.distribution import processes
from sda.forks import check_process
from sda.rows.iterated import first_batches, is_iterated, length
from sda.rows.iterated import read_once as read_rows
from sda.rows.orders import check_shuffle
from sda.rows.reading import in_any_order
from sda.rows.scratch import Scratch
from sda.streams import check_seed, fresh_seed
from sda.training import feed
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
from sda.training.evaluate import Evaluator
from sda.training.feed import leaves, map_leaves
from sda.training.loop import Trainer
from sda.training.optimizers import exclusions


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
    folder.check_checkpoints(checkpoint_dir, checkpoint_every)
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
        check_streamed(x, epochs - initial_epoch, steps_per_epoch, splits, shuffle)
    with new_scratch() as scratch:
        if is_iterated(x) and read_once:
            if steps_per_epoch is not None and length(x) in (None, math.inf):
                x, steps_per_epoch = first_batches(x, steps_per_epoch, "x"), None
            x, y, sample_weight = (*read_rows(x, "x", scratch), None, None)[:3]
        if streamed:
            check = functools.partial(checked_batches, model, "x", class_weight)
            data = Batches(x, "x", steps_per_epoch, check)
            data.first()
            # What brings its own order draws nothing for one.
            shuffle = shuffle and isinstance(x, keras.utils.PyDataset)
        else:
            data = checked_data(model, (x, y, sample_weight), argument_names("x"))
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
        validation = checked_validation(model, validation_data, validation_steps)
        if splits:
            rows = len(leaves(data)[0])
            first = validating.split_at(rows, validation_split)
            # Weights of classes are those of training.
            held = (*data[:2], None) if class_weight is not None else data
            validation = map_leaves(lambda a: a.part(first, rows), held)
            data = map_leaves(lambda a: a.part(0, first), data)
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
                validation = map_leaves(lambda a: a.part(0, some), validation)

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
            with folder.Checkpoints(checkpoint_dir, settings, checkpoint_every) as checkpoints:
                seed = fresh_seed() if seed is None else seed
                return train(checkpoints, checkpoints.context.setdefault("seed", seed), begun)
        finally:
            begun.leave()
            if getattr(model, "_sda_driver", None) is not None:
                model._sda_driver.begun = begun


def new_scratch():
    """Return the `Scratch` of one training."""
    return Scratch(feed.RESIDENT_BYTES // feed.PIECES)
