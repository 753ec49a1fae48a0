"""Populations: stacks that differ in corruption level, learning rate or seed, trained at once."""

import importlib

import keras
import numpy as np

from sda.checkpoints import identity
from sda.forks import check_process
from sda.pretraining.intake import Intake
from sda.pretraining.pretrainer import GreedyPretrainer
from sda.rows.codes import encode_rows
from sda.rows.orders import check_shuffle, epoch_order
from sda.rows.read_ahead import ahead
from sda.rows.reading import on_arrays
from sda.streams import fresh_seed, stream
from sda.training.drivers import driver_for
from sda.training.loop import TrainingDivergedError

# The corruption level, by the names that noises have for it.
LEVELS = ("rate", "stddev")


def fit(pretrainers, x, shuffle=True, verbose=0):
    """Pretrain several stacks on the same rows; on JAX all of them in one compiled program.

    The stacks may differ in corruption level (of a noise with two levels, such as a rate and a
    standard deviation, in the rate; of composed noises in none), seed and learning rate (that is no
    schedule). On JAX the function that runs
    an epoch is mapped over the members by `jax.vmap`, and compiled once for all of them. On other
    backends, and where devices share each batch under `keras.distribution`, they are trained one
    after the other. Either way member i has the weights that
    `pretrainers[i].fit(x)` gives it, on JAX up to rounding.

    Args:
        pretrainers: List of `sda.GreedyPretrainer`s, one for each stack, without callbacks,
            checkpoints or shared layers.
        x: Unlabelled rows, as in `sda.GreedyPretrainer.fit`; there are no `targets` here. Above the
            first layer, the codes of all members have to fit into memory together.
        shuffle: As in `sda.GreedyPretrainer.fit`; each member has orders of its own.
        verbose: 1 for a line an epoch of all members, 0 for silence.

    Returns:
        List with one entry a member: a list of `keras.callbacks.History`, one a layer, or the
        `sda.TrainingDivergedError` that its training ended with. Such a member keeps its last good
        weights, and the others go on.

    Raises:
        ValueError: If the members differ in anything else, or the data do not fit. Nothing has
            changed then.

    Example:

    >>> pretrainers = [
    ...     sda.GreedyPretrainer(
    ...         sda.StackedDenoisingAutoencoder([6], level, seed=1), "sgd", epochs=2, seed=1
    ...     )
    ...     for level in (0.1, 0.3, 0.5)
    ... ]
    >>> results = sda.population.fit(pretrainers, np.random.rand(40, 12))
    >>> [len(histories[0].history["loss"]) for histories in results]
    [2, 2, 2]
    """
    check_process()
    shuffle = check_shuffle(shuffle)
    _check_alike(pretrainers)
    first = pretrainers[0]
    rows = Intake(first.stack, first.loss[0]).rows(x)
    alone = keras.backend.backend() != "jax" or keras.distribution.distribution() is not None
    if alone or not rows.resident:
        return [_alone(pretrainer, rows, shuffle, verbose) for pretrainer in pretrainers]
    return _together(pretrainers, rows, shuffle, verbose)


def _alone(pretrainer, rows, shuffle, verbose):
    try:
        return pretrainer.fit(rows, shuffle=shuffle, verbose=2 if verbose else 0)
    except TrainingDivergedError as error:
        return error


def _together(pretrainers, rows, shuffle, verbose):
    for pretrainer in pretrainers:
        if not pretrainer.stack.built:
            pretrainer.stack.build((None, *rows.shape[1:]))
    results = [[] for _ in pretrainers]
    seeds = [fresh_seed() if p.seed is None else p.seed for p in pretrainers]
    data = [rows] * len(pretrainers)
    alive = list(range(len(pretrainers)))
    for k in range(len(pretrainers[0].stack.autoencoders)):
        members = [
            _Member(pretrainers[i], k, data[i], stream(seeds[i], "order", k), shuffle)
            for i in alive
        ]
        # Below the first layer all have the same rows, which are not copied.
        same = all(data[i] is data[alive[0]] for i in alive)
        given = [np.asarray(data[i][:]) for i in (alive[:1] if same else alive)]
        given = given[0] if same else np.stack(given)
        _train(members, given, same, verbose and f"layer {k + 1}")
        for i, member in zip(alive, members, strict=True):
            if member.error is None:
                results[i].append(member.history)
            else:
                results[i] = member.error
        alive = [i for i, m in zip(alive, members, strict=True) if m.error is None]
        if not alive or k + 1 == len(pretrainers[0].stack.autoencoders):
            return results
        for i in alive:
            data[i] = _codes(pretrainers[i].stack.lift(k), data[i])
    return results


def _train(members, data, same, title):
    """Run the epochs of one layer for all members."""
    driver = importlib.import_module("sda.training.jax_population").Population(
        [driver_for(member.model, (member.data,)) for member in members],
        [member.noise for member in members],
        level_name(members[0].noise),
        same,
    )
    data = driver.put(data)
    batch = min(members[0].batch_size, members[0].rows)
    whole = members[0].rows // batch * batch

    def parts_of(epoch):
        """Return the index matrices of an epoch, members first: whole batches, then the rest."""
        orders = np.stack([member.order(epoch) for member in members])
        parts = orders[:, :whole], orders[:, whole:]
        return [
            driver.put(part.reshape(len(members), -1, min(batch, part.shape[1])))
            for part in parts
            if part.size
        ]

    for epoch, parts in enumerate(ahead(parts_of, range(members[0].epochs))):
        for member in members:
            member.begin_epoch()
        for part in parts:
            finite = driver.train(data, part)
        losses = [m.end_epoch(epoch, f) for m, f in zip(members, finite, strict=True)]
        if title:
            print(f"{title}, epoch {epoch + 1}: loss {', '.join(f'{x:.4g}' for x in losses)}")
        if all(member.error for member in members):
            return


