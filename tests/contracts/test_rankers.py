"""Every family that the catalogue finds × every check."""

from pathlib import Path

import pytest

from simlab.parts import all_parts
from simlab.rankers.contract import Ranker
from tests.contracts.rankers import CHECKS, Check

FAMILIES = all_parts("ranker")


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", FAMILIES)
def test_ranker(name: str, check: Check, tmp_path: Path) -> None:
    family = FAMILIES[name]
    assert issubclass(family, Ranker)
    assert family.name == name
    check(family, tmp_path)


def test_the_catalogue_finds_the_first_three() -> None:
    assert {"mf", "neumf", "popularity"} <= FAMILIES.keys()
    assert len(CHECKS) <= 10
