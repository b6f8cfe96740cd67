"""Which values a family's settings may have: told from the name and the type of each field of its `Spec`."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import inf, isfinite
from numbers import Integral, Real
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from simlab.errors import BadInput

SHARES = ("dropout",)
"""Settings in [0, 1)."""
ABOVE_ZERO = ("spread", "temperature", "regularisation", "smoothing")
"""Settings that are finite and above 0."""
FROM_ZERO = ("past", "shrinkage", "beta", "auxiliary", "tie")
"""Settings that are finite and at least 0."""


def proper(family: str, kind: type, given: Mapping[str, Any], least: Mapping[str, int]) -> dict[str, Any]:
    """Return settings of the types that a `Spec` says: a list becomes a tuple, a whole number a float.

    A whole number, alone or in a tuple, counts something and is at least 1, or 0 where the `Spec` itself says
    0. The constants above name what else holds. A float of another name is finite. A setting of any other
    type is the family's own affair.

    Args:
        family: its name, for refusals.
        kind: its `Spec`.
        given: settings by name, all of which the `Spec` has.
        least: the lowest values of the family's whole numbers, where they are others.

    Raises:
        BadInput: naming the family, the setting, what is allowed and the value.
    """
    hints = get_type_hints(kind)
    lowest: dict[str, float | int] = {name: 0 for name in FROM_ZERO}
    for f in fields(kind):
        if f.default is not MISSING and isinstance(f.default, int) and f.default <= 0:
            lowest.setdefault(f.name, f.default)
    lowest |= least
    out: dict[str, Any] = {}
    for name, value in given.items():
        try:
            out[name] = _fitted(name, hints[name], value, lowest)
        except _Wrong as wrong:
            raise BadInput(f"{name} of {family} {wrong}, not {_word(value)}") from None
    return out


class _Wrong(Exception):
    """What a setting is, of a value that it is not."""


def _fitted(name: str, hint: Any, value: Any, lowest: Mapping[str, float | int]) -> Any:
    """Return the value in the type of the hint."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if type(None) in kinds:
        if value is None:
            return None
        kinds = tuple(k for k in kinds if k is not type(None))
    if set(kinds) == {int, float}:
        kinds = (int,) if isinstance(value, Integral) else (float,)
    if len(kinds) != 1:
        return value
    if kinds[0] is int:
        return _count(value, lowest.get(name, 1))
    if kinds[0] is float:
        return _number(name, value, lowest.get(name, -inf))
    if get_origin(kinds[0]) is tuple:
        return _several(name, get_args(kinds[0]), value, lowest)
    for plain, word in ((bool, "is True or False"), (str, "is a word")):
        if kinds[0] is plain and not isinstance(value, plain):
            raise _Wrong(word)
    return value


def _count(value: Any, least: float | int) -> int:
    """Return a whole number that is not too small."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _Wrong("is a whole number")
    if value < least:
        raise _Wrong(f"is at least {least}")
    return int(value)


def _number(name: str, value: Any, least: float | int) -> float:
    """Return a float that its name allows."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise _Wrong("is a number")
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if name in SHARES:
        if not 0 <= number < 1:
            raise _Wrong("is a share in [0, 1)")
    elif name in ABOVE_ZERO:
        if not (number > 0 and isfinite(number)):
            raise _Wrong("is finite and above 0")
    elif name in FROM_ZERO:
        if not (number >= least and isfinite(number)):
            raise _Wrong(f"is finite and at least {least}")
    elif not isfinite(number):
        raise _Wrong("is finite")
    return number


def _several(
    name: str, kinds: tuple[Any, ...], value: Any, lowest: Mapping[str, float | int]
) -> tuple[Any, ...]:
    """Return a tuple; what each element is goes by the tuple's own name."""
    if not isinstance(value, list | tuple):
        raise _Wrong("is a list")
    if len(kinds) != 2 or kinds[1] is not Ellipsis:
        return tuple(value)
    try:
        return tuple(_fitted(name, kinds[0], one, lowest) for one in value)
    except _Wrong as wrong:
        raise _Wrong(f"is a list, each of which {wrong}") from None


def _word(value: Any) -> str:
    """Return a value as its owner wrote it, in one line, and not too long."""
    word = " ".join(repr(value).split())
    return word if len(word) <= 60 else f"{word[:57]}..."
