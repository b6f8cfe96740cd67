"""Promotion-v0 shows what it says: uplift is not probability, and confounding is not randomisation."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from envs.oracles import Index, Oracle
from envs.rollout import roll
from envs.trial import Trial
from envs.users._promotion_spec import PromotionSpec
from envs.users.promotion import Promotion
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.envs.measuring import interval

USERS = 1000


@cache
def purchases(spec: PromotionSpec, policy: str, seed: int = 11) -> Tensor:
    """Purchases of each user in 20 steps, by the policy's name; the same users and luck for each."""
    world = Promotion(spec)
    policies: dict[str, Policy] = {
        "uplift": Oracle(world),
        "treated": Index(world.treated),
        "baseline": Index(world.baseline),
        "least uplift": Index(lambda state: -world.cate(state)),
        "random": Random(),
    }
    return roll(world, policies[policy], USERS, Seed(seed)).reward.double().sum(0)


@cache
def nobody(spec: PromotionSpec, seed: int = 11) -> Tensor:
    """Purchases of each user in 20 steps when nothing is promoted."""
    world = Promotion(spec)
    luck = Seed(seed).split("world")
    state, total = world.reset(USERS, luck), torch.zeros(USERS, dtype=torch.float64)
    for _ in range(world.horizon):
        state, response = world.step(state, torch.full((USERS, world.slots), world.blank), luck)
        total += response.reward
    return total


def gap(more: Tensor, less: Tensor) -> tuple[float, float]:
    return interval((more - less).tolist())


def test_uplift_earns_more_than_probability_and_that_more_than_random() -> None:
    """Of about 209 purchases per user: sorting by τ earns at least 4 more than sorting by p1; that at least 6
    more than random; and sorting by p0 (who buys anyway) at least 5 less than random, because there the
    persuadables are fewest. 99 % intervals over 1,000 paired users."""
    spec = PromotionSpec()
    uplift, treated, baseline, random = (
        purchases(spec, name) for name in ("uplift", "treated", "baseline", "random")
    )
    assert gap(uplift, treated)[0] > 4
    assert gap(treated, random)[0] > 6
    assert gap(random, baseline)[0] > 5
    assert 150 < float(random.mean()) < 250


def test_clicks_reward_the_wrong_policy() -> None:
    """Sorting by p1 has at least 10 more clicks per user (99 %), and yet fewer purchases (see above)."""
    world = Promotion()
    uplift, treated = (
        roll(world, policy, USERS, Seed(11)).click.double().sum((0, 2))
        for policy in (Oracle(world), Index(world.treated))
    )
    assert gap(treated, uplift)[0] > 10


def test_without_an_effect_every_policy_earns_the_same() -> None:
    """Not on average: the very same purchases, those of nobody's promotion."""
    spec = PromotionSpec(effect=0.0)
    alone = nobody(spec)
    for name in ("uplift", "treated", "baseline", "least uplift", "random"):
        assert torch.equal(purchases(spec, name), alone), name
    assert not torch.equal(purchases(PromotionSpec(), "random"), nobody(PromotionSpec()))


def test_without_heterogeneity_it_matters_that_one_promotes_but_not_what() -> None:
    """Any policy earns 20 · 3 · effect (1 - sleeping_dogs) = 4.5 more than nobody's promotion.

    The 99 % interval of each gain covers 4.5; those of differences from the random policy cover 0, and are
    narrower than 1. With heterogeneity the best and the worst policy are at least 20 apart.
    """
    spec = PromotionSpec(heterogeneity=0.0)
    alone, random = nobody(spec), purchases(spec, "random")
    for name in ("uplift", "treated", "baseline", "random"):
        earned = purchases(spec, name)
        low, high = gap(earned, alone)
        assert low < 4.5 < high, name
        low, high = gap(earned, random)
        assert low <= 0 <= high, name
        assert high - low < 1
    wide = PromotionSpec()
    assert gap(purchases(wide, "uplift"), purchases(wide, "least uplift"))[0] > 20


def test_sleeping_dogs_are_better_left_alone() -> None:
    """Promote to each user the items with the least τ: with sleeping dogs at least 5 purchases per user fewer
    than without any promotion; without sleeping dogs never fewer, user by user."""
    spec = PromotionSpec()
    assert gap(nobody(spec), purchases(spec, "least uplift"))[0] > 5
    awake = replace(spec, sleeping_dogs=0.0)
    assert float((purchases(awake, "least uplift") - nobody(awake)).min()) >= 0


