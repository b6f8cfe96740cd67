"""Interest evolution: equal to a slow twin, to RecSim's returns, and refusing settings that cannot be."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.oracles import FarSighted, Index, Oracle
from envs.registry import make_world
from envs.rollout import roll
from envs.users.interest_evolution import InterestEvolution, InterestEvolutionSpec
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import interval
from tests.envs.twin_interest_evolution import TwinUser

IDS = list(InterestEvolution.ids)
V0, V1 = IDS


def world_of(name: str, **settings: Any) -> InterestEvolution:
    world = make_world(name, **settings)
    assert isinstance(world, InterestEvolution)
    return world


def highest_topics(world: InterestEvolution) -> Policy:
    """Return the rule that shows the highest topics, items of a topic in a fixed random order."""
    index = world.topic + torch.rand(len(world.topic), generator=Seed(0).torch()) / 2
    return Index(lambda state: index.expand(len(state.user), -1), "highest topics")


@pytest.mark.parametrize("name", IDS)
def test_equals_the_slow_twin_step_by_step(name: str) -> None:
    """30 users, most of them to their end, with blanks: interests, budgets, clicks, rewards, endings."""
    world, seed, n = world_of(name, items=40, candidates=0, horizon=160), Seed(5), 30
    state = world.reset(n, seed)
    first = state.users.interest[:, :-1]
    twins = [TwinUser(u, b) for u, b in zip(first.tolist(), state.users.budget.tolist(), strict=True)]
    rewards = torch.zeros(n, dtype=torch.float64)
    ended = []
    for t in range(world.horizon):
        slate = torch.rand(n, 40, generator=Seed(t).torch()).topk(3, 1).indices
        slate[0, 0], slate[1, 2] = world.blank, world.blank
        luck = seed.at(state.user, state.step).uniform("step", 2).tolist()
        chances = torch.tensor([u.chances(world, s) for u, s in zip(twins, slate.tolist(), strict=True)])
        there = state.active.unsqueeze(1)
        torch.testing.assert_close(world.expected(state, slate), chances * there, atol=1e-5, rtol=1e-4)
        was_active = state.active
        state, response = world.step(state, slate, seed)
        theirs = [u.step(world, s, x) for u, s, x in zip(twins, slate.tolist(), luck, strict=True)]
        assert response.click.tolist() == [clicks for clicks, _ in theirs]
        reward = torch.tensor([watched for _, watched in theirs])
        torch.testing.assert_close(response.reward, reward, atol=1e-3, rtol=1e-5)
        assert state.active.tolist() == [u.active for u in twins]
        interest = torch.tensor([u.interest for u in twins])
        here = was_active
        torch.testing.assert_close(state.users.interest[here, :-1], interest[here], atol=1e-5, rtol=1e-5)
        budget = torch.tensor([u.budget for u in twins])
        torch.testing.assert_close(state.users.budget[here], budget[here], atol=1e-3, rtol=1e-5)
        assert bool((state.users.interest[:, -1] == -1).all())  # the blank item's
        rewards += response.reward
        ended.append(int(response.terminated.sum()))
    assert sum(ended) > 20, "too few budgets were used up to compare endings"
    assert float(rewards.min()) > 50, "too few clicks to compare anything"
    assert float((state.users.interest[:, :-1] - first).abs().max()) > 0.2, "no interest moved"


RECSIM = {
    (10, 3, "random"): (160.0, 1.2),
    (10, 3, "myopic"): (167.7, 2.2),
    (10, 3, "highest topics"): (265.7, 3.6),
    (20, 3, "random"): (159.73, 0.74),
    (20, 3, "myopic"): (171.34, 1.72),
    (20, 3, "highest topics"): (357.2, 6.2),
    (5, 2, "random"): (153.92, 0.69),
    (5, 2, "myopic"): (162.29, 1.07),
    (5, 2, "highest topics"): (213.54, 1.45),
}
"""Minutes and 95 % half-widths by (candidates, slots, rule), measured with recsim 0.2.4: 10 candidates as in
../shared/cases/worlds; the others over 800 to 1,500 episodes, where those cases say 161.6, 172.1, 357 to 365
and 153.3, 162.5, 214.8."""
FAST = [case for case in RECSIM if case[0] == 10]


def returns(world: InterestEvolution, rule: str, users: int) -> Tensor:
    """Return the minutes that each user watched, all of them to the end of their budget."""
    policies: dict[str, Policy] = {
        "random": Random(),
        "myopic": Oracle(world),
        "highest topics": highest_topics(world),
    }
    seen = roll(world, policies[rule], users, Seed(1))
    assert not bool(seen.truncated.any())
    assert int(seen.terminated.sum()) == users
    return seen.reward.sum(0)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in RECSIM], ids=str
)
def test_v0_has_the_returns_of_recsim(case: tuple[int, int, str]) -> None:
    """4,000 users: the mean lies inside RecSim's interval, widened by our own 95 % half-width."""
    candidates, slots, rule = case
    world = world_of(V0, candidates=candidates, slots=slots)
    low, high = interval(returns(world, rule, 4000).tolist(), 0.95)
    theirs, half = RECSIM[case]
    assert (high - low) / 2 < 3, "too few users to tell"
    assert low - half < theirs < high + half, (low, high)


