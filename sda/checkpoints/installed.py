"""What an installed package defines: it goes by its name, and the version of the package."""

import functools
import importlib.metadata
import os
import pathlib
import site
import sys
import sysconfig
import types

# Packages whose versions a run compares by itself.
COMPARED = ("keras", "numpy", "sda", "tensorflow", "jax", "jaxlib", "torch")


@functools.cache
def _homes():
    """Return the folders of what is installed, this package's among them."""
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    found.add(str(pathlib.Path(__file__).parent.parent))
    return tuple(os.path.join(os.path.realpath(path), "") for path in found)


def is_installed(thing):
    """Return whether a function, class or module is of Python or of an installed package."""
    if isinstance(thing, types.FunctionType):
        file = thing.__code__.co_filename
        if file.startswith("<frozen"):
            return True
        if not file.startswith("<"):
            return _is_in_homes(file)
    return _is_installed_module(getattr(thing, "__module__", None))


def _is_installed_module(name):
    if name == "__main__":  # what a notebook or a script defines
        return False
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if name == "builtins" or getattr(spec, "origin", None) in ("built-in", "frozen"):
        return True
    file = getattr(module, "__file__", None)
    return file is not None and _is_in_homes(file)


@functools.cache
def _is_in_homes(file):
    return os.path.realpath(file).startswith(_homes())


def goes_by_name(value):
    """Return whether it is what an installed package defines under a name."""
    name = getattr(value, "__qualname__", getattr(value, "__name__", None))
    if not isinstance(name, str) or "<" in name:
        return False
    if isinstance(value, (type, types.FunctionType)):
        return is_installed(value)
    return callable(value) and _home(value) is not None


def _home(value):
    """Return the installed module that has a callable under its own name, or None."""
    owner = type(getattr(value, "__self__", None))
    modules = (getattr(value, "__module__", None), str(owner.__module__), "numpy", "scipy.special")
    for module in modules:
        found = getattr(sys.modules.get(module), value.__name__, None)
        # Methods in C are made anew each time, and equal.
        if _is_installed_module(module) and type(found) is type(value) and found == value:
            return module
    return None


def named(value):
    """Return the qualified name of what is installed, with the version of a package."""
    by_home = not isinstance(value, (type, types.FunctionType))
    module = (_home(value) if by_home else None) or getattr(value, "__module__", None)
    name = f"{module}.{getattr(value, '__qualname__', value.__name__)}"
    version = _version(str(module).split(".")[0])
    return f"{name} of {version}" if version else name


@functools.cache
def _version(root):
    """Return the distribution and version of a top-level module; nothing where a run compares it.

    Nothing for Python's own too: of another Python a run warns.
    """
    if root in COMPARED or root in sys.stdlib_module_names:
        return ""
    found = importlib.metadata.packages_distributions().get(root, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(found)))
