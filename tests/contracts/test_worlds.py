"""Every registered world against every check of a world."""

from collections.abc import Callable
from typing import Any

import pytest

from envs.registry import find, ids, make_world
from envs.world import SlateWorld
from simlab.errors import BadInput
from tests.contracts.worlds import CHECKS, EDGES


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ids())
def test_contract(name: str, check: Callable[[SlateWorld[Any]], None]) -> None:
    check(make_world(name, **ids()[name].small))


@pytest.mark.parametrize("shape", [{"slots": 1}, {"items": 10, "slots": 10}], ids=str)
@pytest.mark.parametrize("name", ids())
def test_contract_at_its_edges(name: str, shape: dict[str, int]) -> None:
    """One slot, and the whole catalogue in one slate."""
    settings: dict[str, Any] = ids()[name].small | shape
    if "items" in shape:  # all of them are there, and all are offered
        settings |= {"candidates": 0}
        settings |= {"unborn": 0.0} if "unborn" in ids()[name].ids[name] else {}
    world = make_world(name, **settings)
    for check in EDGES:
        check(world)


@pytest.mark.parametrize("name", ids())
def test_an_id_is_a_versioned_page(name: str) -> None:
    """The docstring of its class is a page in the manner of Gymnasium."""
    page = ids()[name].__doc__ or ""
    for section in ("Description", "Action", "Observation", "Reward", "Episode end", "Version history"):
        assert f"## {section}" in page, section
    assert name.startswith("simlab/")
    assert f"* {name.rpartition('-')[2]}: " in page.partition("## Version history")[2]


def test_names_find_their_world() -> None:
    assert find("feed") == find("Feed-v0") == find("simlab/Feed-v0") == "simlab/Feed-v0"
    with pytest.raises(BadInput, match="no world named fed; did you mean "):
        find("fed")
