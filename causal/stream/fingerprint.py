"""What objects are and do, as a hash: what they hold, and the code that they can reach.

The walk starts at an object and goes wherever its code could go: to its class and the bases of it, to the
functions that methods call, the globals that they read, closures, defaults, and modules that are imported
inside a function. What it meets is a graph, whose hash `graph.py` takes.

Code of this library and of whoever uses it is read whole. Python's own library and installed packages are
large and change with their versions, so they count by name and version. An object says itself how it would
be made again, as it does to pickle. One that will not, and holds more than attributes, is refused.
"""

import copyreg
import functools
import io
import pickle
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causal.stream.graph import Part, Word, canonical, joined
from causal.stream.reach import (
    contents,
    foreign,
    generated,
    holds,
    home,
    members,
    reached,
    shipped,
    version,
)
from simlab.errors import BadInput

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, range, type(...)})
"""Types whose `repr` says all; a subclass may hold more."""

_VALUES = (tuple, frozenset, CodeType)
"""Types of which nobody can tell whether two equal ones are one object: that depends on whether code was
compiled or read back. So equal ones are one node."""

_MUTE = (
    weakref.ref,
    weakref.WeakSet,
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
    type(threading.Lock()),
    type(threading.RLock()),
)
"""What caches are made of, and locks."""

_HOWS: Mapping[type, Callable[[Any], Any]] = copyreg.dispatch_table
"""How pickle takes apart what does not do it itself."""

_C_MEMBERS = (GetSetDescriptorType, MemberDescriptorType, WrapperDescriptorType)
_NUMBERS = (Tensor, nn.Parameter, nn.Buffer)
_SHARED = (*(getattr(x, "__self__", None) for x in (random.random, np.random.rand)), torch.default_generator)
"""The random numbers of the process, which nobody's settings hold."""


def fingerprint(*things: object) -> str:
    """Return a hash of what objects are and do.

    Two that do the same may differ in it, which costs a run; two that do not should never agree. What code
    reads at run time (files, the environment), what it looks up by a name that it makes up, and the state of
    the random numbers that all share are not seen; nor is the flag of `torch.nn.Module.train`.

    Raises:
        BadInput: for an object that tells nothing of what it holds, such as one of C code that cannot be
            pickled.
    """
    return canonical(_Walk(things).nodes)


