"""Every estimator that the catalogue finds, against every check."""

from collections.abc import Callable

import pytest

from causal.contract import Estimator, Rounds
from simlab.parts import all_parts
from tests.contracts.estimators import CHECKS, LOSS, WORLDS

FOUND = all_parts("estimator")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", FOUND.values(), ids=FOUND.keys())
def test_contract(make: type[Estimator[Rounds]], check: Callable[[Estimator[Rounds]], None]) -> None:
    estimator = make()
    assert isinstance(estimator, Estimator)
    check(estimator)


def test_the_catalogue_finds_the_first_six() -> None:
    assert set(FOUND) >= {"ips", "snips", "clipped_ips", "dm", "dr", "sndr"}


def test_exceptions_are_of_estimators_that_are_there() -> None:
    known = {make.name for make in FOUND.values()}  # type: ignore[attr-defined]
    assert set(WORLDS) | set(LOSS) <= known
