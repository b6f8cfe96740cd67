"""Interest exploration shows what it says: v0 its defect, v1 that knowing the user and exploring pay."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from envs.oracles import Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.users.interest_exploration import InterestExploration
from simlab.policies.popularity import Popularity
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import interval
from tests.envs.twin_interest_exploration import TopicBandit


def world_of(name: str, **settings: Any) -> InterestExploration:
    world = make_world(name, items=100, **settings)
    assert isinstance(world, InterestExploration)
    return world


@cache
def clicks(name: str, rule: str, spread: float = 1.0, users: int = 1000) -> Tensor:
    """Return the clicks of each user in 100 steps; all rules meet the same users and luck."""
    bandit = rule in ("greedy", "exploring")
    world = world_of(name, type_spread=spread, remember=100 if bandit else 0)
    rate = world.relevance(world.reset(5000, Seed(2))).mean(0)
    prior = torch.stack([rate[world.topic == t].mean() for t in range(2)])
    rules: dict[str, Policy] = {
        "popularity": Popularity(),
        "oracle": Oracle(world),
        "greedy": TopicBandit(world, prior, 0.0),
        "exploring": TopicBandit(world, prior, 0.5),
    }
    return roll(world, rules[rule], users, Seed(1)).reward.sum(0)


def gain(name: str, one: str, other: str, spread: float = 1.0, users: int = 1000) -> tuple[float, float]:
    """Return the 99 % interval of the paired difference of clicks per user."""
    return interval((clicks(name, one, spread, users) - clicks(name, other, spread, users)).tolist())


V0, V1 = InterestExploration.ids


def test_v0_popularity_ties_with_knowing_the_user() -> None:
    """The defect: knowing each user's affinities exactly is worth less than 0.5 of 31 clicks."""
    low, high = gain(V0, "oracle", "popularity")
    assert low >= 0
    assert high < 0.5
    assert float(clicks(V0, "popularity").mean()) > 25


def test_v0_both_types_prefer_the_same_topic() -> None:
    """Why: topic 0 is the more attractive one for the average user of either type."""
    state = (world := world_of(V0)).reset(5000, Seed(1))
    relevance = world.relevance(state)
    for kind in range(2):
        mine = relevance[state.users.kind == kind].mean(0)
        assert float(mine[world.topic == 0].mean()) > float(mine[world.topic == 1].mean())


def test_v1_types_prefer_different_topics_and_greed_is_a_trap() -> None:
    """Type 0 likes topic 1 best, but likes the popular topic 0 more than people on average like topic 1."""
    state = (world := world_of(V1)).reset(5000, Seed(1))
    relevance = world.relevance(state)
    rate = torch.stack([relevance[:, world.topic == t].mean(1) for t in range(2)], 1)
    minority, majority, everyone = rate[state.users.kind == 0], rate[state.users.kind == 1], rate
    assert float(minority.mean(0)[1]) > 1.5 * float(minority.mean(0)[0])
    assert float(majority.mean(0)[0]) > 1.5 * float(majority.mean(0)[1])
    assert float(minority.mean(0)[0]) > 1.1 * float(everyone.mean(0)[1])


def test_v1_knowing_the_user_pays() -> None:
    """The personalised oracle earns at least 4 of about 62 clicks more than popularity."""
    assert gain(V1, "oracle", "popularity")[0] > 4


def test_v1_exploring_pays() -> None:
    """A bonus for what was shown little earns at least 1 click more than greed, 2 more than popularity."""
    assert gain(V1, "exploring", "greedy")[0] > 1
    assert gain(V1, "exploring", "popularity")[0] > 2


def test_v1_nothing_pays_where_all_users_are_of_one_type() -> None:
    """With type_spread 0 the oracle gains less than 0.05 clicks, and exploring loses at least 1."""
    low, high = gain(V1, "oracle", "popularity", 0.0, users=300)
    assert -0.05 < low <= high < 0.05
    assert gain(V1, "exploring", "greedy", 0.0, users=300)[1] < -1
