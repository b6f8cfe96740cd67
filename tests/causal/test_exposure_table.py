"""Logs of propensities alone and of any slate distribution, rankings by an index: by listing, in worlds."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from causal.exposure import Exposures
from causal.exposure_dose import Dose, score
from causal.exposure_effect import ExposureEffect
from causal.exposure_log import exposures_of
from causal.exposure_places import places_by, places_of
from causal.exposure_policy import OfPairs, UpliftRanking, slate_by_effect
from causal.exposure_value import examination_of, expected_dose, imbalance_of, ranking_gain
from causal.targeting.measure import Measure, measure
from envs.exposures import exposures, seen_pairs
from envs.users.promotion import Promotion
from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.seeds import Seed
from simlab.slates import Ranked
from simlab.slates.grouped import GroupedPlackettLuce
from tests.causal.test_exposure import Leaning
from tests.causal.test_exposure_log import SHOP, logged

THETA = np.array([1.0, 0.5, 0.2])
KINDS = ((0.5, 0.3, [0.3, 0.3, 0.2, 0.2]), (0.1, 0.1, [0.1, 0.1, 0.1, 0.7]))
"""p0, τ and the chances of places of two kinds of pairs: the first sells more and is shown more."""


def listed() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return each kind at each place, y at its mean, with its probability; chances beside."""
    dose = np.append(THETA, 0.0)
    slot, kind = np.tile(np.arange(4), 2), np.repeat([0, 1], 4)
    p0, tau = (np.array([k[i] for k in KINDS])[kind] for i in (0, 1))
    chance = np.array([k[2] for k in KINDS])[kind]
    rows = {
        "x": kind[:, None] * 1.0, "slot": slot, "y": p0 + dose[slot] * tau, "weight": chance[range(8), slot],
        "propensity": chance[range(8), slot],
    }  # fmt: skip
    return rows, chance


@dataclass(frozen=True)
class Varied:
    """Shows by a softmax that fines items of one group: its slot marginals are estimates."""

    world: Promotion
    name: str = "varied"

    def distribution(self, context: Context, slots: int) -> GroupedPlackettLuce:
        pull = context.features[:, :3] @ self.world.catalog.features[:, :3].T
        rows, cands = pull.shape
        group = (torch.arange(cands) % 3).expand(rows, cands)
        fine = torch.arange(slots).float().expand(rows, 3, slots)
        return GroupedPlackettLuce(pull, slots, group, fine, context.mask)


# Propensities alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("unshown", [True, False])
def test_propensities_of_what_happened_are_enough(unshown: bool) -> None:
    """On the listed population the mean score is exactly the mean effect, whatever is guessed."""
    rows, _ = listed()
    keep = np.full(8, True) if unshown else rows["slot"] < 3
    slot = np.where(rows["slot"] == 3, -1, rows["slot"])
    kept: dict[str, Any] = {k: v[keep] for k, v in (rows | {"slot": slot}).items()}
    data = Exposures.of(**kept)
    assert data.weight is not None
    for guess in (0.0, 3.0):
        found = score(data, Dose.of(data, THETA), guess * np.ones(len(data)), np.full(len(data), -guess))
        for kind, tau in enumerate((0.3, 0.1)):
            own = data.weight * (data.x[:, 0] == kind)
            assert own @ found / own.sum() == pytest.approx(tau, abs=1e-12)
        assert data.weight @ found / data.weight.sum() == pytest.approx(0.2, abs=1e-12)
    if unshown:
        told = examination_of(data.rows(np.repeat(np.arange(8), 400)), baseline=np.repeat(data.y, 400) * 0.9)
        np.testing.assert_allclose([m.value for m in told], THETA, atol=1e-12)


def test_a_table_of_propensities_says_what_all_chances_say() -> None:
    world = Promotion(SHOP)
    theta = world.examination().double().numpy()
    log = exposures(world, Leaning(world, 0.5), 3000, Seed(21), unshown=0.5)
    table = log.frame()
    assert list(table.columns[6:]) == list(log.feature_names)
    assert table.slot.isna().mean() > 0.4
    data = Exposures.of(
        table[list(log.feature_names)],
        table.slot,
        table.outcome,
        propensity=table.propensity,
        user=table.user,
        weight=table.weight,
        item=table.item,
    )
    found = ExposureEffect(theta, folds=3).fit(data).ate()
    truth = float(np.average(log.cate.numpy(), weights=log.weight.numpy()))
    assert abs(found.value - truth) < 4 * found.stderr
    assert found.stderr < 0.02
    every = Exposures.of(log.X, log.slot, log.Y, log.chance, user=log.user, weight=log.weight)
    assert found.stderr > 0.9 * ExposureEffect(theta, folds=3).fit(every).ate().stderr
    assert abs(examination_of(data)[1].value - 0.5) < 4 * examination_of(data)[1].stderr