class _Member:
    """One model of a population, with its order and what became of it."""

    def __init__(self, pretrainer, k, data, seed, shuffle):
        self.model = pretrainer.layer_model(k)
        self.noise = pretrainer.stack.autoencoders[k].corruption
        self.epochs, self.batch_size = pretrainer.epochs[k], pretrainer.batch_size[k]
        self.data, self.seed, self.shuffle = data, seed, shuffle
        self.rows = len(data)
        self.history = keras.callbacks.History()
        self.history.set_model(self.model)
        self.history.on_train_begin()
        self.error = None

    def order(self, epoch):
        return epoch_order(self.shuffle, self.seed, epoch, self.rows)

    def begin_epoch(self):
        self.model.reset_metrics()
        # JAX never writes to an array: this copies nothing.
        self.good = [v.value for v in self.model.variables]

    def end_epoch(self, epoch, finite):
        """Write down the loss; put the weights back if it or they are no longer `finite`."""
        loss = float(self.model.get_metrics_result()["loss"])
        if self.error is None and np.isfinite(loss) and finite:
            self.history.on_epoch_end(epoch, {"loss": loss})
            return loss
        for variable, value in zip(self.model.variables, self.good, strict=True):
            variable.assign(value)
        if self.error is None:
            self.error = TrainingDivergedError(
                f"Training {self.model.name!r} diverged in epoch {epoch + 1}. It has the weights "
                "again with which this epoch began. Try a lower learning rate",
                self.history,
            )
        return loss


def _codes(function, rows):
    shape = (len(rows), *on_arrays(function)(np.asarray(rows[:1])).shape[1:])
    return encode_rows(on_arrays(function), rows, shape, "device", None, None)


def _check_alike(pretrainers):
    """Raise `ValueError` unless the pretrainers differ in levels, rates and seeds only."""
    is_list = isinstance(pretrainers, (list, tuple)) and len(pretrainers) > 0
    if not is_list or not all(isinstance(p, GreedyPretrainer) for p in pretrainers):
        raise ValueError(
            "Expected `pretrainers` to be a list of sda.GreedyPretrainer. "
            f"Received: pretrainers={pretrainers!r}"
        )
    if len({id(p.stack) for p in pretrainers}) < len(pretrainers):
        raise ValueError("Expected each of `pretrainers` to have a stack of its own.")
    for pretrainer in pretrainers:
        pretrainer.check_depth()
        for name in ("callbacks", "checkpoint_dir", "cache"):
            if getattr(pretrainer, name) is not None:
                raise ValueError(
                    f"Expected `pretrainers` without `{name}`. "
                    f"Received: {name}={getattr(pretrainer, name)!r}"
                )
    first = _shared_settings(pretrainers[0])
    for i, pretrainer in enumerate(pretrainers):
        differing = identity.differences(first, _shared_settings(pretrainer))
        if differing:
            raise ValueError(
                "Expected `pretrainers` to differ in corruption level, learning rate and seed "
                "only: a level of noises that are not composed, a rate without schedule. "
                f"Received: {differing}, in number {i}, where the first is `there`"
            )


def level_name(noise):
    """Return the name of the attribute that is a noise's level, or None if it has none.

    Of a noise with two levels it is the first one; the parts of a composed noise have their own.
    """
    own = vars(noise)
    return next((n for n in LEVELS if isinstance(own.get(n), (int, float, list))), None)


def _shared_settings(pretrainer):
    """Return what has to be equal: all but what the mapping varies."""
    stack = pretrainer.stack
    return {
        "epochs": pretrainer.epochs,
        "batch_size": pretrainer.batch_size,
        "optimizer": [
            {**_without_rate(optimizer), **pretrainer.exclusions(k)}
            for k, optimizer in enumerate(pretrainer.optimizer)
        ],
        "loss": [_without_seeds(identity.object_settings(o, "loss")) for o in pretrainer.loss],
        "autoencoders": [_without_level(autoencoder) for autoencoder in stack.autoencoders],
        "preprocessing": [
            _without_seeds(identity.object_settings(la, "stack")) for la in stack.preprocessing
        ],
        "preprocessing weights": identity.weights_settings(stack.preprocessing),
        "shape": list(stack.example_shape) if stack.built else None,
    }


def _without_rate(optimizer):
    """Return the settings of an optimizer, without a learning rate that is a variable."""
    settings = identity.object_settings(optimizer, "optimizer")
    config = settings["config"]
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer, config = optimizer.inner_optimizer, config["inner_optimizer"]["config"]
    if isinstance(optimizer._learning_rate, keras.Variable):
        config.pop("learning_rate")
    return settings


def _without_level(autoencoder):
    """Return the settings of a layer at no level of its noise."""
    noise = autoencoder.corruption
    name = level_name(noise)
    if name is None:
        return _without_seeds(identity.object_settings(autoencoder, "corruption"))
    level = getattr(noise, name)
    setattr(noise, name, [0.0] * len(level) if isinstance(level, list) else 0.0)
    try:
        return _without_seeds(identity.object_settings(autoencoder, "corruption"))
    finally:
        setattr(noise, name, level)


def _without_seeds(settings):
    """Return settings without seeds, which members have in variables."""
    if isinstance(settings, dict):
        return {k: _without_seeds(v) for k, v in settings.items() if k != "seed"}
    return [_without_seeds(v) for v in settings] if isinstance(settings, list) else settings
