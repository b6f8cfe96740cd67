"""Long-term satisfaction: equal to a slow twin, to RecSim's returns, exact in its means and its foresight."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from envs.oracles import FarSighted
from envs.registry import make_world
from envs.rollout import roll
from envs.users.long_term_satisfaction import LongTermSatisfaction, LongTermSatisfactionSpec
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.envs.measuring import interval
from tests.envs.twin_long_term_satisfaction import Diet, TwinUser


def world_of(name: str = "LongTermSatisfaction-v1", **settings: Any) -> LongTermSatisfaction:
    world = make_world(name, **settings)
    assert isinstance(world, LongTermSatisfaction)
    return world


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("name", LongTermSatisfaction.ids)
def test_equals_the_slow_twin_step_by_step(name: str, slots: int) -> None:
    world, seed, n = world_of(name, items=20, slots=slots, horizon=15), Seed(5), 40
    state = world.reset(n, seed)
    twins = [TwinUser(x) for x in state.users.exposure.tolist()]
    for t in range(world.horizon):
        slate = torch.rand(n, 20, generator=Seed(t).torch()).topk(slots, 1).indices
        slate[0], slate[1, 0] = world.blank, world.blank
        luck = seed.at(state.user, state.step).uniform("step", 2 + slots)[:, :2].double().tolist()
        state, response = world.step(state, slate, seed)
        theirs = [u.step(world, s, x) for u, s, x in zip(twins, slate.tolist(), luck, strict=True)]
        assert response.click.tolist() == [click for click, _ in theirs]
        rewards = torch.tensor([reward for _, reward in theirs])
        torch.testing.assert_close(response.reward, rewards, rtol=2e-5, atol=1e-5)
        exposure = torch.tensor([u.exposure for u in twins])
        torch.testing.assert_close(state.users.exposure, exposure, rtol=1e-5, atol=1e-5)
        seen = torch.tensor([[u.seen, u.steps / 15] for u in twins])
        torch.testing.assert_close(world.observe(state).features, seen, rtol=2e-5, atol=1e-5)
    assert bool(response.truncated.all())


RECSIM = {0.01: (1108, 779), 0.1: (838, 988), 0.25: (544, 1446), 0.5: (309, 2449), 1.0: (181, 4355)}
"""Return of 60 steps of always the most (choc) and always the least (kale) clickbait of 10 candidates."""


@pytest.mark.parametrize("sensitivity", RECSIM)
@pytest.mark.parametrize("rule", ["choc", "kale"])
def test_v0_has_the_returns_of_recsim(sensitivity: float, rule: str) -> None:
    """4,000 users: within our 99 % half-width and 1 % for theirs, which is not given.

    They refer to the best of 10 candidates: with scores of exactly 1 and 0, choc and kale would earn 160 and
    4514 at a sensitivity of 1, with the best of 20, 168 and 4487.
    """
    world = world_of("LongTermSatisfaction-v0", sensitivity=sensitivity)
    seen = roll(world, Diet(world, 1.0 if rule == "choc" else 0.0), 4000, Seed(2))
    low, high = interval(seen.reward.double().sum(0).tolist())
    theirs = RECSIM[sensitivity][rule == "kale"]
    assert low - 0.01 * theirs < theirs < high + 0.01 * theirs, (low, high)


@pytest.mark.parametrize("clip", [True, False])
def test_value_is_the_exact_mean_reward(clip: bool) -> None:
    """Against a sum over 200,001 quantiles of the noise, for satisfied and unsatisfied users."""
    world = world_of(items=5, candidates=0, clip_reward=clip)
    exposure = torch.linspace(-3, 3, 7)
    users = replace(world.reset(7, Seed(0)).users, exposure=exposure)
    slate = torch.arange(5)[torch.arange(7) % 5].unsqueeze(1)
    size = 12 / 200_001
    z = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / (2 * torch.pi) ** 0.5 * size
    for i in range(7):
        reward = (TwinUser(float(exposure[i])).mean(world, int(slate[i, 0])) + z).exp()
        mean = float(((reward.clamp(max=100.0) if clip else reward) * density).sum())
        assert float(world.value(users, slate)[i, 0]) == pytest.approx(mean, rel=2e-4)


def test_foresight_finds_the_best_of_all_plans() -> None:
    """Without noise and candidates, its plan earns what the best of all 5⁶ sequences earns, to 0.1 %."""
    world = world_of(items=5, candidates=0, innovation=0.0, horizon=6)
    first = world.reset(8, Seed(0))
    plans = torch.tensor(list(product(range(5), repeat=6)))
    for user in range(8):
        exposure = first.users.exposure[user].double().expand(len(plans))
        total = torch.zeros(len(plans), dtype=torch.float64)
        for t in range(6):
            clickbait = world.clickbait.double()[plans[:, t]]
            total += world._worth(exposure, clickbait)
            exposure = 0.7 * exposure - 2 * (clickbait - 0.5)
        state, ours = first, 0.0
        for _ in range(6):
            slate = world.foresight(state).argmax(1, keepdim=True)
            ours += float(world.expected_reward(state, slate)[user])
            state, _ = world.step(state, slate, Seed(0))
        assert ours == pytest.approx(float(total.max()), rel=1e-3)
        assert ours > 1.05 * float(total.median())


def test_foresight_knows_what_it_will_earn() -> None:
    """Its return over 2,000 users is what the dynamic programme said of their NPE₀ (99 %, ± 0.2 %)."""
    world = world_of(items=100)
    start = world.reset(2000, Seed(4).split("world")).users.exposure
    low_place, part = world._between(start)
    said = torch.lerp(world._ahead[0][low_place], world._ahead[0][low_place + 1], part)
    got = roll(world, FarSighted(world), 2000, Seed(4)).reward.sum(0)
    low, high = interval((got - said).tolist())
    assert low - 0.002 * 1370 < 0 < high + 0.002 * 1370, (low, high)
    assert float(said.std()) > 1  # it depends on NPE₀


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sensitivity": -0.1}, "sensitivity is -0.1"),
        ({"memory": 1.0}, "memory is 1.0"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"slots": 11}, "slots is 11"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        LongTermSatisfactionSpec(**settings)