def test_a_log_without_a_logger_compares_slots() -> None:
    world = Promotion(replace(SHOP, candidates=6))
    theta = world.examination().double().numpy()
    log, bought = logged(world, Random(), 4000, 3)
    features = partial(seen_pairs, world)
    data = exposures_of(log, None, bought, features)
    assert len(data) == 4000 * 3
    assert bool(data.shown.all())
    model = ExposureEffect(theta, folds=2).fit(data)
    truth = world.cate(world.reset(4000, Seed(3).split("world"))).double().numpy()
    assert data.user is not None
    assert data.item is not None
    found = model.ate()
    assert abs(found.value - truth[data.user, data.item].mean()) < 4 * found.stderr
    with pytest.raises(BadInput, match="the log has no column slot_propensity, and no logger was given"):
        exposures_of(replace(log, slot_propensity=None), None, bought, features)
    with pytest.raises(BadInput, match="the chance of not being shown is 0, and no row has one of every"):
        examination_of(data)


# Logs of any policy ---------------------------------------------------------------------------


def test_a_log_of_estimated_marginals_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simlab.slates.grouped.DRAWS", 96)
    world = Promotion(SHOP)
    policy, theta = Varied(world), world.examination().double().numpy()
    log, bought = logged(world, policy, 250, 4)
    data = exposures_of(log, policy, bought, partial(seen_pairs, world), unshown=1.0)
    np.testing.assert_allclose(data.chance.sum(1), 1.0)
    assert data.weight is not None
    assert int(data.shown.sum()) == 250 * 3
    twin = exposures(world, policy, 250, Seed(4), unshown=1.0)
    np.testing.assert_allclose(twin.chance.numpy(), data.chance, atol=1e-12)
    found = ExposureEffect(theta, folds=2).fit(data).overlap_average()
    open_ = Dose.of(data, theta).variance
    assert abs(found.value - float(np.average(twin.cate.numpy(), weights=open_))) < 4 * found.stderr
    with pytest.raises(BadInput, match="it is not the logger of this log"):
        exposures_of(log, Random(), bought, partial(seen_pairs, world))


@pytest.mark.parametrize("strength", [4.0, 15.0])
def test_pairs_that_a_softmax_hardly_ever_shows_are_no_reason_to_stop(strength: float) -> None:
    world = Promotion(SHOP)
    policy, theta = Leaning(world, strength), world.examination().double().numpy()
    log, bought = logged(world, policy, 500, 1)
    data = exposures_of(log, policy, bought, partial(seen_pairs, world), unshown=1.0)
    assert Dose.of(data, theta).variance.min() < 1e-9
    found = ExposureEffect(theta, folds=2).fit(data)
    assert np.isfinite(found.scores_).all()
    truth = world.cate(world.reset(500, Seed(1).split("world"))).double().numpy()[data.user, data.item]
    sharp = found.overlap_average()
    assert abs(sharp.value - np.average(truth, weights=Dose.of(data, theta).variance)) < 4 * sharp.stderr
    some = exposures_of(log, policy, bought, partial(seen_pairs, world), unshown=1.0, least=0.05)
    assert some.chance[:, -1].max() <= 0.95
    assert len(some) == int((data.chance[:, -1] <= 0.95).sum())


def test_what_is_kept_does_not_hang_on_the_order_of_the_log() -> None:
    world = Promotion(SHOP)
    log, bought = logged(world, Random(), 200, 5, steps=3)
    features = partial(seen_pairs, world)
    order = torch.randperm(len(log), generator=Seed(1).torch())
    one = exposures_of(log, Random(), bought, features)
    two = exposures_of(log.rows(order), Random(), bought[order], features)
    assert two.slate is not None
    assert one.slate is not None
    assert one.item is not None
    assert two.item is not None
    back = np.lexsort((two.item, order.numpy()[two.slate]))
    here = np.lexsort((one.item, one.slate))
    for name in ("x", "slot", "y", "chance", "user", "weight", "item"):
        np.testing.assert_array_equal(getattr(one, name)[here], getattr(two, name)[back])
    first, second = (ExposureEffect(THETA, folds=2).fit(d).ate() for d in (one, two))
    assert first.value == pytest.approx(second.value, abs=1e-9)
    assert first.stderr == pytest.approx(second.stderr, abs=1e-9)


