"""Feed-v0 shows what it says: each effect is there with a stated margin, and vanishes with its switch."""

from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from envs.oracles import Index, Oracle
from envs.rollout import Trajectories, roll
from envs.users.feed import Feed, FeedSpec
from simlab.policies.popularity import Popularity
from simlab.policies.softmax_popularity import SoftmaxPopularity
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import gini, interval, per_item


@pytest.mark.parametrize(("eta", "biased"), [(1.0, True), (0.0, False)])
def test_naive_click_through_ranks_items_worse_than_their_relevance(eta: float, biased: bool) -> None:
    """Twelve worlds of 50 items; 2,000 users see 20 slates sorted by a popularity that says nothing.

    Kendall's tau with the true mean relevance: clicks per examination beat clicks per impression by at
    least 0.05 (99 % interval over worlds) under η = 1; under η = 0 they are the same numbers.
    """
    gaps, naive_taus = [], []
    for seed in range(12):
        spec = FeedSpec(
            items=50, world_seed=seed, base=-3.0, position_bias=eta, horizon=20,
            conformity=0.0, popularity_feedback=0.0, drift=0.0, boredom=0.0, churn=0.0,
        )  # fmt: skip
        world = Feed(spec)
        seen = roll(world, SoftmaxPopularity(1.5), 2000, Seed(seed))
        truth = world.relevance(world.reset(2000, Seed(seed).split("world"))).mean(0)
        clicks = per_item(seen.slate, seen.click, 50)
        shown = per_item(seen.slate, torch.ones_like(seen.click), 50)
        examined = per_item(seen.slate, world.examination().expand_as(seen.click), 50)
        naive = stats.kendalltau(clicks / shown, truth).statistic
        gaps.append(stats.kendalltau(clicks / examined, truth).statistic - naive)
        naive_taus.append(naive)
    low, high = interval(gaps)
    if biased:
        assert low > 0.05, (low, high)
    else:
        assert low == high == 0.0
        assert interval(naive_taus)[0] > 0.9  # without the bias, naive clicks are already right


@pytest.mark.parametrize(
    ("policy", "margin"), [(Popularity(), 0.7), (SoftmaxPopularity(1.0), 0.1)], ids=["greedy", "proportional"]
)
def test_popularity_feedback_concentrates_exposure(policy: Policy, margin: float) -> None:
    """In a cold market (all items equally popular) the popularity policy makes its own winners.

    Gini of exposure over the last ten of 50 steps, with feedback minus without, six seeds, 99 % interval:
    at least 0.7 for the greedy policy, 0.1 for the proportional one. Without feedback exposure stays as even
    as chance makes it.
    """

    def end(feedback: float, seed: int) -> float:
        world = Feed(FeedSpec(popularity_spread=0.0, popularity_feedback=feedback, churn=0.0))
        seen = roll(world, policy, 300, Seed(seed))
        late = seen.slate[-10:]
        return gini(per_item(late, torch.ones_like(late), world.catalog.n_items))

    on, off = ([end(feedback, s) for s in range(6)] for feedback in (0.02, 0.0))
    low, _ = interval([a - b for a, b in zip(on, off, strict=True)])
    assert low > margin, (on, off)
    assert max(off) < 0.15  # 30 impressions an item, drawn at random


ONLY_BOREDOM: dict[str, Any] = {"drift": 0.0, "churn": 0.0, "conformity": 0.0, "popularity_feedback": 0.0}


def gain(spec: FeedSpec, believe: bool, seed: int = 9, users: int = 600) -> Tensor:
    """Return, per user, what the far-sighted oracle earns more than the myopic one under the same luck."""
    world = Feed(spec)
    foresight = Index(partial(world.foresight, believe=believe))
    policies: tuple[Policy, Policy] = (foresight, Oracle(world))
    far, near = (roll(world, p, users, Seed(seed)).reward.sum(0) for p in policies)
    return far - near


def test_foresight_pays_where_users_get_bored() -> None:
    """At least 8 clicks of about 66 more per user (99 % interval over 600 paired users)."""
    low, _ = interval(gain(FeedSpec(**ONLY_BOREDOM), believe=False).tolist())
    assert low > 8


def test_foresight_pays_with_every_effect_on() -> None:
    """At least 3 clicks of about 83 more per user in the default feed."""
    low, _ = interval(gain(FeedSpec(), believe=False).tolist())
    assert low > 3


def test_foresight_does_not_pay_where_nobody_gets_bored() -> None:
    """The far-sighted oracle then is the myopic one; and rationing all the same loses at least 8 clicks."""
    spec = FeedSpec(boredom=0.0, **ONLY_BOREDOM)
    assert float(gain(spec, believe=False, users=100).abs().max()) == 0.0
    _, high = interval(gain(spec, believe=True).tolist())
    assert high < -8


def test_common_random_numbers_pair_close_policies() -> None:
    """The variance of a difference of two close policies is at most a fifth of that of unpaired runs."""
    world = Feed(FeedSpec(items=200, popularity_feedback=0.0))

    def run(price: float, seed: int) -> Tensor:
        return roll(world, Index(partial(world.foresight, price=price)), 500, Seed(seed)).reward.sum(0)

    one, other, unpaired = run(0.5, 1), run(0.55, 1), run(0.55, 2)
    paired_variance, unpaired_variance = (other - one).var(), (unpaired - one).var()
    assert float(paired_variance) < 0.2 * float(unpaired_variance)


def test_a_rollout_is_a_valid_log_whose_propensities_are_those_of_the_policy() -> None:
    """Inverse propensities of a shown item average to one, and the log refuses nothing."""
    world = Feed(FeedSpec(items=8, slots=2, horizon=10, remember=1))
    seen: Trajectories = roll(
        world, SoftmaxPopularity(1.0), 300, Seed(3), propensities=True, slot_propensities=True
    )
    log = seen.log(world)
    assert len(log) == int(seen.active.sum())
    assert log.slot_propensity is not None
    # E[1{slate = s} / P(s)] summed over all 56 slates is 56.
    weight = 1 / log.propensity
    z = (weight.mean() - 56) / (weight.std() / len(log) ** 0.5)
    assert abs(float(z)) < 4
    # E[1{item at slot} / P(item at slot)] summed over the 8 items of a slot is 8.
    weight = 1 / log.slot_propensity
    z = (weight.mean(0) - 8) / (weight.std(0) / len(log) ** 0.5)
    assert float(z.abs().max()) < 4