class _Walk:
    """The graph of all that some things lead to.

    Args:
        things: where it begins; node 0 is a list of them.

    Attributes:
        nodes: the parts of each.
    """

    def __init__(self, things: Iterable[object]) -> None:
        self.nodes: list[tuple[Part, ...]] = []
        self.number: dict[int, int] = {}  # of the node of an object, by id
        self.values: dict[tuple[Part, ...], int] = {}
        self.met: list[object] = []  # held, so that no id is given twice
        self.waiting: list[object] = []
        self.part(list(things))
        for thing in self.waiting:  # which grows meanwhile
            self.nodes[self.number[id(thing)]] = self.told(thing)

    def part(self, thing: Any) -> Word:
        """Return a word for what cannot lead to itself; of everything else the number of its node."""
        kind = type(thing)
        if kind in _PLAIN:
            return _word(
                kind.__name__, hex(thing) if kind is int else thing if kind is bytes else repr(thing)
            )
        at = self.number.get(id(thing))
        if at is not None:
            return at
        self.met.append(thing)
        parts: tuple[Part, ...] = ()
        if kind in _VALUES:
            parts = self.told(thing)
            if parts in self.values:
                self.number[id(thing)] = self.values[parts]
                return self.values[parts]
            self.values[parts] = len(self.nodes)
        else:
            self.waiting.append(thing)
        self.number[id(thing)] = len(self.nodes)
        self.nodes.append(parts)
        return len(self.nodes) - 1

    def told(self, thing: Any) -> tuple[Part, ...]:
        """Return the parts of an object, with the words between two others as one.

        Raises:
            BadInput: if it cannot be told.
        """
        name = _name(type(thing))
        parts: list[Part] = []
        words = [name.encode()]
        try:
            for part in self.describe(thing):
                if isinstance(part, bytes):
                    words.append(part)
                    continue
                parts += [joined(words), part] if words else [part]
                words = []
        except BadInput:
            raise
        except Exception as error:  # of any code that an object has for telling what it is
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInput(
                f"a {name} does not tell what it holds or what it does, so a change would not be seen: "
                f"give a version= that says so ({reason})"
            ) from error
        return (*parts, joined(words))

    def each(self, things: Iterable[Any]) -> Iterator[Part]:
        """Yield each thing, and how many there were."""
        parts = [self.part(thing) for thing in things]
        yield from parts
        yield _word(len(parts))

    def named(self, things: Iterable[tuple[Any, Any]]) -> Iterator[Part]:
        """Yield things and their names, by name if that is what they have."""
        held = list(things)
        if all(type(name) is str for name, _ in held):
            held.sort(key=lambda pair: pair[0])
        return self.each(x for pair in held for x in pair)

    def describe(self, thing: Any) -> Iterator[Part]:
        """Yield what an object holds and does. Only its type is believed: `__class__` may be of another."""
        kind = type(thing)
        if issubclass(kind, Tensor) and thing.layout == torch.strided and not thing.is_quantized:
            yield from self.tensor(thing)
        elif issubclass(kind, np.ndarray) and kind.__reduce__ is np.ndarray.__reduce__:
            yield from self.array(thing)
        elif kind in (list, tuple):
            yield from self.each(thing)
        elif kind in (dict, MappingProxyType):
            yield from self.each(part for pair in thing.items() for part in pair)
        elif issubclass(kind, set | frozenset):
            yield frozenset(self.part(x) for x in thing)
            if kind not in (set, frozenset):
                yield from self.each((kind, _own(thing)))
        elif kind is CodeType:
            yield from self.code(thing)
        elif kind is memoryview:
            yield _word(thing.format, str(thing.shape), thing.tobytes())
        elif issubclass(kind, PurePath):
            yield _word(str(thing))
        elif issubclass(kind, ModuleType):
            yield from self.named(contents(thing))
        elif issubclass(kind, type):
            yield from self.kind(thing)
        elif kind is FunctionType:
            yield from self.function(thing)
        elif kind is MethodType:
            yield from self.each((thing.__self__, thing.__func__))
        elif kind is BuiltinFunctionType:
            yield _word(thing.__qualname__, version(home(thing)))
            yield self.part(None if isinstance(thing.__self__, ModuleType) else thing.__self__)
        elif kind is property:
            yield from self.each((thing.fget, thing.fset, thing.fdel))
        elif kind in (staticmethod, classmethod):
            yield self.part(thing.__func__)
        elif kind is cached_property:
            yield self.part(thing.func)
        elif kind is functools._lru_cache_wrapper:
            yield self.part(thing.__wrapped__)
        elif kind in _C_MEMBERS:
            yield from self.each((thing.__name__, thing.__objclass__))
        elif not issubclass(kind, _MUTE) and not any(thing is x for x in _SHARED):
            yield from self.instance(thing)

    def tensor(self, x: Tensor) -> Iterator[Part]:
        """Yield a tensor's numbers; of another class of tensors also its attributes."""
        if type(x) not in _NUMBERS:
            yield from self.each((type(x), vars(x)))
        held = x.detach().as_subclass(Tensor)
        held = held.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        yield _word(str(held.dtype), str(tuple(x.shape)))
        if held.numel():
            yield _word(held.view(torch.uint8).numpy().data)

    def array(self, x: NDArray[Any]) -> Iterator[Part]:
        """Yield an array's numbers, field by field: nobody knows what lies between fields."""
        if type(x) not in (np.ndarray, np.memmap):
            yield from self.each((type(x), _own(x)))
        held = np.asarray(x)
        yield _word(str(held.dtype), str(held.shape))
        if held.dtype.names:
            yield from self.each(held[name] for name in held.dtype.names)
        elif held.dtype.hasobject:
            yield from self.each(held.ravel().tolist())
        else:
            yield _word(held.tobytes())

    def instance(self, thing: Any) -> Iterator[Part]:
        """Yield an object's class, and how pickle would make it again."""
        kind = type(thing)
        yield self.part(kind)
        if issubclass(kind, nn.Module) and "_orig_mod" in vars(thing).get("_modules", ()):
            yield self.part(thing._orig_mod)  # by torch.compile, which keeps what it compiled
            return
        own: Any = getattr(thing, "__dict__", self)  # before pickle is asked: it tells an empty one from none
        try:
            made = _HOWS[kind](thing) if kind in _HOWS else thing.__reduce_ex__(2)
        except Exception:
            if issubclass(kind, io.IOBase):  # a file
                return
            if not _bare(kind):
                raise
            made = (_own(thing),)
        if isinstance(made, str):
            module = pickle.whichmodule(thing, made)  # type: ignore[attr-defined]
            if not holds(module, made, thing) and not _bare(kind):
                raise TypeError(f"it is not {module}.{made}")
            yield _word(module, made, version(module))
            made = (_own(thing),)
        for part in made:
            if isinstance(part, Iterator):
                yield from self.each(part)
            elif part is None or type(part) is dict:
                yield from self.state(thing, part or {})
            elif type(part) is tuple and any(x is own for x in part):  # beside slots, or what C code holds
                for x in part:
                    yield from self.state(thing, x) if x is own else (self.part(x),)
            else:
                yield self.part(part)

    def state(self, thing: Any, held: dict[Any, Any]) -> Iterator[Part]:
        """Yield attributes, but for those that come by themselves when they are asked for."""
        kind = type(thing)
        cached = {kept for base in kind.__mro__ for n, v in vars(base).items() for kept in _cache(n, v)}
        shown = {name: value for name, value in held.items() if name not in cached}
        if issubclass(kind, nn.Module):
            shown.pop("training", None)
            for name in (n for n, v in shown.items() if "_hooks" in n and isinstance(v, dict)):
                shown[name] = list(shown[name].values())  # the keys count all hooks of the process
        yield from self.named(shown.items())

    def kind(self, kind: type) -> Iterator[Part]:
        """Yield a class: its bases, and all that its body defines."""
        yield _word(_name(kind))
        if shipped(kind) or not kind.__flags__ & 1 << 9:  # of C code, where it is not made at run time
            yield _word(version(home(kind)))
            return
        yield from self.each((type(kind), *kind.__bases__))
        yield from self.named(members(kind))

    def function(self, made: FunctionType) -> Iterator[Part]:
        """Yield a function: its code, and all that the code refers to by name."""
        inner = getattr(made, "_torchdynamo_orig_callable", None)  # by torch.compile
        if generated(made):  # it only checks the types of what it wraps
            inner = made.__wrapped__  # type: ignore[attr-defined]
        if inner is not None:
            yield self.part(inner)
            return
        space = str(made.__globals__.get("__name__"))
        yield _word(space)
        if shipped(made):
            yield _word(made.__qualname__, version(home(made)))
            return
        registry = vars(made).get("registry")
        if isinstance(registry, MappingProxyType):  # functools.singledispatch, whose cells hold its caches
            yield from self.named((_name(kind), found) for kind, found in registry.items())
            return
        cells = tuple(part for cell in made.__closure__ or () for part in _content(cell))
        yield from self.each((made.__defaults__, made.__kwdefaults__, cells))
        if foreign(made.__code__.co_filename):
            yield _word(made.__code__.co_qualname, version(space))
            yield self.part(vars(made).get("__wrapped__"))
            return
        yield self.part(made.__code__)
        yield from self.named(vars(made).items())
        yield from self.named(reached(made))

    def code(self, code: CodeType) -> Iterator[Part]:
        """Yield what code does: neither where it stands nor how its variables are called."""
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        yield _word(code.co_qualname, code.co_code, code.co_exceptiontable, *counts)
        named = code.co_argcount + code.co_kwonlyargcount
        yield from self.each((*code.co_names, *code.co_varnames[:named]))
        yield from self.each(code.co_consts)


