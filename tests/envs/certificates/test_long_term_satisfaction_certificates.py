"""Long-term satisfaction shows what it says: v0 its defect, v1 that looking ahead pays."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.oracles import FarSighted, Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.users.long_term_satisfaction import LongTermSatisfaction
from simlab.seeds import Seed
from tests.envs.measuring import interval
from tests.envs.twin_long_term_satisfaction import Diet

V0, V1 = LongTermSatisfaction.ids


@cache
def world_of(name: str, **settings: Any) -> LongTermSatisfaction:
    world = make_world(name, items=100, **settings)
    assert isinstance(world, LongTermSatisfaction)
    return world


@cache
def returns(world: LongTermSatisfaction, policy: Any, users: int = 1000) -> Tensor:
    """Return the return of each user; all policies meet the same users and luck."""
    return roll(world, policy, users, Seed(1)).reward.double().sum(0)


def gain(world: LongTermSatisfaction, one: Any, other: Any, users: int = 1000) -> tuple[float, float]:
    """Return the 99 % interval of the paired difference of returns."""
    return interval((returns(world, one, users) - returns(world, other, users)).tolist())


def test_v0_always_clickbait_wins() -> None:
    """The defect: choc earns at least 300 more than kale (1117 : 786), and foresight is myopic."""
    world = world_of(V0)
    assert gain(world, Diet(world, 1.0), Diet(world, 0.0))[0] > 300
    assert gain(world, FarSighted(world), Oracle(world), 200) == (0.0, 0.0)


def test_v1_looking_ahead_pays() -> None:
    """The far-sighted oracle earns at least 800 more than the myopic one, which earns about 540."""
    world = world_of(V1)
    assert gain(world, FarSighted(world), Oracle(world))[0] > 800


def test_v1_the_myopic_oracle_is_always_clickbait() -> None:
    world = world_of(V1)
    state = world.reset(50, Seed(1))
    assert torch.equal(world.myopic(state).argmax(1), world.clickbait.argmax().expand(50))


@pytest.mark.parametrize("target", [0.0, 0.25, 0.5, 1.0])
def test_v1_looking_ahead_beats_every_constant_diet(target: float) -> None:
    """At least 10 more than always kale, the best of them (99 % interval)."""
    world = world_of(V1)
    assert gain(world, FarSighted(world), Diet(world, target))[0] > 10


def test_v1_looking_ahead_is_as_good_as_the_best_switch() -> None:
    """No diet of kale with a feast of 1 … 5 steps of clickbait at its end earns more."""
    world = world_of(V1)
    far = returns(world, FarSighted(world))
    gains = [interval((far - returns(world, Diet(world, 0.0, feast))).tolist()) for feast in range(1, 6)]
    assert min(high for _, high in gains) > 0
    assert min(low for low, _ in gains) > -1.5  # of about 1370


def test_v1_nothing_pays_where_satisfaction_does_not_matter() -> None:
    """With sensitivity 0 the two oracles show the same, and a diet of kale loses at least 300."""
    world = world_of(V1, sensitivity=0.0)
    assert gain(world, FarSighted(world), Oracle(world), 200) == (0.0, 0.0)
    assert gain(world, Diet(world, 0.0), Oracle(world))[1] < -300