def test_v0_foresight_has_the_return_of_the_static_long_term_oracle() -> None:
    """The reference is 283.8 ± 7.3 (95 %), at 10 candidates and slates of 3."""
    world = world_of(V0)
    low, high = interval(roll(world, FarSighted(world), 1000, Seed(1)).reward.sum(0).tolist(), 0.95)
    assert low - 7.3 < 283.8 < high + 7.3, (low, high)


def test_catalogue_and_first_interests_have_the_stated_distributions() -> None:
    """As many items of each topic; moments of quality and of 20,000 users within 4 standard errors."""
    world = world_of(V1, items=20_000)
    assert torch.bincount(world.topic).tolist() == [1000] * 20
    mean = [3 * (t - 13) / 13 if t < 14 else 3 * (t - 14) / 5 for t in range(20)]
    residual = (world.quality - torch.tensor(mean)[world.topic]).double()
    assert abs(float(residual.mean())) < 4 * 0.1 / math.sqrt(20_000)
    assert abs(float(residual.std()) / 0.1 - 1) < 4 / math.sqrt(2 * 20_000)
    for name, ceiling in ((V0, 1.0), (V1, 0.0)):
        users = world_of(name).reset(20_000, Seed(1)).users
        assert set(users.budget.tolist()) == {200.0}
        for topic in range(20):
            u, top = users.interest[:, topic].double(), 1.0 if topic < 14 else ceiling
            assert abs(float(u.mean()) - (top - 1) / 2) < 4 * (top + 1) / math.sqrt(12 * 20_000)
            assert -1 < float(u.min()) < -0.99
            assert top - 0.01 < float(u.max()) < top


@pytest.mark.parametrize("name", IDS)
def test_popularity_is_the_mean_relevance_over_new_users(name: str) -> None:
    world = world_of(name)
    mean = world.relevance(world.reset(20_000, Seed(3)))[:, :20].mean(0).repeat(50)
    torch.testing.assert_close(world.market.start, mean / mean.mean(), rtol=0.05, atol=0)
    assert abs(float(world.market.start.mean()) - 1) < 1e-5


def test_no_interest_leaves_its_range_and_no_quality_is_seen() -> None:
    world = world_of(V0, items=40, candidates=0)
    state = world.reset(300, Seed(0))
    for t in range(60):
        state, _ = world.step(
            state, torch.rand(300, 40, generator=Seed(t).torch()).topk(3, 1).indices, Seed(0)
        )
    assert float(state.users.interest.abs().max()) <= 1
    assert world.observe(state).features.shape == (300, 20)
    assert set(world.catalog.features.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("refund", [0.0, 0.05])
def test_v0_foresight_never_prefers_what_is_liked_less_where_little_comes_back(refund: float) -> None:
    """Within a topic's quality: the index rises with the interest in every topic."""
    world = world_of(V0, refund=refund, quality_noise=0.0)
    state = world.reset(400, Seed(0))
    interest, index = state.users.interest[:, :20], world.foresight(state)[:, :20]
    rank = interest.argsort(0)
    assert bool((index.gather(0, rank).diff(dim=0) >= 0).all())


def test_the_plan_of_one_topic_counts_the_clicks_that_a_budget_buys() -> None:
    """Where interest stands still and noise is off: minutes = 4 B / (4 - 4·0.9/3.4·μ + 0.5 / (3 o))."""
    world = world_of(V1, evolution=0.0, quality_noise=0.0)
    state = world.reset(5, Seed(0))
    odds = ((state.users.interest[:, :-1].double() + 1) / 2) ** 5
    cost = 4 - 4 * 0.9 / 3.4 * world.mean_quality.double() + 0.5 / (3 * odds).clamp(min=1e-9)
    torch.testing.assert_close(world.foresight(state)[:, :20].double(), 800 / cost, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"evolution": 0.6}, "evolution is 0.6"),
        ({"acquired": 1.5}, "acquired is 1.5"),
        ({"sharpness": -1.0}, "sharpness is -1"),
        ({"ladder": 4.0}, "ladder is 4"),
        ({"refund": 1.0}, "refund is 1"),
        ({"penalty": 0.0}, "penalty is 0"),
        ({"budget": 0.0}, "budget is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        InterestEvolutionSpec(**settings)
