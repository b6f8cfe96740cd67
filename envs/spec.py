"""Settings of a world: typed, frozen, each with its range.

A setting is declared once, with its default and its range; a value of the wrong type or outside the range is
refused in one sentence that names the setting, the value and the range.
"""

import math
import types
import typing
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np

from simlab.errors import BadInput, nearest

HUGE = 1e300
"""Beyond any setting."""


def setting(
    default: Any,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    open_low: bool = False,
    among: tuple[Any, ...] = (),
) -> Any:
    """Declare a setting with its default and range.

    Args:
        default: the value where none is given.
        low: the smallest allowed number.
        high: the largest allowed number.
        open_low: `low` itself is not allowed.
        among: the only allowed values, instead of a range.
    """
    return field(default=default, metadata={"low": low, "high": high, "open_low": open_low, "among": among})


S = TypeVar("S", bound="WorldSpec")


@dataclass(frozen=True)
class WorldSpec:
    """The settings that every world has.

    Attributes:
        items: size of the catalogue.
        slots: K, items per slate.
        horizon: time limit in steps (slates), after which an episode is truncated.
        world_seed: seed of the items; two worlds with the same spec are the same world.
        candidates: items that may be shown to a user at a step, drawn anew; 0 is the whole catalogue.
        remember: slates of history that a recommender sees.
    """

    items: int = setting(1000, 1, 10**9)
    slots: int = setting(10, 1)
    horizon: int = setting(50, 1, 10**9)
    world_seed: int = setting(0)
    candidates: int = setting(0, 0)
    remember: int = setting(5, 0)

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(f.name, getattr(self, f.name), _kinds(type(self))[f.name], f.metadata)  # type: ignore[arg-type]
        if self.slots > self.items:
            raise BadInput(f"slots is {self.slots}, but there are only {self.items} items")
        if self.candidates > self.items:
            raise BadInput(f"candidates is {self.candidates}, but there are only {self.items} items")
        if 0 < self.candidates < self.slots:
            raise BadInput(f"slots is {self.slots}, but a user has only {self.candidates} candidates")
        self.check()

    def check(self) -> None:
        """Refuse settings that do not go together; a spec with such settings overrides this."""

    @classmethod
    def of(cls: type[S], **settings: Any) -> S:
        """Build the spec from keyword settings.

        Raises:
            BadInput: for a setting that the spec does not have, with the nearest one.
        """
        names = [f.name for f in fields(cls)]
        for name in settings:
            if name not in names:
                raise BadInput(f"{cls.__name__} has no setting {name}{nearest(name, names)}")
        kinds = _kinds(cls)  # type: ignore[arg-type]
        read = {name: _read(value, kinds[name]) for name, value in settings.items()}
        for f in fields(cls):
            if f.name in read:
                _check(f.name, read[f.name], kinds[f.name], f.metadata)
        return cls(**read)


def _read(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Return numbers as Python's own, whole ones as real ones, lists as tuples, where that is wanted."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and abs(value) < HUGE:
        return float(value)
    if isinstance(value, list | tuple) and any(get_args(k)[:1] == (float,) for k in kinds):
        return tuple(_read(entry, (float,)) for entry in value)
    return value


@cache
def _kinds(spec: Any) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field takes."""
    found = {}
    for name, hint in typing.get_type_hints(spec).items():
        union = get_origin(hint) in (Union, types.UnionType)
        found[name] = get_args(hint) if union else (hint,)
    return found


def _check(name: str, value: Any, kinds: tuple[Any, ...], rule: typing.Mapping[str, Any]) -> None:
    if value is None and type(None) in kinds:
        return
    numbers = isinstance(value, int | float) and not isinstance(value, bool)
    if bool in kinds:
        if not isinstance(value, bool):
            raise BadInput(f"{name} is {value!r}, but it is true or false")
    elif float in kinds or int in kinds:
        whole = float not in kinds
        if not numbers or (whole and not isinstance(value, int)):
            raise BadInput(f"{name} is {value!r}, but it is a {'whole ' if whole else ''}number")
        _check_range(name, value, rule)
    elif str in kinds:
        if not isinstance(value, str):
            raise BadInput(f"{name} is {value!r}, but it is a word")
        among = rule.get("among")
        if among and value not in among:
            raise BadInput(f"{name} is {value}, but it is one of {', '.join(among)}")
    elif any(get_origin(k) is tuple for k in kinds):
        if not isinstance(value, tuple | list):
            raise BadInput(f"{name} is {value!r}, but it is a list of numbers")
        for i, entry in enumerate(value):
            if not isinstance(entry, int | float) or isinstance(entry, bool):
                raise BadInput(f"{name}, place {i}: {entry!r} is not a number")
            _check_range(f"{name}, place {i}", entry, rule)


def _check_range(name: str, value: float | int, rule: typing.Mapping[str, Any]) -> None:
    low, high = rule.get("low", -math.inf), rule.get("high", math.inf)
    above = value > low if rule.get("open_low") else value >= low
    if abs(value) < HUGE and above and value <= high:  # infinite and nan are not
        return
    ends = [f"{'more than' if rule.get('open_low') else 'at least'} {low:g}"] if math.isfinite(low) else []
    ends += [f"at most {high:g}"] if math.isfinite(high) else []
    if abs(value) < HUGE:
        raise BadInput(f"{name} is {value}, but it is {' and '.join(ends)}")
    said = value if isinstance(value, float) else "a number of too many digits"
    raise BadInput(f"{name} is {said}, but it is {', '.join(['a finite number', *ends])}")
