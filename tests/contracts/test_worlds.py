"""Every world that the catalogue finds, against every check of a world."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from envs.contract import World
from envs.world import SlateWorld
from simlab.parts import all_parts
from tests.contracts.worlds import CHECKS

WORLDS: dict[str, Any] = all_parts("world")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", WORLDS)
def test_contract(name: str, check: Callable[[SlateWorld[Any]], None]) -> None:
    make = WORLDS[name]
    check(make(replace(make.Spec(), items=30, slots=4, horizon=12)))


def test_the_catalogue_finds_the_feed() -> None:
    assert "feed" in WORLDS


@pytest.mark.parametrize("name", WORLDS)
def test_it_keeps_the_protocol(name: str) -> None:
    world = WORLDS[name]()
    assert isinstance(world, World)
    assert world.name.startswith("simlab/")
