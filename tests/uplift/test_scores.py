"""Doubly robust scores: the reference's digits, robustness, cross-fitting, rankers, arms, weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression, LogisticRegression

from causal.targeting.scores import aipw, average, deal, ipw, nuisances, pick
from causal.uplift.contract import Trial
from simlab.adapters.nuisance import RankerClassifier, RankerRegressor
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.uplift.test_curves import CASES, Array, answers, hillstrom
from tests.uplift.test_rate import scores


def test_ready_nuisances_give_the_reference_scores() -> None:
    z, wanted = hillstrom(), answers("hillstrom_drtester")
    at = z["test"]
    trial = Trial.of(z["X"][at], z["T"][at], z["visit"][at])
    with np.load(CASES / "hillstrom_dr_outcomes.npz") as ready:
        found = aipw(trial, mu=ready["mu"][at], e=float(ready["e"]))
    np.testing.assert_allclose(found[:, 0], scores(), atol=1e-13)
    mean = average(found, trial)
    assert mean.value[0] == pytest.approx(wanted["dr_ate"], abs=1e-13)
    assert mean.stderr[0] == pytest.approx(wanted["dr_ate_se"], abs=1e-13)


def test_by_hand_with_three_arms() -> None:
    trial = Trial.of(np.zeros((3, 1)), [0, 1, 2], [3.0, 5.0, 7.0])
    mu, e = np.tile([1.0, 2.0, 4.0], (3, 1)), np.tile([0.5, 0.25, 0.25], (3, 1))
    found = aipw(trial, mu=mu, e=e)
    np.testing.assert_allclose(found, [[1 - 4, 3 - 4], [1 + 12, 3], [1, 3 + 12]])
    np.testing.assert_allclose(ipw(trial, e=[0.5, 0.25, 0.25]), [[-6, -6], [20, 0], [0, 28]])


def confounded(n: int, seed: int, **more: Any) -> tuple[Trial, Array, Array]:
    """The chance of treatment and the outcome both rise with x; the effect is 1 + x₀."""
    luck = np.random.default_rng(seed)
    x = luck.normal(size=(n, 3))
    e = 1 / (1 + np.exp(-x[:, 0]))
    arm = (luck.random(n) < e).astype(int)
    mu = np.stack([2 * x[:, 0], 1 + 3 * x[:, 0]], 1)
    y = mu[np.arange(n), arm] + luck.normal(size=n)
    return Trial.of(x, arm, y, **more), mu, np.stack([1 - e, e], 1)


def test_one_right_nuisance_is_enough() -> None:
    trial, mu, e = confounded(20_000, 0)
    naive = trial.y[trial.arm == 1].mean() - trial.y[trial.arm == 0].mean()
    assert naive > 2
    wrong_mu, wrong_e = np.zeros_like(mu), np.full_like(e, 0.5)
    for outcomes, chances in ((mu, e), (mu, wrong_e), (wrong_mu, e)):
        found = average(aipw(trial, mu=outcomes, e=chances, clip=1e-6), trial)
        assert abs(found.value[0] - 1) < 4 * found.stderr[0]
    both = average(aipw(trial, mu=wrong_mu, e=wrong_e), trial)
    assert abs(both.value[0] - 1) > 10 * both.stderr[0]


def test_cross_fitted_models_repair_confounding() -> None:
    trial, _, _ = confounded(4_000, 1)
    found = average(aipw(trial), trial)
    named = average(aipw(trial, LinearRegression(), LogisticRegression(), folds=3, seed=Seed(4)), trial)
    weighed = average(ipw(trial), trial)
    for mean in (found, named, weighed):
        assert abs(mean.value[0] - 1) < 4 * mean.stderr[0]
    assert found.stderr[0] < 0.6 * weighed.stderr[0]


class Memory(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts a row's own outcome if it has seen it, else 0."""

    def fit(self, X: Array, y: Array) -> "Memory":
        self.seen_ = {float(row[0]): float(v) for row, v in zip(X, y, strict=True)}
        return self

    def predict(self, X: Array) -> Array:
        return np.array([self.seen_.get(float(row[0]), 0.0) for row in X])


def test_no_model_scores_a_row_or_a_user_it_has_seen() -> None:
    luck = np.random.default_rng(2)
    n = 60
    x, arm, y, user = luck.normal(size=(n, 1)), np.arange(n) % 2, luck.normal(size=n), np.arange(n) // 6
    trial = Trial.of(x, arm, y, propensity=0.5)
    assert (nuisances(trial, Memory()).mu == 0).all()
    x[:] = user[:, None]  # rows of a user look the same, so folds that cut users would leak
    whole = Trial.of(x, arm, y, propensity=0.5, user=user)
    assert (nuisances(whole, Memory()).mu == 0).all()
    fold = deal(whole, 5, Seed(0))
    assert all(len(set(fold[user == u])) == 1 for u in range(10))
    assert (np.bincount(fold) == 12).all()
    even = deal(trial, 5, Seed(0))
    assert all(abs(np.bincount(even[arm == a]) - 6).max() <= 1 for a in (0, 1))
    assert (deal(trial, 5, Seed(0)) == even).all()
    assert (deal(trial, 5, Seed(1)) != even).any()


