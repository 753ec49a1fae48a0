"""Greedy layer-wise pretraining: each dA learns the clean codes of the layers below."""

import contextlib

import keras
import numpy as np

from sda import losses
from sda.checkpoints import folder as folders
from sda.checkpoints import identity, state
from sda.checkpoints.layer_cache import LayerCache, ground, layer_settings, training_settings
from sda.checks import check_count, check_flag, look_up, per_layer
from sda.distribution import processes
from sda.files.locks import scratch_folder
from sda.forks import check_process
from sda.layers import preprocessing as before
from sda.models.denoising import Denoising, DenoisingScore
from sda.models.layer_loss import loss_for
from sda.models.stack import StackedDenoisingAutoencoder
from sda.pretraining.feeding import Feeding
from sda.pretraining.progress import Clock, Progress
from sda.rows import codes as code_places
from sda.rows.iterated import is_iterated, read_once
from sda.rows.orders import check_shuffle
from sda.rows.reading import as_rows, check_finite, in_any_order, on_arrays, pieces
from sda.streams import check_seed, fresh_seed, stream
from sda.training.checks import check_callbacks
from sda.training.evaluate import Evaluator
from sda.training.feed import host
from sda.training.fit import new_scratch
from sda.training.loop import Trainer
from sda.training.optimizers import exclusions, fresh

# What a History holds, but for its model.
HISTORY = ("params", "epoch", "history")


