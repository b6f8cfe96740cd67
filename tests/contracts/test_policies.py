"""Every policy that the catalogue finds × every check."""

import pytest

from simlab.parts import all_parts
from tests.contracts.policies import CHECKS, Check, build

POLICIES = all_parts("policy")


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", POLICIES)
def test_policy(name: str, check: Check) -> None:
    check(build(POLICIES[name]))


def test_the_catalogue_finds_the_first_ones() -> None:
    first = {"epsilon", "greedy", "popularity", "random", "softmax", "softmax_popularity"}
    assert first <= POLICIES.keys()
    assert len(CHECKS) <= 10
