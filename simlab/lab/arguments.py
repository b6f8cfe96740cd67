"""What stands in a policy's parentheses, given to the parameters of what it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from simlab.errors import BadInput, nearest
from simlab.lab.grammar import Call
from simlab.lab.yaml_defaults import fit
from simlab.parts import names, part

Bound = list[tuple["Parameter", Any]]
"""Parameters with their values, in the order of the parameters."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a policy.

    Attributes:
        name: as it is written before "=".
        kind: "policy", "ranker", or the type hint of a plain value.
        needed: whether it has no default.
        place: the group of settings that it belongs to, such as "policy_kwargs"; "" is the policy's own.
    """

    name: str
    kind: Any
    needed: bool = False
    place: str = ""


def bind(call: Call, parameters: Sequence[Parameter], example: str) -> Bound:
    """Give each argument of a call to its parameter.

    Args:
        call: the words.
        parameters: of what it makes.
        example: how it is written where something is missing.

    Raises:
        BadInput: for an argument that is unknown, missing, double or wrong.
    """
    if len(call.positional) > len(parameters):
        takes = ", ".join(p.name for p in parameters) or "nothing"
        raise BadInput(f"policy {call} has {len(call.positional)} arguments, but {call.name} takes {takes}")
    given: dict[str, Any] = {p.name: v for p, v in zip(parameters, call.positional, strict=False)}
    for key, value in call.named:
        if key not in [p.name for p in parameters]:
            words = nearest(key, [p.name for p in parameters]) if parameters else "; it takes none"
            raise BadInput(f"policy {call.name} has no argument {key}{words}")
        if key in given:
            raise BadInput(f"policy {call}: {key} is given twice")
        given[key] = value
    for p in parameters:
        if p.needed and p.name not in given:
            wanted = f"a {p.kind}" if p.kind in ("policy", "ranker") else p.name
            raise BadInput(f"policy {call} needs {wanted}: {example}")
    return [(p, checked(call, p, given[p.name])) for p in parameters if p.name in given]


def checked(call: Call, parameter: Parameter, value: Any) -> Any:
    """Return an argument's value as its parameter wants it.

    Raises:
        BadInput: naming the argument and what it is.
    """
    if parameter.kind in ("policy", "ranker"):
        if not isinstance(value, Call):
            raise BadInput(f"policy {call}: {parameter.name} is {value}, but it is a {parameter.kind}'s name")
        return value
    if isinstance(value, Call) and not value.is_word:
        raise BadInput(f"policy {call}: {parameter.name} is {value}, but it is a plain value")
    return fit(plain(value), parameter.kind, f"policy {call}: {parameter.name}")


def plain(value: Any) -> Any:
    """Return a value in which words are text, and the word "none" is None."""
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, Call):
        return None if value.name == "none" else value.name
    return value


def ranker_settings(call: Call) -> dict[str, Any]:
    """Return the settings of a ranker word such as mf(dim=32).

    Raises:
        BadInput: for a ranker or a setting that is not there, with the nearest one.
    """
    words = [n.replace("_", "-") for n in names("ranker")]
    if call.name not in words:
        raise BadInput(f"there is no ranker named {call.name}{nearest(call.name, words)}")
    if call.positional:
        raise BadInput(f"ranker {call}: name its settings, such as {call.name}(SETTING=VALUE)")
    spec = part("ranker", call.name).Spec  # type: ignore[attr-defined]
    hints: Mapping[str, Any] = get_type_hints(spec)
    settings: dict[str, Any] = {}
    for key, value in call.named:
        if key not in hints:
            raise BadInput(
                f"ranker {call.name} has no setting {key}{nearest(key, [f.name for f in fields(spec)])}"
            )
        simple = plain(value) if not isinstance(value, Call) or value.is_word else value
        settings[key] = fit(simple, hints[key], f"ranker {call}: {key}")
    return settings