def test_treating_everybody_is_worse_than_nobody_for_sleeping_dogs() -> None:
    """Among users with τ < 0 for an item the mean of Y1 - Y0 is below -0.05 (99 %); else it is above 0.1.

    At a cost of 0.1 per treatment, treating exactly those with τ > cost earns at least 0.05 per user more
    than treating everybody, and than treating nobody; and what it earns is what the closed form says.
    """
    trial = Promotion().trial(20_000, Seed(12))
    dogs = trial.cate < 0
    assert 0.2 < float(dogs.double().mean()) < 0.6
    assert interval(trial.ite[dogs].tolist())[1] < -0.05
    assert interval(trial.ite[~dogs].tolist())[0] > 0.1
    best = (trial.cate > 0.1).double()
    realised = torch.where(best == 1, trial.Y1 - 0.1, trial.Y0)
    assert gap(realised, trial.Y1 - 0.1)[0] > 0.05
    assert gap(realised, trial.Y0)[0] > 0.05
    low, high = interval(realised.tolist())
    assert low < trial.best_value(0.1) < high


def naive(trial: Trial) -> float:
    """Difference of means."""
    return float(trial.Y[trial.T == 1].mean() - trial.Y[trial.T == 0].mean())


def weighted(trial: Trial, propensity: Tensor) -> float:
    """Difference of inverse-propensity-weighted means, self-normalised."""
    one, zero = trial.T / propensity, (1 - trial.T) / (1 - propensity)
    return float((one * trial.Y).sum() / one.sum() - (zero * trial.Y).sum() / zero.sum())


EXPOSURES: dict[str, dict[str, Any]] = {
    "randomised": {},
    "confounded": {"confounding": 1.0},
    "hidden": {"hidden": 1.0},
    "both": {"confounding": 1.0, "hidden": 1.0},
}


def errors(exposure: str, spec: PromotionSpec | None = None, **more: Any) -> dict[str, tuple[float, float]]:
    """99 % intervals of estimate minus truth, over 60 trials of 5,000 users."""
    found: dict[str, list[float]] = {"naive": [], "seen": [], "all": []}
    world = Promotion(spec)
    for seed in range(60):
        trial = world.trial(5000, Seed(seed), item=seed % 50, **EXPOSURES[exposure], **more)
        truth = trial.ate
        found["naive"].append(naive(trial) - truth)
        found["seen"].append(weighted(trial, trial.visible) - truth)
        found["all"].append(weighted(trial, trial.propensity) - truth)
    return {name: interval(values) for name, values in found.items()}


def covers(bounds: tuple[float, float], width: float = 0.015) -> bool:
    """Whether the interval holds zero, and is narrow enough for that to say something."""
    return bounds[0] < 0 < bounds[1] and bounds[1] - bounds[0] < width


@pytest.mark.parametrize(
    ("exposure", "naive_bias", "seen_bias"),
    [("randomised", 0.0, 0.0), ("confounded", 0.08, 0.0), ("hidden", 0.03, 0.03), ("both", 0.1, 0.03)],
)
def test_weighting_repairs_what_is_seen_and_not_what_is_hidden(
    exposure: str, naive_bias: float, seen_bias: float
) -> None:
    """The true effect is 0.075. The difference of means of a confounded log is too high by more than the
    stated bias (99 % over 60 trials). Weighting by P(T | X) repairs the observed confounding, and leaves the
    bias of the hidden one; weighting by P(T | X, hidden), which nobody has, repairs both. Where no bias is
    stated the interval covers 0, and is no wider than 0.015."""
    found = errors(exposure)
    for name, bias in (("naive", naive_bias), ("seen", seen_bias), ("all", 0.0)):
        if bias:
            assert found[name][0] > bias, (name, found)
        else:
            assert covers(found[name]), (name, found)


def test_hidden_confounding_needs_a_hidden_cause_of_purchases() -> None:
    """With spec.hidden = 0 nothing unseen moves purchases or exposure: the difference of means is right."""
    assert covers(errors("hidden", PromotionSpec(hidden=0.0))["naive"])


def test_poor_overlap_costs_precision() -> None:
    """With overlap 0.001 and steep exposure the weighted estimate spreads at least 1.5 times as wide."""
    world = Promotion()

    def width(confounding: float, overlap: float) -> float:
        found = []
        for seed in range(30):
            trial = world.trial(2000, Seed(seed), item=seed, confounding=confounding, overlap=overlap)
            found.append(weighted(trial, trial.propensity) - trial.ate)
        low, high = interval(found)
        return high - low

    assert width(2.0, 0.001) > 1.5 * width(1.0, 0.1)
