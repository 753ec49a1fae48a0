"""What compiled code says: what it does, which names it reads, and which it changes."""

import dataclasses
import dis
import functools
import inspect
import platform
import sys
import types

from sda.checkpoints.installed import is_installed

# Methods that change the container they belong to.
FILLING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "fill", "insert",
    "pop", "popitem", "popleft", "put", "remove", "resize", "reverse", "setdefault", "sort",
    "update",
}  # fmt: skip


def python_version():
    """Return the version of Python as far as its bytecode depends on it."""
    return ".".join(platform.python_version_tuple()[:2])


def instructions(code):
    """Return the instructions, constants and names of compiled code, without its place."""
    constants = list(code.co_consts)
    # Up to Python 3.12 the first one is the docstring; later there is a flag for it.
    documented = sys.version_info < (3, 13) or code.co_flags & 0x4000000
    if documented and constants and type(constants[0]) is str and code.co_name[:1] != "<":
        constants[0] = None
    return repr(
        (
            code.co_code,
            [
                instructions(value) if isinstance(value, types.CodeType) else _constant(value)
                for value in constants
            ],
            code.co_names,
            code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            (code.co_freevars, code.co_cellvars, getattr(code, "co_exceptiontable", b"")),
        )
    )


def _constant(value):
    # The order of a set differs from process to process.
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _all_codes(code):
    """Yield compiled code and all that is compiled within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _all_codes(value)


def global_names(code):
    """Return the names of globals that code reads."""
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    names = {
        instruction.argval
        for inner in _all_codes(code)
        for instruction in dis.get_instructions(inner)
        if instruction.opname in loads
    }
    return {name for name in names if not name.startswith("__")}


@dataclasses.dataclass(frozen=True)
class Changed:
    """The names that code changes: variables and attributes that it sets, containers it fills."""

    variables: frozenset = frozenset()
    attributes: frozenset = frozenset()
    filled: frozenset = frozenset()

    def __or__(self, other):
        return Changed(
            self.variables | other.variables,
            self.attributes | other.attributes,
            self.filled | other.filled,
        )


@functools.lru_cache(1000)
def changed_by(code):
    """Return the `Changed` of a function's code: of its globals, closure and attributes."""
    variables, attributes, filled = set(), set(), set()
    for inner in _all_codes(code):
        steps = list(dis.get_instructions(inner))
        loaded = {s.argval for s in steps if s.opname.startswith("LOAD_")}
        for i, step in enumerate(steps):
            if step.opname in ("STORE_GLOBAL", "STORE_DEREF"):
                variables.add(step.argval)
            elif step.opname == "STORE_ATTR":
                attributes.add(step.argval)
            elif step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in FILLING:
                filled |= _name_of(steps, i - 1) or loaded
            elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"):
                filled |= _name_of(steps, _before_key(steps, i)) or loaded
    filled = {name for name in filled if isinstance(name, str)}
    return Changed(*map(frozenset, (variables, attributes, filled)))


def _name_of(steps, i):
    """Return the name that is loaded last of a container's, in a set; empty if it is a local's."""
    named = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_ATTR")
    return {steps[i].argval} if i >= 0 and steps[i].opname in named else set()


def _before_key(steps, i):
    """Return the index of the step that loads the container whose item step `i` sets."""
    left = -1 if steps[i].opname != "STORE_SLICE" else -2
    while i > 0 and left < 0:
        i -= 1
        if steps[i].opname in ("COPY", "SWAP", "ROT_TWO", "ROT_THREE", "DUP_TOP_TWO"):
            return -1  # `a[i] += 1`
        jump = False if steps[i].opcode in dis.hasjrel + dis.hasjabs else None
        left += dis.stack_effect(steps[i].opcode, steps[i].arg, jump=jump)
    return i - 1


def changed_by_class(cls):
    """Return the `Changed` of all methods of a user's class but those that make an object."""
    found = Changed()
    for kind in cls.__mro__:
        for name, member in () if is_installed(kind) else vars(kind).items():
            if name not in ("__init__", "__new__", "__post_init__"):
                for function in functions_of(member):
                    found |= changed_by(function.__code__)
    return found


def functions_of(member):
    """Return the functions that a member of a class is made of."""
    if isinstance(member, (staticmethod, classmethod)):
        member = [member.__func__]
    elif isinstance(member, property):
        member = [member.fget, member.fset, member.fdel]
    elif isinstance(member, functools.cached_property):
        member = [member.func]
    else:
        member = [member]
    return [one for one in member if isinstance(one, types.FunctionType)]


@functools.cache
def set_by(cls):
    """Return the names of the attributes that the methods of an installed class set."""
    names = set()
    for member in vars(cls).values():
        for function in functions_of(member):
            for code in _all_codes(inspect.unwrap(function).__code__):
                names |= {s.argval for s in dis.get_instructions(code) if s.opname == "STORE_ATTR"}
                if "__setattr__" in code.co_names or "setattr" in code.co_names:
                    names |= {value for value in code.co_consts if isinstance(value, str)}
    return frozenset(names)
