"""Every agent that the catalogue finds × every check."""

from collections.abc import Callable
from pathlib import Path

import pytest

from simlab.parts import all_parts
from tests.contracts.agents import CHECKS, Make

AGENTS = all_parts("agent")


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", AGENTS)
def test_agent(name: str, check: Callable[[Make, Path], None], tmp_path: Path) -> None:
    check(AGENTS[name], tmp_path)


def test_the_catalogue_finds_the_first_one() -> None:
    assert "learned" in AGENTS
