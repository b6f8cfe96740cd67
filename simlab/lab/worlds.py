"""Build a world from what the command line says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

from simlab.errors import BadInput, nearest
from simlab.lab.yaml_defaults import fit

if TYPE_CHECKING:
    from simlab.lab.options import WorldOptions


def build_world(
    name: str,
    settings: Sequence[str] = (),
    *,
    items: int | None = None,
    slots: int | None = None,
    device: str = "cpu",
) -> Any:
    """Return a world.

    Args:
        name: the world's name, such as "feed" or "InterestEvolution-v0".
        settings: FIELD=VALUE of its spec; of two for one field the later counts.
        items: short for items=N.
        slots: short for slots=K.
        device: where it lives: "cpu", "cuda" or "cuda:N".

    Raises:
        BadInput: for a world or a field that is not there, with the nearest one, for a value that the field
            does not take, and for a device that is not here.
    """
    from envs.registry import find, ids, make_world

    key = find(name)
    chosen = settings_of(ids()[key].Spec, name, pairs(settings), items=items, slots=slots)
    return make_world(key, device, **chosen)


def world_of(config: "WorldOptions") -> Any:
    """Return the world that a command's options describe."""
    return build_world(config.world, config.set, items=config.items, slots=config.slots, device=config.device)


def settings_of(
    kind: Any, name: str, values: Mapping[str, str], *, items: int | None = None, slots: int | None = None
) -> dict[str, Any]:
    """Return a world's settings from the text of each."""
    hints, known = get_type_hints(kind), [f.name for f in fields(kind)]
    chosen: dict[str, Any] = {}
    for key, text in values.items():
        field = key.replace("-", "_")
        if field not in known:
            raise BadInput(f"world {name} has no setting {key}{nearest(field, known)}")
        chosen[field] = fit(read_value(text), hints[field], f"--set {key}")
    for field, number in (("items", items), ("slots", slots)):
        if number is None:
            continue
        if field in chosen:
            raise BadInput(f"{field} is given twice: by --{field} and by --set")
        chosen[field] = number
    return chosen


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """Split FIELD=VALUE texts.

    >>> pairs(["boredom=0.0", "slots=5"])
    {'boredom': '0.0', 'slots': '5'}
    """
    found: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"--set {text} is not FIELD=VALUE, such as boredom=0.0")
        found[key.strip()] = value.strip()
    return found


def read_value(text: str) -> Any:
    """Read a number, true, false, none, a list or a word.

    >>> read_value("0.5"), read_value("1e-3"), read_value("none"), read_value("1, 0.5"), read_value("a")
    (0.5, 0.001, None, [1, 0.5], 'a')
    """
    if text.lower() in ("none", "null"):
        return None
    if "," in text and not text.startswith("["):
        text = f"[{text}]"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a word
        try:
            return float(value)
        except ValueError:
            return value
    return value
