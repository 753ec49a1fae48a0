"""Greedy layer-wise pretraining: each dA learns the clean codes of the layers below."""

import contextlib

import keras

from sda.checkpoints import folder as folders
from sda.checkpoints.layer_cache import LayerCache
from sda.checkpoints.starts import Begun
from sda.checks import check_count, check_flag, look_up, per_layer
from sda.distribution import processes
from sda.files.locks import scratch_folder
from sda.forks import check_process
from sda.models.denoising import Denoising
from sda.models.layer_loss import loss_for
from sda.models.stack import StackedDenoisingAutoencoder
from sda.pretraining.inputs import Inputs
from sda.pretraining.intake import Intake
from sda.pretraining.part import Part
from sda.pretraining.schedule import Schedule
from sda.rows.codes import check_place
from sda.rows.orders import order_of
from sda.streams import check_seed
from sda.training.feeding import Feeding, new_scratch
from sda.training.optimizers import exclusions
from sda.training.optimizers import fresh as another


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
            while they fit `codes_budget`, then disk. The result does not depend on it, but for the
            last bits under "recompute".
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
            look_up(another, template, "optimizer", "a template that its config can make again")
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
        check_place(codes_storage, codes_budget)
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
        layers=None,
        fresh=False,
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
        """Pretrain all layers, or some of them.

        With `layers` only these are trained, from the weights that they have, on the codes that the
        layers below give now; no other variable changes. The settings of the pretrainer still have
        one entry a layer of the stack. `layers=[0]` and then `layers=[1]` do what one `fit` of both
        does.

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
            layers: List of the indices of the layers to train, 0 for the first and -1 for the top,
                or None for all. Whatever their order, they are trained from the input up. Where
                layers above them, not among them, have learned the codes that change now, a warning
                says so.
            fresh: Whether to draw the weights of these layers again first, by the initialisers that
                drew them, and to begin their noise again.
            targets: The clean rows, of the shape of `x`, whose rows are the noisy ones; None where
                `x` itself is clean. They go through the same preprocessing. The weights of an
                emphasised loss are still those of features that the layer's own noise selected or
                left alone, whatever the noise in `x` did. Where the stack has a `fill_value`,
                values may be missing in either: of `x` they are filled in, and what is missing in
                the targets counts in no loss.
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
            List of `keras.callbacks.History`, one a trained layer, from the input up. `loss` is
            what was minimised; the penalties in it are logged beside it, as `sparsity` and
            `contraction`.

        Raises:
            ValueError: If the data are empty, of the wrong shape, not finite (but for NaN where the
                stack has a `fill_value`), or outside [0, 1] under cross-entropy (which noisy rows
                with targets may be), or if `checkpoint_dir` is in use or is that of another run.
                Nothing has changed then.
            OSError: If a checkpoint cannot be written. The one before is whole.
            sda.TrainingDivergedError: If the loss or the weights of a layer become NaN or infinite.
                The layers below keep what they learned, and this one its last good weights.
            RuntimeError: If one of several processes that train together has ended.
        """
        if others:
            raise ValueError(
                "Expected `x` alone, and all other arguments by name: the targets of a layer are "
                "its own input, and clean rows for noisy ones are `targets=`. "
                f"Received: {len(others) + 1} arguments without a name"
            )
        pairs = check_flag(pairs, "pairs")
        self.check_depth()
        stack = self.stack
        part = Part(stack, layers, fresh)
        feeding = Feeding(
            self.batch_size,
            shuffle,
            validation_split,
            validation_batch_size,
            validation_freq,
            steps_per_epoch,
            validation_steps,
        )
        with contextlib.ExitStack() as resources:
            scratch = resources.enter_context(new_scratch())
            intake = Intake(stack, self.loss[0], scratch, feeding)
            data = intake.data(x, targets, pairs)
            validation = intake.validation(validation_data, data, pairs)
            data, validation = feeding.split(data, validation)
            inputs = Inputs(self, data, validation)
            inputs.check_places(part.layers[-1])
            schedule = Schedule(self, part, inputs, feeding)
            self._check_together(inputs, feeding)
            inputs.order(scratch, order_of(feeding.shuffle, self.seed))
            if self.checkpoint_dir is not None:
                begun = Begun(stack, self.checkpoint_dir)
                settings = schedule.settings(begun)
                schedule.checkpoints = resources.enter_context(
                    folders.Checkpoints(self.checkpoint_dir, settings, self.checkpoint_every, begun)
                )
            if not stack.built:
                stack.build((None, *inputs.data[0].shape[1:]))
            inputs.folder = resources.enter_context(scratch_folder("sda-codes-"))
            schedule.begin(verbose)
            return schedule.run()

    def check_depth(self):
        """Raise `ValueError` if the stack has got layers for which there are no settings."""
        if len(self.stack.autoencoders) != len(self.epochs):
            raise ValueError(
                "Expected a pretrainer that was made for the stack as it is. Received: one of "
                f"{len(self.epochs)} layers, for a stack of {len(self.stack.autoencoders)}; make "
                "another"
            )

    def _check_together(self, inputs, feeding):
        """Raise `ValueError` where several processes cannot train together."""
        processes.check_together(
            inputs.data[-1],
            self.batch_size,
            getattr(self.stack, "distribute_strategy", None),
            epochs=self.epochs,
            shuffle=feeding.shuffle,
            seed=self.seed,
        )
        if self.cache is not None and processes.count() > 1:
            raise ValueError(
                "Expected `cache` to be None where several processes train together: each "
                f"has its own time to look. Received: cache={self.cache!r}"
            )

    def exclusions(self, k):
        """Return what layer `k` excludes from weight decay, as an entry of settings."""
        return exclusions(self.optimizer[k], self.stack.autoencoders[k].variables)

    def layer_model(self, k):
        """Return the compiled model that is trained when layer `k` is."""
        autoencoder, template = self.stack.autoencoders[k], self.optimizer[k]
        preprocessing = self.stack.preprocessing if k == 0 else ()
        model = Denoising(autoencoder, self.loss[k], preprocessing, name=autoencoder.name)
        model.compile(optimizer=another(template))
        return model
