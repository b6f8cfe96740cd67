"""Every slate estimator that the catalogue finds, against every check."""

from collections.abc import Callable

import pytest

from causal.contract import Estimator, Slates
from simlab.parts import all_parts
from tests.contracts.slate_estimators import CHECKS

FOUND = all_parts("slate estimator")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", FOUND.values(), ids=FOUND.keys())
def test_contract(make: type[Estimator[Slates]], check: Callable[[Estimator[Slates]], None]) -> None:
    estimator = make()
    assert isinstance(estimator, Estimator)
    check(estimator)


def test_the_catalogue_finds_them() -> None:
    known = "sips iips rips snsips sniips snrips pi snpi cascade_dr pbm document clipped_iips"
    assert set(FOUND) >= set(known.split())
    assert len({part().name for part in FOUND.values()}) == len(FOUND)