def _word(*words: str | int | bytes | memoryview) -> bytes:
    """Return the hash of words."""
    return joined(
        w if isinstance(w, bytes | memoryview) else str(w).encode(errors="surrogatepass") for w in words
    )


def _name(kind: type) -> str:
    return f"{home(kind)}.{kind.__qualname__}"


def _content(cell: CellType) -> tuple[Any, ...]:
    """Return what a closure holds; nothing, before it is filled."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _cache(name: str, member: object) -> tuple[str, ...]:
    """Return the attribute in which a member of a class keeps what it was once asked for."""
    if isinstance(member, cached_property):
        return (name,)
    return ("_cache",) if _name(type(member)) == "pandas._libs.properties.CachedProperty" else ()


def _slots(kind: type) -> list[str]:
    names: list[str] = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    return names


def _own(thing: Any) -> dict[str, Any]:
    """Return the attributes and slots of an object."""
    slots = {name: getattr(thing, name) for name in _slots(type(thing)) if hasattr(thing, name)}
    return {**getattr(thing, "__dict__", {}), **slots}


def _bare(kind: type) -> bool:
    """Tell whether attributes and slots are all that an object has room for, as object.__reduce_ex__ does."""
    extra = (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0) + len(_slots(kind))
    word = object.__basicsize__ // 2
    return kind.__itemsize__ == 0 and kind.__basicsize__ <= object.__basicsize__ + word * extra
