"""Every sequential estimator that the catalogue finds, against every check."""

from collections.abc import Callable

import pytest

from causal.contract import Estimator, Trajectories
from simlab.parts import all_parts
from tests.contracts.trajectory_estimators import CHECKS

FOUND = all_parts("trajectory estimator")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", FOUND.values(), ids=FOUND.keys())
def test_contract(
    make: type[Estimator[Trajectories]], check: Callable[[Estimator[Trajectories]], None]
) -> None:
    estimator = make()
    assert isinstance(estimator, Estimator)
    check(estimator)


def test_the_catalogue_finds_them() -> None:
    wanted = "dm dr drl mdr mis pdis sa_mis sn_mis sn_sa_mis tis wdr wis wpdis"
    assert set(FOUND) >= set(wanted.split())
