"""The page docs/command_line.md: its first run works as written, its other lines are understood."""

import pathlib
import re
import shlex

import keras
import numpy as np
import pytest

pytest.importorskip("click")
for package in ("PIL", "jinja2", "sklearn", "tomli_w"):
    pytest.importorskip(package)

from click.testing import CliRunner  # noqa: E402

from sda_cli.app import COMMANDS, app  # noqa: E402

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "command_line.md").read_text()


def lines(text):
    """The arguments of each `sda` line in the sh blocks of a text."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    found = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()
             if line.startswith("sda ")]  # fmt: skip
    assert found
    return found


def test_the_first_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = re.search(r"## A first run.*?\n## ", PAGE, re.DOTALL)[0]
    printed = {}
    # On JAX each operation is compiled anew, command after command: two are enough there.
    few = 2 if keras.backend.backend() == "jax" else None
    for arguments in lines(section)[:few]:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        printed[arguments[0]] = result.stdout
    if few:
        return
    assert np.load("codes.npy").shape == (360, 40)
    error = float(re.match(r"error ([\d.]+) ", printed["evaluate"])[1])
    assert error < 25  # guessing: 90
    assert "Confusion matrix" in pathlib.Path("runs/first/report.html").read_text()


@pytest.mark.parametrize("arguments", lines(PAGE), ids=" ".join)
def test_every_line_is_understood(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("first", "second"):
        (tmp_path / "runs" / run / "pretrain").mkdir(parents=True)
    for file in ("my.toml", "runs/second/pretrain/settings.toml"):
        (tmp_path / file).write_text(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    name, *rest = arguments
    with app.get_command(None, name).make_context(name, rest) as context:
        assert context.params


def test_every_command_is_in_the_table():
    named = set(re.findall(r"^\| `sda (\w+)", PAGE, re.MULTILINE))
    # Sweeps have a page of their own.
    assert set(COMMANDS) - {"sweep"} <= named <= set(COMMANDS)
