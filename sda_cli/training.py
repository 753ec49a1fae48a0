"""What `sda pretrain` and `sda finetune` do. Imported when they run: it takes Keras along."""

import click
import keras
import numpy as np

import sda
from sda import diagnostics, runs
from sda.datasets import sources
from sda.files.writing import replacing
from sda.layers import preprocessing
from sda.runs import Phase
from sda.streams import fresh_seed
from sda.sweep.trial import make_optimizer
from sda_cli import options, trained
from sda_cli.pretrain import NOISES
from sda_cli.terminal import echo


class Interrupted(click.ClickException):
    """Ctrl-C, and how to carry on."""

    exit_code = 130


def pretrain(ctx, out, resume, overwrite, verbose):
    phase = Phase(out, "pretrain")
    phase.check(resume, overwrite)
    if resume and has_ended(phase):
        return
    settings = resolved(options.asked(ctx, phase, resume), ctx)
    rows, held_out = runs.read_rows(settings)
    chosen = preprocessing.for_rows(rows.x)
    stack = make_stack(settings, chosen)
    if chosen:
        echo(f"preprocessing: {preprocessing.described(chosen)}")
    with running(phase, settings, resume, overwrite) as log:
        log.info("%s rows of %s values", *rows.x.shape)
        pretrainer = make_pretrainer(
            settings,
            stack,
            callbacks=lambda k: [EpochLog(log, f"layer {k + 1}")],
            checkpoint_dir=phase.checkpoints,
        )
        histories = pretrainer.fit(rows.x, validation_data=held_out and held_out.x, verbose=verbose)
        phase.write_curves(histories)
        found = {}
        if rows.columns is not None:
            found["columns"] = rows.columns
        if chosen:
            found["preprocessing"] = preprocessing.described(chosen)
        if found:
            phase.write_results(**found)
        with replacing(phase.path / "stack.keras") as temporary:
            stack.save(temporary)
    echo(phase.path / "stack.keras")


def finetune(ctx, run, out, resume, overwrite, verbose):
    before = runs.finished(run, "pretrain")
    phase = Phase(out or run, "finetune")
    phase.check(resume, overwrite)
    if resume and has_ended(phase):
        return
    settings = options.asked(ctx, phase, resume)
    if settings["data"] is None:
        for name in ("data", "labels", "image_shape"):
            settings[name] = settings[name] or before.settings.get(name)
    if settings["validation_split"] is None:
        settings["validation_split"] = before.settings.get("validation_split", 0)
    settings = resolved(settings, ctx)
    before.check_copy(phase.run)
    rows, held_out = runs.read_rows(settings, runs.columns(run))
    if rows.y is None:
        raise ValueError("Expected `labels` to say what the rows are. Received: none")
    parts = [rows] if held_out is None else [rows, held_out]
    classes = np.unique(np.concatenate([part.y for part in parts]))
    targets = [np.searchsorted(classes, part.y) for part in parts]
    stack = runs.load_stack(before)
    classifier = stack.classifier(len(classes), settings["dropout"])
    classifier.compile(
        make_optimizer(settings["optimizer"], settings["learning_rate"]),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    keras.utils.set_random_seed(settings["seed"])
    with running(phase, settings, resume, overwrite) as log:
        before.copy_to(phase.run)
        log.info("%s rows, %s classes", len(rows.x), len(classes))
        callbacks = [EpochLog(log, "classifier")]
        if settings["patience"] and held_out is not None:
            callbacks.append(sda.callbacks.GeometricPatience(patience=settings["patience"]))
        history = sda.fit(
            classifier,
            rows.x,
            targets[0],
            batch_size=settings["batch_size"],
            epochs=settings["epochs"],
            validation_data=None if held_out is None else (held_out.x, targets[1]),
            callbacks=callbacks,
            seed=settings["seed"],
            checkpoint_dir=phase.checkpoints,
            verbose=verbose,
        )
        phase.write_curves([history])
        with replacing(phase.path / "classifier.keras") as temporary:
            classifier.save(temporary)
        scores = {}
        if held_out is not None:
            predicted = diagnostics.predict(classifier, held_out.x).argmax(axis=1)
            scores = {"validation": diagnostics.classification(targets[1], predicted, len(classes))}
        phase.write_results(classes=classes.tolist(), **scores)
    if scores:
        echo(trained.error_line(scores["validation"], "the rows held out"))
    echo(phase.path / "classifier.keras")


def has_ended(phase):
    """Return whether there is nothing left to carry on with, and say so."""
    if phase.is_finished:
        echo(f"{phase.path} had ended already")
    return phase.is_finished


def resolved(settings, ctx):
    """Return settings that say all that was left open: paths from anywhere, seed, backend."""
    if settings["data"] is None:
        raise click.UsageError("Missing option '--data'.", ctx)
    settings = {**settings, "backend": keras.backend.backend()}
    if settings["seed"] is None:
        settings["seed"] = fresh_seed()
    for name in ("data", "labels"):
        if settings.get(name):
            settings[name] = sources.locate(settings[name])
    return settings


def make_stack(settings, before):
    """Return the `sda.StackedDenoisingAutoencoder` that the options of `stack_options` describe.

    Args:
        settings: Dictionary of the options.
        before: List of the layers before the first one.
    """
    depth = len(settings["units"])
    kinds, levels = (
        sda.checks.per_layer(settings[name], depth, name) for name in ("noise", "corruption")
    )
    return sda.StackedDenoisingAutoencoder(
        settings["units"],
        corruption=[getattr(sda, NOISES[k])(c) for k, c in zip(kinds, levels, strict=True)],
        activation=settings["activation"],
        decoder_activation=settings.get("decoder_activation"),
        tied=settings["tied"],
        seed=settings["seed"],
        preprocessing=before,
    )


def make_pretrainer(settings, stack, **arguments):
    """Return the `sda.GreedyPretrainer` that the options of `pretraining_options` describe."""
    depth = len(stack.autoencoders)
    rates = sda.checks.per_layer(settings["learning_rate"], depth, "learning_rate")
    return sda.GreedyPretrainer(
        stack,
        optimizer=[make_optimizer(settings["optimizer"], rate) for rate in rates],
        loss=settings.get("loss"),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        **arguments,
    )


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
            run = f"{self.phase.run} " if self.phase.name == "finetune" else ""
            raise Interrupted(
                f"interrupted. To carry on: sda {self.phase.name} {run}--out {self.phase.run} "
                "--resume"
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

    # Nothing that a run that resumes would miss.
    def get_state(self):
        return None

    def set_state(self, state):
        pass
