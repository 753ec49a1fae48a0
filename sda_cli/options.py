"""What the commands share: options, their types, and settings from a TOML file."""

import os
import pathlib
import re
import sys
import tomllib

import click
from click.core import ParameterSource

# Bytes that a file of settings may have.
TEXT_BYTES = 2**24
# Which settings of a `sda.Recipe` the options of a phase are.
PRETRAINING = {
    name: name
    for name in (
        *("units", "noise", "corruption", "activation", "decoder_activation", "tied", "loss"),
        *("optimizer", "learning_rate", "epochs", "batch_size", "seed"),
    )
}
FINETUNING = {
    **{name: name for name in ("dropout", "patience", "seed")},
    **{n: f"finetune_{n}" for n in ("optimizer", "learning_rate", "epochs", "batch_size")},
}
# How a run is done, not what: never written to its settings.
CONTROLS = {"config", "debug", "help", "out", "overwrite", "quiet", "resume", "run"}


class Command(click.Command):
    """A command that takes `--config`, a TOML file of its options, and `--debug`.

    A key is an option without its dashes (`batch_size` or `batch-size`); a value is what would
    follow the option, a list what would be joined by commas. Options given win.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False),
                callback=_configure,
                is_eager=True,
                expose_value=False,
                help="TOML file of these options; those given here win.",
            ),
            click.Option(
                ["--debug"], is_flag=True, expose_value=False, help="Show tracebacks of errors."
            ),
        ]


def _configure(ctx, _, path):
    if path is None:
        return
    try:
        settings = tomllib.loads(_read(path))
    except (OSError, ValueError, RecursionError) as error:
        # Where it is wrong, and nothing that is there.
        place = re.search(r"\(at [^()]*\)$", str(error))
        words = f"{type(error).__name__} {place[0] if place else ''}".strip()
        raise click.ClickException(f"{path} is no TOML file: {words}") from error
    known = {p.name for p in ctx.command.params if isinstance(p, click.Option)} - CONTROLS
    settings = {name.replace("-", "_"): value for name, value in settings.items()}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise click.ClickException(
            f"Expected {path} to hold {', '.join(sorted(known))}. Received: {', '.join(unknown)}"
        )
    ctx.default_map = {name: _as_typed(name, value, path) for name, value in settings.items()}


def _read(path):
    """Return the text of a regular file, and no more than settings are: a device has no end."""
    if not os.path.isfile(path):
        raise ValueError("no regular file")
    with open(path, "rb") as file:
        content = file.read(TEXT_BYTES + 1)
    if len(content) > TEXT_BYTES:
        raise ValueError(f"more than {TEXT_BYTES} bytes")
    return content.decode()


def _as_typed(name, value, path):
    """Return a TOML value as the text that would follow the option, so that one parser reads it."""
    if isinstance(value, list):
        return ",".join(_as_typed(name, item, path) for item in value)
    if not isinstance(value, (str, int, float)):
        raise click.ClickException(
            f"Expected `{name}` in {path} to be a string, a number, a boolean or a list of these. "
            f"Received: {type(value).__name__}"
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(ctx, param, value, path):
    """Return what an option makes of a run's setting; raise `Damaged` if it refuses it."""
    from sda.files.opening import Damaged

    try:
        return param.type_cast_value(ctx, _as_typed(param.name, value, path))
    except click.ClickException as error:
        raise Damaged(
            f"Expected {path} to be as a run left it. Received: {error.format_message()}"
        ) from error


class PerLayer(click.ParamType):
    """One value for all layers, or one a layer, with commas between them.

    Args:
        inner: The `click.ParamType` of a value.
        always_list: Whether one value makes a list too.
    """

    def __init__(self, inner, always_list=False):
        self.inner = click.types.convert_type(inner)
        self.always_list = always_list
        self.name = f"{self.inner.name}[,…]"

    def get_metavar(self, param, ctx=None):
        choices = getattr(self.inner, "choices", None)
        return f"[{'|'.join(choices)}][,…]" if choices else f"{self.inner.name.upper()}[,…]"

    def convert(self, value, param, ctx):
        if isinstance(value, str):
            value = [self.inner.convert(part.strip(), param, ctx) for part in value.split(",")]
        elif not isinstance(value, list):
            value = [value]
        return value if self.always_list or len(value) > 1 else value[0]