class GreedyPretrainer:
    """Trains the layers of a stack one after another, from the input up, without labels.

    Layer k minimises E[L(h, dA(h̃))] over its own input, the clean codes h = hᵏ⁻¹ of the layers
    below, which stay as they are (Bengio et al., NIPS 2006; Vincent et al., JMLR 11 (2010), section
    3.5). Only the layer in training corrupts, and only its own input.

    Every setting is one value for all layers, or a list with one value a layer.

    Args:
        stack: A `sda.StackedDenoisingAutoencoder`.
        optimizer: Name or `keras.optimizers.Optimizer`: a template, of which each layer gets a
            fresh copy.
        loss: "cross_entropy", "squared_error", a loss of `sda.losses` or of Keras, or None for
            cross-entropy under a sigmoid decoder, each column's own under a `ColumnActivation`, and
            squared error otherwise. The losses of `sda.losses` are summed over features.
        epochs: Integer, passes over the data.
        batch_size: Integer, the examples an update, of all devices together.
        callbacks: Function from the index of a layer to a list of `keras.callbacks.Callback`, or
            None. Callbacks keep state, so each layer needs its own.
        codes_storage: Where the codes between two layers live: "device", "ram" (sent piece by
            piece), "disk" (an HDF5 scratch file), "recompute" (never stored), or "auto": the device
            while they fit `codes_budget`, then disk. The result does not depend on it.
        codes_budget: Integer, the bytes that the codes of one layer may take in memory, or None
            for 1 GiB under "auto" and no limit otherwise.
        seed: Integer for the order of the examples, or None for a random one. The noise has the
            seed of the stack.
        checkpoint_dir: Path of a folder from which the schedule can go on when it was cut off, or
            None. Another pretrainer with the same settings and code, on a stack made in the same
            way, whose `fit` gets the same data, then carries on, and ends with the same weights,
            bit for bit; after the end it returns at once. The stack may have the weights with which
            the run began, those of its newest checkpoint, those that it was left with, or fresh
            ones. Ctrl-C stops after the dispatch and saves first.
        checkpoint_every: Seconds after which there is a checkpoint within an epoch; there is one
            at the end of each epoch anyway.
        cache: A `sda.LayerCache` of layers that several runs share, or None. Layers that are in
            it are not trained again, with the same result; their callbacks are not called. It needs
            a `seed`.

    Raises:
        ValueError: If a setting is out of its range, an optimizer cannot be copied, or a list has
            not one value a layer.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([20, 10], corruption=[0.1, 0.2], seed=1)
    >>> pretrainer = sda.GreedyPretrainer(stack, keras.optimizers.SGD(0.1), epochs=[2, 1], seed=1)
    >>> histories = pretrainer.fit(np.random.rand(100, 30), verbose=0)
    >>> [len(history.history["loss"]) for history in histories]
    [2, 1]
    """

    def __init__(
        self,
        stack,
        optimizer="sgd",
        loss=None,
        epochs=15,
        batch_size=20,
        callbacks=None,
        codes_storage="auto",
        codes_budget=None,
        seed=None,
        checkpoint_dir=None,
        checkpoint_every=600,
        cache=None,
    ):
        if not isinstance(stack, StackedDenoisingAutoencoder):
            raise ValueError(
                "Expected `stack` to be an sda.StackedDenoisingAutoencoder. "
                f"Received: stack={stack!r}"
            )
        # Optimizers are made below, and with them tensors.
        check_process()
        depth = len(stack.autoencoders)
        self.stack = stack
        self.optimizer = [
            look_up(keras.optimizers.get, o, "optimizer", "a Keras optimizer or its name")
            for o in per_layer(optimizer, depth, "optimizer")
        ]
        for template in self.optimizer:
            # The last layer's is copied hours later: one that cannot be is found now.
            look_up(fresh, template, "optimizer", "a template that its config can make again")
        self.loss = [
            loss_for(stack, k, loss_k) for k, loss_k in enumerate(per_layer(loss, depth, "loss"))
        ]
        self.epochs = per_layer(epochs, depth, "epochs")
        self.batch_size = per_layer(batch_size, depth, "batch_size")
        for epochs_k, batch_size_k in zip(self.epochs, self.batch_size, strict=True):
            check_count(epochs_k, "epochs", least=0)
            check_count(batch_size_k, "batch_size")
        if callbacks is not None and not callable(callbacks):
            raise ValueError(
                "Expected `callbacks` to be a function from the index of a layer to a list of "
                f"callbacks, since each layer needs fresh ones. Received: callbacks={callbacks!r}"
            )
        self.callbacks = callbacks
        code_places.check_place(codes_storage, codes_budget)
        self.codes_storage = codes_storage
        self.codes_budget = codes_budget
        self.seed = check_seed(seed)
        folders.check_checkpoints(checkpoint_dir, checkpoint_every)
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        if cache is not None and not isinstance(cache, LayerCache):
            raise ValueError(
                f"Expected `cache` to be an sda.LayerCache or None. Received: cache={cache!r}"
            )
        if cache is not None and seed is None:
            raise ValueError(
                "Expected `seed` to be an integer under `cache`: layers that saw the examples "
                "in random orders are never the same. Received: seed=None"
            )
        self.cache = cache

    @processes.together()
    def fit(
        self,
        x,
        *others,
        targets=None,
        pairs=False,
        validation_data=None,
        shuffle=True,
        verbose="auto",
        validation_split=0.0,
        validation_batch_size=None,
        validation_freq=1,
        steps_per_epoch=None,
        validation_steps=None,
    ):
        """Pretrain all layers.

        With `targets` or `pairs` the first layer learns to turn noisy rows into clean ones: it
        corrupts each row of `x`, as always, and is compared with the same row of the targets. The
        layers above learn the codes of the targets.

        Args:
            x: Unlabelled examples of shape `(n, ...)`: NumPy array, `np.memmap`, `h5py.Dataset` of
                an open file, what `sda.datasets.read` returns, a matrix of `scipy.sparse`, whose
                rows are made dense as they are read, or a source of batches: a
                `tf.data.Dataset`, `keras.utils.PyDataset`, PyTorch `DataLoader`, or a generator.
                Sources of batches are read once, to a file for temporary use if they are large,
                since every layer needs the rows again: what they shuffle and augment is the same
                in all epochs. Of `(x, y)` batches, x is kept, and y only with `pairs`. Rows go
                through the stack's `preprocessing` in every step: uint8 rows stay uint8. More than
                1 GiB of them stay where they are, and are read in pieces, each while the one before
                it is trained on.
            *others: Nothing: the arguments below have to be named.
            targets: The clean rows, of the shape of `x`, whose rows are the noisy ones; None where
                `x` itself is clean. They go through the same preprocessing. The weights of an
                emphasised loss are still those of features that the layer's own noise selected or
                left alone, whatever the noise in `x` did. Where the stack has a `missing`, values
                may be missing in either: of `x` they are filled in, and what is missing in the
                targets counts in no loss.
            pairs: Whether the batches of a source are (noisy, clean) pairs. Otherwise the second
                part of a batch is left out, as the labels that it may be.
            validation_data: Examples like `x`, or None; (noisy, clean) if there are targets, or a
                source of such pairs if `pairs`. Each epoch then logs `val_loss`, the denoising
                loss under a noise that is drawn once and kept, and `val_clean_loss`, the loss
                without the layer's own noise.
            shuffle: True for a new order of all examples in each epoch, False for none, "blocks"
                for a new one that a disk can follow: see `sda.fit`.
            verbose: 0 silent, 1 progress bar, 2 one line an epoch, "auto" means 1.
            validation_split: Float in [0, 1), the share of the rows that is held out for
                validation: the last ones, before any shuffling. Ignored where there is
                `validation_data`.
            validation_batch_size: Integer, the examples a step of an evaluation, or None for
                `batch_size`, and 500 at least.
            validation_freq: Integer, the epochs from one evaluation to the next, or a list of the
                epochs, counted from 1, that end with one.
            steps_per_epoch: Integer, the steps of an epoch, or None for all examples; the next
                epoch goes on where one has ended. Of a source of batches that does not say when it
                ends, so many are read, and all of their rows are an epoch.
            validation_steps: Integer, the steps of an evaluation, which takes the first rows, as
                many as `validation_batch_size`, or `batch_size`, in each; of a source of batches
                so many are read. None for all.

        Returns:
            List of `keras.callbacks.History`, one a layer. `loss` is what was minimised; the
            penalties in it are logged beside it, as `sparsity` and `contraction`.

        Raises:
            ValueError: If the data are empty, of the wrong shape, not finite (but for NaN where the
                stack has a `missing`), or outside [0, 1] under cross-entropy (which noisy rows with
                targets may be), or if `checkpoint_dir` is in use or is that of another run.
                Nothing has changed then.
            OSError: If a checkpoint cannot be written. The one before is whole.
            sda.TrainingDivergedError: If the loss or the weights of a layer become NaN or infinite.
                The layers below keep what they learned, and this one its last good weights.
            RuntimeError: If one of several processes that train together has ended.
        """
        check_process()
        if others:
            raise ValueError(
                "Expected `x` alone, and all other arguments by name: the targets of a layer are "
                "its own input, and clean rows for noisy ones are `targets=`. "
                f"Received: {len(others) + 1} arguments without a name"
            )
        pairs = check_flag(pairs, "pairs")
        stack = self.stack
        shuffle = check_shuffle(shuffle)
        feeding = Feeding(
            validation_split,
            validation_batch_size,
            validation_freq,
            steps_per_epoch,
            validation_steps,
            self.batch_size,
        )
        with contextlib.ExitStack() as resources:
            scratch = resources.enter_context(new_scratch())
            x, validation_data = feeding.read(x, validation_data)
            data = self._checked_data(x, targets, pairs, scratch)
            validation = self._checked_validation(validation_data, data, pairs, scratch)
            data, validation = feeding.split(data, validation)
            for examples in (data, validation):
                self._check_places(examples)
            callbacks = [
                list(self.callbacks(k)) if self.callbacks is not None else []
                for k in range(len(stack.autoencoders))
            ]
            for made in callbacks:
                check_callbacks(made)
            processes.check_together(
                data[-1],
                self.batch_size,
                getattr(stack, "distribute_strategy", None),
                epochs=self.epochs,
                shuffle=shuffle,
                seed=self.seed,
            )
            if self.cache is not None and processes.count() > 1:
                raise ValueError(
                    "Expected `cache` to be None where several processes train together: each "
                    f"has its own time to look. Received: cache={self.cache!r}"
                )
            trainings = self._trainings(shuffle, callbacks, feeding)
            if shuffle:
                data = tuple(in_any_order(rows, scratch, shuffle) for rows in data)
            checkpoints = None
            if self.checkpoint_dir is not None:
                stack._begun = identity.Begun(self.checkpoint_dir, stack._begun)
                resources.callback(stack._begun.leave)
                settings = self._settings(
                    data, validation, shuffle, callbacks, stack._begun, feeding
                )
                checkpoints = resources.enter_context(
                    folders.Checkpoints(self.checkpoint_dir, settings, self.checkpoint_every)
                )
            if not stack.built:
                stack.build((None, *data[0].shape[1:]))
            folder = resources.enter_context(scratch_folder("sda-codes-"))
            return self._fit(
                data, validation, shuffle, verbose, callbacks, checkpoints, folder, trainings,
                feeding,
            )  # fmt: skip

    def _fit(
        self, data, validation, shuffle, verbose, callbacks, checkpoints, folder, trainings, feeding
    ):
        """Train the layers, or those that are left; return their Histories."""
        stack = self.stack
        seed = fresh_seed() if self.seed is None else self.seed
        done, histories = 0, []
        keys = self._keys(data, validation, trainings)
        if checkpoints is not None:
            context = checkpoints.context
            if context:
                self._check_start(checkpoints, verbose)
                # Those of a stack that was not trained yet.
                keys = context.get("keys") and keys and context["keys"]
                # The weights of layers to come too: they may have been drawn without a seed.
                state.assign(stack.variables, context["stack"], "stack")
                seed, done = context["seed"], context["layer"]
                histories = [_history(saved) for saved in context["histories"]]
                state.set_random_state(context.get("random"))
                # Checkpoints of older versions have none.
                levels = context.get("levels", ())
                for autoencoder, level in zip(stack.autoencoders, levels, strict=False):
                    if level != autoencoder.corruption.level:
                        autoencoder.corruption.level = level
            else:
                context.update(seed=seed, layer=0, histories=[], keys=keys)
                context["stack"] = state.values(stack.variables)
                context["start"] = identity.start_of(stack.variables)
                # Callbacks change them, and a validation has those that training began with.
                context["levels"] = [a.corruption.level for a in stack.autoencoders]
            stack._begun.train(stack.variables)
        depth = len(stack.autoencoders)
        if done == depth:
            return histories
        clock = Clock(self.epochs, [a.encoder.count_params() for a in stack.autoencoders])
        steps = []

        def train(k):
            nonlocal data, validation
            # Codes are computed when a layer is trained on them, not before.
            while steps:
                data, validation = self._lift(
                    steps.pop(0), data, validation, folder, f"below_{k}_{len(steps)}"
                )
            return self._fit_layer(
                k, data, validation, shuffle, verbose, seed, callbacks[k], clock,
                checkpoints, feeding,
            )  # fmt: skip

        for k in range(depth):
            if k < done:
                clock.layer_ends(k)
            else:
                histories.append(self._from_store(k, keys[k], train, clock) if keys else train(k))
                if checkpoints is not None:
                    self._layer_ends(checkpoints, k, histories)
            steps.append(stack.lift(k))
            # The layers above know clean rows only.
            data, validation = _clean(data), _clean(validation)
        return histories

    def _trainings(self, shuffle, callbacks, feeding=None):
        """Return how each layer is trained, as the store knows it, or None without a store."""
        if self.cache is None:
            return None
        left_out = []
        trainings = [
            training_settings(
                self.stack.autoencoders[k],
                self.optimizer[k],
                self.loss[k],
                made,
                left_out,
                epochs=self.epochs[k],
                batch_size=self.batch_size[k],
                shuffle=shuffle,
                seed=stream(self.seed, "order", k),
                **(feeding.settings() if feeding else {}),
                **self.exclusions(k),
            )
            for k, made in enumerate(callbacks)
        ]
        identity.warn_of(left_out, "shared layers")
        return trainings

    def _keys(self, data, validation, trainings):
        """Return what the store knows each layer by, or None without a store."""
        if trainings is None:
            return None
        keys = [ground(self.stack, data, validation)]
        for autoencoder, training in zip(self.stack.autoencoders, trainings, strict=True):
            keys.append(layer_settings(keys[-1], autoencoder, training))
        return keys[1:]

    def _from_store(self, k, key, train, clock):
        """Return the History of layer `k`, from the store or by training."""
        autoencoder = self.stack.autoencoders[k]
        saved = self.cache.layer(key, autoencoder.variables, lambda: _plain_history(train(k)))
        clock.layer_ends(k)
        return _history(saved)

    def _layer_ends(self, checkpoints, k, histories):
        """Keep all weights of the stack, and what belongs to no layer, for layer `k` + 1."""
        checkpoints.context.update(
            layer=k + 1,
            levels=[autoencoder.corruption.level for autoencoder in self.stack.autoencoders],
            histories=[_plain_history(history) for history in histories],
            stack=state.values(self.stack.variables),
            random=state.random_state(),
        )
        checkpoints.progress = None
        checkpoints.save(None)

    def _settings(self, data, validation, shuffle, callbacks, begun, feeding):
        """What must be equal for a schedule to go on."""
        left_out = []
        settings = {
            "phase": "pretraining",
            "data": dict(zip(("x", "targets"), map(identity.data_settings, data), strict=False)),
            "validation_data": identity.data_settings(validation),
            **feeding.settings(),
            "optimizer": [
                {**identity.object_settings(o, "optimizer", left_out), **self.exclusions(k)}
                for k, o in enumerate(self.optimizer)
            ],
            "loss": [
                begun.read(o, lambda o=o: identity.object_settings(o, "loss", left_out))
                for o in self.loss
            ],
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "shuffle": shuffle,
            "seed": self.seed,
            "stack": begun.read(self.stack, lambda: identity.model_settings(self.stack, left_out)),
            "preprocessing": identity.weights_settings(self.stack.preprocessing),
            "callbacks": [begun.callbacks(made, left_out) for made in callbacks],
        }
        identity.warn_of(left_out, "checkpoints")
        return settings

    def _check_start(self, checkpoints, verbose):
        """Raise `ValueError` where the stack has other weights than a stack of the run may have."""
        stack, context, progress = self.stack, checkpoints.context, checkpoints.progress
        newest = {id(v): value for v, value in zip(stack.variables, context["stack"], strict=False)}
        if progress is not None:
            model = self.layer_model(context["layer"])
            for name, group in (
                ("trainable", model.trainable_variables),
                ("non-trainable", model.non_trainable_variables),
            ):
                held = progress["variables"][name]
                newest |= {id(v): value for v, value in zip(group, held, strict=False)}
        identity.resume_from(
            checkpoints.path,
            stack,
            stack.variables,
            context.get("start"),
            [newest.get(id(v)) for v in stack.variables],
            stack._begun.weights,
            verbose,
        )

    def exclusions(self, k):
        """Return what layer `k` excludes from weight decay, as an entry of settings."""
        return exclusions(self.optimizer[k], self.stack.autoencoders[k].variables)

    def _fit_layer(
        self, k, data, validation, shuffle, verbose, seed, callbacks, clock, checkpoints, feeding
    ):
        """Train layer `k` on its input, or what is left of it; return its History."""
        autoencoder = self.stack.autoencoders[k]
        model = self.layer_model(k)
        steps = feeding.steps_per_epoch
        trainer = Trainer(model, data, self.batch_size[k], steps_per_epoch=steps)
        evaluate = None
        if validation is not None:
            noise = stream(seed, "validation noise", k)
            preprocessing = self.stack.preprocessing if k == 0 else ()
            score = DenoisingScore(autoencoder, self.loss[k], noise, preprocessing)
            score.compile(optimizer="sgd")
            size = feeding.validation_batch_size or max(self.batch_size[k], 500)
            frequency = feeding.validation_freq
            evaluate = Evaluator(score, validation, size, frequency=frequency)
        if verbose and processes.rank() == 0:
            callbacks = [*callbacks, Progress(k, autoencoder, clock)]
        return trainer.fit(
            self.epochs[k],
            0,
            verbose,
            callbacks,
            evaluate,
            shuffle,
            stream(seed, "order", k),
            checkpoints,
        )

    def layer_model(self, k):
        """Return the compiled model that is trained when layer `k` is."""
        autoencoder, template = self.stack.autoencoders[k], self.optimizer[k]
        preprocessing = self.stack.preprocessing if k == 0 else ()
        model = Denoising(autoencoder, self.loss[k], preprocessing, name=autoencoder.name)
        model.compile(optimizer=fresh(template))
        return model

    def _lift(self, function, data, validation, folder, name):
        """Return the codes of `data` and of `validation` under `function`, in their place."""
        function = on_arrays(function)

        def lift(rows, name):
            shape = (len(rows), *function(rows[:1]).shape[1:])
            place = code_places.place_codes(self.codes_storage, self.codes_budget, shape)
            return code_places.encode_rows(function, rows, shape, place, folder, name)

        lifted = []
        for part, suffix in ((data, ""), (validation, "_validation")):
            names = (f"{name}{suffix}", f"{name}{suffix}_targets")
            lifted.append(part and tuple(map(lift, part, names)))
            for below in part or ():
                below.discard()
        return lifted

    def _check_places(self, data):
        """Raise `ValueError` if the codes of any layer will not fit, before one is trained."""
        if data is None:
            return
        shape = before.build(self.stack.preprocessing, tuple(data[-1].shape))
        shapes = [(*shape[:-1], a.units) for a in self.stack.autoencoders[:-1]]
        for shape in shapes:
            code_places.place_codes(self.codes_storage, self.codes_budget, shape)

    def _checked_data(self, x, targets, pairs, scratch):
        """Return the rows to learn: `(x,)`, or `(noisy, clean)`."""
        if is_iterated(x):
            if targets is not None:
                raise ValueError(
                    "Expected `targets` to be None where `x` is a dataset, whose batches hold them "
                    f"if `pairs`. Received: targets of type {type(targets).__name__}"
                )
            if pairs:
                return self._checked_pair(_pairs(x, "x", scratch), ("x", "the targets in `x`"))
        elif targets is not None:
            return self._checked_pair((x, targets), ("x", "targets"), scratch)
        elif pairs:
            raise ValueError(
                "Expected `pairs` to be left out where `x` is no dataset of (noisy, clean) "
                f"batches; its clean rows are `targets=`. Received: x of type {type(x).__name__}"
            )
        return (self.checked_rows(x, "x", scratch),)

    def _checked_validation(self, validation, data, pairs, scratch):
        """Return the rows to validate on, like `data`, or None."""
        if validation is None:
            return None
        name, shape = "validation_data", data[0].shape[1:]
        names = (f"{name}[0]", f"{name}[1]")
        pair = isinstance(validation, tuple) and len(validation) in (2, 3)
        pair = pair and all(hasattr(part, "shape") for part in validation)
        if len(data) == 1:
            if pair:
                raise ValueError(
                    "Expected `validation_data` to be examples like `x`, without targets: those of "
                    "a layer are its own input, unless `fit` has `targets=`. Received: a tuple of "
                    f"{len(validation)} arrays"
                )
            return (self.checked_rows(validation, name, scratch, shape),)
        if is_iterated(validation) and pairs:
            return self._checked_pair(_pairs(validation, name, scratch), names, scratch, shape)
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise ValueError(
                "Expected `validation_data` to be (noisy, clean), as `x` and its targets are, or a "
                f"dataset of such batches with `pairs=True`. Received: {_kind(validation)}"
            )
        return self._checked_pair(validation, names, scratch, shape)

    def _checked_pair(self, pair, names, scratch=None, shape=None):
        """Return noisy and clean rows, checked: shapes first, since they cost nothing."""
        noisy, clean = (as_rows(r, name, scratch) for r, name in zip(pair, names, strict=True))
        if tuple(clean.shape) != tuple(noisy.shape):
            raise ValueError(
                f"Expected `{names[1]}` of shape {tuple(noisy.shape)}, as `{names[0]}` has. "
                f"Received: shape {tuple(clean.shape)}"
            )
        noisy = self.checked_rows(noisy, names[0], shape=shape, learned=False)
        return noisy, self.checked_rows(clean, names[1], shape=shape)

    def checked_rows(self, x, name="x", scratch=None, shape=None, learned=True):
        """Return `x` as rows that the first layer can learn, or raise `ValueError`.

        Unless they are `learned`, it only sees them, and is compared with others.
        """
        stack = self.stack
        rows = as_rows(x, name, scratch)
        expected = stack.example_shape if stack.built else shape
        if expected is None and len(rows.shape) != 2 and not stack.preprocessing:
            expected = ("features",)
        if expected is not None and tuple(rows.shape[1:]) != tuple(expected):
            raise ValueError(
                f"Expected `{name}` of shape (n, {', '.join(map(str, expected))}). "
                f"Received: shape {tuple(rows.shape)}"
            )
        missing = stack.missing is not None
        loss = self.loss[0]
        prepared_shape = before.build(stack.preprocessing, tuple(rows.shape))
        before.check_adapted(stack.preprocessing)
        if isinstance(loss, losses.ColumnLoss):
            loss.layout.check_width(prepared_shape)
        inside = learned and getattr(loss, "in_unit_interval", False)
        if not np.any(inside):
            check_finite(rows, name, missing=missing)
            return rows
        prepare = on_arrays(stack.prepare)
        # One pass where it can be: what is NaN or infinite fails the comparison too.
        apart = bool(missing or stack.preprocessing or inside is not True)
        least, most = (np.fmin, np.fmax) if apart else (np.minimum, np.maximum)
        start = 0
        # What is not zero, where most is and nothing depends on the place.
        for piece in pieces(rows) if apart else rows.values():
            if apart:
                check_finite(piece, name, start, missing)
            prepared = prepare(piece) if stack.preprocessing else host(piece)
            prepared = prepared if inside is True else prepared[..., inside]
            low, high = least.reduce(prepared, axis=None), most.reduce(prepared, axis=None)
            all_missing = missing and np.isnan(low)
            if not (all_missing or (low >= 0 and high <= 1)):
                check_finite(rows, name, missing=missing)
                after = " after its preprocessing" if stack.preprocessing else ""
                raise ValueError(
                    f"Expected `{name}` to lie in [0, 1], as the cross-entropy of a sigmoid "
                    "decoder needs, and that of binary and categorical columns. Make the stack "
                    "with preprocessing=keras.layers.Rescaling(1 / 255), where the values are "
                    'pixels; use decoder_activation="linear" and loss="squared_error" for '
                    f"real-valued data. Received: values from {low:g} to {high:g}{after}"
                )
            start += len(piece)
        return rows


def _clean(data):
    """Return the clean half of `(noisy, clean)` as `(clean,)`; other rows are clean themselves."""
    if data is not None and len(data) > 1:
        data[0].discard()
    return data and data[-1:]


def _pairs(dataset, name, scratch):
    """Return the rows of a dataset of (noisy, clean) batches; raise `ValueError` for others."""
    found = read_once(dataset, name, scratch)
    if len(found) != 2 or not all(hasattr(part, "shape") for part in found):
        raise ValueError(
            f"Expected `{name}` to yield (noisy, clean) batches with `pairs=True`. "
            f"Received: batches of {len(found)}"
        )
    return found


def _kind(thing):
    """Return in words what was given as data."""
    if isinstance(thing, (tuple, list)):
        return f"a {type(thing).__name__} of {len(thing)}"
    return type(thing).__name__


def _plain_history(history):
    return {name: getattr(history, name) for name in HISTORY}


def _history(saved):
    history = keras.callbacks.History()
    vars(history).update(saved)
    return history
