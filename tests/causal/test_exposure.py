"""Effects of showing an item at a slot: unbiased by listing all slots; the naive ones wrong by a formula."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

from causal.exposure import Exposures, shown_or_not
from causal.exposure_dose import Dose, score
from causal.exposure_effect import ExposureEffect, deal
from causal.exposure_policy import OfPairs, UpliftRanking
from causal.exposure_value import examination_of, expected_dose, ranking_gain
from envs.exposures import exposures, pair_features, seen_pairs
from envs.rollout import roll
from envs.users._promotion_spec import PromotionSpec
from envs.users.promotion import Promotion
from simlab.adapters.nuisance import RankerRegressor
from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.seeds import Seed
from simlab.slates import PlackettLuce
from simlab.statistics import paired_interval

SHOP = PromotionSpec(items=12, slots=3, position_bias=1.0, covariates=3, world_seed=4, effect=0.3)
THETA = np.array([1.0, 0.5, 0.2])


class Leaning:
    """A policy that shows what sells anyway more often: confounded by what can be seen."""

    name = "leaning"

    def __init__(self, world: Promotion, strength: float) -> None:
        self.world, self.strength = world, strength

    def distribution(self, context: Context, slots: int) -> PlackettLuce:
        d = self.world.spec.covariates
        pull = context.features[:, :d] @ self.world.catalog.features[:, :d].T
        return PlackettLuce(self.strength * pull, slots, context.mask)


def of(world: Promotion, policy: Any, n: int, seed: int, **how: Any) -> tuple[Exposures, Any]:
    log = exposures(world, policy, n, Seed(seed), **how)
    columns = (log.X, log.slot, log.Y, log.chance)
    data = Exposures.of(
        *(c.numpy() for c in columns),
        user=log.user.numpy(),
        weight=log.weight.numpy(),
        names=log.feature_names,
    )
    return data, log


def given(value: torch.Tensor, context: Context) -> torch.Tensor:
    return value


def listed(theta: np.ndarray, p0: float, tau: float, chance: np.ndarray) -> tuple[Exposures, np.ndarray]:
    """Return one row for each slot and outcome, with its probability."""
    slots = len(theta)
    dose = np.append(theta, 0.0)
    slot, y = (a.reshape(-1) for a in np.meshgrid(np.arange(slots + 1), [0.0, 1.0], indexing="ij"))
    buys = p0 + dose[slot] * tau
    mass = chance[slot] * np.where(y == 1, buys, 1 - buys)
    return Exposures.of(np.zeros((len(y), 1)), slot, y, np.tile(chance, (len(y), 1))), mass


@pytest.mark.parametrize("guess", [(0.0, 0.0), (0.4, -2.0), (-7.0, 3.0)])
@pytest.mark.parametrize("chance", [[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.01, 0.29], [0.25, 0.25, 0.5, 0.0]])
def test_scores_are_unbiased_whatever_is_guessed(guess: tuple[float, float], chance: list[float]) -> None:
    some = np.array(chance)
    data, mass = listed(THETA, 0.3, -0.2, some / some.sum()) if all(c > 0 for c in chance) else (None, None)
    if data is None:
        keep = np.repeat(some > 0, 2)
        dose = np.append(THETA, 0.0)
        slot, y = np.repeat(np.arange(4), 2)[keep], np.tile([0.0, 1.0], 4)[keep]
        buys = 0.3 - 0.2 * dose[slot]
        mass = some[slot] * np.where(y == 1, buys, 1 - buys)
        data = Exposures.of(np.zeros((len(y), 1)), slot, y, np.tile(some, (len(y), 1)))
    every = np.ones(len(data))
    found = score(data, Dose.of(data, THETA), guess[0] * every, guess[1] * every)
    assert float(mass @ found) == pytest.approx(-0.2, abs=1e-12)


def test_without_positions_the_effect_shrinks_by_what_is_seen_of_what_is_shown() -> None:
    chance = np.array([0.1, 0.2, 0.3, 0.4])
    data, mass = listed(THETA, 0.3, 0.25, chance)
    zero = np.zeros(len(data))
    found = float(mass @ score(data, Dose.of(data, np.ones(3)), zero, zero))
    seen = chance[:3] @ THETA / chance[:3].sum()
    assert found == pytest.approx(0.25 * seen, abs=1e-12)


def test_the_naive_effect_is_wrong_by_what_sells_anyway_and_by_what_is_not_seen() -> None:
    """Two kinds of pairs: the first sells more and is shown more."""
    chances = (np.array([0.3, 0.3, 0.2, 0.2]), np.array([0.1, 0.1, 0.1, 0.7]))
    kinds = [listed(THETA, p0, 0.2, c) for p0, c in zip((0.5, 0.1), chances, strict=True)]
    joint = Exposures.of(
        *(np.concatenate([getattr(k[0], name) for k in kinds]) for name in ("x", "slot", "y", "chance")),
        weight=np.concatenate([k[1] for k in kinds]),
    )
    shown = np.array([c[:3].sum() for c in chances])
    bought = [c[:3].sum() * p + 0.2 * (c[:3] @ THETA) for c, p in zip(chances, (0.5, 0.1), strict=True)]
    mean_shown = sum(bought) / shown.sum()
    mean_not = (1 - shown) @ np.array([0.5, 0.1]) / (1 - shown).sum()
    assert shown_or_not(joint).value == pytest.approx(mean_shown - mean_not, abs=1e-12)
    zero = np.zeros(len(joint))
    found = score(joint, Dose.of(joint, THETA), zero, zero)
    assert joint.weight is not None
    assert float(joint.weight @ found) / 2 == pytest.approx(0.2, abs=1e-12)


def test_purchases_are_those_of_the_step() -> None:
    world = Promotion(SHOP)
    state = world.reset(400, Seed(1))
    slate = Random().distribution(world.observe(state), world.slots).sample(Seed(2).torch())
    bought = world.purchases(state, slate, Seed(1))
    _, response = world.step(state, slate, Seed(1))
    torch.testing.assert_close(bought.sum(1).float(), response.reward)
    y0, _ = world.outcomes(state, Seed(1))
    clicked = response.click.bool()
    assert bool(bought.gather(1, slate)[clicked].all())
    unseen = torch.ones_like(bought).scatter(1, slate, False)
    assert torch.equal(bought[unseen], y0[unseen])


def test_a_log_of_exposures_keeps_all_that_is_shown_and_a_share_of_the_rest() -> None:
    world = Promotion(SHOP)
    policy = Leaning(world, 1.0)
    data, log = of(world, policy, 3000, 5, unshown=0.25)
    assert int(data.shown.sum()) == 3000 * 3
    assert data.weight is not None
    assert float(data.weight.sum()) == pytest.approx(3000 * 12, rel=0.01)
    counts = np.bincount(data.slot, data.weight, minlength=4) / data.weight.sum()
    np.testing.assert_allclose(counts, np.average(data.chance, axis=0, weights=data.weight), atol=0.004)
    again, _ = of(world, policy, 3000, 5, unshown=0.25)
    np.testing.assert_array_equal(again.y, data.y)
    # x tells the pair: its effect is a function of it.
    pair = pair_features(world, log.X[:, :3].float(), log.item)
    torch.testing.assert_close(pair, log.X)


def test_effects_of_a_shop_are_found_where_the_naive_one_is_not() -> None:
    world = Promotion(replace(SHOP, effect=0.1))
    data, log = of(world, Leaning(world, 0.8), 6000, 7)
    truth = float(np.average(log.cate.numpy(), weights=log.weight.numpy()))
    model = ExposureEffect(world.examination().numpy(), LogisticRegression(), folds=3).fit(data)
    found = model.ate()
    assert abs(found.value - truth) < 4 * found.stderr
    assert found.stderr < 0.02
    naive = shown_or_not(data)
    assert abs(naive.value - truth) > 5 * naive.stderr
    attenuated = ExposureEffect(np.ones(3), LogisticRegression(), folds=3).fit(data)
    assert attenuated.ate().value < found.value
    sharp = model.overlap_average()
    open_ = log.weight.numpy() * Dose.of(data, world.examination().numpy()).variance
    assert abs(sharp.value - float(np.average(log.cate.numpy(), weights=open_))) < 4 * sharp.stderr
    predicted = model.effect(data.x)
    assert np.corrcoef(predicted, log.cate.numpy())[0, 1] > 0.6
    np.testing.assert_allclose(model.effect_at(data.x[:5], 2), predicted[:5] / 3)
    assert [len(set(model.fold_[data.user == u])) for u in (0, 17)] == [1, 1]


def test_any_model_and_any_ranker_learns_the_effect() -> None:
    world = Promotion(SHOP)
    data, log = of(world, Random(), 1500, 8, unshown=0.05)
    trees = HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=7)
    ranker = RankerRegressor("mlp", epochs=2, batch_size=1024)
    for model in (trees, ranker):
        found = ExposureEffect(world.examination().numpy(), model, model, folds=2).fit(data)
        again = ExposureEffect(world.examination().numpy(), model, model, folds=2).fit(data)
        np.testing.assert_array_equal(found.scores_, again.scores_)
        assert abs(found.ate().value - float(log.cate.mean())) < 4 * found.ate().stderr
        assert np.corrcoef(found.effect(data.x), log.cate.numpy())[0, 1] > 0.3


def test_examination_is_told_by_effects_alone() -> None:
    world = Promotion(SHOP)
    data, log = of(world, Random(), 20_000, 9, unshown=0.3)
    truth = world.examination().numpy()
    for by in (None, log.cate.numpy()):
        found = examination_of(data, baseline=log.baseline.numpy(), by=by)
        assert found[0].value == 1
        assert found[0].stderr == 0
        for k in (1, 2):
            assert abs(found[k].value - truth[k]) < 4 * found[k].stderr
            assert found[k].stderr < 0.1
    # An estimate of the effect makes it sharper: effects of both signs no longer cancel.
    sharp, plain = (examination_of(data, by=b)[1].stderr for b in (log.cate.numpy(), None))
    assert sharp < 0.8 * plain


def test_an_effect_of_zero_tells_no_examination() -> None:
    world = Promotion(PromotionSpec(items=6, slots=2, covariates=2, sleeping_dogs=1.0))
    data, _ = of(world, Random(), 500, 1)
    with pytest.raises(BadInput, match=r"the effect at the first slot is .*, too near 0 or below it"):
        examination_of(data)


def test_what_a_ranking_would_bring_is_told_from_the_log_of_another() -> None:
    """By effect and by probability, from the log of a random policy, against the world's exact reward."""
    world = Promotion(SHOP)
    theta, n = world.examination().numpy(), 4000
    log = exposures(world, Random(), n, Seed(11), unshown=1.0)
    data = Exposures.of(*(c.numpy() for c in (log.X, log.slot, log.Y, log.chance)), user=log.user.numpy())
    model = ExposureEffect(theta, folds=3).fit(data)
    state = world.reset(n, Seed(11).split("world"))
    context = world.observe(state)
    gains = {}
    for name, index in (("effect", world.cate(state)), ("probability", world.treated(state))):
        ranking = UpliftRanking(partial(given, index), name).distribution(context, world.slots)
        dose = expected_dose(ranking, theta)[log.user, log.item].numpy()
        gains[name] = ranking_gain(data, model.scores_, dose, name=name)
        slate = context.slate(ranking.mode())
        truth = float((world.expected_reward(state, slate) - world.unasked(state.users)).mean())
        low, high = gains[name].interval(0.999)
        assert low < truth < high
        assert gains[name].stderr < 0.05
    gap = gains["effect"].minus(gains["probability"])
    assert gap.interval()[0] > 0
    assert gap.stderr < 1.4 * gains["effect"].stderr