def test_wrong_chances_show_in_where_pairs_stood() -> None:
    rows, chance = listed()
    exact = Exposures.of(rows["x"], rows["slot"], rows["y"], chance, weight=rows["weight"], user=range(8))
    for by in (None, rows["x"][:, 0] + 2):
        np.testing.assert_allclose([m.value for m in imbalance_of(exact, by=by)], 0, atol=1e-12)
    world = Promotion(SHOP)
    log = exposures(world, Leaning(world, 0.8), 1500, Seed(8), unshown=0.3)
    right = of_world(log)
    own = log.chance.gather(1, log.slot.unsqueeze(1)).squeeze(1)
    place = log.slot.where(log.slot < 3, -1)
    alone = Exposures.of(log.X, place, log.Y, propensity=own, user=log.user, weight=log.weight)
    even = torch.tensor([1 / 12, 1 / 12, 1 / 12, 3 / 4], dtype=torch.float64)
    wrong = Exposures.of(log.X, log.slot, log.Y, even.expand(len(log), 4), user=log.user, weight=log.weight)
    blind = Exposures.of(log.X, place, log.Y, propensity=even[log.slot], user=log.user, weight=log.weight)
    lean = (log.X[:, :3] * log.X[:, 3:6]).sum(1)  # what the policy leans to
    for data in (right, alone):
        assert all(abs(m.value) < 4 * m.stderr for by in (None, lean) for m in imbalance_of(data, by=by))
    for data in (wrong, blind):
        assert all(abs(m.value) < 4 * m.stderr for m in imbalance_of(data))  # even on the whole
        assert imbalance_of(data, by=lean)[0].value > 10 * imbalance_of(data, by=lean)[0].stderr


# Averages -------------------------------------------------------------------------------------


def test_averages_of_an_item_at_a_slot() -> None:
    world = Promotion(replace(SHOP, sleeping_dogs=0.0))
    log = exposures(world, Random(), 1500, Seed(4), unshown=0.3)
    data = Exposures.of(log.X, log.slot, log.Y, log.chance, user=log.user, weight=log.weight, item=log.item)
    theta = examination_of(data)
    assert data.item is not None
    assert data.weight is not None
    own = data.item == 3
    model, known = (ExposureEffect(t, folds=2).fit(data) for t in (theta, [m.value for m in theta]))
    plain = known.ate(own)
    assert plain.value == pytest.approx(np.average(model.scores_[own], weights=data.weight[own]))
    assert abs(plain.value - world.ate()[3]) < 4 * plain.stderr
    at = known.ate(own, slot=1)
    assert at.value == pytest.approx(theta[1].value * plain.value)
    assert at.stderr == pytest.approx(theta[1].value * plain.stderr)
    assert model.ate(own, slot=0).stderr == pytest.approx(model.ate(own).stderr)  # θ of slot 0 is 1
    # By finite differences of each θ, from other users.
    other = examination_of(
        Exposures.of(*(getattr(log, n) for n in ("X", "slot", "Y", "chance")), weight=log.weight)
    )
    for average in ("ate", "overlap_average"):
        base = np.array([m.value for m in other])
        slope = np.zeros(3)
        for k in (1, 2):
            for sign in (1, -1):
                moved = base.copy()
                moved[k] += sign * 0.02
                fitted = ExposureEffect(list(moved), folds=2).fit(data)
                slope[k] += sign * getattr(fitted, average)(own, slot=2).value / 0.04
        joint = np.stack([m.influence for m in other], 1) @ slope
        still = getattr(ExposureEffect(list(base), folds=2).fit(data), average)(own, slot=2)
        counted = getattr(ExposureEffect(other, folds=2).fit(data), average)(own, slot=2)
        expected = np.sqrt(still.stderr**2 + joint @ joint)
        assert expected > 1.1 * still.stderr
        assert counted.stderr == pytest.approx(expected, rel=0.1)
    with pytest.raises(BadInput, match="column where: no row is chosen"):
        model.ate(data.item == 99)
    with pytest.raises(BadInput, match="slot is 3, but slots run from 0 to 2"):
        model.overlap_average(slot=3)


# Rankings -------------------------------------------------------------------------------------


