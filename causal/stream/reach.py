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
    }
)
"""Members of a class that say nothing of what it does. Dataclasses are told by the methods made for them, and
what has been pickled has `__slotnames__`."""


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what the body of a class defines."""
    return ((name, value) for name, value in vars(kind).items() if name not in _UNSAID)


def reached(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function's code names and what it imports, by dotted name.

    Of a module it is what the code may ask of it: what the module has of all the names in the code.
    """
    space = function.__globals__
    codes = list(nested(function.__code__))
    names = {name for code in codes for name in code.co_names}
    for name in sorted({name for code in codes for name in _globals(code)}):
        if name in space:
            yield from _opened(name, space[name], names)
        elif not hasattr(builtins, name):
            yield name, "(missing)"
    for name, wanted in sorted({found for code in codes for found in _imports(code, space)}):
        if installed(name):
            yield name, version(name)
            continue
        for each in (name, *(f"{name}.{part}" for part in wanted)):
            try:
                yield from _opened(each, import_module(each), names)
            except ImportError:
                yield each, "(missing)"


def contents(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield all that a module defines, or its version if it is installed."""
    return _opened(module.__name__, module, [n for n in vars(module) if not n.startswith("__")])


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield code, and that of the functions and classes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def arguments(code: CodeType) -> tuple[str, ...]:
    """Return the names of a function's arguments."""
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def generated(function: FunctionType) -> bool:
    """Tell whether beartype made a function, which then only checks the types of what it wraps."""
    return function.__code__.co_filename.startswith("<@beartype") and hasattr(function, "__wrapped__")


@cache
def installed(module: str | None, file: str = "") -> bool:
    """Tell whether a module (or the file that code is of) is Python's own or an installed package's."""
    if file:
        return file.startswith("<frozen") or _foreign(file)
    root = (module or "").partition(".")[0]
    if root == "__main__":
        return False
    if root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return True
    return any(_foreign(place) for place in _places(root))


@cache
def version(module: str) -> str:
    """Return the version of what a module was installed with, or "".

    A module of C code that is not installed counts by the bytes of its file.
    """
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return sys.version
    if not installed(module):
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
        return "" if not file.is_file() or file.suffix == ".py" else file.read_bytes().hex()
    try:
        return metadata.version(root)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(root, ())
        return " ".join(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners)))


def _opened(
    name: str, value: Any, names: Collection[str], above: tuple[ModuleType, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield a thing, or of a module what it has of some names."""
    if not isinstance(value, ModuleType):
        yield name, value
    elif installed(value.__name__):
        yield name, f"{value.__name__} {version(value.__name__)}"
    elif value not in above:
        yield name, value.__name__
        for part in sorted(vars(value).keys() & set(names)):
            yield from _opened(f"{name}.{part}", vars(value)[part], names, (*above, value))


def _globals(code: CodeType) -> Iterator[str]:
    return (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _imports(code: CodeType, space: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each module that code imports, and the names that it takes from it."""
    steps = list(dis.get_instructions(code))
    for at, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, wanted = steps[at - 2].argval, steps[at - 1].argval
            name = "." * level + step.argval
            yield resolve_name(name, space.get("__package__") or "") if level else name, tuple(wanted or ())


def _places(root: str) -> list[str]:
    """Return where a top-level module lies; nowhere for one that was made at run time."""
    module = sys.modules.get(root)
    if module is None:
        try:
            spec = find_spec(root) if root else None
        except (ImportError, ValueError):
            spec = None
        found = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    else:
        found = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return [place for place in found if place]


@cache
def _foreign(path: str) -> bool:
    """Tell whether a path is inside the folders of Python or of installed packages."""
    where = Path(path)
    inside = {"site-packages", "dist-packages"} & set(where.parts)
    return bool(inside) or any(where.is_relative_to(sysconfig.get_path(n)) for n in ("stdlib", "platstdlib"))