def test_sorting_by_the_true_effect_is_the_best_slate_and_a_learned_one_beats_probability() -> None:
    world = Promotion(SHOP)
    state = world.reset(300, Seed(3))
    best = (
        UpliftRanking(partial(given, world.cate(state)))
        .distribution(world.observe(state), world.slots)
        .mode()
    )
    torch.testing.assert_close(world.expected_reward(state, best), world.best_value(state))

    data, _ = of(world, Leaning(world, 0.8), 5000, 12)
    model = ExposureEffect(world.examination().numpy(), LogisticRegression(), folds=3).fit(data)
    shown = data.shown
    buys = LogisticRegression(max_iter=1000).fit(data.x[shown], data.y[shown])

    features = partial(seen_pairs, world)
    uplift = UpliftRanking(OfPairs(model.effect, features))
    probability = UpliftRanking(OfPairs(lambda x: buys.predict_proba(x)[:, 1], features), "probability")
    first, second = (
        roll(world, p, 400, Seed(13), first_user=10**6, steps=5).reward.sum(0).tolist()
        for p in (uplift, probability)
    )
    assert paired_interval(first, second).low > 0


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    world = Promotion(SHOP)
    theta = world.examination().numpy()
    held = {"ate": 0, "overlap": 0, "gain": 0}
    truth = float(world.ate().mean())
    for seed in range(200):
        data, log = of(world, Leaning(world, 0.5), 600, 100 + seed, unshown=0.3)
        model = ExposureEffect(theta, folds=2).fit(data)
        low, high = model.ate().interval()
        held["ate"] += low < truth < high
        v = Dose.of(data, theta).variance * log.weight.numpy()
        low, high = model.overlap_average().interval()
        held["overlap"] += low < float(np.average(log.cate.numpy(), weights=v)) < high
        dose = (log.item.numpy() == 0) * 1.0
        low, high = ranking_gain(data, model.scores_, dose).interval()
        held["gain"] += low < float(world.ate()[0]) < high
    for name, count in held.items():  # binomial, one in a million
        assert 172 <= count <= 200, name