def test_places_by_an_index_are_those_of_a_ranking_with_ties_in_any_order() -> None:
    luck = np.random.default_rng(0)
    index = luck.integers(0, 3, (20, 7)).astype(float)
    chance = np.full((140, 4), 0.25)
    slate = np.repeat(luck.permutation(20), 7)
    data = Exposures.of(np.zeros((140, 1)), np.full(140, 3), np.zeros(140), chance, slate=slate)
    table = Ranked(torch.from_numpy(index), 3).slot_marginals()
    wanted = table.transpose(1, 2).reshape(140, 3).numpy()
    np.testing.assert_allclose(places_by(data, index.reshape(-1)), wanted)
    order = luck.permutation(140)
    np.testing.assert_allclose(places_by(data.rows(order), index.reshape(-1)[order]), wanted[order])
    with pytest.raises(BadInput, match="this log says neither slates nor users"):
        places_by(replace(data, slate=None), index.reshape(-1))


def test_the_error_of_an_estimated_examination_counts_in_gains() -> None:
    """On the listed population the derivative of the gain by θ is exact, by finite differences."""
    rows, chance = listed()
    weight = rows["weight"]
    data = Exposures.of(rows["x"], rows["slot"], rows["y"], chance, weight=weight, user=range(8))
    places = np.random.default_rng(1).dirichlet(np.ones(4), 2)[:, :3].repeat(4, 0)
    rough = np.random.default_rng(2).normal(size=(3, 50)) / 50

    def gain(theta: np.ndarray, estimated: bool) -> Measure:
        psi = score(data, Dose.of(data, theta), np.zeros(8), np.zeros(8))
        told = tuple(measure(t, r, None, "θ") for t, r in zip(theta, rough, strict=True))
        return ranking_gain(data, psi, places, examination=told if estimated else list(theta))

    slope = [
        (gain(THETA + e, False).value - gain(THETA - e, False).value) / 2e-6 for e in np.eye(3)[1:] * 1e-6
    ]
    less, most = (gain(np.array([1 - e, 0.5, 0.2]), False).value for e in (2e-6, 0.0))
    joint = np.array([(most - less) / 2e-6, *slope]) @ rough
    known, counted = gain(THETA, False), gain(THETA, True)
    assert counted.value == known.value
    assert counted.value == pytest.approx(
        sum(tau * places[4 * i] @ THETA for i, (_, tau, _) in enumerate(KINDS)) / 8
    )
    many = 58 / 57
    square = (known.stderr**2 * 7 / 8 + joint @ joint) * many
    assert counted.stderr == pytest.approx(np.sqrt(square), rel=1e-5)
    # A common factor on θ changes no gain, so the error along θ is none.
    along = tuple(measure(t, t * rough[0], None, "θ") for t in THETA)
    psi = score(data, Dose.of(data, THETA), np.zeros(8), np.zeros(8))
    none = ranking_gain(data, psi, places, examination=along)
    assert none.stderr == pytest.approx(known.stderr * np.sqrt(7 / 8 * many))
    # The same as by doses, where θ is known.
    assert known.stderr == ranking_gain(data, psi, places @ THETA).stderr


def test_a_ranking_of_a_log_with_empty_slots_is_worth_what_the_world_says() -> None:
    world, n = Promotion(replace(SHOP, cost=0.05)), 4000
    theta = world.examination().double().numpy()
    log, bought = logged(world, Random(), n, 6)
    data = exposures_of(log, Random(), bought, partial(seen_pairs, world), unshown=0.5)
    model = ExposureEffect(theta, folds=2).fit(data)
    state = world.reset(n, Seed(6).split("world"))
    slate = slate_by_effect(world.cate(state), world.observe(state), theta, blank=world.blank, cost=0.05)
    found = ranking_gain(data, model.scores_, places_of(data, log, slate), examination=theta)
    cost = 0.05 * float((slate != world.blank).sum(1).double().mean())
    truth = float((world.best_value(state) - world.unasked(state.users)).mean())
    assert abs(found.value - cost - truth) < 4 * found.stderr
    assert found.stderr < 0.04
    full = places_by(
        exposures_of(log, Random(), bought, partial(seen_pairs, world), unshown=1.0), np.zeros(12 * n)
    )
    np.testing.assert_allclose(full, 1 / 12)
    with pytest.raises(BadInput, match=r"the target's slates have shape \(4000, 2\), but the log has 4000"):
        places_of(data, log, slate[:, :2])


