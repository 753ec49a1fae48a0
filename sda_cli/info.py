"""`sda info`: versions and backends, or what is in a run."""

import importlib.metadata

import click

from sda_cli import options
from sda_cli.terminal import cell, echo


@click.command(cls=options.Command)
@click.argument("run", required=False, type=click.Path(exists=True, file_okay=False))
def info(run):
    """Print the versions and backends that are installed or, of RUN, what it did."""
    from sda import runs

    if run is None:
        _print({package: _version(package) for package in PACKAGES})
        here = runs.circumstances(None)
        _print({"in use": here["backend"], "on": runs.machine_name(here["machine"])})
        return
    for name, phase in runs.phases(run).items():
        echo(name)
        record = phase.record
        versions = ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())
        facts = {key: record.get(key) for key in ("status", "started", "seconds")}
        _print({**facts, "versions": versions, **phase.settings}, "  ")


PACKAGES = ("keras-sda", "keras", "numpy", "h5py", "tensorflow", "jax", "torch")


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _print(facts, indent=""):
    width = max(map(len, facts))
    for name, value in facts.items():
        echo(f"{indent}{cell(name):{width}}  {cell(value)}")
