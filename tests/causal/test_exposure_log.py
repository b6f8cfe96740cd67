"""From a log of slates to effects, examination and the gain of other rankings: against worlds and twins."""

import pickle
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from causal.contract import influence, value
from causal.exposure import Exposures
from causal.exposure_dose import Dose, score
from causal.exposure_effect import ExposureEffect
from causal.exposure_log import exposures_of
from causal.exposure_places import doses_of
from causal.exposure_policy import OfPairs, UpliftRanking, slate_by_effect
from causal.exposure_value import examination_of, ranking_gain
from causal.slate.pi import PI
from causal.slates import slates
from causal.targeting.rate import autoc
from envs.exposures import exposures, seen_pairs
from envs.fitting import fit
from envs.rollout import roll
from envs.users._promotion_spec import PromotionSpec
from envs.users.promotion import Promotion
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import Ranked, SlateDistribution

SHOP = PromotionSpec(items=12, slots=3, position_bias=1.0, covariates=3, world_seed=4, effect=0.3)


@dataclass(frozen=True)
class ByUser:
    """Sorts by a table of users and items."""

    table: torch.Tensor
    name: str

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        return Ranked(self.table[context.user].gather(1, context.candidates), slots, context.mask)


def logged(world: Promotion, policy: Policy, n: int, seed: int, steps: int = 1) -> tuple[Log, torch.Tensor]:
    """Return a log of slates, and what was bought in each round."""
    path = roll(world, policy, n, Seed(seed), steps=steps, propensities=True, slot_propensities=True)
    state = world.reset(n, Seed(seed).split("world"))
    bought = [
        world.purchases(
            replace(state, step=torch.full_like(state.step, t)), path.slate[t], Seed(seed).split("world")
        )
        for t in range(steps)
    ]
    return path.log(world), torch.stack(bought, 1).flatten(0, 1).double()


def from_world(log: Any) -> Exposures:
    return Exposures.of(log.X, log.slot, log.Y, log.chance, user=log.user, weight=log.weight, item=log.item)


def test_pairs_of_a_log_are_those_of_the_world() -> None:
    world = Promotion(SHOP)
    log, bought = logged(world, Random(), 300, 5)
    features = partial(seen_pairs, world)
    twin = exposures(world, Random(), 300, Seed(5), unshown=0.3)
    table = torch.full((3, 12), 1 / 12, dtype=torch.float64)
    for logger, outcome in ((Random(), bought), (Random(), bought.to_sparse()), (table, bought)):
        data = exposures_of(log, logger, outcome, features, unshown=0.3, seed=Seed(5))
        names = (("x", "X"), ("slot", "slot"), ("y", "Y"), ("chance", "chance"), ("weight", "weight"))
        for mine, theirs in (*names, ("user", "user"), ("item", "item"), ("slate", "user")):
            np.testing.assert_allclose(getattr(data, mine), getattr(twin, theirs).numpy(), atol=1e-12)


