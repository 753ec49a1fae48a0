"""The arrows between modules, the examples in docstrings and the registered names."""

import ast
import doctest
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from doctests import Runner

import sda

ROOT = pathlib.Path(sda.__file__).parent
BACKENDS = {"tensorflow", "jax", "torch"}
DRIVERS = {
    "training.jax",
    "training.jax_mesh",
    "training.jax_population",
    "training.tensorflow",
    "training.torch",
    "training.torch_chain",
    "training.torch_noise",
    "training.torch_updates",
}

# The rooms, from the ground up: a room may know those on the floors below it, and no others.
# What stands on the ground is for all, and knows only its like.
FLOORS = [
    {"version", "checks", "streams", "forks"},
    {"files", "distribution"},
    {"losses"},
    {"layers"},
    {"rows"},
    {"models"},
    {"checkpoints"},
    {"training"},
    {"callbacks"},
    {"pretraining"},
    {"saving"},
    {"tables"},
    {"recipe"},
    {"datasets", "semisupervised", "diagnostics", "plotting"},
    {"estimators", "sweep", "runs"},
    {"report"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(path):
    """All modules that a file imports, wherever in it, as full dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("sda.") in MODULES
                yield inner if is_module else node.module


def known(name):
    """The modules of sda that the module `name` imports, without the `sda.`."""
    names = [i for i in imported(MODULES[name]) if i.split(".")[0] == "sda"]
    return {"" if i == "sda" else i.removeprefix("sda.") for i in names}


def room(name):
    return name.partition(".")[0]


def test_every_module_is_in_a_room():
    # `sda` itself is the table of contents, and `sda.__main__` the door to the command.
    assert {room(name) for name in MODULES} - {"", "__main__"} <= set(FLOOR)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"", "__main__"}))
def test_a_module_imports_only_from_below(name):
    here = room(name)
    below = {other for other, floor in FLOOR.items() if floor < (FLOOR[here] or 1)}
    assert {room(other) for other in known(name)} <= below | {here}


# The command is beside the package, since importing that takes seconds.
COMMAND = {path.stem: path for path in (ROOT.parent / "sda_cli").glob("*.py")}


def test_the_command_is_known_by_nobody():
    knowing = {name for name, path in MODULES.items() if "sda_cli" in " ".join(imported(path))}
    assert knowing == {"__main__"}


@pytest.mark.parametrize("name", sorted(set(COMMAND) - {"trained", "training"}))
def test_help_needs_click_and_no_more(name):
    """What a module imports at once, and not only when its command runs."""
    names = set()
    for node in ast.parse(COMMAND[name].read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert {n.split(".")[0] for n in names} <= {"click", "sda_cli", *sys.stdlib_module_names}
    assert not names & {"sda_cli.trained", "sda_cli.training"}


def beside(folder):
    """A package beside `sda`: its modules by full names, each with those of its own it imports."""
    root = ROOT.parent
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / folder).rglob("*.py"))
    }
    arrows = {}
    for name, path in paths.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        # A package is imported with each of its modules: that is no arrow.
        arrows[name] = {i for i in found & set(paths) if paths[i].name != "__init__.py"}
    return arrows


@pytest.mark.parametrize("package", ["sda", "sda_cli", "experiments"])
def test_imports_make_no_circle(package):
    arrows = {n: known(n) for n in MODULES} if package == "sda" else beside(package)
    visited = {}

    def visit(name, path):
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name not in visited:
            visited[name] = [visit(below, [*path, name]) for below in arrows[name]]

    for name in arrows:
        visit(name, [])
    assert len(visited) > 10


def test_experiments_use_the_package_and_not_the_command():
    found = {i for path in (ROOT.parent / "experiments").rglob("*.py") for i in imported(path)}
    assert "sda" in found
    assert not [name for name in found if name.split(".")[0] in ("sda_cli", "tests")]


WHAT_IS_LOADED = """
import sys
import keras
keras_knows = set(sys.modules)  # scikit-learn, where it is there
import sda
new = {"sklearn", "optuna", "pandas", "matplotlib"} - keras_knows
assert not new & set(sys.modules), new
assert not [name for name in rooms if f"sda.{name}" in sys.modules]
assert sda.runs.Phase("a", "pretrain").name == "pretrain"
assert not {"sklearn", "optuna"} & new & set(sys.modules), new
assert sda.report.render and sda.tables.Columns and sda.sweep.Sweep
assert set(rooms) <= set(dir(sda))
try:
    sda.estimates
except AttributeError as error:
    assert "no attribute 'estimates'" in str(error)
else:
    raise AssertionError
"""


def test_rooms_are_loaded_when_they_are_asked_for():
    rooms = ["datasets", "diagnostics", "estimators", "plotting", "report", "runs", "sweep"]
    script = f"rooms = {[*rooms, 'semisupervised', 'tables']}\n{WHAT_IS_LOADED}"
    if importlib.util.find_spec("sklearn"):
        script += "assert sda.estimators.SdAClassifier\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_the_drivers_import_a_backend():
    importers = {
        name
        for name, path in MODULES.items()
        if BACKENDS & {module.split(".")[0] for module in imported(path)}
    }
    # Which devices, processes, replicas and generators there are, their backend alone knows.
    assert importers == DRIVERS | {name for name in MODULES if name.startswith("distribution.")}


def test_a_dA_answers_for_its_kernel():
    """What an encoder is inside, its own room knows, and the steps that are written out."""
    asking = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and re.search(r"\bencoder\.(_?kernel|bias|units|count_params)$", ast.unparse(node))
    }
    asking -= {name for name in asking if room(name) == "layers"}
    assert asking <= {"training.torch_chain"}


def test_there_is_no_module_for_odds_and_ends():
    assert not [name for name in MODULES if re.search(r"(^|\.)_?(utils?|helpers?|misc)$", name)]


# The public names


@pytest.mark.parametrize("name", [n for n in sda.__all__ if callable(getattr(sda, n))])
def test_a_public_name_has_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(sda, name))


def test_public_names_are_there_and_sorted():
    assert sda.__all__ == sorted(sda.__all__)
    assert not [name for name in sda.__all__ if not hasattr(sda, name)]


def examples():
    # Those of the datasets read files that may not be there; a driver needs its own backend.
    return [
        name
        for name, path in MODULES.items()
        if name not in DRIVERS and not name.startswith("datasets") and ">>>" in path.read_text()
    ]


def at_hand():
    """What the examples of `sda.plotting` start from."""
    dA = sda.DenoisingAutoencoder(9)
    dA.build((None, 784))
    return {
        "dA": dA,
        "plain": {"loss": [1.0, 0.5]},
        "pretrained": {"loss": [0.5, 0.4]},
        "tiles": np.zeros((9, 9), "uint8"),
        "x_test": np.zeros((10, 784), "float32"),
        "x_train": np.zeros((50, 784), "float32"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", examples())
def test_the_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    if name == "plotting":
        pytest.importorskip("matplotlib")
        pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    names = {"sda": sda, "keras": keras, "np": np, **(at_hand() if name == "plotting" else {})}
    try:
        module = importlib.import_module(f"sda.{name}".rstrip("."))
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] == "sda":
            raise
        pytest.skip(f"{name} needs {error.name}")
    runner = Runner()
    for test in doctest.DocTestFinder().find(module, extraglobs=names):
        runner.run(test)
    if runner.missing:
        pytest.skip(f"{name} needs {runner.missing}")
    assert not runner.failures, "".join(runner.output)
    assert runner.tries > 0


# Files say these names: to change one is to make old files unreadable.
REGISTERED = {
    "sda>ColumnActivation": sda.losses.ColumnActivation,
    "sda>ColumnLoss": sda.losses.ColumnLoss,
    "sda>ComposedNoise": sda.ComposedNoise,
    "sda>Corruption": sda.Corruption,
    "sda>CrossEntropy": sda.losses.CrossEntropy,
    "sda>DenoisingAutoencoder": sda.DenoisingAutoencoder,
    "sda>GaussianNoise": sda.GaussianNoise,
    "sda>KLSparsity": sda.penalties.KLSparsity,
    "sda>MaskingNoise": sda.MaskingNoise,
    "sda>SaltAndPepperNoise": sda.SaltAndPepperNoise,
    "sda>SquaredError": sda.losses.SquaredError,
    "sda>StackedDenoisingAutoencoder": sda.StackedDenoisingAutoencoder,
    "sda>SwapNoise": sda.SwapNoise,
}


@pytest.mark.parametrize("name", sorted(REGISTERED))
def test_names_in_files_stay(name):
    assert keras.saving.get_registered_object(name) is REGISTERED[name]


def test_every_registered_name_is_that_of_its_class():
    # Tests of attacks register others under such names.
    registered = {
        name: found
        for name, found in keras.saving.get_custom_objects().items()
        if name.startswith("sda>") and found.__module__.startswith("sda.")
    }
    assert set(registered) >= set(REGISTERED)
    assert all(name == f"sda>{cls.__name__}" for name, cls in registered.items())


# The page about it


def test_the_page_has_a_line_for_every_room():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    table = page.partition("## The rooms")[2].partition("\n## ")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line[:60])}
    assert set(FLOOR) <= named


def test_the_page_names_files_that_are_there():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:sda|sda_cli|tests)/[\w/.]*)`", page)
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT.parent / path).exists()]
