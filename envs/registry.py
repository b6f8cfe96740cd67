"""The ids of all worlds, and how a world is made from one.

A world's file says its ids itself (`SlateWorld.ids`), oldest version first: a new version is a new entry.
"""

from functools import cache
from typing import Any

import torch

from envs.world import SlateWorld
from simlab.errors import BadInput, nearest
from simlab.parts import all_parts

PREFIX = "simlab/"


@cache
def ids() -> dict[str, type[SlateWorld[Any]]]:
    """Return every registered id, such as "simlab/Feed-v0", with its world's class."""
    return {key: kind for kind in _kinds().values() for key in kind.ids}


@cache
def _kinds() -> dict[str, type[SlateWorld[Any]]]:
    """Return the class of each world's file."""
    found: dict[str, Any] = all_parts("world")
    return found


def find(name: str) -> str:
    """Return the full id that a name stands for.

    Args:
        name: an id, with or without "simlab/", or the name of a world's file, which stands for its newest id.

    Raises:
        BadInput: for a name that is not there, with the nearest one.

    >>> find("feed"), find("Feed-v0")
    ('simlab/Feed-v0', 'simlab/Feed-v0')
    """
    if not isinstance(name, str):
        raise BadInput(f"{name!r} is not the name of a world")
    for key in (name, f"{PREFIX}{name}"):
        if key in ids():
            return key
    file = name.replace("-", "_")
    if file in _kinds():
        return list(_kinds()[file].ids)[-1]
    short = [*(key.removeprefix(PREFIX) for key in ids()), *(k.replace("_", "-") for k in _kinds())]
    raise BadInput(f"there is no world named {name}{nearest(name, short)}")


def known() -> list[str]:
    """Return every name that a world goes by."""
    short = [key.removeprefix(PREFIX) for key in ids()]
    return [*ids(), *short, *_kinds(), *(k.replace("_", "-") for k in _kinds())]


def make_world(name: str, device: torch.device | str = "cpu", **settings: Any) -> SlateWorld[Any]:
    """Return a world by its id.

    >>> make_world("simlab/Feed-v0", items=50, slots=5).catalog.n_items
    50

    Args:
        name: what `find` takes.
        device: where it lives.
        settings: fields of its spec; they win over what the id stands for.

    Raises:
        BadInput: for an unknown name, an unknown setting, or a value outside its range.
    """
    key = find(name)
    kind = ids()[key]
    world = kind(kind.Spec.of(**(kind.ids[key] | settings)), device)
    world.name = key
    return world