class ImageShape(click.ParamType):
    """HEIGHTxWIDTH, or HEIGHTxWIDTHx3 in colour, or none."""

    name = "HxW"

    def convert(self, value, param, ctx):
        if value != "none":
            axes = value.split("x")
            if not (all(a.isdigit() for a in axes) and len(axes) in (2, 3)):
                self.fail(f"{value!r} is not HEIGHTxWIDTH, HEIGHTxWIDTHx3 or none", param, ctx)
        return value


def _check_layer(value, param, ctx):
    if value not in ("top", "all") and not value.isdigit():
        raise click.BadParameter(f"{value!r} is not a number, top or all", ctx, param)
    return value


def choose_backend(ctx, _, name):
    """Have Keras use the backend `name`, for which it must not have been imported."""
    if name is None:
        return None
    if "keras" in sys.modules:
        import keras

        if keras.backend.backend() != name:
            raise click.ClickException(
                f"Expected `--backend` to be {keras.backend.backend()}, which is in use. "
                f"Received: {name}"
            )
    os.environ["KERAS_BACKEND"] = name
    return name


def use_backend_of(run, phase):
    """Have Keras use the backend that a phase of a run was begun with."""
    try:
        text = _read(pathlib.Path(run) / phase / "settings.toml")
        name = tomllib.loads(text).get("backend")
    # What is wrong with the run is said by whoever reads it in earnest.
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(name, str):
        choose_backend(None, None, name)


DATA = (
    "Rows: a dataset (mnist, mnist_5k, digits, fashion_mnist; mnist::test for its test rows) or a "
    "file: rows.npy, rows.npz::ARRAY, rows.h5::PATH, table.csv, table.parquet."
)
data = click.option("--data", help=DATA)
labels = click.option(
    "--labels",
    help="Labels: an array of the same file, a column of the same table, or another file. A "
    "dataset has its own.",
)
image_shape = click.option(
    "--image-shape",
    type=ImageShape(),
    show_default="that of the data",
    help="What a row is as an image, to draw it; none for no image.",
)
validation_split = click.option(
    "--validation-split",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    help="Share of the rows that is held out; the same rows in every run on these data.",
)
seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    show_default="drawn and recorded",
    help="What weights, noise and order are drawn from.",
)
backend = click.option(
    "--backend",
    type=click.Choice(["tensorflow", "jax", "torch"]),
    callback=choose_backend,
    is_eager=True,
    show_default="that of KERAS_BACKEND, or tensorflow",
    help="Backend of Keras.",
)
out = click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder of the run.",
)
run = click.argument("run", type=click.Path(exists=True, file_okay=False))
resume = click.option(
    "--resume", is_flag=True, help="Carry on with a run that was cut off, with its settings."
)
overwrite = click.option("--overwrite", is_flag=True, help="Delete what the folder has first.")
overwrite_file = click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
layer = click.option(
    "--layer",
    default="top",
    callback=lambda ctx, param, value: _check_layer(value, param, ctx),
    help="Layer, counted from 1 at the input; top; or all, side by side.",
)
output = click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False),
    help="File: .npy, .npz, .h5, .csv or .parquet.",
)
quiet = click.option("--quiet", is_flag=True, help="Show no progress.")


def several(*options):
    """Return one decorator of several, in the order in which help shows them."""

    def decorate(function):
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def asked(ctx, phase, resume):
    """Return the settings of a run: the options but for `CONTROLS`.

    Args:
        ctx: The `click.Context` of the command.
        phase: The `sda.runs.Phase`, whose own settings a resumed run has.
        resume: Whether it is one. Options given may then only repeat what the run has.
    """
    settings = {name: value for name, value in ctx.params.items() if name not in CONTROLS}
    if not resume:
        return settings
    from sda.datasets import sources

    for name, value in settings.items():
        given = ctx.get_parameter_source(name) in (
            ParameterSource.COMMANDLINE,
            ParameterSource.DEFAULT_MAP,
        )
        there = phase.settings.get(name)
        if given and value != there and sources.locate(str(value)) != there:
            raise ValueError(
                f"Expected a run that is carried on to keep its settings, `{name}` {there!r}. "
                f"Received: {value!r}"
            )
    there = phase.settings
    for param in ctx.command.params:
        if param.name in there:
            path = phase.path / "settings.toml"
            there[param.name] = _typed(ctx, param, there[param.name], path)
    return {**settings, **there}


def verbosity(quiet):
    """Return Keras's `verbose`: a progress bar on a terminal, else one line an epoch."""
    return 0 if quiet else 1 if sys.stdout.isatty() else 2