def test_where_items_compete_the_effect_is_that_of_the_loggers_slates() -> None:
    """Every slate of 2 of 3 items listed; seen beside another item, an item moves half as much."""
    theta, tau = np.array([1.0, 0.5]), 0.4
    slates = list(permutations(range(3), 2))
    chance = np.array([0.3, 0.1, 0.2, 0.05, 0.15, 0.2])
    place = np.array([[s.index(i) if i in s else 2 for i in range(3)] for s in slates])
    dose = np.append(theta, 0.0)
    beside = np.array([[sum(theta[k] for k, j in enumerate(s) if j != i) for i in range(3)] for s in slates])
    y = 0.1 + dose[place] * tau * (1 - beside / 2)
    at = np.stack([[chance @ (place[:, i] == k) for k in range(3)] for i in range(3)])
    data = Exposures.of(
        np.zeros((18, 1)), place.reshape(-1), y.reshape(-1), np.tile(at, (6, 1)),
        weight=chance.repeat(3), item=np.tile(range(3), 6), slate=np.arange(6).repeat(3),
    )  # fmt: skip
    psi = score(data, Dose.of(data, theta), np.zeros(18), np.zeros(18))
    assert data.weight is not None
    for i in range(3):
        own = data.weight * (data.item == i)
        mean = np.array([chance * (place[:, i] == k) @ y[:, i] for k in range(3)]) / at[i]
        slope = (at[i] * (dose - at[i] @ dose) @ mean) / (at[i] * (dose - at[i] @ dose) ** 2).sum()
        assert own @ psi == pytest.approx(slope, abs=1e-12)
        assert 0 < slope < tau


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_intervals_of_gains_with_an_estimated_examination_hold_the_truth(apart: bool) -> None:
    world = Promotion(replace(SHOP, items=6, effect=0.45, sleeping_dogs=0.0))
    theta, held, naive = world.examination().double().numpy(), 0, 0
    for seed in range(300):
        log = exposures(world, Random(), 500, Seed(1000 + seed), unshown=1.0)
        data = of_world(log)
        told = examination_of(
            of_world(exposures(world, Random(), 400, Seed(5000 + seed), unshown=0.5)) if apart else data
        )
        model = ExposureEffect(told, folds=2).fit(data)
        places = places_by(data, log.cate.numpy())
        truth = float((places @ theta) @ log.cate.numpy()) / 500
        low, high = ranking_gain(data, model.scores_, places, examination=told).interval()
        held += low < truth < high
        dose = places @ np.array([m.value for m in told])
        low, high = ranking_gain(data, model.scores_, dose).interval()
        naive += low < truth < high
    assert 264 <= held <= 299  # binomial, one in a million
    assert naive < held


def of_world(log: Any) -> Exposures:
    return Exposures.of(log.X, log.slot, log.Y, log.chance, user=log.user, weight=log.weight)


# What is refused ------------------------------------------------------------------------------

TWO: dict[str, Any] = {"x": [[0.0], [1.0]], "slot": [0, -1], "y": [1.0, 0.0]}
HALVES = [[0.5, 0.5]] * 2
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "give either chance, of every slot, or propensity, of what happened"),
    ({"chance": HALVES, "propensity": [0.5, 0.5]}, "give either chance"),
    ({"propensity": [0.5, 0.0]}, r"column propensity, row 1: 0 is no chance in \(0, 1\]"),
    ({"propensity": [0.5, 50.0]}, "column propensity, row 1: 50 is no chance"),
    ({"propensity": [0.5, np.nan]}, "column propensity, row 1: nan is not a finite number"),
    ({"propensity": [0.5, 0.5], "slot": [0.5, -1]}, r"column slot, row 0: 0\.5 is no slot"),
    ({"propensity": [0.5, 0.5], "slot": [0, 0]}, "every row was shown at slot 0, so there is nothing to"),
    ({"propensity": [0.5, 0.5], "slot": [None, None]}, "every row was not shown, so there is nothing to"),
    ({"chance": HALVES, "user": ["a", None]}, "column user, row 1: the value is missing"),
    ({"chance": HALVES, "item": ["a", "a"], "slate": [3, 3]}, "row 1: item 0 of this slate has row 0, too"),
    ({"chance": HALVES, "item": [4, 4], "user": [3, 3]}, "say of which `slate` each row is"),
    ({"chance": HALVES, "x": pd.DataFrame({"age": [1, 2], "town": ["a", "b"]})}, "feature town is no column"),
    ({"chance": HALVES, "y": [1.0]}, "column y has 1 rows, but 2 are asked for"),
]


@pytest.mark.parametrize(("change", "sentence"), CASES)
def test_tables_that_cannot_be_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        Exposures.of(**(TWO | change))


