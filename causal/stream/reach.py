"""What the code of a function reaches by name, and what is installed and so counts by its version."""

import builtins
import dis
import sys
import sysconfig
from collections.abc import Collection, Iterator
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_UNSAID = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__abstractmethods__",
        "_abc_impl",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__orig_bases__",
        "__parameters__",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "__firstlineno__",
        "__static_attributes__",
        "__slotnames__",
        "_value2member_map_",
    }
)
"""Members of a class that say nothing of what it does. Dataclasses are told by the methods made for them;
what has been pickled has `__slotnames__`, and an enumeration notes the flags that it was asked for."""


_ASKS = ("LOAD_ATTR", "LOAD_METHOD")


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what the body of a class defines."""
    return ((name, value) for name, value in vars(kind).items() if name not in _UNSAID)


def reached(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function's code names and what it imports, by dotted name.

    Of a module it is what the code may ask of it: what the module has of all the names in the code; and all
    of it, where the code hands the module on.
    """
    space = function.__globals__
    codes = list(nested(function.__code__))
    steps = [_steps(code) for code in codes]
    names = {name for code in codes for name in code.co_names}
    alone = {name for each in steps for name in _alone(each)}
    for name in sorted({name for each in steps for name in _globals(each)}):
        if name in space:
            yield from _opened(name, space[name], names, alone, name in alone)
        elif not hasattr(builtins, name):
            yield name, "(missing)"
    for name, part, variable in sorted({found for each in steps for found in _imports(each, space)}):
        if installed(name):
            yield name, version(name)
            continue
        for each in (name, f"{name}.{part}") if part else (name,):
            whole = variable in alone and not (part and each == name)
            try:
                yield from _opened(each, import_module(each), names, alone, whole)
            except Exception:  # of the module's own code, too
                yield each, "(missing)"


def contents(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield all that a module defines, or its version if it is installed."""
    if installed(module.__name__):
        yield module.__name__, version(module.__name__)
    else:
        yield from ((name, value) for name, value in vars(module).items() if not name.startswith("__"))


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield code, and that of the functions and classes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def generated(function: FunctionType) -> bool:
    """Tell whether beartype made a function, which then only checks the types of what it wraps."""
    return function.__code__.co_filename.startswith("<@beartype") and hasattr(function, "__wrapped__")


def home(thing: object) -> str:
    """Return the name of the module that a thing says it is of; of C code it need not be a string."""
    name = getattr(thing, "__module__", None)
    return name if isinstance(name, str) else ""


def shipped(thing: Any) -> bool:
    """Tell whether a class or function is the one that an installed module has under its name.

    What an installed module makes for somebody else, such as a class by `make_dataclass`, is not.
    """
    return installed(home(thing)) and holds(home(thing), thing.__qualname__, thing)


def holds(module: str, name: str, thing: object) -> bool:
    """Tell whether a thing is what a module has under a dotted name."""
    at: Any = sys.modules.get(module)
    for part in name.split("."):
        at = getattr(at, part, None)
    return at is thing


def installed(module: str) -> bool:
    """Tell whether a module is Python's own or an installed package's, by where it lies."""
    if module.partition(".")[0] in ("__main__", ""):
        return False
    places = _places(module)
    return bool(places) and all(foreign(place) for place in places)


@cache
def foreign(path: str) -> bool:
    """Tell whether a file or folder is Python's own or inside the folders of installed packages."""
    if path.startswith("<frozen") or path in ("built-in", "frozen"):
        return True
    where = Path(path)
    inside = {"site-packages", "dist-packages"} & set(where.parts)
    return bool(inside) or any(where.is_relative_to(sysconfig.get_path(n)) for n in ("stdlib", "platstdlib"))


def version(module: str) -> str:
    """Return the version of what a module was installed with, or "".

    A module of C code that is not installed counts by the bytes of its file.
    """
    if installed(module):
        return release(module.partition(".")[0])
    file = Path(str(getattr(sys.modules.get(module), "__file__", None) or ""))
    return "" if not file.is_file() or file.suffix == ".py" else file.read_bytes().hex()


@cache
def release(root: str) -> str:
    """Return the version of an installed top-level module, or ""."""
    if root in sys.stdlib_module_names:
        return sys.version
    try:
        return metadata.version(root)
    except metadata.PackageNotFoundError:
        return " ".join(f"{owner} {metadata.version(owner)}" for owner in _owners().get(root, ()))


@cache
def _owners() -> dict[str, list[str]]:
    """Return the distributions that each top-level module is of."""
    return {root: sorted(set(owners)) for root, owners in metadata.packages_distributions().items()}


def _opened(
    name: str,
    value: Any,
    names: Collection[str],
    alone: Collection[str],
    whole: bool,
    above: tuple[ModuleType, ...] = (),
) -> Iterator[tuple[str, Any]]:
    """Yield a thing; of a module that code does not hand on, what it has of some names."""
    if not isinstance(value, ModuleType) or whole:
        yield name, value
    elif installed(value.__name__):
        yield name, f"{value.__name__} {version(value.__name__)}"
    elif value not in above:
        yield name, value.__name__
        for part in sorted(vars(value).keys() & set(names)):
            below = vars(value)[part]
            yield from _opened(f"{name}.{part}", below, names, alone, part in alone, (*above, value))


def _steps(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]


def _globals(steps: list[dis.Instruction]) -> Iterator[str]:
    """Yield the names that code looks up outside of its function."""
    for step in steps:
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            yield step.argval


def _alone(steps: list[dis.Instruction]) -> Iterator[str]:
    """Yield the names of variables and attributes that code uses otherwise than to ask them for another."""
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        loads = step.opname.startswith("LOAD_") and step.opname != "LOAD_CONST"
        if loads and (after is None or after.opname not in _ASKS):
            yield from step.argval if isinstance(step.argval, tuple) else (str(step.argval),)


def _imports(steps: list[dis.Instruction], space: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each module that code imports, what it takes from it (or ""), and in which variable."""
    for at, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, wanted = steps[at - 2].argval, steps[at - 1].argval
            name = "." * level + step.argval
            name = resolve_name(name, space.get("__package__") or "") if level else name
            kept = (s.argval for s in steps[at:] if s.opname.startswith("STORE_"))
            for part in wanted or ("",):
                yield name, part, str(next(kept, ""))


def _places(name: str) -> list[str]:
    """Return where a module lies, or the nearest package above that lies anywhere.

    Nowhere, for one that was made at run time; and of a root that is not imported, where it would lie.
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    above = name.rpartition(".")[0]
    if module is None and not above:
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):
            spec = None
    folders = getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None) or ()
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    found = [place for place in ([file] if file else folders) if isinstance(place, str)]
    return found or (_places(above) if above else [])
