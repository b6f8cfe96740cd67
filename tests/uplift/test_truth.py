"""Errors against a known truth: by hand, by simulation, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from causal.targeting.measure import Measure
from causal.targeting.truth import ate_error, policy_regret, policy_risk, root_pehe
from simlab.errors import BadInput


def test_by_hand() -> None:
    assert root_pehe([1.0, 2.0], [1.0, 5.0]).value == pytest.approx(np.sqrt(4.5))
    assert root_pehe([1.0, 2.0], [1.0, 5.0], weight=[3, 1]).value == pytest.approx(1.5)
    assert root_pehe([1.0, 2.0], [1.0, 2.0]).stderr == 0
    assert ate_error([1.0, 2.0], [1.0, 5.0]).value == 1.5
    assert policy_regret([1.0, -1.0, 2.0], [1, 1, 0]).value == pytest.approx(1)
    assert policy_regret([1.0, -1.0, 2.0], [1, 0, 1], cost=1.5).value == pytest.approx(0.5 / 3)
    assert policy_regret([[1.0, 3.0], [-1.0, -2.0]], [1, 0]).value == 1
    assert policy_regret([1.0, 2.0], [1, 0], cost=[3.0, 0.5]).value == pytest.approx((2 + 1.5) / 2)
    assert policy_regret([[1.0, 3.0]] * 2, [1, 2], cost=[0.5, 2.0]).value == pytest.approx(0.25)
    # half are treated, of whom those that got it have mean 1; the others' mean without treatment is ½
    y, arm, treat = [1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]
    assert policy_risk(y, arm, treat).value == pytest.approx(1 - (0.5 * 1 + 0.5 * 0.5))
    assert policy_risk(y, arm, np.ones(6)).value == pytest.approx(1 - 2 / 3)


def test_influences_are_the_derivatives_by_the_weights() -> None:
    luck = np.random.default_rng(0)
    n = 30
    effect, guess, weight = luck.normal(size=n), luck.normal(size=n), luck.uniform(0.5, 2, n)
    y, arm, treat = luck.random(n), luck.integers(0, 2, n), luck.integers(0, 2, n)
    metrics: list[Callable[[NDArray[np.float64]], Measure]] = [
        lambda w: root_pehe(effect, guess, weight=w),
        lambda w: ate_error(effect, guess, weight=w),
        lambda w: policy_regret(effect, treat, weight=w),
        lambda w: policy_risk(y, arm, treat, weight=w),
    ]
    for measured in metrics:
        steps = np.eye(n) * 1e-6 * weight
        slope = [(measured(weight + s).value - measured(weight - s).value) / 2e-6 for s in steps]
        np.testing.assert_allclose(measured(weight).influence, slope, atol=1e-8)


def test_users_cluster() -> None:
    luck = np.random.default_rng(1)
    n = 40
    effect, guess, twice = luck.normal(size=n), luck.normal(size=n), np.tile(np.arange(n), 2)
    once, both = root_pehe(effect, guess), root_pehe(effect[twice], guess[twice], user=twice)
    assert (both.value, both.stderr) == pytest.approx((once.value, once.stderr), abs=1e-12)


def test_intervals_cover() -> None:
    luck = np.random.default_rng(2)
    hits = np.zeros(4)
    for _ in range(400):
        n = 400
        x, arm = luck.normal(size=n), luck.integers(0, 2, n)
        treat = (x > 0).astype(int)
        y = (luck.random(n) < 0.4 + 0.2 * arm * np.sign(x)).astype(float)
        found = (
            (root_pehe(x, np.zeros(n)), 1.0),
            (ate_error(x, x + luck.normal(0.3, 1, n)), 0.3),
            (policy_regret(x, 1 - treat), np.sqrt(2 / np.pi)),
            (policy_risk(y, arm, treat), 0.5),
        )
        hits += [m.interval()[0] <= truth <= m.interval()[1] for m, truth in found]
    assert ((hits / 400 > 0.91) & (hits / 400 < 0.985)).all(), hits / 400


def test_refusals() -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: root_pehe([1.0, 2.0], [1.0]), "column estimate has 1 rows, but 2 are asked for"),
        (lambda: root_pehe([1.0, np.nan], [1.0, 2.0]), "column effect, row 1: nan is not a finite number"),
        (lambda: policy_regret([1.0], [0], cost=-1.0), "cost: -1 is negative"),
        (lambda: policy_regret([1.0, 2.0], [0, 2]), "column arm, row 1: 2 is no arm from 0 to 1"),
        (lambda: policy_risk([1.0, 2.0], [0, 1], [0, 1]), "column outcome, row 1: 2 is out of"),
        (lambda: policy_risk([1.0, 0.0], [0, 0], [0, 1]), "the policy says 1 for some rows, but none"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()
