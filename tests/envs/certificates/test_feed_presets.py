"""Each preset of the feed shows its one effect with a stated margin, and loses it with its switch."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.oracles import FarSighted, Index, Oracle
from envs.registry import make_world
from envs.rollout import Trajectories, roll
from envs.users.feed import Feed
from envs.world import SlateWorld
from simlab.metrics.exposure import gini, per_provider
from simlab.policies.popularity import Popularity
from simlab.policies.random import Random
from simlab.policies.softmax_popularity import SoftmaxPopularity
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import interval, per_item


def returns(world: SlateWorld[Any], policy: Policy, users: int = 300, seed: int = 5) -> Tensor:
    return roll(world, policy, users, Seed(seed)).reward.sum(0)


def shown(seen: Trajectories, items: int, last: int = 0) -> Tensor:
    slate = seen.slate[-last:]
    return per_item(slate, torch.ones_like(slate), items)


def test_static_users_reward_the_personal_and_nothing_else() -> None:
    """The oracle earns at least 60 clicks more than the popularity rule, and nobody changes."""
    world = make_world("Static-v0")
    best = returns(world, Oracle(world))
    low, _ = interval((best - returns(world, Popularity())).tolist())
    assert low > 60
    first = state = world.reset(50, Seed(1))
    for _ in range(5):
        state, _ = world.step(state, torch.arange(10).expand(50, -1), Seed(1))
    changed = {k for k, v in vars(first.users).items() if not torch.equal(v, getattr(state.users, k))}
    assert changed == {"satisfaction"}  # a memory of clicks, which moves nothing here
    assert torch.equal(world.relevance(first), world.relevance(state))


@pytest.mark.parametrize(("drift", "there"), [(0.05, True), (0.0, False)])
def test_tastes_drift_toward_what_was_clicked(drift: float, there: bool) -> None:
    """Cosine of the taste with all that was clicked, after 50 steps minus before: at least 0.2 (99 %)."""
    world = make_world("Drift-v0", drift=drift)
    seed = Seed(2).split("world")
    first = state = world.reset(300, seed)
    eaten = torch.zeros(300, 16)
    rows = world.catalog.features[:, :16]
    for _ in range(world.horizon):
        slate = Popularity().distribution(world.observe(state), 10).sample(seed.torch())
        state, response = world.step(state, slate, seed)
        eaten += (rows[slate] * response.click.unsqueeze(2)).sum(1)
    eater = eaten.norm(dim=1) > 0
    cosine = [torch.nn.functional.cosine_similarity(s.users.taste, eaten)[eater] for s in (first, state)]
    low, high = interval((cosine[1] - cosine[0]).tolist())
    assert low > 0.2 if there else low == high == 0.0


@pytest.mark.parametrize(("boredom", "there"), [(1.0, True), (0.0, False)])
def test_boredom_makes_foresight_pay(boredom: float, there: bool) -> None:
    """Who rations topics earns at least 8 clicks of about 66 more than the myopic oracle; else 8 less."""
    world = make_world("Boredom-v0", boredom=boredom)
    assert isinstance(world, Feed)
    rationer = FarSighted(world) if there else Index(partial(world.foresight, believe=True))
    low, high = interval((returns(world, rationer) - returns(world, Oracle(world))).tolist())
    assert low > 8 if there else high < -8


def sessions_of(world: SlateWorld[Any], seen: Trajectories, seed: Seed) -> Tensor:
    """Live the lives again, and return how many times each user came back."""
    state = world.reset(seen.slate.shape[1], seed.split("world"))
    came: Tensor = state.users.session
    for slate, there in zip(seen.slate, seen.active, strict=True):
        state, _ = world.step(state, slate, seed.split("world"))
        came = torch.where(there, state.users.session, came)
    return came


@pytest.mark.parametrize(("budget", "there"), [(6.0, True), (0.0, False)])
def test_satisfied_users_stay_and_come_back(budget: float, there: bool) -> None:
    """Under the oracle a user sees at least 30 slates more than under the random policy, in more sessions.

    At least one session more on average (99 %).
    """
    world = make_world("Return-v0", budget=budget)
    policies: tuple[Policy, Policy] = (Oracle(world), Random())
    seen = [roll(world, policy, 300, Seed(3)) for policy in policies]
    steps = [s.active.sum(0).float() for s in seen]
    low, high = interval((steps[0] - steps[1]).tolist())
    assert low > 30 if there else low == high == 0.0
    sessions = [sessions_of(world, s, Seed(3)) for s in seen]
    low, high = interval((sessions[0] - sessions[1]).tolist())
    assert low > 1 if there else low == high == 0.0
    gone = [float(s.terminated.any(0).float().mean()) for s in seen]
    assert (gone[1] > 0.95 and gone[0] < gone[1] - 0.05) if there else gone == [0.0, 0.0]


def test_conformity_makes_hits_unequal_and_unpredictable() -> None:
    """Six markets of the same items, shown in proportion to popularity, as in the Music Lab.

    Source: Salganik, Dodds and Watts (2006), "Experimental study of inequality and unpredictability".

    With conformity and feedback the Gini of clicks rises by at least 0.1, and two markets disagree about
    who the hits are (half the mean absolute difference of click shares) by at least 0.04 more.
    Without feedback conformity finds nothing to follow: the clicks are then those of no conformity.
    """

    def markets(**off: Any) -> tuple[list[float], list[float], Tensor]:
        world = make_world("Conformity-v0", items=200, **off)
        clicks = []
        for seed in range(6):
            seen = roll(world, SoftmaxPopularity(1.0), 300, Seed(seed))
            clicks.append(per_item(seen.slate, seen.click, 200))
        shares = [c / c.sum() for c in clicks]
        apart = [float((shares[i] - shares[i - 1]).abs().sum() / 2) for i in range(6)]
        return [gini(c) for c in clicks], apart, torch.stack(clicks)

    on, off = markets(), markets(conformity=0.0)
    assert interval([a - b for a, b in zip(on[0], off[0], strict=True)])[0] > 0.1, (on[0], off[0])
    assert interval([a - b for a, b in zip(on[1], off[1], strict=True)])[0] > 0.04, (on[1], off[1])
    deaf = markets(popularity_feedback=0.0)[2], markets(popularity_feedback=0.0, conformity=0.0)[2]
    assert torch.equal(*deaf)


@pytest.mark.parametrize(("feedback", "low", "high"), [(0.02, 0.8, 1.0), (0.0, 0.0, 0.15)])
def test_the_popularity_loop_concentrates_exposure(feedback: float, low: float, high: float) -> None:
    """Gini of exposure of the popularity policy in the last ten of 50 steps, in a cold market."""
    world = make_world("PopularityLoop-v0", popularity_feedback=feedback)
    for seed in range(3):
        seen = roll(world, Popularity(), 300, Seed(seed))
        assert low <= gini(shown(seen, 1000, last=10)) <= high
        assert bool((seen.market.popularity == 1).all()) == (feedback == 0)


@pytest.mark.parametrize(("unborn", "there"), [(0.3, True), (0.0, False)])
def test_newborn_items_starve_under_popularity(unborn: float, there: bool) -> None:
    """Exposure of a newborn over that of an old item, last ten steps, 6 markets, 99 %.

    Nothing under the greedy popularity policy, at most 0.3 in proportion to popularity, at least 0.9 at
    random. Without births nobody is newborn.
    """
    world = make_world("ColdStart-v0", items=300, unborn=unborn, lifetime=0.0)
    ratios: dict[str, list[float]] = {}
    for policy in (Popularity(), SoftmaxPopularity(1.0), Random()):
        for seed in range(6):
            seen = roll(world, policy, 200, Seed(seed))
            enters = seen.market.enters
            if not there:
                assert enters is None
                continue
            assert enters is not None
            last = shown(seen, 300, last=10)
            young = (enters > 0) & (enters <= 40)
            ratio = float(last[young].mean() / last[enters == 0].mean())
            ratios.setdefault(policy.name, []).append(ratio)
    alone = roll(world, Random(), 1, Seed(0))  # a market of one user, as in `gymnasium.make`
    if there:
        enters = alone.market.enters
        assert enters is not None
        assert float(alone.market.popularity[enters > 40].max()) == 0
        assert float(alone.market.popularity[(enters > 0)].mean()) < 0.2
        assert max(ratios["popularity"]) == 0
        assert interval(ratios["softmax_popularity"])[1] < 0.3
        assert interval(ratios["random"])[0] > 0.9


def test_items_are_born_and_die_when_the_market_says() -> None:
    """Nothing is shown before its birth or after its death, and lifetimes have their mean."""
    world = make_world("ColdStart-v0", items=2000, lifetime=20.0)
    seen = roll(world, Random(), 100, Seed(1))
    market = seen.market
    assert market.enters is not None
    assert market.leaves is not None
    time = torch.arange(len(seen.slate)).view(-1, 1, 1).expand_as(seen.slate)
    assert bool((market.enters[seen.slate] <= time).all())
    assert bool((time < market.leaves[seen.slate]).all())
    assert int((market.enters > 0).sum()) == 600
    low, high = interval((market.leaves - market.enters).float().tolist())
    assert low < 20 < high


@pytest.mark.parametrize(("patience", "there"), [(0.2, True), (0.0, False)])
def test_providers_whose_items_are_not_shown_leave(patience: float, there: bool) -> None:
    """The greedy popularity policy loses at least 2 of 10 providers in each of 4 markets; random none."""
    world = make_world("Providers-v0", provider_patience=patience)
    provider = torch.arange(1000) % 10
    for seed in range(4):
        greedy, even = (roll(world, p, 200, Seed(seed)) for p in (Popularity(), Random()))
        assert greedy.market.present is not None
        assert even.market.present is not None
        lost = 10 - int(greedy.market.present.sum())
        assert lost >= 2 if there else lost == 0
        assert bool(even.market.present.all())
        share = per_provider(shown(greedy, 1000), provider)
        if there:  # those who left were shown less than those who stayed
            assert float(share[~greedy.market.present].max()) < float(share[greedy.market.present].max())
            assert greedy.market.available is not None
            assert torch.equal(greedy.market.available, greedy.market.present[provider])
        assert float(per_provider(shown(even, 1000), provider).min()) > 0.9
