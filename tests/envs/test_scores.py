"""The normalised score: 0 for random, 1 for the oracle, and an interval that covers."""

import pytest

from envs.oracles import FarSighted, Oracle
from envs.registry import make_world
from envs.scores import normalised_scores
from simlab.errors import BadInput
from simlab.policies.epsilon import Epsilon
from simlab.policies.popularity import Popularity
from simlab.policies.random import Random
from simlab.seeds import Seed


def test_the_ends_are_zero_and_one_and_the_rest_lies_between() -> None:
    world = make_world("Boredom-v0", items=100, slots=5)
    policies = (Random(), Popularity(), Oracle(world), FarSighted(world))
    low, mid, near, top = normalised_scores(world, policies, Seed(1), users=400, shard=200)
    assert (low.value, low.stderr, top.value, top.stderr) == (0.0, 0.0, 1.0, 0.0)
    assert 0 < mid.value < near.value < 1
    assert near.mean == pytest.approx(near.random + near.value * (near.oracle - near.random))


def test_the_interval_covers_the_score_of_a_mixture() -> None:
    """A policy that is random with probability ½ at every step of a static world scores ½ (20 runs, 95 %)."""
    world = make_world("Static-v0", items=60, slots=4, horizon=10)
    half = Epsilon(FarSighted(world), 0.5)
    assert half.privileged
    covered = 0
    for seed in range(20):
        (got,) = normalised_scores(world, [half], Seed(seed), users=200, shard=200)
        covered += abs(got.value - 0.5) < 1.96 * got.stderr
        assert 0.005 < got.stderr < 0.1
    assert covered >= 16


def test_worlds_without_a_span_and_ragged_users_are_refused() -> None:
    flat = make_world("Static-v0", items=20, slots=2, slope=0.0, quality=0.0)
    with pytest.raises(BadInput, match="nothing to score by"):
        normalised_scores(flat, [], Seed(0), users=20, shard=20)
    with pytest.raises(BadInput, match="users is 30"):
        normalised_scores(flat, [], Seed(0), users=30, shard=20)
