"""What `sda pretrain` and `sda finetune` do. Imported when they run: it takes Keras along."""

import dataclasses
import signal

import click
import keras
import numpy as np

import sda
from sda.datasets import sources
from sda.runs import Phase
from sda.seeding import fresh_seed
from sda_cli import options
from sda_cli.pretrain import NOISES


class Interrupted(click.ClickException):
    """Ctrl-C, and how to carry on."""

    exit_code = 130


@dataclasses.dataclass
class Data:
    """The rows of a run, a share of them held out; `y` are labels as they were given, or None."""

    x: object
    y: np.ndarray | None
    x_held_out: object | None
    y_held_out: np.ndarray | None
    image_shape: tuple | None


def read_data(settings):
    """Return the `Data` that `data`, `labels`, `image_shape` and `validation_split` name."""
    source = sources.open_source(settings["data"], settings.get("labels"))
    train, held_out = split(len(source.x), settings["validation_split"])
    x, y = source.x, source.y
    return Data(
        *((x, y) if held_out is None else (_rows(x, train), None if y is None else y[train])),
        None if held_out is None else _rows(x, held_out),
        None if held_out is None or y is None else y[held_out],
        as_shape(settings.get("image_shape"), source),
    )


def split(rows, share):
    """Return the indices of the rows to train on and of those held out, or None for all and none.

    They depend on nothing but the number of rows and the share: every run on the same data, and
    both trainings of a run, hold out the same.
    """
    held_out = round(share * rows)
    if held_out == 0:
        return None, None
    order = np.random.default_rng(0).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def as_shape(text, source):
    """Return what `--image-shape` says, or what the data say where it is None."""
    if text is None:
        return source.image_shape
    if text == "none":
        return None
    shape = tuple(int(axis) for axis in text.split("x"))
    if np.prod(shape) != source.x.shape[1]:
        raise ValueError(
            f"Expected `--image-shape` to hold the {source.x.shape[1]} values of a row. "
            f"Received: {text}"
        )
    return shape


def make_stack(settings):
    """Return the `sda.StackedDenoisingAutoencoder` that the options of `stack_options` describe."""
    depth = len(settings["units"])
    kinds, levels = (
        sda.stack.per_layer(settings[name], depth, name) for name in ("noise", "corruption")
    )
    return sda.StackedDenoisingAutoencoder(
        settings["units"],
        corruption=[getattr(sda, NOISES[k])(c) for k, c in zip(kinds, levels, strict=True)],
        activation=settings["activation"],
        decoder_activation=settings.get("decoder_activation"),
        tied=settings["tied"],
        seed=settings["seed"],
    )


def make_pretrainer(settings, stack, **arguments):
    """Return the `sda.GreedyPretrainer` that the options of `pretraining_options` describe."""
    rates = sda.stack.per_layer(settings["learning_rate"], len(stack.autoencoders), "learning_rate")
    return sda.GreedyPretrainer(
        stack,
        optimizer=[make_optimizer(settings["optimizer"], rate) for rate in rates],
        loss=settings.get("loss"),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        **arguments,
    )


def make_optimizer(name, rate):
    """Return the Keras optimizer of a name, with a learning rate."""
    config = {"class_name": name, "config": {"learning_rate": rate}}
    return sda.checks.look_up(
        keras.optimizers.get, config, "optimizer", "the name of a Keras optimizer"
    )


def pretrain(ctx, out, resume, overwrite, verbose):
    phase = Phase(out, "pretrain")
    phase.check(resume, overwrite)
    settings = resolved(options.asked(ctx, phase, resume))
    data = read_data(settings)
    stack = make_stack(settings)
    with running(phase, settings, resume, overwrite) as log:
        log.info("%s rows of %s values", *data.x.shape)
        pretrainer = make_pretrainer(
            settings,
            stack,
            callbacks=lambda k: [EpochLog(log, f"layer {k + 1}")],
            checkpoint_dir=phase.checkpoints,
        )
        histories = pretrainer.fit(data.x, data.x_held_out, verbose=verbose)
        phase.write_curves(histories)
        stack.save(phase.path / "stack.keras")
    click.echo(f"{phase.path / 'stack.keras'}")


def resolved(settings):
    """Return settings that say all that was left open: paths from anywhere, seed, backend."""
    settings = {**settings, "backend": keras.backend.backend()}
    if settings["seed"] is None:
        settings["seed"] = fresh_seed()
    settings["data"] = sources.locate(settings["data"])
    if settings.get("labels"):
        settings["labels"] = sources.locate(settings["labels"])
    return settings


class running:
    """Context of a phase's training: `Phase.begin`, and after Ctrl-C a word on how to carry on."""

    def __init__(self, phase, settings, resume, overwrite):
        self.phase = phase
        self.context = phase.begin(settings, settings["seed"], resume, overwrite)

    def __enter__(self):
        return self.context.__enter__()

    def __exit__(self, kind, error, trace):
        suppressed = self.context.__exit__(kind, error, trace)
        if kind is KeyboardInterrupt:
            # A second Ctrl-C must not cut the message off.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise Interrupted(
                f"interrupted. To carry on: sda {self.phase.name} --out {self.phase.run} --resume"
            ) from error
        return suppressed


class EpochLog(keras.callbacks.Callback):
    """Writes a line an epoch into the log of a run."""

    def __init__(self, log, title):
        super().__init__()
        self.log = log
        self.title = title

    def on_epoch_end(self, epoch, logs=None):
        scores = ", ".join(f"{name} {value:.6g}" for name, value in (logs or {}).items())
        self.log.info("%s, epoch %s: %s", self.title, epoch + 1, scores)


def _rows(x, indices):
    return x[indices] if isinstance(x, np.ndarray) else Part(x, indices)


class Part:
    """Some rows of a source that stays where it is, such as those of an HDF5 file."""

    def __init__(self, rows, indices):
        self.rows = rows
        self.indices = indices
        self.shape = (len(indices), *rows.shape[1:])
        self.dtype = rows.dtype

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, rows):
        return self.rows[self.indices[rows]]
