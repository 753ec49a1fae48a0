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
from sda_cli import options, trained
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
    recipe = recipe_of(settings, options.PRETRAINING).resolve(rows.x)
    chosen = recipe.preprocessing
    stack = recipe.stack()
    if chosen:
        echo(f"preprocessing: {preprocessing.described(chosen)}")
    with running(phase, settings, resume, overwrite) as log:
        log.info("%s rows of %s values", *rows.x.shape)
        pretrainer = recipe.pretrainer(
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
    units = [autoencoder.units for autoencoder in stack.autoencoders]
    recipe = recipe_of(settings, options.FINETUNING, units=units)
    classifier = recipe.classifier(stack, len(classes))
    keras.utils.set_random_seed(settings["seed"])
    with running(phase, settings, resume, overwrite) as log:
        before.copy_to(phase.run)
        log.info("%s rows, %s classes", len(rows.x), len(classes))
        callbacks = [EpochLog(log, "classifier")]
        if recipe.patience and held_out is not None:
            callbacks.append(recipe.early_stop())
        history = recipe.finetune(
            classifier,
            rows.x,
            targets[0],
            None if held_out is None else (held_out.x, targets[1]),
            callbacks,
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


def recipe_of(settings, names, **others):
    """Return the `sda.Recipe` of the settings of a phase.

    Args:
        settings: Dictionary of the options.
        names: Dictionary of those that are settings of a recipe, to their names there.
        **others: Settings of the recipe that no option has.
    """
    found = {there: settings.get(here) for here, there in names.items()}
    return sda.Recipe.from_dict({n: v for n, v in {**found, **others}.items() if v is not None})


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