CASES: list[tuple[dict[str, Any], str]] = [
    ({"chance": [[0.5, 0.6]]}, "chance, row 0: slots and not being shown sum to 1.1, not to 1"),
    ({"chance": [[1.2, -0.2]]}, "chance, row 0, slot 0: 1.2 is no chance in"),
    ({"chance": [[1.0]]}, "chance has one column, but there is at least one slot"),
    ({"slot": [2.0]}, "column slot, row 0: 2 is no slot from 0 to 0, and 1 or -1 stand for not shown"),
    ({"chance": [[0.0, 1.0]]}, "chance, row 0: slot 0 was logged, but its chance is 0"),
    ({"slot": [-1.0], "chance": [[1.0, 0.0]]}, "chance, row 0: not being shown was logged, but its chance"),
    ({"y": [np.nan]}, "column y, row 0: nan is not a finite number"),
    ({"weight": [-1.0]}, "column weight, row 0: -1 is negative"),
    ({"names": ("a", "b")}, "1 features have 2 names"),
    ({"user": [1, 2]}, "column user has 2 rows, but 1 are asked for"),
]


@pytest.mark.parametrize(("change", "sentence"), CASES)
def test_what_cannot_be_is_refused(change: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"x": [[0.0]], "slot": [0.0], "y": [1.0], "chance": [[0.5, 0.5]]} | change
    with pytest.raises(BadInput, match=sentence):
        Exposures.of(**given)


