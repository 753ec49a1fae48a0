"""The `sda` command. Beside the package `sda`, not in it: `import sda` takes Keras along, which
takes seconds, and help and mistyped options need none of it."""

import sys


def main():
    """Run the command; what `sda` in a shell calls."""
    try:
        from sda_cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit('sda: the command needs click: pip install "keras-sda[cli]"')
    app.main(prog_name="sda")
