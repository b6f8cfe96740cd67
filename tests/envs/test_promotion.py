"""Promotion-v0: equal to a slow twin, exact in its truth, and its trials are what they say."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from envs.trial import Exposure, Groups, Trial
from envs.users._promotion_spec import PromotionSpec
from envs.users.promotion import CHUNK, Promotion, PromotionUsers
from envs.world import State
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.envs.twin_promotion import TwinItem, TwinUser

SMALL = PromotionSpec(items=8, slots=3, horizon=6, covariates=3, world_seed=2, base=-1.0)


def some_slates(world: Promotion, users: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(users, world.catalog.n_items, generator=g).topk(world.slots, 1).indices


def many(state: State[PromotionUsers], n: int) -> State[PromotionUsers]:
    """The first user n times, each with luck of its own."""
    first = {k: v[:1].expand(n, *v.shape[1:]) for k, v in vars(state.users).items()}
    return replace(
        state,
        user=torch.arange(n),
        step=torch.zeros(n, dtype=torch.long),
        active=torch.ones(n, dtype=torch.bool),
        users=PromotionUsers(**first),
    )


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"position_bias": 1.0, "cost": 0.05},
        {"fatigue": 0.4, "position_bias": 0.5},
        {"heterogeneity": 0.3},
    ],
    ids=["plain", "position bias and cost", "fatigue", "less heterogeneity"],
)
def test_equals_the_slow_twin_step_by_step(switch: dict[str, Any]) -> None:
    world, seed, n = Promotion(replace(SMALL, effect=0.3, **switch)), Seed(7), 60
    state = world.reset(n, seed)
    items = [TwinItem(f[:3], f[3:6], f[6]) for f in world.catalog.features.tolist()]
    people = zip(state.users.covariates.tolist(), state.users.hidden.tolist(), strict=True)
    twins = [TwinUser(world.spec, items, x, z) for x, z in people]
    clicked = 0.0
    for t in range(world.horizon + 1):
        slate = some_slates(world, n, t)
        slate[0, 1] = world.blank
        truth = torch.tensor([[twin.groups(i) for i in range(8)] for twin in twins])
        mine = world.groups(state)
        torch.testing.assert_close(torch.stack([mine.persuadable, mine.sure, mine.dog], 2), truth)
        luck = seed.at(state.user, state.step).uniform("purchase", 8 + 3)
        state, response = world.step(state, slate, seed)
        told = [u.step(s, v) for u, s, v in zip(twins, slate.tolist(), luck.tolist(), strict=True)]
        assert response.click.tolist() == [clicks for clicks, _ in told]
        torch.testing.assert_close(response.reward, torch.tensor([reward for _, reward in told]))
        assert state.active.tolist() == [twin.active for twin in twins]
        clicked += float(response.click.sum())
    assert clicked > 100


def test_what_is_shown_sells_by_y1_and_the_rest_by_y0_under_the_same_luck() -> None:
    world, seed, n = Promotion(replace(SMALL, effect=0.4)), Seed(3), 2000
    state = world.reset(n, seed)
    for t in range(3):
        y0, y1 = world.outcomes(state, seed)
        slate = some_slates(world, n, t)
        slate[::5, 2] = world.blank
        shown = torch.zeros(n, 9, dtype=torch.bool).scatter(1, slate, True)[:, :8]
        state, response = world.step(state, slate, seed)
        bought = torch.nn.functional.pad(y1, (0, 1)).gather(1, slate)
        assert torch.equal(response.click, bought.float())
        assert torch.equal(response.reward, torch.where(shown, y1, y0).sum(1).float())
    assert bool((y1 & ~y0).any())
    assert bool((y0 & ~y1).any())


def test_withholding_one_item_gives_the_effect_of_that_item() -> None:
    """The difference of both potential outcomes of a slate is Y1 - Y0 of the item that is left out."""
    world, seed, n = Promotion(replace(SMALL, effect=0.4)), Seed(5), 3000
    state = world.reset(n, seed)
    y0, y1 = world.outcomes(state, seed)
    with_item = some_slates(world, n, 0)
    without = with_item.clone()
    without[:, 1] = world.blank
    treated, control = world.potential_outcomes(state, with_item, without, seed)
    ite = (y1.float() - y0.float()).gather(1, with_item[:, 1:2])[:, 0]
    assert torch.equal(treated.reward - control.reward, ite)
    assert set(ite.tolist()) == {-1.0, 0.0, 1.0}
    truth = world.expected_reward(state, with_item) - world.expected_reward(state, without)
    torch.testing.assert_close(truth, world.cate(state).gather(1, with_item[:, 1:2])[:, 0], atol=1e-5, rtol=0)


def test_listed_uniforms_average_to_the_closed_form() -> None:
    """One uniform at every midpoint of 2^16 intervals: means are exact to a few intervals."""
    world, n = Promotion(replace(SMALL, effect=0.3, cost=0.02, position_bias=1.0)), 1 << 16
    state = many(world.reset(1, Seed(1)), n)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    groups = world.groups(world.reset(1, Seed(1)))
    y0, y1 = groups.outcomes(grid.float().unsqueeze(1).expand(n, 8))
    close: dict[str, Any] = {"atol": 3 / n, "rtol": 0.0}
    torch.testing.assert_close(y0.double().mean(0), groups.baseline[0].double(), **close)
    torch.testing.assert_close(y1.double().mean(0), groups.treated[0].double(), **close)
    torch.testing.assert_close((y1 & ~y0).double().mean(0), groups.persuadable[0].double(), **close)
    torch.testing.assert_close((y0 & ~y1).double().mean(0), groups.dog[0].double(), **close)
    torch.testing.assert_close((~y0 & ~y1).double().mean(0), groups.lost[0].double(), **close)

    # A slate: every item has the uniform of the row, so means (not joints) are those of the world; the slots'
    # uniforms run through a grid of their own that is independent of it (a lattice).
    slate = torch.tensor([[4, 0, world.blank]])
    sight = torch.stack([(grid * k) % 1.0 for k in (251, 509, 751)], 1)
    luck = torch.cat([grid.unsqueeze(1).expand(n, 8), sight], 1).float()
    shown, theta = slate.expand(n, -1), world.examination()
    mover = torch.nn.functional.pad(luck[:, :8], (0, 1), value=1.0).gather(1, shown)
    theirs = torch.where(luck[:, 8:] < theta, mover * theta, 1.0)
    click = world.clicks.sample(world.respond(state.users, state.market, shown), theirs)
    torch.testing.assert_close(click.mean(0), world.expected(state, shown)[0], atol=1e-3, rtol=0)
    reward = world.reward(state.users, shown, click, luck)
    truth = world.expected_reward(state, shown)[0]
    assert abs(float(reward.double().mean() - truth)) < 2e-3
    plain = (
        world.baseline(state)[0].sum()
        + (theta * torch.nn.functional.pad(world.cate(state)[0], (0, 1))[slate[0]]).sum()
    )
    torch.testing.assert_close(truth, plain - 0.04)


def test_clicks_and_rewards_of_many_lucks_have_the_exact_means() -> None:
    """4.5 standard errors of 200,000 lucks of one user; position bias, cost and an empty slot included."""
    world, n = Promotion(replace(SMALL, effect=0.3, cost=0.1, position_bias=1.0)), 200_000
    state = many(world.reset(1, Seed(1)), n)
    slate = torch.tensor([[5, world.blank, 2]]).expand(n, -1)
    response = world.step(state, slate, Seed(2))[1]
    chance = world.expected(state, slate)[0]
    error = (chance * (1 - chance) / n).sqrt().clamp(min=1e-9)
    assert float(((response.click.mean(0) - chance) / error).abs().max()) < 4.5
    gap = response.reward.double().mean() - world.expected_reward(state, slate)[0].double()
    assert abs(float(gap)) < 4.5 * float(response.reward.double().std()) / n**0.5
    unasked = world.expected_reward(state, torch.full_like(slate, world.blank))[0]
    torch.testing.assert_close(unasked, world.baseline(state)[0].sum())


@pytest.mark.parametrize(
    ("switch", "blanks"),
    [
        ({"sleeping_dogs": 0.0}, False),
        ({}, True),
        ({"cost": 0.12}, True),
        ({"cost": 0.05, "position_bias": 1.0}, True),
        ({"sleeping_dogs": 1.0, "cost": 0.2}, True),
    ],
)
def test_the_best_policy_beats_every_slate_there_is(switch: dict[str, Any], blanks: bool) -> None:
    spec = replace(SMALL, items=5, slots=2, horizon=3, **switch)
    world = Promotion(spec)
    state = world.reset(200, Seed(4))
    every = [*permutations(range(5), 2), (5, 5), *((i, 5) for i in range(5)), *((5, i) for i in range(5))]
    values = torch.stack([world.expected_reward(state, torch.tensor([s]).expand(200, -1)) for s in every])
    best = world.best_policy(state)
    torch.testing.assert_close(world.best_value(state), values.max(0).values)
    assert bool((best == world.blank).any()) == blanks
    assert bool((world.best_value(state) >= world.unasked(state.users)).all())


def test_the_best_policy_chooses_among_the_candidates() -> None:
    world = Promotion(replace(SMALL, candidates=4, slots=2))
    state = world.reset(50, Seed(4))
    best, few = world.best_policy(state), state.candidates
    assert few is not None
    there = (best.unsqueeze(2) == few.unsqueeze(1)).any(2) | (best == world.blank)
    assert bool(there.all())
    gain = world.cate(state).gather(1, few)
    torch.testing.assert_close(
        world.best_value(state) - world.unasked(state.users),
        gain.topk(2, 1).values.clamp(min=0).sum(1), atol=1e-5, rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("switch", [{}, {"heterogeneity": 0.4}, {"sleeping_dogs": 1.0}, {"sharpness": 8.0}])
def test_the_average_effect_and_the_average_chances_are_closed_forms(switch: dict[str, Any]) -> None:
    """4.5 standard errors of 40,000 users; and the mean over given users is their mean."""
    world = Promotion(replace(SMALL, **switch))
    state = world.reset(40_000, Seed(6))
    groups = world.groups(state)
    p0, p1 = world.averages()
    torch.testing.assert_close((p1 - p0).float(), world.ate(), atol=1e-6, rtol=0)
    for truth, values in ((p0, groups.baseline), (p1, groups.treated), (world.ate(), groups.cate)):
        error = (values.double().std(0) / 200).clamp(min=1e-7)
        assert float(((values.double().mean(0) - truth) / error).abs().max()) < 4.5
    torch.testing.assert_close(world.ate(state), groups.cate.mean(0))
    torch.testing.assert_close(world.market.start, (p1 / p1.mean()).float())


def test_quadrature_agrees_with_scipy() -> None:
    """Mean p0 of an item by a two-dimensional adaptive rule."""
    world = Promotion(SMALL)
    features = world.catalog.features[0].double()
    same, popularity = float(features[:3] @ features[3:6]), float(features[6])
    spec = world.spec

    def p0(v: float, y: float) -> float:
        r = 1 / (1 + math.exp(-spec.sharpness * y))
        a, b = 2 * spec.effect * r, 2 * spec.effect * spec.sleeping_dogs * (1 - r)
        rest = math.sqrt(spec.taste**2 * (1 - same**2) + spec.hidden**2)
        logit = spec.base + spec.popularity * popularity + spec.taste * same * y + rest * v
        density = math.exp(-(v * v + y * y) / 2) / (2 * math.pi)
        mean: float = density * ((1 - a - b) / (1 + math.exp(-logit)) + b)
        return mean

    truth, _ = integrate.dblquad(p0, -8, 8, -8, 8, epsabs=1e-9)
    assert abs(float(world.averages()[0][0]) - truth) < 1e-6


def test_each_switch_turns_its_own_thing_off() -> None:
    state = Promotion(SMALL).reset(500, Seed(0))
    names = ("effect", "heterogeneity", "sleeping_dogs", "sharpness", "hidden")
    off: dict[str, dict[str, Any]] = {name: {name: 0.0} for name in names}
    cate = {name: Promotion(replace(SMALL, **setting)).cate(state) for name, setting in off.items()}
    base = Promotion(SMALL).cate(state)
    assert float(cate["effect"].abs().max()) == 0
    same = torch.full_like(base, 0.15 * 0.5)
    torch.testing.assert_close(cate["heterogeneity"], same, atol=1e-7, rtol=0)
    torch.testing.assert_close(cate["sharpness"], same, atol=1e-7, rtol=0)
    assert float(cate["sleeping_dogs"].min()) >= 0
    assert float(base.min()) < -0.1
    torch.testing.assert_close(cate["hidden"], base, rtol=0, atol=0)  # it is no effect modifier
    blind = Promotion(replace(SMALL, hidden=0.0)).baseline(state)
    assert not torch.allclose(blind, Promotion(SMALL).baseline(state))
    flat = Promotion(replace(SMALL, effect=0.0, taste=0.0, popularity=0.0, hidden=0.0)).treated(state)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / (1 + math.e)))


def test_fatigue_wears_off_the_effect_and_nothing_else() -> None:
    world = Promotion(replace(SMALL, fatigue=0.5))
    state = world.reset(40, Seed(0))
    slate = some_slates(world, 40, 0)
    slate[:, 2] = world.blank
    after, _ = world.step(state, slate, Seed(0))
    shown = torch.zeros(40, 9, dtype=torch.bool).scatter(1, slate, True)[:, :8]
    torch.testing.assert_close(world.baseline(after), world.baseline(state))
    cate = world.cate(state)
    torch.testing.assert_close(world.cate(after), torch.where(shown, cate / 2, cate))
    static = Promotion(SMALL)
    first = static.reset(40, Seed(0))
    second, _ = static.step(first, slate, Seed(0))
    assert torch.equal(static.cate(first), static.cate(second))


def test_expected_reward_is_exact_where_nobody_clicks() -> None:
    """Users who are all sleeping dogs never click, and are put off all the same."""
    world = Promotion(
        replace(SMALL, effect=0.5, sleeping_dogs=1.0, sharpness=1e4, cost=0.1, position_bias=1.0)
    )
    state = world.reset(200, Seed(0))
    slate = some_slates(world, 200, 0)
    assert float(world.treated(state).min()) == 0.0
    gain = world.examination() * world.cate(state).gather(1, slate) - 0.1
    truth = world.baseline(state).sum(1) + gain.sum(1)
    torch.testing.assert_close(world.expected_reward(state, slate), truth, atol=1e-5, rtol=0)
    loss = world.step(state, slate, Seed(0))[1].click[world.treated(state).gather(1, slate) == 0]
    assert float(loss.sum()) == 0


# Trials -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [0, 1, 5, None])
def test_a_trial_has_the_users_and_the_luck_of_the_world(item: int | None) -> None:
    world, seed, n = Promotion(SMALL), Seed(8), 500
    trial = world.trial(n, seed, item=item, confounding=1.0, hidden=0.5, first_user=20)
    state = world.reset(n, seed, first_user=20)
    rows, at = torch.arange(n), trial.item
    y0, y1 = world.outcomes(state, seed)
    assert torch.equal(trial.user, state.user)
    assert torch.equal(trial.X[:, :3], state.users.covariates.double())
    assert torch.equal(trial.Y0, y0[rows, at].double())
    assert torch.equal(trial.Y1, y1[rows, at].double())
    torch.testing.assert_close(trial.cate.float(), world.cate(state)[rows, at])
    torch.testing.assert_close(trial.baseline.float(), world.baseline(state)[rows, at])
    assert torch.equal(trial.Y, torch.where(trial.T == 1, trial.Y1, trial.Y0))
    assert torch.equal(trial.ite, trial.Y1 - trial.Y0)
    if item is None:
        assert torch.equal(trial.X[:, 3:], world.catalog.features[at].double())
        assert set(at.tolist()) == set(range(8))
    else:
        assert set(at.tolist()) == {item}


def test_propensities_are_the_chances_of_exposure() -> None:
    """By the formula; calibrated against exposures; and `visible` is their mean given X (Monte Carlo)."""
    world, n = Promotion(SMALL), 100_000
    how: dict[str, Any] = {"treated": 0.3, "confounding": 1.2, "hidden": 0.8, "overlap": 0.05}
    trial = world.trial(n, Seed(9), item=0, **how)
    seen = world.spec.taste * trial.X @ world.catalog.features[0, :3].double()
    share = (0.3 - 0.05) / 0.9
    logit = math.log(share / (1 - share)) + 1.2 * seen + 0.8 * world.spec.hidden * trial.hidden
    torch.testing.assert_close(trial.propensity, 0.05 + 0.9 * logit.sigmoid(), atol=1e-6, rtol=0)
    assert 0.05 <= trial.overlap < 0.06
    surplus = trial.T - trial.propensity
    assert abs(float(torch.corrcoef(torch.stack([surplus, trial.Y1]))[0, 1])) < 4 / n**0.5
    for weight in (torch.ones(n), trial.X[:, 0], trial.hidden, trial.propensity, trial.Y0, trial.Y1):
        z = (surplus * weight).mean() / (surplus * weight).std() * n**0.5
        assert abs(float(z)) < 4
    bend = trial.propensity - trial.visible
    for weight in (torch.ones(n), seen, seen**2):
        z = (bend * weight).mean() / (bend * weight).std() * n**0.5
        assert abs(float(z)) < 4
    assert float(bend.abs().mean()) > 0.02


def test_an_experiment_has_one_propensity_and_the_outcomes_of_any_other_trial() -> None:
    world = Promotion(SMALL)
    fair = world.trial(300, Seed(1), treated=0.25)
    torch.testing.assert_close(fair.propensity, torch.full((300,), 0.25, dtype=torch.float64))
    assert torch.equal(fair.visible, fair.propensity)
    other = world.trial(300, Seed(1), confounding=2.0, overlap=0.001)
    assert torch.equal(fair.Y1, other.Y1)
    assert torch.equal(fair.Y0, other.Y0)
    assert other.overlap < 0.01
    assert torch.equal(world.trial(300, Seed(1), hidden=0.0).T, world.trial(300, Seed(1)).T)


def test_a_long_trial_is_drawn_in_pieces_that_do_not_show() -> None:
    world = Promotion(replace(SMALL, items=2, slots=1))
    whole = world.trial(CHUNK + 10, Seed(1))
    tail = world.trial(10, Seed(1), first_user=CHUNK)
    assert len(whole) == CHUNK + 10
    assert torch.equal(whole.Y[CHUNK:], tail.Y)
    assert torch.equal(whole.T[CHUNK:], tail.T)


def test_values_of_treatment_rules() -> None:
    world = Promotion(SMALL)
    trial = world.trial(20_000, Seed(2), item=3)
    everybody, nobody = torch.ones(20_000).double(), torch.zeros(20_000).double()
    assert math.isclose(trial.value(everybody, cost=0.02) - trial.value(nobody), trial.ate - 0.02)
    best = (trial.cate > 0.02).double()
    assert math.isclose(trial.best_value(0.02), trial.value(best, 0.02))
    assert trial.best_value(0.02) > max(trial.value(everybody, 0.02), trial.value(nobody, 0.02)) + 0.01
    state = replace(world.reset(20_000, Seed(2)))
    alone = torch.full((20_000, 3), world.blank)
    alone[:, 0] = 3
    lift = world.expected_reward(state, alone) - world.unasked(state.users)
    assert abs(float(lift.double().mean()) - trial.ate) < 1e-5


def test_a_trial_is_a_table_and_a_log() -> None:
    world = Promotion(SMALL)
    trial: Trial = world.trial(40, Seed(2), item=None, confounding=1.0)
    table, told = trial.frame(), trial.frame(truth=True)
    assert list(table.columns) == [*trial.feature_names, "item", "treatment", "outcome"]
    assert len(trial.feature_names) == trial.X.shape[1] == 3 + 7
    assert table["outcome"].tolist() == trial.Y.tolist()
    assert set(told.columns) - set(table.columns) == {
        "propensity", "visible", "baseline", "cate", "hidden", "ite", "y0", "y1",
    }  # fmt: skip
    log = trial.log()
    assert log.treatment is not None
    assert torch.equal(log.treatment, trial.T)
    assert log.slate[:, 0].tolist() == trial.item.tolist()
    arm = [e if t else 1 - e for e, t in zip(trial.propensity.tolist(), trial.T.tolist(), strict=True)]
    assert log.propensity.tolist() == arm
    assert log.reward.tolist() == trial.Y.tolist()


def test_groups_by_hand() -> None:
    groups = Groups(*(torch.tensor([[v]]) for v in (0.25, 0.125, 0.5)))
    assert float(groups.lost) == 0.125
    assert (float(groups.baseline), float(groups.treated), float(groups.cate)) == (0.625, 0.375, -0.25)
    luck = {0.2: (False, True), 0.3: (True, True), 0.5: (True, False), 0.9: (False, False)}
    for u, outcome in luck.items():
        y0, y1 = groups.outcomes(torch.tensor([[u]]))
        assert (bool(y0), bool(y1)) == outcome


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"effect": 0.6}, "effect is 0.6, but it is at least 0 and at most 0.5"),
        ({"heterogeneity": -0.1}, "heterogeneity is -0.1"),
        ({"sleeping_dogs": 1.5}, "sleeping_dogs is 1.5"),
        ({"fatigue": 2.0}, "fatigue is 2.0"),
        ({"cost": -1.0}, "cost is -1.0"),
        ({"slots": 51}, "slots is 51, but there are only 50 items"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        PromotionSpec(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "n is 0"),
        ({"item": 8}, "item is 8, but items run from 0 to 7"),
        ({"treated": 1.0}, r"treated is 1.0, but with overlap 0.02 it is in \(0.02, 0.98\)"),
        ({"overlap": 0.5}, "overlap is 0.5, but it is more than 0 and less than 0.5"),
        ({"confounding": math.nan}, "confounding is nan, but it is a finite number"),
    ],
)
def test_trials_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"n": 10, "seed": Seed(0)} | settings
    with pytest.raises(BadInput, match=words):
        Promotion(SMALL).trial(**arguments)


def test_exposure_averages_what_is_hidden_by_quadrature() -> None:
    how = Exposure(treated=0.4, confounding=1.0, hidden=1.5, overlap=0.1)
    seen = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    both, one = how.chances(seen, torch.zeros(3, dtype=torch.float64), 2.0)
    share = (0.4 - 0.1) / 0.8
    for k in range(3):
        logit = float(seen[k]) + math.log(share / (1 - share))
        assert math.isclose(float(both[k]), 0.1 + 0.8 / (1 + math.exp(-logit)), rel_tol=1e-12)

        def chance(z: float, logit: float = logit) -> float:
            return float(stats.norm.pdf(z)) * (0.1 + 0.8 / (1 + math.exp(-logit - 1.5 * 2 * z)))

        assert abs(float(one[k]) - integrate.quad(chance, -8, 8)[0]) < 1e-4