def test_known_chances_are_used_as_they_are() -> None:
    trial, mu, e = confounded(200, 3)
    known = Trial.of(trial.x, trial.arm, trial.y, propensity=e)
    np.testing.assert_array_equal(nuisances(known, mu=mu).e, known.propensity)
    np.testing.assert_allclose(aipw(known, mu=mu), aipw(trial, mu=mu, e=e[:, 1]))
    clipped = aipw(trial, mu=np.zeros_like(mu), e=np.full(200, 0.001), clip=0.1)
    treated = trial.arm == 1
    np.testing.assert_allclose(clipped[treated, 0], trial.y[treated] / 0.1)


def test_weights_reach_the_models_and_the_average() -> None:
    trial, _, _ = confounded(600, 4)
    weight = np.where(np.arange(600) < 300, 1.0, 0.0)
    half = Trial.of(trial.x, trial.arm, trial.y, weight=weight, propensity=0.5)
    for model in (None, LinearRegression()):
        found = nuisances(half, model, seed=Seed(5))
        changed = Trial.of(trial.x, trial.arm, trial.y + 9 * (weight == 0), weight=weight, propensity=0.5)
        np.testing.assert_allclose(nuisances(changed, model, seed=Seed(5)).mu, found.mu, atol=1e-9)
    gain = aipw(half)
    assert average(gain, half).value[0] == pytest.approx(gain[:300].mean(), abs=1e-12)


def test_rankers_are_nuisances() -> None:
    trial, _, _ = confounded(600, 5)
    found = average(
        aipw(
            trial,
            RankerRegressor("mlp", epochs=3),
            RankerClassifier("mlp", epochs=3),
            folds=2,
        ),
        trial,
    )
    assert abs(found.value[0] - 1) < 5 * found.stderr[0]
    binary = Trial.of(trial.x, trial.arm, (trial.y > 0).astype(float), propensity=0.5)
    mu = nuisances(binary, RankerClassifier("mlp", epochs=3), folds=2).mu
    assert ((mu > 0) & (mu < 1)).all()


def test_an_arm_with_one_outcome_is_predicted_as_it() -> None:
    trial = Trial.of(np.arange(20.0)[:, None], np.arange(20) % 2, np.arange(20) % 2 * 1.0, propensity=0.5)
    assert (nuisances(trial).mu == [0, 1]).all()
    assert (aipw(trial) == 1).all()


def test_pick_takes_the_best_arm_of_each_row() -> None:
    rank, gain, arm = pick([[1.0, 2.0], [3.0, 3.0]], [[10.0, 20.0], [30.0, 40.0]])
    assert (rank.tolist(), gain.tolist(), arm.tolist()) == ([2, 3], [20, 30], [2, 1])


def test_refusals() -> None:
    trial = Trial.of(np.arange(8.0)[:, None], [0, 1] * 4, np.arange(8.0))
    rare = Trial.of(np.arange(8.0)[:, None], [1] + [0] * 7, np.arange(8.0))
    few = Trial.of(np.arange(8.0)[:, None], [0, 1] * 4, np.arange(8.0), user=[0, 1] * 4)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: aipw(trial, mu=np.zeros((8, 3)), e=0.5), "mu has 3 columns, but there are 2 arms"),
        (lambda: aipw(trial, mu=np.zeros((7, 2)), e=0.5), "mu has shape"),
        (lambda: aipw(trial, mu=np.zeros((8, 2)), e=1.0), "e, row 0, arm 0: 0 is no chance"),
        (lambda: aipw(trial, folds=1), "folds is 1, but a model"),
        (lambda: aipw(trial, folds=9), "the trial has 8 rows, too few for 9 folds"),
        (lambda: aipw(few), "the trial has 2 users, too few for 5 folds"),
        (lambda: aipw(rare), "arm 1 has no rows outside fold"),
        (lambda: aipw(trial, LogisticRegression(), folds=2), "outcome_model is a classifier"),
        (lambda: ipw(trial, LinearRegression(), folds=2), "propensity_model LinearRegression has no predict"),
        (lambda: average(np.zeros((8, 2)), trial), "scores have 2 columns, but there are 1 treated arms"),
        (lambda: pick(np.zeros((8, 2)), np.zeros((8, 1))), "priority has shape"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()


@pytest.mark.slow
def test_intervals_of_the_average_cover() -> None:
    hits = 0
    for seed in range(400):
        trial, _, _ = confounded(1_000, 100 + seed)
        low, high = average(aipw(trial, seed=Seed(seed)), trial).interval()[0]
        hits += low <= 1 <= high
    assert 0.92 <= hits / 400 <= 0.98
