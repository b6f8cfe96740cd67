"""Best linear predictor, group effects, calibration R²: beside EconML's code and where truth is known."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from causal.targeting.calibration import KINDS, blp, blp_experiment, calibration_r2, group_effects
from simlab.errors import BadInput
from tests.uplift.test_curves import Array, hillstrom
from tests.uplift.test_rate import scores


def econml_says(gain: Array, held: Array, train: Array) -> Any:
    """Return EconML's tester on given scores and predictions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from econml.validate.drtester import DRTester

        found = DRTester(model_regression=None, model_propensity=None, cate=None)
    found.dr_val_, found.dr_train_, found.ate_val = gain[:, None], gain, np.array([gain.mean()])
    found.n_treat, found.treatments = 1, np.array([0, 1])
    found.cate_preds_val_, found.cate_preds_train_ = held[:, None], train[:, None]
    return found


def test_the_best_linear_predictor_is_econmls() -> None:
    z, gain = hillstrom(), scores()
    held, train = z["score_ols"][z["test"]], z["score_ols"][z["train"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = econml_says(gain, held, train).evaluate_blp()
    found = blp(gain, held, kind="classic")
    assert found.slope == pytest.approx(theirs.params[0], rel=1e-9)
    assert found.stderr == pytest.approx(theirs.errs[0], rel=1e-9)
    assert found.average == pytest.approx(gain.mean(), abs=1e-12)
    assert round(found.slope, 4) == 0.9031
    assert found.pvalue() < 1e-9
    assert found.pvalue(1.0) > 0.4


def test_calibration_is_econmls_where_no_row_is_on_a_cut() -> None:
    luck = np.random.default_rng(0)
    held, train = luck.uniform(0.01, 0.99, 500), np.append(luck.random(500), [0.0, 1.0])
    gain = held + luck.normal(size=500)
    for groups in (4, 10):
        theirs = econml_says(gain, held, train).evaluate_cal(n_groups=groups)
        cuts = np.quantile(train, np.arange(1, groups) / groups)
        ours = group_effects(gain, held, cuts=cuts)
        table = theirs.plot_data_dict[1]
        assert ours.r2.value == pytest.approx(theirs.cal_r_squared[0], abs=1e-12)
        np.testing.assert_allclose(ours.effect, table["gate"], atol=1e-12)
        np.testing.assert_allclose(ours.prediction, table["g_cate"], atol=1e-12)
        size = ours.share * 500
        np.testing.assert_allclose(ours.stderr * np.sqrt((size - 1) / size), table["se_gate"], atol=1e-12)


def test_econml_counts_rows_on_a_cut_twice_and_ours_once() -> None:
    z, gain = hillstrom(), scores()
    held, train = z["score_ols"][z["test"]], z["score_ols"][z["train"]]
    cuts = np.quantile(train, [0, 0.25, 0.5, 0.75, 1])
    twice = sum(((held >= a) & (held <= b)).sum() for a, b in itertools.pairwise(cuts))
    theirs = econml_says(gain, held, train).evaluate_cal(n_groups=4)
    ours = calibration_r2(gain, held, cuts=cuts[1:-1])
    assert twice != len(held)
    assert round(theirs.cal_r_squared[0], 4) == 0.7801
    assert round(ours.value, 4) == 0.7810
    assert group_effects(gain, held, cuts=cuts[1:-1]).share.sum() == pytest.approx(1, abs=1e-12)


def test_tied_rows_at_an_edge_count_for_both_sides() -> None:
    found = group_effects([1.0, 2.0, 4.0, 9.0], [0.0, 1.0, 1.0, 2.0], 2)
    np.testing.assert_allclose(found.effect, [(1 + 3) / 2, (3 + 9) / 2])  # a tied row has the mean 3
    np.testing.assert_allclose(found.share, [0.5, 0.5])
    np.testing.assert_allclose(found.prediction, [0.5, 1.5])
    one = group_effects([1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 5.0], 3)
    np.testing.assert_allclose(one.effect, [2, 2, (2 * 1 / 3 + 6) / (4 / 3)])


def test_groups_do_not_depend_on_order_weights_or_repeats() -> None:
    luck = np.random.default_rng(1)
    n = 120
    guess = luck.integers(0, 30, n) * 1.0
    gain = guess / 10 + luck.normal(size=n)
    order, twice = luck.permutation(n), np.tile(np.arange(n), 2)
    base = group_effects(gain, guess, 4)
    for other in (
        group_effects(gain[order], guess[order], 4),
        group_effects(gain, guess, 4, weight=np.full(n, 2.0)),
        group_effects(gain[twice], guess[twice], 4, user=twice),
        group_effects(gain, guess, 4, user=np.arange(n)),
    ):
        np.testing.assert_allclose(other.effect, base.effect, atol=1e-12)
        np.testing.assert_allclose(other.stderr, base.stderr, atol=1e-12)
        assert other.difference.stderr == pytest.approx(base.difference.stderr, abs=1e-12)
        assert other.r2.value == pytest.approx(base.r2.value, abs=1e-12)
        assert other.r2.stderr == pytest.approx(base.r2.stderr, abs=1e-12)


def test_influences_are_the_derivatives_by_the_weights() -> None:
    luck = np.random.default_rng(2)
    n = 60
    guess = luck.integers(0, 25, n) * 1.0
    gain, weight = guess / 5 + luck.normal(size=n), luck.uniform(0.5, 2, n)
    for name in ("r2", "difference"):

        def value(w: Array, name: str = name) -> float:
            return float(getattr(group_effects(gain, guess / 5, cuts=[1.0, 2.0, 3.0], weight=w), name).value)

        found = getattr(group_effects(gain, guess / 5, cuts=[1.0, 2.0, 3.0], weight=weight), name)
        steps = np.eye(n) * 1e-6 * weight
        slope = [(value(weight + s) - value(weight - s)) / 2e-6 for s in steps]
        np.testing.assert_allclose(found.influence, slope, atol=1e-7)


def test_robust_errors_equal_their_sums() -> None:
    luck = np.random.default_rng(3)
    n = 40
    guess, weight, user = luck.normal(size=n), luck.uniform(0.5, 2, n), luck.integers(0, 12, n)
    gain = guess * (1 + luck.normal(size=n))
    x = np.column_stack([np.ones(n), guess - np.average(guess, weights=weight)])
    inverse = np.linalg.inv(x.T @ (weight[:, None] * x))
    beta = inverse @ x.T @ (weight * gain)
    left = gain - x @ beta
    hat = weight * np.array([row @ inverse @ row for row in x])
    for kind, scale in (
        ("HC0", np.ones(n)),
        ("HC1", np.sqrt(n / (n - 2)) * np.ones(n)),
        ("HC3", 1 / (1 - hat)),
    ):
        rows = [weight[i] * left[i] * scale[i] * inverse @ x[i] for i in range(n)]
        cov = np.sum([np.outer(r, r) for r in rows], 0)
        found = blp(gain, guess, weight=weight, kind=kind)
        assert found.slope == pytest.approx(beta[1], abs=1e-12)
        assert found.stderr == pytest.approx(np.sqrt(cov[1, 1]), abs=1e-12)
        assert found.average_stderr == pytest.approx(np.sqrt(cov[0, 0]), abs=1e-12)
    groups = [sum(weight[i] * left[i] * inverse @ x[i] for i in np.flatnonzero(user == u)) for u in set(user)]
    cov = np.sum([np.outer(r, r) for r in groups], 0)
    found = blp(gain, guess, weight=weight, user=user, kind="HC0")
    assert found.stderr == pytest.approx(np.sqrt(cov[1, 1]), abs=1e-12)


def experiment(n: int, luck: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Effect .5 + 2 (U - ½), predicted as 4 U: the slope is ½; the chance of treatment is .3."""
    u = luck.random(n)
    treated = (luck.random(n) < 0.3).astype(float)
    y = 3 * u + treated * (0.5 + 2 * (u - 0.5)) + luck.normal(size=n)
    return y, treated, 4 * u, 3 * u


def test_the_papers_own_regression_finds_the_slope_with_and_without_a_baseline() -> None:
    y, treated, guess, baseline = experiment(20_000, np.random.default_rng(4))
    plain = blp_experiment(y, treated, 0.3, guess)
    sharp = blp_experiment(y, treated, np.full(len(y), 0.3), guess, baseline=baseline)
    for found in (plain, sharp):
        assert abs(found.slope - 0.5) < 4 * found.stderr
        assert abs(found.average - 0.5) < 4 * found.average_stderr
    assert sharp.stderr < 0.9 * plain.stderr
    assert {blp_experiment(y, treated, 0.3, guess, kind=k).slope for k in KINDS} == {plain.slope}


def test_refusals() -> None:
    gain = np.arange(6.0)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: blp(gain, np.ones(6)), "the prediction is the same in all rows"),
        (lambda: blp(gain, gain[:5]), "column prediction has 5 rows, but 6 are asked for"),
        (lambda: blp(gain, gain, kind="HC9"), "kind is classic, HC0, HC1, HC3, not HC9"),
        (lambda: blp(gain, gain, user=gain, kind="classic"), "classic standard errors do not cluster"),
        (lambda: blp_experiment(gain, gain, 0.5, gain), "column treated holds other values than 0 and 1"),
        (lambda: blp_experiment(gain, gain % 2, 1.5, gain), "column propensity, row 0: 1.5 is no chance"),
        (lambda: group_effects(gain, gain, 1), "groups is 1, but from 2 to 6 can be made"),
        (lambda: group_effects(gain, gain, cuts=[2.0, 1.0]), "cuts must rise"),
        (lambda: group_effects(gain, gain, cuts=[9.0]), "group 1 of the prediction has no rows"),
        (lambda: group_effects(gain, gain, cuts=[4.5]), "group 1 has fewer than 2 rows"),
        (lambda: group_effects(np.ones(6), gain, 2), "all groups have the average effect"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()


def coverage(worlds: int, n: int) -> dict[str, float]:
    luck = np.random.default_rng(5)
    hits = dict.fromkeys(("slope", "clustered", "experiment", "groups", "difference", "r2"), 0.0)
    for _ in range(worlds):
        guess = luck.random(n)
        gain = 0.5 * guess + (0.5 + guess) * luck.normal(size=n)
        user = np.arange(n) // 4
        own, mood = luck.random(n // 4)[user], luck.normal(size=n // 4)[user]
        y, treated, said, _ = experiment(n, luck)
        found = group_effects(gain, guess, cuts=[0.25, 0.5, 0.75])
        truth = 0.5 * np.array([0.125, 0.375, 0.625, 0.875])
        low, high = found.interval()
        ends = {
            "slope": (blp(gain, guess).interval(), 0.5),
            "clustered": (blp(own + mood + luck.normal(size=n), own, user=user).interval(), 1.0),
            "experiment": (blp_experiment(y, treated, 0.3, said).interval(), 0.5),
            "difference": (found.difference.interval(), 0.375),
            "r2": (found.r2.interval(), -0.0),
        }
        hits["groups"] += float(((low <= truth) & (truth <= high)).mean())
        miss, far = np.abs(truth - 2 * truth).mean(), np.abs(truth - truth.mean()).mean()
        for name, ((a, b), value) in ends.items():
            wanted = 1 - miss / far if name == "r2" else value
            hits[name] += bool(a <= wanted <= b)
    return {name: count / worlds for name, count in hits.items()}


def test_intervals_cover() -> None:
    found = coverage(200, 400)
    assert all(0.9 <= share <= 0.995 for name, share in found.items() if name != "r2"), found


@pytest.mark.slow
def test_intervals_cover_closely() -> None:
    found = coverage(2000, 4000)
    assert all(0.935 <= share <= 0.965 for share in found.values()), found
