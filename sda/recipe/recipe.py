"""Settings, and what is made of them: a stack, what pretrains it, a classifier on it."""

import dataclasses
import functools
import re

from sda import losses
from sda.callbacks import GeometricPatience
from sda.checks import check_count, check_flag, check_number, per_layer
from sda.forks import check_process
from sda.layers import noises, parts, preprocessing
from sda.models.stack import StackedDenoisingAutoencoder
from sda.pretraining.pretrainer import GreedyPretrainer
from sda.recipe.optimizers import check_optimizer, make_optimizer
from sda.recipe.settings import depth_of, listed, plain, read
from sda.rows.reading import rows_of
from sda.streams import check_seed
from sda.training.fit import fit


def _check_activation(value, name):
    if value is not None:
        parts.activation(value, name)


def _check_loss(value, name):
    if value is not None:
        losses.get(value)


# Settings that may differ from layer to layer, each with what checks one of its values; None where
# two of them are checked together.
PER_LAYER = {
    "units": check_count,
    "noise": None,
    "corruption": None,
    "activation": _check_activation,
    "decoder_activation": _check_activation,
    "tied": check_flag,
    "loss": _check_loss,
    "optimizer": None,
    "learning_rate": None,
    "epochs": functools.partial(check_count, least=0),
    "batch_size": check_count,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a network that is pretrained and fine-tuned, and what is made of them.

    The settings of a layer are one value for all layers, or a list with one value a layer; a recipe
    holds them as lists. Two networks of the same recipe and data are the same, bit for bit.

    Args:
        units: Integer or list of integers, the hidden units from the input up.
        depth: Integer, the number of layers: then lists may be longer, and their first entries
            count. None for the length of `units`.
        noise: "masking", "salt_and_pepper", "gaussian" or "swap": what `corruption` is a level of.
        corruption: Level of the noise, or a `sda.Corruption` in place of both.
        activation: Activation of the hidden units.
        decoder_activation: Activation of the reconstructions, or None for the default of
            `sda.StackedDenoisingAutoencoder`.
        tied: Whether to decode with the transposed kernel.
        loss: Loss of the pretraining, or None for that of the decoder: see `sda.GreedyPretrainer`.
        optimizer: Name of a Keras optimizer; or a `keras.optimizers.Optimizer` as a template, which
            has a rate of its own.
        learning_rate: Float ≥ 0, the rate of an optimizer that is named.
        epochs: Integer, passes over the data in pretraining.
        batch_size: Integer, the examples an update of the pretraining.
        dropout: Rate in [0, 1) while fine-tuning, or a list with one for the input and one for each
            code.
        finetune_optimizer, finetune_learning_rate, finetune_epochs, finetune_batch_size: Of the
            fine-tuning.
        patience: Epochs without progress after which fine-tuning stops, as in
            `sda.callbacks.GeometricPatience`; 0 for no early stop.
        seed: Integer for weights, noise and order, or None for random ones.
        preprocessing: Keras layers that rows go through first, as in
            `sda.StackedDenoisingAutoencoder`; None leaves it open for `resolve`.

    Raises:
        ValueError: If a setting is out of its range, or a list has not one value a layer.

    Example:

    >>> x, y = np.random.randint(0, 256, (60, 12)).astype("uint8"), np.arange(60) % 2
    >>> recipe = sda.Recipe([8, 5], corruption=[0.1, 0.3], epochs=2, finetune_epochs=3).resolve(x)
    >>> stack = recipe.stack()
    >>> histories = recipe.pretrainer(stack).fit(x, verbose=0)
    >>> classifier = recipe.classifier(stack, 2)
    >>> len(recipe.finetune(classifier, x, y, verbose=0).epoch)
    3
    >>> [layer.scale * 255 for layer in recipe.preprocessing]
    [1.0]
    >>> sda.Recipe.from_dict({"units": 8, "depth": 2, "corruption_2": 0.5}).corruption
    [0.3, 0.5]
    """

    units: object = (500, 500, 500)
    depth: int | None = None
    noise: object = "masking"
    corruption: object = 0.3
    activation: object = "sigmoid"
    decoder_activation: object = None
    tied: object = True
    loss: object = None
    optimizer: object = "sgd"
    learning_rate: object = 0.1
    epochs: object = 15
    batch_size: object = 20
    dropout: object = 0.0
    finetune_optimizer: object = "sgd"
    finetune_learning_rate: float = 0.1
    finetune_epochs: int = 30
    finetune_batch_size: int = 20
    patience: float = 10
    seed: int | None = 1
    preprocessing: object = None

    def __post_init__(self):
        # Noises, and optimizers that are looked up, are tensors.
        check_process()
        keep = functools.partial(object.__setattr__, self)
        given, depth = self.depth, depth_of(self.units, self.depth)
        for name, check in PER_LAYER.items():
            keep(name, listed(getattr(self, name), given, depth, name))
            for value in getattr(self, name) if check else ():
                check(value, name)
        self._noises()
        for optimizer in zip(self.optimizer, self.learning_rate, strict=True):
            check_optimizer(*optimizer)
        for rate in per_layer(self.dropout, depth + 1, "dropout"):
            check_number(rate, "dropout", "in [0, 1)", lambda r: 0 <= r < 1)
        check_optimizer(self.finetune_optimizer, self.finetune_learning_rate)
        check_count(self.finetune_epochs, "finetune_epochs")
        check_count(self.finetune_batch_size, "finetune_batch_size")
        check_number(self.patience, "patience", "0, or at least 1", lambda p: p == 0 or p >= 1)
        check_seed(self.seed)
        if self.preprocessing is not None:
            keep("preprocessing", preprocessing.checked(self.preprocessing))

    def resolve(self, x):
        """Return the recipe with what is left open for the rows `x`: their preprocessing.

        Rows of dtype uint8 are taken for pixels, and scaled to [0, 1]. Whoever calls this says so:
        to its user, and where it keeps what comes out.
        """
        if self.preprocessing is not None:
            return self
        return dataclasses.replace(self, preprocessing=preprocessing.for_rows(rows_of(x)))

    def stack(self):
        """Return a new `sda.StackedDenoisingAutoencoder`."""
        return StackedDenoisingAutoencoder(
            self.units,
            corruption=self._noises(),
            activation=self.activation,
            decoder_activation=self.decoder_activation,
            tied=self.tied,
            seed=self.seed,
            preprocessing=self.preprocessing,
        )

    def pretrainer(self, stack, **arguments):
        """Return the `sda.GreedyPretrainer` of a stack.

        Args:
            stack: What `stack` returned, or another of as many layers.
            **arguments: Other arguments of the pretrainer, which win.
        """
        settings = {
            "optimizer": list(map(make_optimizer, self.optimizer, self.learning_rate)),
            "loss": self.loss,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        return GreedyPretrainer(stack, **{**settings, **arguments})

    def classifier(self, stack, classes, copy=False):
        """Return the classifier on a stack that is built, compiled for labels from 0.

        Args:
            stack: A `sda.StackedDenoisingAutoencoder`.
            classes: Integer, the number of classes.
            copy: Whether it gets weights of its own, as in the stack's `classifier`.
        """
        classifier = stack.classifier(classes, self.dropout, copy=copy)
        classifier.compile(
            make_optimizer(self.finetune_optimizer, self.finetune_learning_rate),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return classifier

    def finetune(self, model, x, y, validation_data=None, callbacks=None, **arguments):
        """Train a compiled model by `sda.fit`; return its `keras.callbacks.History`.

        Args:
            model: What `classifier` returned, or another model.
            x, y: Rows, and their labels.
            validation_data: `(x, y)`, the rows held out, or None.
            callbacks: List, or None for the `early_stop` where there is a `patience` and rows are
                held out.
            **arguments: Other arguments of `sda.fit`, which win.
        """
        if callbacks is None:
            stops = self.patience and validation_data is not None
            callbacks = [self.early_stop()] if stops else []
        settings = {
            "batch_size": self.finetune_batch_size,
            "epochs": self.finetune_epochs,
            "seed": self.seed,
        }
        return fit(
            model,
            x,
            y,
            validation_data=validation_data,
            callbacks=callbacks,
            **{**settings, **arguments},
        )

    def early_stop(self):
        """Return the callback that puts the best weights back, and stops by the `patience`."""
        return GeometricPatience(patience=self.patience or self.finetune_epochs + 1)

    def to_dict(self):
        """Return the settings as a dictionary of numbers, words and lists, for TOML or JSON.

        Objects of Keras become their configs. None is the word "none", and left out where it is the
        default.

        Raises:
            ValueError: If a layer of `preprocessing` has learned something that no config says.
        """
        for layer in self.preprocessing or ():
            if layer.weights:
                raise ValueError(
                    "Expected layers in `preprocessing` that their configs tell whole. Received: "
                    f"{layer!r}, which was adapted; make it with what it has learned, such as "
                    "Normalization(mean=..., variance=...)"
                )
        return {
            field.name: plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if not getattr(self, field.name) is field.default is None
        }

    @classmethod
    def from_dict(cls, settings):
        """Return the recipe of a dictionary: of `to_dict`, or of some settings alone.

        A name with the number of a layer, such as "corruption_3", is of that layer alone.

        Raises:
            ValueError: If a setting is unknown, or not as in the constructor.
        """
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise ValueError(
                f"Expected `settings` to be a dictionary of names. Received: settings={settings!r}"
            )
        named = {name: layer_of(name) for name in settings}
        values = {name: read(value, name) for name, value in settings.items()}
        whole = {name: value for name, value in values.items() if named[name][1] is None}
        given = whole.get("depth")
        depth = depth_of(whole.get("units", cls.units), given)
        for name, (setting, layer) in named.items():
            if layer is None:
                continue
            if layer >= depth:
                raise ValueError(
                    f"Expected `{name}` to be of one of the {depth} layers. "
                    f"Received: {name}={settings[name]!r}"
                )
            value = whole.get(setting, getattr(cls, setting))
            whole[setting] = listed(value, given, depth, setting)
            whole[setting][layer] = values[name]
        return cls(**whole)

    def _noises(self):
        return list(map(noises.named, self.noise, self.corruption))


NAMES = tuple(field.name for field in dataclasses.fields(Recipe))


def layer_of(name):
    """Return the setting and the index of the layer that a name like "corruption_3" means.

    The index is None where the setting as a whole is meant.

    Raises:
        ValueError: If there is no such setting.
    """
    if name in NAMES:
        return name, None
    match = re.fullmatch(r"(.+)_([1-9]\d*)", name)
    if match and match[1] in PER_LAYER:
        return match[1], int(match[2]) - 1
    raise ValueError(
        f"Expected settings to be among {', '.join(NAMES)}, or one of {', '.join(PER_LAYER)} with "
        f"the number of a layer, as in corruption_3. Received: {name}"
    )