def test_a_certain_slot_and_other_misfits_are_refused() -> None:
    data, _ = listed(THETA, 0.3, 0.2, np.array([0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(BadInput, match="examination is of 2 slots, but the log has 3"):
        Dose.of(data, [1.0, 0.5])
    with pytest.raises(BadInput, match=r"examination of slot 1 is 1\.5, no chance"):
        Dose.of(data, [1.0, 1.5, 0.2])
    sure = Exposures.of([[0.0]], [0], [1.0], [[1.0, 0.0]])
    with pytest.raises(BadInput, match="row 0: its slot was certain"):
        Dose.of(sure, [1.0])
    with pytest.raises(BadInput, match="folds is 1, but a model"):
        deal(data, 1, Seed(0))
    with pytest.raises(BadInput, match="the log has 8 rows, too few for 9 folds"):
        ExposureEffect(THETA, folds=9).fit(data)
    with pytest.raises(BadInput, match="this log says no users"):
        ranking_gain(data, data.y, data.y)
    with pytest.raises(BadInput, match="column slot: no item was shown"):
        shown_or_not(data.rows(data.slot == 3))
    model = ExposureEffect(THETA, folds=2).fit(data)
    with pytest.raises(BadInput, match="slot is 3, but slots run from 0 to 2"):
        model.effect_at(data.x, 3)
    with pytest.raises(BadInput, match="the effect knows 1 features, and these are 2"):
        model.effect(np.zeros((2, 2)))
    half = Exposures.of(data.x, data.slot, data.y + 0.5, data.chance)
    with pytest.raises(BadInput, match=r"column y, row 0: 0\.5, but a classifier needs 0 or 1"):
        ExposureEffect(THETA, LogisticRegression(), folds=2).fit(half)
    with pytest.raises(BadInput, match="unshown is 0, but it is a share"):
        exposures(Promotion(SHOP), Random(), 5, Seed(0), unshown=0)