def test_labels_missing_slots_and_tensors_are_taken() -> None:
    data = Exposures.of(
        torch.zeros(2, 1, requires_grad=True), pd.Series([0, None], dtype="Int64"), torch.tensor([1.0, 0.0]),
        HALVES, item=["b", "a"], user=["x", "y"],
    )  # fmt: skip
    assert data.slot.tolist() == [0, 1]
    assert data.item is not None
    assert data.item.tolist() == [1, 0]


def test_effects_that_are_no_numbers_are_not_shown_first() -> None:
    world = Promotion(SHOP)
    context = world.observe(world.reset(3, Seed(1)))
    effect = torch.zeros(3, 12)
    effect[1, 4] = torch.nan
    with pytest.raises(BadInput, match="effect, user 1, candidate 4: nan is not a number"):
        UpliftRanking(lambda c: effect).distribution(context, 3)
    with pytest.raises(BadInput, match=r"effect has shape \(2, 12\), but there are \(3, 12\) users and"):
        slate_by_effect(effect[:2], context, THETA, blank=12)
    hidden = replace(context, mask=context.candidates != 4)
    assert 4 not in UpliftRanking(lambda c: effect).distribution(hidden, 11).mode()


def test_models_of_pairs_are_asked_in_pieces_and_of_candidates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Promotion(SHOP)
    context = world.observe(world.reset(7, Seed(1)))
    context = replace(context, mask=context.candidates != 5)
    asked: list[int] = []

    def features(seen: Context) -> torch.Tensor:
        return seen_pairs(world, seen).masked_fill(~seen.mask.unsqueeze(2), torch.nan)

    def predict(x: np.ndarray) -> np.ndarray:
        assert np.isfinite(x).all()
        asked.append(len(x))
        return np.asarray(x[:, 0] + 2 * x[:, 3])

    monkeypatch.setattr("causal.exposure_policy._CELLS", 200)
    found = OfPairs(predict, features)(context)
    x = seen_pairs(world, context)
    torch.testing.assert_close(found, (x[..., 0] + 2 * x[..., 3]).masked_fill(~context.mask, 0.0))
    assert sum(asked) == 7 * 11
    assert max(asked) == 200 // x.shape[2]


def test_a_log_and_its_outcomes_are_refused_by_round_and_item() -> None:
    world = Promotion(SHOP)
    log, bought = logged(world, Random(), 60, 1)
    features = partial(seen_pairs, world)
    lost = bought.clone()
    lost[7, 3] = torch.nan
    with pytest.raises(BadInput, match="outcome, round 7, item 3: nan is not a finite number"):
        exposures_of(log, Random(), lost, features, unshown=1.0)

    def gap(seen: Context) -> torch.Tensor:
        found = features(seen)
        found[9, 2, 1] = torch.inf
        return found

    with pytest.raises(BadInput, match="features, round 9, item 2, column 1: inf is not a finite number"):
        exposures_of(log, Random(), bought, gap, unshown=1.0)
    with pytest.raises(BadInput, match=r"least is 1, but it is a chance in \[0, 1\)"):
        exposures_of(log, Random(), bought, features, least=1)
    data = exposures_of(log, Random(), bought, features, unshown=1.0)
    assert data.item is not None
    with pytest.raises(BadInput, match="column item, row 0: -1 is none of the 12 of the log"):
        places_of(replace(data, item=data.item - 1), log, Random())
    with pytest.raises(BadInput, match="column slate, row 240: 20 is none of the 20 of the log"):
        places_of(data, log.rows(slice(0, 20)), Random())
    with pytest.raises(BadInput, match=r"was shown at slot \d, but not in round \d+ of this log"):
        places_of(data, log.rows(torch.arange(59, -1, -1)), Random())
    with pytest.raises(BadInput, match=r"dose has shape \(720, 1\), but with `examination` it is the chance"):
        ranking_gain(data, data.y, data.y, examination=THETA)
    with pytest.raises(BadInput, match=r"dose, row 0, slot 0: 1 of 3 are no chances"):
        ranking_gain(data, data.y, np.ones((720, 3)), examination=THETA)
    theta = tuple(measure(t, np.ones(2) * 0.01, None, "θ") for t in THETA)
    drawn = Random().distribution(log.context(), 3)
    torch.testing.assert_close(expected_dose(drawn, theta), expected_dose(drawn, THETA))
    with pytest.raises(BadInput, match="column examination, row 1: nan is not a finite number"):
        expected_dose(drawn, [1.0, np.nan, 0.2])
