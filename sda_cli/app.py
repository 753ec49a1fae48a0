"""The app: its commands, and what becomes of an error."""

import importlib
import os
import sys

import click

from sda_cli import terminal

# Each is the object of this name in the module of this name.
COMMANDS = (
    "pretrain",
    "finetune",
    "encode",
    "reconstruct",
    "evaluate",
    "filters",
    "report",
    "info",
    "sweep",
)
INTERRUPTED = 130


class App(click.Group):
    """A group whose commands are imported when they are asked for.

    Every error is one line on stderr and a status other than 0: 2 for a mistyped command line, and
    for a run or storage that is damaged, 130 after Ctrl-C, 1 for all else. With `--debug` a
    traceback comes first.
    """

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"sda_cli.{name}"), name)

    def main(self, args=None, prog_name=None, standalone_mode=True, **extra):
        # Before TensorFlow is imported: its messages are not ours.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        args = sys.argv[1:] if args is None else list(args)
        try:
            with terminal.plain_warnings():
                status = super().main(args, prog_name, standalone_mode=False, **extra)
        except Exception as error:
            if "--debug" in args:
                terminal.echo_traceback()
            status = _status(error)
            terminal.echo(f"sda: {_message(error, args)}", err=True)
        sys.exit(status if isinstance(status, int) else 0)


def _status(error):
    if isinstance(error, click.exceptions.Abort):
        return INTERRUPTED
    return getattr(error, "exit_code", 1)


def _message(error, args):
    if isinstance(error, click.exceptions.Abort):
        # A run that can be carried on says how.
        return str(error) or "interrupted"
    if isinstance(error, click.ClickException):
        text = error.format_message()
        command = getattr(getattr(error, "ctx", None), "command_path", None)
        if isinstance(error, click.UsageError) and command:
            text += f" (see {command} --help)"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    elif isinstance(error, (ValueError, ImportError, OSError)) or _is_ours(error):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
        if "--debug" not in args:
            text += " (--debug shows where)"
    return " ".join(text.split())


def _is_ours(error):
    return type(error).__module__.partition(".")[0] == "sda"


@click.group(
    "sda",
    cls=App,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="sda COMMAND --help shows the options of a command and their defaults.",
)
@click.version_option(package_name="keras-sda", message="%(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
@click.pass_context
def app(ctx):
    """Stacked denoising autoencoders: pretrain layer by layer, fine-tune, look at the result.

    \b
    sda pretrain --data mnist_5k --out runs/first
    sda finetune runs/first
    sda report runs/first
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
