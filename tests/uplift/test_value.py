"""The value of assignments: off-policy evaluation to the digit, slopes by the weights, a known truth."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from causal.bandit.balanced_ips import BalancedIPS
from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds
from causal.evaluation import estimate, paired_difference
from causal.targeting.budget import by_threshold
from causal.targeting.measure import Measure
from causal.targeting.policies import Assignment, by_score, everybody, nobody, threshold, top_share
from causal.targeting.returns import returns
from causal.targeting.scores import Nuisances, aipw, average, nuisances
from causal.targeting.value import against, random_value, rounds, value
from causal.uplift.contract import Trial
from envs.users._promotion_spec import PromotionSpec
from envs.users.promotion import Promotion
from simlab.errors import BadInput
from simlab.seeds import Seed

Array = np.ndarray


def made(n: int, seed: int, arms: int = 2, **more: Any) -> tuple[Trial, Nuisances]:
    """The effect of arm k is k x₀; the chance of an arm hangs on x₁."""
    luck = np.random.default_rng(seed)
    x = luck.normal(size=(n, 3))
    e = np.exp(0.5 * x[:, 1:2] * np.arange(arms))
    e /= e.sum(1, keepdims=True)
    arm = (luck.random((n, 1)) > np.cumsum(e, 1)).sum(1)
    arm[:arms] = np.arange(arms)
    mu = 1 + x[:, 2:] + x[:, :1] * np.arange(arms)
    y = mu[np.arange(n), arm] + luck.normal(size=n)
    trial = Trial.of(x, arm, y, propensity=e, **more)
    return trial, Nuisances(mu + 0.3 * luck.normal(size=mu.shape), e, np.full(n, -1))


@pytest.mark.parametrize("estimator", [DR(), IPS(), SNIPS(), SNDR()])
@pytest.mark.parametrize("clustered", [False, True])
def test_it_is_off_policy_evaluation(estimator: Estimator[Rounds], clustered: bool) -> None:
    users: Array | None = np.arange(200) // 3 if clustered else None
    trial, found = made(200, 0, arms=3, user=users)
    luck = np.random.default_rng(1)
    one, two = (Assignment.of(luck.dirichlet(np.ones(3), 200)) for _ in range(2))
    sides = [estimate(estimator, rounds(a, trial, found)) for a in (one, two)]
    both = [value(a, trial, found, estimator=estimator) for a in (one, two)]
    for wanted, got in zip(sides, both, strict=True):
        assert got.value == wanted.value
        assert got.stderr == pytest.approx(wanted.stderr, rel=1e-12)
    group = rounds(one, trial, found).group
    gap = paired_difference(sides[0].scores, sides[1].scores, group=group)
    got = both[0].minus(both[1])
    assert (got.value, got.stderr) == pytest.approx((gap.value, gap.stderr), rel=1e-10)


def test_it_is_the_mean_of_doubly_robust_scores() -> None:
    trial, found = made(300, 2, arms=3, weight=np.random.default_rng(3).uniform(0.1, 2, 300))
    gain = aipw(trial, mu=found.mu, e=found.e)
    weight = trial.weight
    assert weight is not None
    mean = average(gain, trial)
    empty = value(nobody(300, 3), trial, found)
    for arm in (1, 2):
        full = value(everybody(300, 3, arm), trial, found).minus(empty)
        assert full.value == pytest.approx(mean.value[arm - 1], abs=1e-12)
        assert full.stderr == pytest.approx(mean.stderr[arm - 1], abs=1e-12)
    chance = np.random.default_rng(4).dirichlet(np.ones(3), 300)
    part = value(Assignment.of(chance), trial, found).minus(empty)
    assert part.value == pytest.approx(np.average((chance[:, 1:] * gain).sum(1), weights=weight), abs=1e-12)


def test_a_share_has_the_standard_error_of_the_return_curve() -> None:
    trial, found = made(500, 5)
    gain = aipw(trial, mu=found.mu, e=found.e)[:, 0]
    score = np.round(trial.x[:, 0], 1)  # ties
    for share in (0.1, 0.5, 0.8):
        curve = returns(score, gain, value=2.0, cost=0.5, shares=[share])
        got = value(top_share(score, share), trial, found, worth=2.0, cost=0.5)
        got = got.minus(value(nobody(500), trial, found, worth=2.0))
        assert got.value == pytest.approx(curve.net[0], abs=1e-12)
        assert got.stderr == pytest.approx(2 * curve.gain_stderr[0], rel=1e-9)


def test_costs_are_exact_and_worth_scales() -> None:
    trial, found = made(200, 6, arms=3)
    rule = threshold(trial.x[:, :2])
    cost = np.random.default_rng(7).random((200, 2))
    for estimator in (DR(), IPS(), SNIPS()):
        plain = value(rule, trial, found, estimator=estimator)
        net = value(rule, trial, found, estimator=estimator, cost=cost, worth=3.0)
        paid = (rule.chance[:, 1:] * cost).sum(1)
        assert net.value == pytest.approx(3 * plain.value - paid.mean(), abs=1e-12)
        wanted = 3 * plain.influence - (paid - paid.mean()) / 200
        np.testing.assert_allclose(net.influence, wanted, atol=1e-12)
    # the doubly robust one is that of net outcomes
    full = np.column_stack([np.zeros(200), cost])
    other = Trial.of(trial.x, trial.arm, 3 * trial.y - full[np.arange(200), trial.arm])
    shifted = estimate(DR(), rounds(rule, other, replace(found, mu=3 * found.mu - full)))
    net = value(rule, trial, found, cost=cost, worth=3.0)
    assert (net.value, net.stderr) == pytest.approx((shifted.value, shifted.stderr), rel=1e-12)


def test_influences_are_the_derivatives_by_the_weights() -> None:
    luck = np.random.default_rng(8)
    n = 50
    x, arm, price = luck.normal(size=n), np.arange(n) % 2, luck.uniform(0.5, 1.5, n)
    score = np.linspace(1, 0, n)
    # effects are flat around the cuts, so that the window's mean is the edge itself
    effect = np.where(score > 0.97, 4.0, np.where(score > 0.2, 1.0, -1.0))
    weight = luck.uniform(0.5, 1.5, n)

    def trial(y: Array, w: Array) -> tuple[Trial, Nuisances]:
        mu = np.column_stack([x, x + y])
        return Trial.of(x[:, None], arm, mu[np.arange(n), arm], weight=w, propensity=0.5), Nuisances(
            mu, np.full((n, 2), 0.5), np.full(n, -1)
        )

    def share(w: Array) -> Assignment:
        return by_score(score, share=0.45, weight=w)

    def budget(w: Array) -> Assignment:
        plan = np.column_stack([score * price, 1.6 * score * price])
        return by_threshold(plan, np.column_stack([price, 2 * price]), 0.7 * w.sum(), weight=w).assignment

    def arms(w: Array) -> tuple[Trial, Nuisances]:
        mu = np.column_stack([x, x + effect * price, x + 2 * effect * price])
        three, even = np.arange(n) % 3, np.full((n, 3), 1 / 3)
        own = Trial.of(x[:, None], three, mu[np.arange(n), three], weight=w, propensity=even)
        return own, Nuisances(mu, even, np.full(n, -1))

    fixed = Assignment.of(luck.random(n))
    metrics: list[Callable[[Array], Measure]] = [
        lambda w: value(share(w), *trial(effect, w)),
        lambda w: value(share(w), *trial(effect, w), cost=0.3, worth=2.0),
        lambda w: random_value(share(w), *trial(effect, w), cost=0.3),
        lambda w: random_value(fixed, *trial(effect, w), cost=price),
        lambda w: against(fixed, *trial(effect, w))["random"],
        lambda w: value(fixed, *trial(effect, w), estimator=SNDR()),
        lambda w: value(budget(w), *arms(w)),
        lambda w: value(budget(w), *arms(w), cost=np.column_stack([price, 2 * price]), worth=3.0),
    ]
    ways = luck.normal(size=(10, n))  # in ten directions of all weights
    for measured in metrics:
        slope = [
            (measured(weight * (1 + 1e-6 * way)).value - measured(weight * (1 - 1e-6 * way)).value) / 2e-6
            for way in ways
        ]
        np.testing.assert_allclose(ways @ measured(weight).influence, slope, atol=1e-8)


def test_a_held_budget_is_random_by_its_arms() -> None:
    trial, found = made(400, 9, arms=3)
    rule = by_threshold(trial.x[:, :2], [1.0, 2.0], 150.0).assignment
    gaps = against(rule, trial, found, cost=0.1)
    assert set(gaps) == {"nobody", "everybody 1", "everybody 2", "random"}
    mean = value(Assignment.of(np.tile(rule.share, (400, 1))), trial, found, cost=0.1)
    assert gaps["random"].value == pytest.approx(value(rule, trial, found, cost=0.1).value - mean.value)
    other = against(rule, trial, found, others={"half": Assignment.of(np.tile([0.5, 0.5, 0], (400, 1)))})
    assert list(other) == ["half"]
    same = against(rule, trial, found, others={"itself": rule})["itself"]
    assert (same.value, same.stderr) == (0, 0)


def test_nuisances_are_fitted_when_there_are_none() -> None:
    trial, _ = made(300, 10)
    rule = threshold(trial.x[:, 0])
    given = nuisances(trial, seed=Seed(4))
    assert value(rule, trial, seed=Seed(4)).value == value(rule, trial, given).value
    plain = nuisances(trial, mu=np.zeros((300, 2)))
    assert value(rule, trial, estimator=IPS()).value == value(rule, trial, plain, estimator=IPS()).value
    clipped = value(rule, trial, plain, clip=0.6)
    wanted = (trial.y * rule.chance[np.arange(300), trial.arm] / 0.6)[
        plain.e[np.arange(300), trial.arm] < 0.6
    ]
    assert np.isclose(clipped.influence[plain.e[np.arange(300), trial.arm] < 0.6] * 300 + clipped.value,
                      wanted).all()  # fmt: skip


def test_refusals() -> None:
    trial, found = made(50, 11)
    rule = threshold(trial.x[:, 0])
    three, more = made(50, 11, arms=3)
    edge = top_share(trial.x[:, 0], 0.5)
    assert edge.edge is not None
    gone = replace(trial, weight=np.where(edge.edge.per > 0, 0.0, 1.0))
    first, nothing = (
        trial.rows(np.arange(1)),
        Nuisances(np.zeros((1, 2)), np.full((1, 2), 0.5), np.zeros(1, int)),
    )
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: value(rule, three, more), "assignment threshold has shape .50, 2., but the trial"),
        (lambda: value(rule, trial, more), "nuisances have shape .50, 3., but the trial has 50"),
        (lambda: value(rule, trial, found, cost=-1.0), "cost: -1 is negative"),
        (lambda: value(rule, trial, found, worth=np.nan), "worth is nan, not a finite number"),
        (lambda: value(rule, trial, found, estimator=BalancedIPS()), "this estimator needs weights"),
        (lambda: value(edge, gone, found), "the rows at the assignment's edge have no weight"),
        (lambda: value(rule.rows(np.arange(1)), first, nothing), "a standard error needs at least 2 rows"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()


def test_intervals_cover_a_known_value() -> None:
    luck = np.random.default_rng(12)
    many, hits = 120, np.zeros(5)
    # X uniform: the share above a cut and its value are known. Effect 2 X - ½, outcome X - ½ + effect.
    for _ in range(many):
        n = 300
        x, arm = luck.random(n), luck.integers(0, 2, n)
        mu = np.column_stack([x - 0.5, 3 * x - 1])
        y = mu[np.arange(n), arm] + luck.normal(size=n)
        trial = Trial.of(x[:, None], arm, y, propensity=0.5)
        found = Nuisances(mu[:, ::-1] * 0.5, np.full((n, 2), 0.5), np.full(n, -1))  # a wrong model
        best, worst = top_share(x, 0.5), top_share(-x, 0.5)
        dear = by_threshold(2 * x - 0.5, 0.5 + x, 0.2 * n).assignment
        # ratio above r where x > c with ∫_c^1 (½ + x) dx = .2
        cut = (-1 + np.sqrt(1 + 4 * 1.6)) / 2
        pairs = (
            (value(threshold(2 * x - 0.5), trial, found), 0.25**2 * 9),
            (value(best, trial, found), 0.5),
            (value(best, trial, found).minus(value(worst, trial, found)), 0.5),
            (against(best, trial, found)["random"], 0.25),
            (value(dear, trial, found), 1 - cut**2 - 0.5 * (1 - cut)),
        )
        hits += [m.interval()[0] <= truth <= m.interval()[1] for m, truth in pairs]
    assert ((hits / many > 0.90) & (hits / many < 0.99)).all(), hits / many  # 95 % ± 2½ deviations


@cache
def shop() -> Promotion:
    return Promotion(PromotionSpec(items=3, effect=0.3, hidden=0.5, base=-1.0))


def offered(n: int, seed: int) -> tuple[Trial, Array, Array]:
    """A confounded trial whose chances are known, with the true chance without and the effect."""
    t = shop().trial(n, Seed(seed), confounding=0.5)
    return (
        Trial.of(t.X.numpy(), t.T.numpy(), t.Y.numpy(), propensity=t.propensity.numpy()),
        t.baseline.numpy(),
        t.cate.numpy(),
    )


Rules = dict[str, Callable[[Array], Assignment]]


@cache
def rules() -> Rules:
    """Rules learned on a trial of their own: by effect, by the chance of buying, with a cost, by a budget."""
    train, _, _ = offered(4_000, 1)
    wide = make_pipeline(PolynomialFeatures(2), LinearRegression())
    effect = wide.fit(train.x, aipw(train)[:, 0])
    shown = train.arm == 1
    buys = make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(train.x[shown], train.y[shown])

    def price(x: Array) -> Array:
        return np.exp(0.3 * x[:, 0])

    return {
        "effect": lambda x: top_share(effect.predict(x), 0.3),
        "response": lambda x: by_score(buys.predict(x), share=0.3),
        "cost": lambda x: threshold(effect.predict(x), 0.1),
        "budget": lambda x: by_threshold(effect.predict(x), price(x), 0.25 * len(x)).assignment,
    }


def gaps(x: Array, judge: Callable[[Assignment], Any]) -> dict[str, Any]:
    return {name: judge(rule(x)) for name, rule in rules().items()}


@cache
def truth() -> dict[str, float]:
    big, base, cate = offered(200_000, 2)
    found = gaps(big.x, lambda a: float((base + a.treated * cate).mean()))
    for name, rule in rules().items():
        found[f"{name} - random"] = float(((rule(big.x).treated - rule(big.x).treated.mean()) * cate).mean())
    found["effect - response"] = found["effect"] - found["response"]
    return found


def judged(n: int, seed: int) -> dict[str, Measure]:
    trial, _, _ = offered(n, seed)
    nuisance = nuisances(trial, make_pipeline(PolynomialFeatures(2), LinearRegression()), seed=Seed(seed))
    found = gaps(trial.x, lambda a: value(a, trial, nuisance))
    for name, rule in rules().items():
        found[f"{name} - random"] = against(rule(trial.x), trial, nuisance)["random"]
    found["effect - response"] = found["effect"].minus(found["response"])
    return found


def test_the_effect_beats_the_response_model_in_a_shop() -> None:
    wanted, found = truth(), judged(8_000, 3)
    for name, measured in found.items():
        assert abs(measured.value - wanted[name]) < 4 * measured.stderr, name
    low, _ = found["effect - response"].interval()
    assert low > 0
    assert found["effect - random"].interval()[0] > 0


@pytest.mark.slow
def test_intervals_cover_in_a_shop() -> None:
    wanted, many = truth(), 400
    hits = dict.fromkeys(wanted, 0)
    for seed in range(many):
        for name, measured in judged(600, 100 + seed).items():
            low, high = measured.interval()
            hits[name] += low <= wanted[name] <= high
    share = {name: hit / many for name, hit in hits.items()}
    assert all(0.92 <= s <= 0.98 for s in share.values()), share
