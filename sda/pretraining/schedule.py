"""The schedule of a `fit`: what is trained on what, what is done of it and what is left."""

import keras

from sda.checkpoints import arrays, identity, state
from sda.checkpoints.starts import check_start
from sda.distribution import generators, processes
from sda.models.denoising import DenoisingScore
from sda.pretraining.progress import Clock, Progress
from sda.rows.orders import order_of
from sda.streams import fresh_seed, stream
from sda.training.checks import check_callbacks
from sda.training.evaluate import Evaluator
from sda.training.loop import Trainer
from sda.training.run import Run

# What a History holds, but for its model.
HISTORY = ("params", "epoch", "history")


class Schedule:
    """Layers that are trained one after another, from the input up.

    Args:
        pretrainer: The `sda.GreedyPretrainer`.
        part: The `Part` of its stack that is trained.
        inputs: The `Inputs` of the layers.
        feeding: The `Feeding` that says how much of them is an epoch, and in which order.
    """

    def __init__(self, pretrainer, part, inputs, feeding):
        self.pretrainer, self.stack = pretrainer, pretrainer.stack
        self.part, self.inputs, self.feeding = part, inputs, feeding
        made = pretrainer.callbacks
        self.callbacks = {k: [] if made is None else list(made(k)) for k in part}
        for callbacks in self.callbacks.values():
            check_callbacks(callbacks)
        # Before anything is trained: a training changes its callbacks.
        self.trainings = None if pretrainer.cache is None else self._trainings()
        self.checkpoints = None
        self.histories = []

    def begin(self, verbose):
        """Begin, or go on where a run was cut off; the stack is built."""
        self.verbose = verbose
        context = {} if self.checkpoints is None else self.checkpoints.context
        if context:
            self._resume(context)
        else:
            self.part.draw()
            seed = self.pretrainer.seed
            self.seed = fresh_seed() if seed is None else seed
            self.keys = self.cache_keys()
            if self.checkpoints is not None:
                self._keep_start(context)

    def run(self):
        """Train the layers that are left; return the Histories of all."""
        left = self.part.layers[len(self.histories) :]
        if left:
            self.part.warn()
            autoencoders = self.stack.autoencoders
            epochs = [e if k in left else 0 for k, e in enumerate(self.pretrainer.epochs)]
            self.clock = Clock(epochs, [a.count_params() for a in autoencoders])
        for k in left:
            self.histories.append(self._from_cache(k) if self.keys else self.train(k))
            self.clock.layer_ends(k)
            if self.checkpoints is not None:
                self._save()
        return self.histories

    def train(self, k):
        """Train layer `k` on its input, or what is left of it; return its History."""
        pretrainer, feeding = self.pretrainer, self.feeding
        data, validation = self.inputs.of(k)
        model = pretrainer.layer_model(k)
        callbacks = self.callbacks[k]
        if self.verbose and processes.rank() == 0:
            callbacks = [*callbacks, Progress(k, self.stack.autoencoders[k], self.clock)]
        run = Run(
            model,
            data,
            pretrainer.batch_size[k],
            order_of(feeding.shuffle, stream(self.seed, "order", k), model),
            pretrainer.epochs[k],
            steps_per_epoch=feeding.steps_per_epoch,
            callbacks=callbacks,
            evaluate=None if validation is None else self._evaluator(k, validation),
            checkpoints=self.checkpoints,
            verbose=self.verbose,
        )
        return Trainer(run).fit()

    def _evaluator(self, k, validation):
        """Return what validates layer `k`: under a noise that is drawn once and kept."""
        pretrainer, feeding = self.pretrainer, self.feeding
        score = DenoisingScore(
            self.stack.autoencoders[k],
            pretrainer.loss[k],
            stream(self.seed, "validation noise", k),
            self.stack.preprocessing if k == 0 else (),
        )
        score.compile(optimizer="sgd")
        size = feeding.validation_batch_size or max(pretrainer.batch_size[k], 500)
        return Evaluator(score, validation, size, frequency=feeding.validation_freq)

    # The cache

    def cache_keys(self):
        """Return what the cache knows each layer of the stack by, or None without a cache."""
        if self.trainings is None:
            return None
        keys = [identity.ground(self.stack, self.inputs.data, self.inputs.validation)]
        for autoencoder, training in zip(self.stack.autoencoders, self.trainings, strict=True):
            keys.append(identity.layer_settings(keys[-1], autoencoder, training))
        return keys[1:]

    def _trainings(self):
        """Return what each layer of the stack is, and how it is trained if it is."""
        left_out, trainings = [], []
        for k, autoencoder in enumerate(self.stack.autoencoders):
            training = {"autoencoder": identity.object_settings(autoencoder, "stack", left_out)}
            if k in self.callbacks:
                training |= {
                    **self._training(k, left_out),
                    **self.feeding.settings(),
                    "shuffle": self.feeding.shuffle,
                    "seed": stream(self.pretrainer.seed, "order", k),
                    "callbacks": [
                        identity.store_settings(callback, left_out)
                        for callback in self.callbacks[k]
                    ],
                }
            trainings.append(training)
        identity.warn_of(left_out, "shared layers")
        return trainings

    def _training(self, k, left_out, read=lambda thing, settings: settings()):
        """Return what training layer `k` depends on, but for data and callbacks."""
        pretrainer = self.pretrainer
        optimizer, loss = pretrainer.optimizer[k], pretrainer.loss[k]
        return {
            "optimizer": {
                **identity.object_settings(optimizer, "optimizer", left_out),
                **pretrainer.exclusions(k),
            },
            "loss": read(loss, lambda: identity.object_settings(loss, "loss", left_out)),
            "epochs": pretrainer.epochs[k],
            "batch_size": pretrainer.batch_size[k],
        }

    def _from_cache(self, k):
        """Return the History of layer `k`, from the cache or by training."""
        variables = self.stack.autoencoders[k].variables
        cache, key = self.pretrainer.cache, self.keys[k]
        return _history(cache.layer(key, variables, lambda: _plain(self.train(k))))

    # The checkpoints

    def settings(self, begun):
        """Return what must be equal for a run to go on, as it was when that had `begun`."""
        left_out = []
        data = map(identity.data_settings, self.inputs.data)
        trainings = [self._training(k, left_out, begun.read) for k in self.part]
        settings = {
            "phase": "pretraining",
            "data": dict(zip(("x", "targets"), data, strict=False)),
            "validation_data": identity.data_settings(self.inputs.validation),
            **self.feeding.settings(),
            **self.part.settings(),
            **{name: [training[name] for training in trainings] for name in trainings[0]},
            "shuffle": self.feeding.shuffle,
            "seed": self.pretrainer.seed,
            "stack": begun.read(self.stack, lambda: identity.model_settings(self.stack, left_out)),
            "preprocessing": identity.weights_settings(self.stack.preprocessing),
            "callbacks": [begun.callbacks(made, left_out) for made in self.callbacks.values()],
        }
        identity.warn_of(left_out, "checkpoints")
        return settings

    def _keep_start(self, context):
        variables = self.stack.variables
        # The weights of layers to come too: they may have been drawn without a seed.
        context.update(seed=self.seed, histories=[], keys=self.keys, stack=arrays.values(variables))
        check_start(self.checkpoints, self.stack, variables, None, self.verbose)
        # Callbacks change them, and a validation has those that training began with.
        context["levels"] = [a.corruption.level for a in self.stack.autoencoders]

    def _resume(self, context):
        """Bring the stack to where the run was that the checkpoints are of."""
        self._check_start(context)
        self.seed = context["seed"]
        # Those of a stack that was not trained yet.
        self.keys = None if self.trainings is None else context["keys"]
        state.assign(self.stack.variables, context["stack"], "stack")
        self.histories = [_history(saved) for saved in context["histories"]]
        generators.set_random_state(context.get("random"))
        for autoencoder, level in zip(self.stack.autoencoders, context["levels"], strict=True):
            if level != autoencoder.corruption.level:
                autoencoder.corruption.level = level

    def _check_start(self, context):
        """Raise `ValueError` where the stack has other weights than a stack of the run may have."""
        stack, progress = self.stack, self.checkpoints.progress
        variables = stack.variables
        newest = {id(v): value for v, value in zip(variables, context["stack"], strict=False)}
        if progress is not None:
            model = self.pretrainer.layer_model(self.part.layers[len(context["histories"])])
            for name, group in (
                ("trainable", model.trainable_variables),
                ("non-trainable", model.non_trainable_variables),
            ):
                held = progress["variables"][name]
                newest |= {id(v): value for v, value in zip(group, held, strict=False)}
        if self.part.fresh:
            # What is drawn again may have been anything.
            drawn = [v for k in self.part for v in stack.autoencoders[k].variables]
            newest |= {
                id(v): value for v, value in zip(drawn, arrays.kept_values(drawn), strict=True)
            }
        newest = [newest.get(id(v)) for v in variables]
        check_start(self.checkpoints, stack, variables, newest, self.verbose)

    def _save(self):
        """Keep all weights of the stack, and what belongs to no layer, for the next layer."""
        self.checkpoints.context.update(
            histories=[_plain(history) for history in self.histories],
            levels=[autoencoder.corruption.level for autoencoder in self.stack.autoencoders],
            stack=arrays.values(self.stack.variables),
            random=generators.random_state(),
        )
        self.checkpoints.progress = None
        self.checkpoints.save(None)


def _plain(history):
    return {name: getattr(history, name) for name in HISTORY}


def _history(saved):
    history = keras.callbacks.History()
    vars(history).update(saved)
    return history
