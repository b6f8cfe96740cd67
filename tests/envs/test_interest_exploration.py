"""Interest exploration: equal to a slow twin, to RecSim's returns, and refusing settings that cannot be."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from envs.oracles import Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.users.interest_exploration import InterestExploration, InterestExplorationSpec
from simlab.errors import BadInput
from simlab.policies.popularity import Popularity
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import interval
from tests.envs.twin_interest_exploration import TwinUser

IDS = list(InterestExploration.ids)


def world_of(name: str, **settings: Any) -> InterestExploration:
    world = make_world(name, **settings)
    assert isinstance(world, InterestExploration)
    return world


@pytest.mark.parametrize("name", IDS)
def test_equals_the_slow_twin_step_by_step(name: str) -> None:
    world, seed, n = world_of(name, items=20, slots=3, horizon=15), Seed(5), 40
    state = world.reset(n, seed)
    twins = [TwinUser(g) for g in state.users.affinity.tolist()]
    clicks = 0.0
    for t in range(world.horizon):
        slate = torch.rand(n, 20, generator=Seed(t).torch()).topk(3, 1).indices
        slate[0, 0], slate[1, 2] = world.blank, world.blank
        luck = seed.at(state.user, state.step).uniform("step", 1).squeeze(1).tolist()
        theirs = [u.chances(world, s) for u, s in zip(twins, slate.tolist(), strict=True)]
        torch.testing.assert_close(world.expected(state, slate), torch.tensor(theirs))
        before = state.users
        state, response = world.step(state, slate, seed)
        expected = [u.step(world, s, x) for u, s, x in zip(twins, slate.tolist(), luck, strict=True)]
        assert response.click.tolist() == expected
        assert response.reward.tolist() == [sum(row) for row in expected]
        assert state.users is before  # nobody changes
        clicks += float(response.reward.sum())
    assert not bool(state.active.any())
    assert bool(response.truncated.all())
    assert clicks > 50, "too few clicks to compare anything"


@pytest.mark.parametrize("name", IDS)
def test_users_and_items_have_the_stated_distributions(name: str) -> None:
    """Moments of 20,000 users within 4 standard errors; items, which are spread evenly, within 1 %."""
    world = world_of(name)
    spec = world.spec
    users = world.reset(20_000, Seed(1)).users
    for kind, share in enumerate(spec.type_share):
        mine = users.kind == kind
        assert abs(float(mine.double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
        log = users.affinity[mine].double().log()
        stated = torch.tensor(spec.affinity, dtype=torch.float64).view(2, 2)[kind]
        assert float((log.mean(0) - stated).abs().max()) < 4 * 0.1 / math.sqrt(len(log))
        assert float((log.std(0) / 0.1 - 1).abs().max()) < 4 / math.sqrt(2 * len(log))
    for topic, share in enumerate(spec.topic_share):
        mine = world.topic == topic
        assert int(mine.sum()) == round(1000 * share)
        log = world.quality[mine].double().log()
        assert abs(float(log.mean()) - spec.quality[topic]) < 0.001
        assert abs(float(log.std()) - 0.1) < 0.001
        first = float((world.topic[:50] == topic).double().mean())
        assert abs(first - share) < 0.03  # the topics are mixed over the ids


RECSIM = {
    (5, "random"): (23.04, 0.32),
    (5, "popularity"): (31.17, 0.34),
    (5, "oracle"): (31.48, 0.34),
    (10, "random"): (22.96, 0.32),
    (10, "popularity"): (38.69, 0.51),
    (10, "oracle"): (39.34, 0.48),
}
"""Clicks in 100 steps and 99 % half-widths, measured with recsim 0.2.4: slates of 2, `resample_documents`,
2,000 users each. The popularity rule sorts documents by E[g_T] + f_d, the oracle by the user's g_T + f_d."""


@pytest.mark.parametrize("case", RECSIM, ids=str)
def test_v0_has_the_returns_of_recsim(case: tuple[int, str]) -> None:
    """500 users: the difference is within the 99.9 % interval of both together."""
    candidates, rule = case
    world = world_of("InterestExploration-v0", candidates=candidates)
    rules: dict[str, Policy] = {"random": Random(), "popularity": Popularity(), "oracle": Oracle(world)}
    low, high = interval(roll(world, rules[rule], 500, Seed(1)).reward.sum(0).tolist())
    theirs, half = RECSIM[case]
    widen = 3.29 / 2.576
    assert abs((low + high) / 2 - theirs) < widen * math.hypot(half, (high - low) / 2), (low, high)


def test_popularity_is_the_mean_relevance_over_many_users() -> None:
    world = world_of("InterestExploration-v1", items=50)
    mean = world.relevance(world.reset(20_000, Seed(3))).mean(0)
    torch.testing.assert_close(world.market.start, mean / mean.mean(), rtol=0.03, atol=0)
    assert float(world.market.start.max() / world.market.start.min()) > 2


@dataclass(frozen=True)
class Refused:
    settings: dict[str, Any]
    words: str


@pytest.mark.parametrize(
    "case",
    [
        Refused({"topic_share": (0.5, 0.6)}, "topic_share adds up to 1.1"),
        Refused({"type_share": (0.5,)}, "type_share adds up to 0.5"),
        Refused({"quality": (0.5,)}, "quality has 1 values for 2 topics"),
        Refused({"affinity": (0.1, 0.7)}, "affinity has 2 values for 2 types and 2 topics"),
        Refused({"type_spread": -1.0}, "type_spread is -1"),
    ],
    ids=lambda case: case.words,
)
def test_settings_that_cannot_be_are_refused(case: Refused) -> None:
    with pytest.raises(BadInput, match=case.words):
        InterestExplorationSpec(**case.settings)