def test_only_candidates_are_pairs_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Promotion(replace(SHOP, candidates=6))
    log, bought = logged(world, Random(), 200, 6, steps=2)
    assert log.candidates is not None
    features = partial(seen_pairs, world)
    whole = exposures_of(log, Random(), bought, features, unshown=1.0)
    assert len(whole) == 400 * 6
    assert whole.item is not None
    np.testing.assert_array_equal(np.sort(whole.item.reshape(400, 6)), np.sort(log.candidates.numpy()))
    np.testing.assert_allclose(whole.chance[0], [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    some = exposures_of(log, Random(), bought, features, unshown=0.2)
    monkeypatch.setattr("causal.exposure_log._CELLS", 100)
    again = exposures_of(log, Random(), bought, features, unshown=0.2)
    np.testing.assert_array_equal(some.x, again.x)
    np.testing.assert_array_equal(some.y, again.y)
    target = ByUser(world.treated(world.reset(200, Seed(6).split("world"))), "by probability")
    theta = [1.0, 0.5, 1 / 3]
    dose = doses_of(whole, log, target, theta)
    np.testing.assert_allclose(dose.reshape(400, 6).sum(1), sum(theta))
    # The world's own log leaves out what is no candidate, too.
    found = from_world(exposures(world, Random(), 200, Seed(6), unshown=1.0))
    assert len(found) == 200 * 6
    assert ExposureEffect(theta, folds=2).fit(found).ate().stderr < 0.2


@pytest.mark.parametrize("guess", [[1.0, 0.5, 0.2], [1.0, 1.0, 1.0], [0.2, 0.9, 0.4], [0.5, 0.25, 0.1]])
def test_a_wrong_examination_is_wrong_by_its_covariance(guess: list[float]) -> None:
    theta, chance, tau, p0 = np.array([1.0, 0.5, 0.2, 0.0]), np.array([0.1, 0.2, 0.3, 0.4]), 0.25, 0.3
    slot = np.arange(4)
    data = Exposures.of(np.zeros((4, 1)), slot, p0 + theta * tau, np.tile(chance, (4, 1)))  # y at its mean
    zero = np.zeros(4)
    wrong = np.append(guess, 0.0)
    covariance = chance @ (wrong * theta) - (chance @ wrong) * (chance @ theta)
    variance = chance @ wrong**2 - (chance @ wrong) ** 2
    found = chance @ score(data, Dose.of(data, guess), zero + 3, zero - 2)
    # Whatever is guessed (3 and -2 here) drops out.
    assert found == pytest.approx(tau * covariance / variance, abs=1e-12)


def test_the_gain_of_rankings_is_that_of_the_world_and_far_sharper_than_by_whole_slates() -> None:
    """Two slates a user; a pseudo-inverse twin reads total purchases and no θ."""
    world, n = Promotion(SHOP), 3000
    theta = world.examination().double().numpy()
    log, bought = logged(world, Random(), n, 5, steps=2)
    torch.testing.assert_close(bought.sum(1), log.reward)
    data = exposures_of(log, Random(), bought, partial(seen_pairs, world), unshown=0.3)
    model = ExposureEffect(theta, folds=3).fit(data)
    state = world.reset(n, Seed(5).split("world"))
    gain, twin, truth = [], [], []
    for index in (world.cate(state), world.treated(state)):
        target = ByUser(index, "target")
        gain.append(ranking_gain(data, model.scores_, doses_of(data, log, target, theta)))
        scored = PI().score(slates(replace(log, click=None), target, logger=Random(), fields=["pseudo"]))
        twin.append((value(scored), influence(scored)))
        slate = target.distribution(world.observe(state), 3).mode()
        truth.append(float((world.expected_reward(state, slate) - world.unasked(state.users)).mean()))
    unasked = float(world.unasked(state.users).mean())
    for mine, (theirs, change), true in zip(gain, twin, truth, strict=True):
        by_user = torch.zeros(n, dtype=torch.float64).index_add(0, log.user, change)
        error = float(by_user.square().sum().sqrt()) / len(log)
        assert abs(mine.value - true) < 4 * mine.stderr
        assert abs(theirs - unasked - true) < 4 * error
        assert mine.stderr < 0.03
        assert error > 5 * mine.stderr
    gap = gain[0].minus(gain[1])
    assert abs(gap.value - (truth[0] - truth[1])) < 4 * gap.stderr
    assert gap.interval()[0] > 0


def test_a_factor_on_examination_leaves_every_gain_as_it_is() -> None:
    world = Promotion(SHOP)
    log, bought = logged(world, Random(), 300, 2)
    data = exposures_of(log, Random(), bought, partial(seen_pairs, world))
    target = ByUser(world.cate(world.reset(300, Seed(2).split("world"))), "by effect")
    found = []
    for factor in (1.0, 0.4):
        theta = factor * np.array([1.0, 0.5, 1 / 3])
        model = ExposureEffect(theta, folds=2).fit(data)
        found.append((ranking_gain(data, model.scores_, doses_of(data, log, target, theta)), model.ate()))
    assert found[0][0].value == pytest.approx(found[1][0].value, abs=1e-9)
    assert found[0][0].stderr == pytest.approx(found[1][0].stderr, abs=1e-9)
    assert found[0][1].value == pytest.approx(0.4 * found[1][1].value, abs=1e-9)


def test_slates_without_rows_count_in_the_gain() -> None:
    luck = np.random.default_rng(0)
    chance = np.tile([0.5, 0.5], (40, 1))
    data = Exposures.of(
        np.zeros((40, 1)), luck.integers(0, 2, 40), luck.normal(size=40), chance, user=range(40)
    )
    few = data.rows(slice(0, 30))  # ten users had no rows
    psi, dose = luck.normal(size=40) + 1, np.ones(40)
    psi[30:] = 0
    most = ranking_gain(data, psi, dose)
    found = ranking_gain(few, psi[:30], dose[:30], slates=40)
    assert found.value == pytest.approx(most.value)
    assert found.stderr == pytest.approx(most.stderr * np.sqrt(30 / 29 * 39 / 40))
    with pytest.raises(BadInput, match="slates is 20, but the log has 30"):
        ranking_gain(few, psi[:30], dose[:30], slates=20)


def test_scores_of_other_users_judge_an_effect() -> None:
    world = Promotion(SHOP)
    theta = world.examination().double().numpy()
    train = from_world(exposures(world, Random(), 2000, Seed(8), unshown=0.3))
    fresh = exposures(world, Random(), 3000, Seed(9), unshown=0.3, first_user=10_000)
    test = from_world(fresh)
    model = ExposureEffect(theta, folds=3).fit(train)
    psi, effect = model.scores(test), model.effect(test.x)
    found = autoc(effect, psi, weight=test.weight, user=test.user)
    true = autoc(effect, fresh.cate.numpy(), weight=test.weight, user=test.user)
    assert abs(found.value - true.value) < 4 * found.stderr
    assert found.stderr < 0.02
    mass = fresh.weight.numpy() / fresh.weight.numpy().sum()
    gap = mass * (psi - fresh.cate.numpy())
    assert abs(gap.sum()) < 4 * float(np.sqrt((np.bincount(fresh.user - 10_000, gap) ** 2).sum()))
    kept = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(kept.scores(test), psi)
    with pytest.raises(BadInput, match="the effect knows 16 features, and these are 1"):
        model.scores(replace(test, x=test.x[:, :1]))


def test_effects_and_clicks_tell_the_same_examination() -> None:
    """Nothing of the click is used by the one, and nothing of what is bought unseen by the other."""
    world = Promotion(SHOP)
    truth = world.examination().double().numpy()
    log, bought = logged(world, Random(), 6000, 3)
    data = exposures_of(log, Random(), bought, partial(seen_pairs, world), unshown=0.3)
    clicks = fit("position_based", log).frame()
    rough = ExposureEffect(np.ones(3), folds=3).fit(data)  # any θ: its effects are guesses
    effects = examination_of(data, baseline=rough.baseline_, by=rough.effect_)
    plain = examination_of(data)
    for k in (1, 2):
        row = clicks[clicks["slot"] == k].iloc[0]
        assert abs(effects[k].value - truth[k]) < 4 * effects[k].stderr
        assert abs(effects[k].value - row["estimate"]) < 4 * np.hypot(effects[k].stderr, row["stderr"])
        assert effects[k].stderr < 0.7 * plain[k].stderr
        assert effects[k].stderr < 0.04


def test_the_error_of_an_estimated_examination_counts() -> None:
    world = Promotion(replace(SHOP, sleeping_dogs=0.0))
    data = from_world(exposures(world, Random(), 1500, Seed(4), unshown=0.3))
    same = examination_of(data)
    other = examination_of(from_world(exposures(world, Random(), 300, Seed(5), unshown=0.3)))
    for average in ("ate", "overlap_average"):
        for theta in (same, other):
            counted, known = (
                getattr(ExposureEffect(t, folds=2).fit(data), average)()
                for t in (theta, [m.value for m in theta])
            )
            assert counted.value == known.value
            assert counted.stderr > 1.02 * known.stderr
        # From another log the two errors add as squares: by finite differences of θ.
        base = [m.value for m in other]
        slope = []
        for k in (1, 2):
            moved = np.array(base)
            moved[k] -= 0.05
            less, more = (
                getattr(ExposureEffect(list(t), folds=2).fit(data), average)().value for t in (moved, base)
            )
            slope.append((more - less) / 0.05)
        joint = np.stack([m.influence for m in other[1:]], 1) @ slope
        assert other[0].user is not None
        by_user = np.bincount(other[0].user, joint)
        expected = np.sqrt(known.stderr**2 + by_user @ by_user)
        assert counted.stderr == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("cost", [0.0, 0.05, 0.15])
def test_slots_stay_empty_where_an_item_is_not_worth_its_cost(cost: float) -> None:
    world = Promotion(replace(SHOP, slots=6, cost=cost))
    state = world.reset(200, Seed(1))
    context = world.observe(state)
    found = slate_by_effect(world.cate(state), context, world.examination(), blank=world.blank, cost=cost)
    torch.testing.assert_close(world.expected_reward(state, found), world.best_value(state))
    worth = world.cate(state).topk(6).values * world.examination() > cost
    assert torch.equal(found != world.blank, worth)
    assert not bool(worth.all())  # some items put people off
    full = context.slate(UpliftRanking(lambda c: world.cate(state)).distribution(context, 6).mode())
    assert bool((world.expected_reward(state, full) <= world.best_value(state) + 1e-4).all())
    two = replace(context, mask=context.candidates < 2)
    assert bool((slate_by_effect(world.cate(state), two, np.ones(3), blank=12)[:, 2] == 12).all())
    with pytest.raises(BadInput, match=r"examination of slot 1 is 0\.9, above that of slot 0"):
        slate_by_effect(world.cate(state), context, [0.5, 0.9], blank=12)


def test_numbers_of_pairs_are_those_of_their_features() -> None:
    world = Promotion(SHOP)
    context = world.observe(world.reset(7, Seed(1)))
    found = OfPairs(lambda x: x[:, 0] + 2 * x[:, 3], partial(seen_pairs, world))(context)
    x = seen_pairs(world, context)
    torch.testing.assert_close(found, x[..., 0] + 2 * x[..., 3])


def test_what_a_log_cannot_tell_is_refused() -> None:
    world = Promotion(SHOP)
    log, bought = logged(world, Random(), 60, 1)
    features = partial(seen_pairs, world)
    with pytest.raises(BadInput, match="outcome has shape"):
        exposures_of(log, Random(), bought[:, :5], features)
    with pytest.raises(BadInput, match=r"unshown is 1\.5, but it is a share"):
        exposures_of(log, Random(), bought, features, unshown=1.5)
    with pytest.raises(BadInput, match="features returned"):
        exposures_of(log, Random(), bought, lambda c: c.features.unsqueeze(1))
    wrong = torch.zeros(3, 12, dtype=torch.float64)
    wrong[0, 0], wrong[1, 1], wrong[2, 2] = 1.0, 1.0, 1.0
    with pytest.raises(BadInput, match="it is not the logger of this log"):
        exposures_of(log, wrong, bought, features)
    sure = ByUser(torch.arange(12.0).expand(60, 12), "sure")
    fixed, sold = logged(world, sure, 60, 1)
    with pytest.raises(BadInput, match="leaves no pair of user and item to chance"):
        exposures_of(fixed, sure, sold, features)
    with pytest.raises(BadInput, match="sure leaves no pair of user and item to chance"):
        exposures(world, sure, 10, Seed(0))
    data = exposures_of(log, Random(), bought, features, unshown=1.0)
    with pytest.raises(BadInput, match="the rows do not say of which slate and item they are"):
        doses_of(replace(data, slate=None), log, sure, np.ones(3))
    assert data.item is not None
    part = data.rows(data.item != 11)  # as from a logger that never shows the best item of all
    with pytest.raises(BadInput, match=r"only 66\.7% of what sure lets users see is in the log"):
        doses_of(part, log, sure, np.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_intervals_with_an_estimated_examination_hold_the_truth(apart: bool) -> None:
    world = Promotion(replace(SHOP, items=6, effect=0.45, sleeping_dogs=0.0))
    truth, held, naive = float(world.ate().mean()), 0, 0
    for seed in range(300):
        data = from_world(exposures(world, Random(), 400, Seed(1000 + seed), unshown=0.5))
        other = from_world(exposures(world, Random(), 200, Seed(5000 + seed), unshown=0.5)) if apart else data
        theta = examination_of(other)
        low, high = ExposureEffect(theta, folds=2).fit(data).ate().interval()
        held += low < truth < high
        low, high = ExposureEffect([m.value for m in theta], folds=2).fit(data).ate().interval()
        naive += low < truth < high
    assert 266 <= held <= 299  # binomial, one in a million
    assert naive <= held
