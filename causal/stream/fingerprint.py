"""What objects are and do, as a hash: what they hold, and the code that they can reach.

The walk starts at an object and goes wherever its code could go: to its class and the bases of it, to the
functions that methods call, the globals that they read, closures, defaults, and modules that are imported
inside a function. What it has met already is a number, so cycles end.

Code of this library and of whoever uses it is read whole. Python's own library and installed packages are
large and change with their versions, so they count by name and version.
"""

import hashlib
import weakref
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causal.stream.reach import arguments, contents, generated, installed, members, reached, version

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, range, type(...)})
"""Types whose `repr` says all; a subclass may hold more."""

_WEAK = (weakref.ref, weakref.WeakSet, weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
"""What caches are made of."""


def fingerprint(*things: object) -> str:
    """Return a hash of what objects are and do.

    Two that do the same may differ in it, which costs a run; two that do not should never agree. What code
    reads at run time (files, the environment) and what it looks up by a name that it makes up are not seen;
    an object of C code that cannot be pickled counts by its class alone.
    """
    return _Walk(frozenset()).of(things)


class _Walk:
    """One hash, and what is still to be described in it.

    Args:
        sets: ids of the sets that this walk is inside of.
    """

    def __init__(self, sets: frozenset[int]) -> None:
        self.sets = sets
        self.digest = hashlib.sha256()
        self.number: dict[int, int] = {}
        self.met: list[object] = []  # held, so that no id is given twice

    def of(self, things: Iterable[object]) -> str:
        """Add things, and all that they lead to."""
        for thing in things:
            self.add(thing)
        for at, thing in enumerate(self.met):  # which grows meanwhile
            self.say(f"#{at}", _name(type(thing)))
            self.describe(thing)
        return self.digest.hexdigest()[:32]

    def say(self, *words: str | bytes) -> None:
        """Add words, each with its length, so that no two lists of words are the same bytes."""
        for word in words:
            data = word if isinstance(word, bytes) else word.encode(errors="surrogatepass")
            self.digest.update(b"%d:" % len(data))
            self.digest.update(data)

    def add(self, thing: Any) -> None:
        """Add what cannot lead to itself; of everything else the number under which it is described.

        Whether two equal tuples are one object depends on whether the code was compiled or read back, so they
        have no number.
        """
        if type(thing) in _PLAIN:
            self.say(type(thing).__name__, repr(thing))
        elif type(thing) is tuple:
            self.each(thing)
        elif isinstance(thing, CodeType):
            self.code(thing)
        else:
            at = self.number.setdefault(id(thing), len(self.met))
            if at == len(self.met):
                self.met.append(thing)
            self.say(f"#{at}")

    def each(self, things: Iterable[Any]) -> None:
        """Add how many there are, and each."""
        held = list(things)
        self.say(f"({len(held)}")
        for thing in held:
            self.add(thing)

    def named(self, things: Iterable[tuple[str, Any]]) -> None:
        """Add things and their names, by name."""
        for name, thing in sorted(things, key=lambda pair: pair[0]):
            self.say(name)
            self.add(thing)

    def describe(self, thing: Any) -> None:
        """Add what an object holds and does."""
        kind = type(thing)
        if isinstance(thing, Tensor):
            self.tensor(thing)
        elif isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
            self.say(str(thing.dtype), str(thing.shape), np.ascontiguousarray(thing).tobytes())
        elif kind is list:
            self.each(thing)
        elif kind in (dict, MappingProxyType):
            self.each(part for pair in thing.items() for part in pair)
        elif kind in (set, frozenset):
            self.unordered(thing)
        elif isinstance(thing, PurePath):
            self.say(str(thing))
        elif isinstance(thing, ModuleType):
            self.named(contents(thing))
        elif isinstance(thing, type):
            self.kind(thing)
        elif isinstance(thing, FunctionType):
            self.function(thing)
        elif isinstance(thing, MethodType):
            self.each((thing.__self__, thing.__func__))
        elif isinstance(thing, BuiltinFunctionType):
            self.say(thing.__qualname__, version(thing.__module__ or ""))
            self.add(None if isinstance(thing.__self__, ModuleType) else thing.__self__)
        elif isinstance(thing, property):
            self.each((thing.fget, thing.fset, thing.fdel))
        elif isinstance(thing, staticmethod | classmethod):
            self.add(thing.__func__)
        elif isinstance(thing, cached_property):
            self.add(thing.func)
        elif not isinstance(thing, _WEAK):
            self.instance(thing)

    def tensor(self, x: Tensor) -> None:
        """Add a tensor's numbers."""
        held = x.detach() if x.layout == torch.strided else x.detach().to_dense()
        held = held.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        self.say(str(x.layout), str(held.dtype), str(tuple(x.shape)))
        if held.numel():
            self.say(held.view(torch.uint8).numpy().tobytes())

    def unordered(self, things: Iterable[Any]) -> None:
        """Add a set: every element is hashed by itself, for there is no order to number them in."""
        inside = self.sets | {id(things)}
        if id(things) not in self.sets:
            self.each(sorted(_Walk(inside).of((thing,)) for thing in things))

    def instance(self, thing: Any) -> None:
        """Add an object's class, and how pickle would make it again. Cached properties come by themselves."""
        self.add(type(thing))
        self.add(getattr(thing, "__dict__", {}).get("__wrapped__"))  # functools.cache is of C code
        try:
            made = thing.__reduce_ex__(2)
        except Exception:
            return
        if isinstance(made, str):
            self.say(made)
            return
        cached = {n for base in type(thing).__mro__ for n, v in vars(base).items() if _caches(v)}
        for part in made:
            if isinstance(part, dict):  # none at all, before the first attribute is set
                self.each([x for pair in part.items() if pair[0] not in cached for x in pair])
            elif part is None:
                self.each(())
            elif isinstance(part, Iterator):
                self.each(part)
            else:
                self.add(part)

    def kind(self, kind: type) -> None:
        """Add a class: its bases, and all that its body defines."""
        self.say(_name(kind))
        if installed(kind.__module__):
            self.say(version(kind.__module__))
            return
        self.each((type(kind), *kind.__bases__))
        self.named(members(kind))

    def function(self, made: FunctionType) -> None:
        """Add a function: its code, and all that the code refers to by name."""
        if generated(made):  # it only checks the types of what it wraps
            self.add(made.__wrapped__)  # type: ignore[attr-defined]
            return
        home = str(made.__globals__.get("__name__"))
        self.say(home)
        cells = tuple(part for cell in made.__closure__ or () for part in _content(cell))
        if installed(home, made.__code__.co_filename):
            self.say(made.__code__.co_qualname, version(home))
            registry = getattr(made, "registry", None)  # of functools.singledispatch
            if isinstance(registry, MappingProxyType):
                self.named((_name(kind), found) for kind, found in registry.items())
            else:
                self.each((made.__defaults__, getattr(made, "__wrapped__", None), cells))
            return
        self.code(made.__code__)
        self.each((made.__defaults__, made.__kwdefaults__, cells))
        self.named(vars(made).items())
        self.named(reached(made))

    def code(self, code: CodeType) -> None:
        """Add what code does: neither where it stands nor how its variables are called."""
        self.say("code", code.co_qualname, code.co_code, code.co_exceptiontable, str(code.co_flags))
        self.each((*code.co_names, *arguments(code)))
        self.each(code.co_consts)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _content(cell: CellType) -> tuple[Any, ...]:
    """Return what a closure holds; nothing, before it is filled."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _caches(member: object) -> bool:
    return isinstance(member, cached_property)
