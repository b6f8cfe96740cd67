"""Curves and their areas: reference cases, brute force over tie orders, derivatives, coverage."""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from causal.targeting.curves import Curve, Ranked, auuc, curve, perfect, qini, uplift_at
from causal.targeting.measure import Measure
from causal.uplift.contract import Trial
from simlab.errors import BadInput

CASES = Path(__file__).parents[2] / "../shared/cases/causal"
Array = np.ndarray
SCORES = ("score_ols", "score_ols_r2", "score_seg", "score_rand")


@cache
def hillstrom() -> dict[str, Array]:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    with np.load(CASES / "hillstrom_womens.npz", allow_pickle=True) as found:
        return dict(found)


@cache
def answers(name: str) -> Any:
    return json.loads((CASES / f"{name}.json").read_text())


def ranked(score: str, outcome: str = "visit") -> Ranked:
    z = hillstrom()
    at = z["test"]
    return Ranked.of(Trial.of(z["X"][at], z["T"][at], z[outcome][at]), z[score][at])


def trial(arm: Any, y: Any, **more: Any) -> Trial:
    return Trial.of(np.zeros((len(y), 1)), arm, y, **more)


def plain(score: Array, arm: Array, y: Array, kind: str) -> tuple[list[float], list[float]]:
    """A slow twin: walk through the rows, one by one."""
    order = np.argsort(-score, kind="stable")
    x, height = [0.0], [0.0]
    for n in range(1, len(score) + 1):
        top = order[:n]
        t, c = y[top][arm[top] == 1], y[top][arm[top] == 0]
        if kind == "qini":
            value = t.sum() - (c.mean() if len(c) else 0.0) * len(t)
        else:
            value = n * ((t.mean() if len(t) else 0.0) - (c.mean() if len(c) else 0.0))
        if n == len(score) or score[order[n]] != score[order[n - 1]]:
            x.append(float(n))
            height.append(float(value))
    return x, height


@pytest.mark.parametrize("outcome", ["visit", "conversion"])
@pytest.mark.parametrize("score", SCORES)
def test_areas_and_curves_are_those_of_scikit_uplift(outcome: str, score: str) -> None:
    rows, answer = ranked(score, outcome), answers("hillstrom_sklift")[f"{outcome}/{score}"]
    assert qini(rows).value == pytest.approx(answer["qini_auc_score"], abs=1e-12)
    assert qini(rows, "no_harm").value == pytest.approx(answer["qini_auc_score_noneg"], abs=1e-12)
    assert auuc(rows).value == pytest.approx(answer["uplift_auc_score"], abs=1e-12)
    for kind in ("qini", "uplift"):
        found, wanted = curve(rows, kind), answer[f"{kind}_curve"]
        assert len(found.x) == wanted["n_points"]
        assert found.area == pytest.approx(wanted["area"], rel=1e-12)
        np.testing.assert_allclose(np.interp(wanted["x"], found.x, found.y), wanted["y"], rtol=1e-9)
        best, wanted = perfect(rows, kind), answer[f"perfect_{kind}_curve"]
        np.testing.assert_allclose(best.x, wanted["x"], rtol=1e-12)
        np.testing.assert_allclose(best.y, wanted["y"], rtol=1e-9)


@pytest.mark.parametrize("score", ["score_ols", "score_rand"])
@pytest.mark.parametrize("k", [0.1, 0.3, 0.5])
def test_uplift_at_k_is_that_of_scikit_uplift_where_no_tie_is_at_the_edge(score: str, k: float) -> None:
    rows, answer = ranked(score), answers("hillstrom_sklift")[f"visit/{score}"]
    assert uplift_at(rows, k).value == pytest.approx(answer[f"uplift_at_{k}_overall"], abs=1e-12)
    assert uplift_at(rows, k, "group").value == pytest.approx(answer[f"uplift_at_{k}_by_group"], abs=1e-12)
    assert uplift_at(rows, 1000).value == pytest.approx(answer["uplift_at_1000_overall"], abs=1e-12)


def test_the_digits() -> None:
    rows = ranked("score_ols")
    assert round(qini(rows).value, 6) == 0.064434
    assert round(uplift_at(rows, 0.3).value, 6) == 0.068438
    assert 0.0105 < qini(rows).stderr < 0.0115
    assert qini(rows).minus(qini(ranked("score_rand"))).pvalue() < 0.001


def test_scikit_uplifts_uplift_at_k_depends_on_row_order_under_ties_and_ours_does_not() -> None:
    z, seen, ours = hillstrom(), [], []
    at = z["test"]
    for rows in (at, at[::-1]):
        score, arm, y = z["score_seg"][rows], z["T"][rows], z["visit"][rows]
        first = np.argsort(score, kind="mergesort")[::-1][: int(len(at) * 0.1)]  # as scikit-uplift 0.5.1 does
        seen.append(y[first][arm[first] == 1].mean() - y[first][arm[first] == 0].mean())
        ours.append(uplift_at(Ranked.of(trial(arm, y), score), 0.1).value)
    assert seen[0] == pytest.approx(answers("hillstrom_sklift")["visit/score_seg"]["uplift_at_0.1_overall"])
    assert abs(seen[0] - seen[1]) > 0.005
    assert ours[0] == pytest.approx(ours[1], abs=1e-14)


def test_causalmls_numbers_come_back_in_its_order_of_rows() -> None:
    z, answer = hillstrom(), answers("hillstrom_causalml")["visit"]
    at = z["test"]
    n = len(at)
    for name in ("score_ols", "score_rand"):
        rows = Ranked.of(trial(z["T"][at], z["visit"][at]), z[name][at])
        end = 0.5 / (n + 1)
        mean = auuc(rows, "end").value * n / (n + 1) + end  # a sum of N + 1 points over N + 1
        assert mean == pytest.approx(answer["auuc_normalize_True"][name], abs=2e-4)
        area = qini(rows, "end").value * n / (n + 1)
        assert area == pytest.approx(answer["qini_normalize_True"][name], abs=2e-4)


def test_a_constant_score_has_one_auuc_where_causalmls_depends_on_row_order() -> None:
    luck = np.random.default_rng(0)
    n = 400
    arm, y = luck.integers(0, 2, n), luck.integers(0, 2, n).astype(float)
    y += 0.5 * arm
    rows = Ranked.of(trial(arm, y), np.zeros(n))
    assert auuc(rows, "end").value == pytest.approx(0.5, abs=1e-12)
    assert qini(rows, "end").value == pytest.approx(0, abs=1e-12)
    walks = [
        auuc(Ranked.of(trial(arm, y), luck.permutation(n).astype(float)), "end").value for _ in range(300)
    ]
    assert max(walks) - min(walks) > 0.1
    exact = auuc(rows, "end", ties="expected").value
    assert exact == pytest.approx(np.mean(walks), abs=4 * np.std(walks) / np.sqrt(300))


def test_expected_ties_are_the_mean_over_all_orders() -> None:
    luck = np.random.default_rng(1)
    for _ in range(6):
        n = 6
        score = luck.integers(0, 2, n).astype(float)
        arm = np.append([0, 1], luck.integers(0, 2, n - 2))
        y = luck.normal(size=n)
        rows = Ranked.of(trial(arm, y), score)
        areas: dict[str, list[float]] = {"qini": [], "uplift": []}
        tops = []
        for order in itertools.permutations(range(n)):
            at = np.array(order)
            at = at[np.argsort(-score[at], kind="stable")]
            place = -np.arange(n, dtype=float)
            for kind, found in areas.items():
                found.append(float(np.trapezoid(plain(place, arm[at], y[at], kind)[1])))
            first = at[:3]
            if 0 < arm[first].sum() < 3:
                tops.append(y[first][arm[first] == 1].mean() - y[first][arm[first] == 0].mean())
        line = curve(rows, "qini").y[-1] * n / 2
        value = qini(rows, "row", ties="expected").value
        assert value == pytest.approx((np.mean(areas["qini"]) - line) / n**2, abs=1e-12)
        assert auuc(rows, "row", ties="expected").value == pytest.approx(
            np.mean(areas["uplift"]) / n**2, abs=1e-12
        )
        if tops and 0 < arm[score == 1].sum() < (score == 1).sum():
            assert uplift_at(rows, 3, ties="expected").value == pytest.approx(np.mean(tops), abs=1e-12)


def test_curves_equal_a_walk_through_the_rows() -> None:
    luck = np.random.default_rng(2)
    for _ in range(5):
        score, arm, y = luck.integers(0, 9, 30) * 1.0, luck.integers(0, 2, 30), luck.normal(size=30)
        for kind in ("qini", "uplift"):
            found = curve(Ranked.of(trial(arm, y), score), kind)
            x, height = plain(score, arm, y, kind)
            np.testing.assert_allclose(found.x, x)
            np.testing.assert_allclose(found.y, height, atol=1e-12)


def test_by_hand() -> None:
    rows = Ranked.of(trial([1, 0, 1, 0], [1.0, 0.0, 0.0, 1.0]), [4.0, 3.0, 2.0, 1.0])
    assert curve(rows).y.tolist() == [0, 1, 1, 1, 0]
    assert curve(rows, "uplift").y.tolist() == [0, 1, 2, 1.5, 0]
    assert qini(rows, "row").value == pytest.approx(3 / 16)
    assert qini(rows).value == pytest.approx(1)  # it is the perfect order
    assert uplift_at(rows, 0.5).value == 1
    assert uplift_at(rows, 1.0).value == 0
    assert Curve(np.array([0.0, 2.0]), np.array([0.0, 3.0]), "qini").area == 3


METRICS = [
    (qini, "perfect"),
    (qini, "no_harm"),
    (qini, "end"),
    (qini, "row"),
    (auuc, "perfect"),
    (auuc, "end"),
    (auuc, "row"),
]


@pytest.mark.parametrize(("metric", "scale"), METRICS)
def test_influences_are_the_derivatives_by_the_weights(metric: Any, scale: str) -> None:
    luck = np.random.default_rng(3)
    n = 30
    score, arm, weight = luck.integers(0, 12, n) * 1.0, luck.integers(0, 2, n), luck.uniform(0.5, 2, n)
    y = np.where(luck.random(n) < 0.3 + 0.4 * arm, 1.0, 0.0)

    def value(w: Float[Array, " round"]) -> float:
        return float(metric(Ranked.of(trial(arm, y, weight=w), score), scale).value)

    found = metric(Ranked.of(trial(arm, y, weight=weight), score), scale)
    steps = np.eye(n) * 1e-6 * weight
    slope = np.array([(value(weight + s) - value(weight - s)) / 2e-6 for s in steps])
    np.testing.assert_allclose(found.influence, slope, atol=1e-7 * max(1, abs(found.value)))
    assert found.stderr == pytest.approx(np.sqrt((found.influence**2).sum() * n / (n - 1)))


def everything(rows: Ranked) -> list[Measure]:
    found = [metric(rows, scale) for metric, scale in METRICS]
    return [*found, uplift_at(rows, 0.4), uplift_at(rows, 0.4, "group")]


def test_order_weights_and_users() -> None:
    luck = np.random.default_rng(4)
    n = 60
    score, arm = luck.integers(0, 20, n) * 1.0, luck.integers(0, 2, n)
    y = luck.integers(0, 2, n) * 1.0
    base = everything(Ranked.of(trial(arm, y), score))
    order = luck.permutation(n)
    mixed = everything(Ranked.of(trial(arm[order], y[order]), score[order]))
    ones = everything(Ranked.of(trial(arm, y, weight=np.ones(n)), score))
    twice = np.tile(np.arange(n), 2)  # every row twice, as one user: the same numbers, the same spread
    users = everything(Ranked.of(trial(arm[twice], y[twice], user=twice), score[twice]))
    extra = np.append(np.arange(n), 0)
    heavy = everything(Ranked.of(trial(arm[extra], y[extra], weight=np.append(np.ones(n), 0)), score[extra]))
    for i, found in enumerate(base):
        for other in (mixed[i], ones[i]):
            assert other.value == pytest.approx(found.value, abs=1e-12), found.name
            assert other.stderr == pytest.approx(found.stderr, abs=1e-12), found.name
        if "group" not in found.name:  # a share of a group is rounded down to whole rows
            assert users[i].value == pytest.approx(found.value, abs=1e-12), found.name
        if not found.name.startswith("uplift at"):  # its window narrows with the number of rows
            assert users[i].stderr == pytest.approx(found.stderr, abs=1e-12), found.name
        assert heavy[i].value == pytest.approx(found.value, abs=1e-12), found.name
    doubled = everything(Ranked.of(trial(arm, y, weight=np.full(n, 2.0)), score))
    for found, other in zip(base[:7], doubled[:7], strict=True):
        assert other.value == pytest.approx(found.value, abs=1e-12), found.name
        assert other.stderr == pytest.approx(found.stderr, abs=1e-12), found.name


def test_one_arm_of_several_against_control() -> None:
    luck = np.random.default_rng(5)
    n = 90
    arm, y, score = luck.integers(0, 3, n), luck.normal(size=n), luck.normal(size=(n, 2))
    some = arm != 1
    whole = Ranked.of(trial(arm, y), score, arm=2)
    part = Ranked.of(trial(arm[some], y[some]), score[some, 1])
    assert qini(whole, "row").value == pytest.approx(qini(part, "row").value, abs=1e-14)


def test_a_policy_over_arms_gains_what_its_picks_gain() -> None:
    luck = np.random.default_rng(6)
    n = 40_000
    effect = luck.normal(size=(n, 2))
    chance = np.stack([np.full(n, 0.3), np.where(effect[:, 0] > 0, 0.5, 0.2)], 1)
    chance = np.column_stack([chance, 1 - chance.sum(1)])
    arm = (luck.random(n)[:, None] > chance.cumsum(1)[:, :2]).sum(1)
    y = luck.normal(size=n) + np.where(arm > 0, effect[np.arange(n), np.maximum(arm - 1, 0)], 0)
    rows = Ranked.of(trial(arm, y, propensity=chance), effect)
    best = np.sort(effect.max(1))[::-1]
    found = uplift_at(rows, 0.2)
    assert abs(found.value - best[: n // 5].mean()) < 4 * found.stderr
    assert found.stderr < 0.05
    area = auuc(rows, "row")
    truth = np.cumsum(best).mean() / n
    assert abs(area.value - truth) < 4 * area.stderr


def test_known_chances_that_differ_between_rows_are_balanced() -> None:
    luck = np.random.default_rng(8)
    n = 20_000
    x = luck.random(n)
    chance = 0.2 + 0.6 * x
    arm = (luck.random(n) < chance).astype(int)
    y = 3 * x + arm * x + 0.5 * luck.normal(size=n)
    known = uplift_at(Ranked.of(trial(arm, y, propensity=chance), x), 0.5)
    naive = uplift_at(Ranked.of(trial(arm, y), x), 0.5)
    assert abs(known.value - 0.75) < 4 * known.stderr < 0.1
    assert abs(naive.value - 0.75) > 4 * naive.stderr
    even = Ranked.of(trial(arm, y, propensity=0.3), x)  # the same chance in all rows changes nothing
    assert qini(even, "row").value == pytest.approx(qini(Ranked.of(trial(arm, y), x), "row").value, abs=1e-14)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": [1.0, 2.0]}, "score has shape"),
        ({"score": [1.0, float("nan"), 0.0, 1.0]}, "score, row 1, column 0: nan is not a finite number"),
        ({"arm_name": 7}, "arm is 7, but the treated arms are 1"),
    ],
)
def test_ranked_refuses(change: dict[str, Any], words: str) -> None:
    given = trial([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0])
    with pytest.raises(BadInput, match=words):
        Ranked.of(given, change.get("score", [1.0, 2.0, 3.0, 4.0]), arm=change.get("arm_name"))


def test_metrics_refuse() -> None:
    rows = Ranked.of(trial([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0]), [1.0, 2.0, 3.0, 4.0])
    heavy = Ranked.of(trial([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0], weight=[1, 2, 3, 4]), [1.0, 2.0, 3.0, 4.0])
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: curve(rows, "gain"), "kind is qini or uplift, not gain"),
        (lambda: qini(rows, "max"), "scale is perfect, no_harm, end, row, not max"),
        (lambda: auuc(rows), "column outcome, row 2: a perfect uplift curve needs outcomes 0 and 1, not 2"),
        (lambda: auuc(rows, "no_harm"), "for the Qini curve only"),
        (lambda: qini(rows, ties="random"), "ties are line or expected, not random"),
        (lambda: qini(heavy, ties="expected"), "ties expected is for rows without weights"),
        (lambda: uplift_at(rows, 0.25), "the top 0.25 holds no control rows"),
        (lambda: uplift_at(rows, 1.5), "k is 1.5, but a share is in"),
        (lambda: uplift_at(rows, 9), "k is 9 rows, but there are 4"),
        (lambda: uplift_at(rows, 0.5, "row"), "by is overall or group, not row"),
        (lambda: qini(rows).minus(qini(ranked_of_two())), "a paired difference needs the same rows"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()


def ranked_of_two() -> Ranked:
    return Ranked.of(trial([0, 1, 1], [0.0, 1.0, 3.0]), [1.0, 2.0, 3.0])


def world(n: int, luck: np.random.Generator) -> Ranked:
    """Score and effect are U, uniform; half are treated: V(u) = u - u²/2, its area is 1/3; Qini's 1/24."""
    score, arm = luck.random(n), luck.integers(0, 2, n)
    return Ranked.of(trial(arm, luck.normal(size=n) + arm * score), score)


TRUTH: dict[str, tuple[Callable[[Ranked], Measure], float]] = {
    "auuc": (lambda r: auuc(r, "row"), 1 / 3),
    "qini": (lambda r: qini(r, "row"), 1 / 24),
    "at .3": (lambda r: uplift_at(r, 0.3), 0.85),
    "by group": (lambda r: uplift_at(r, 0.3, "group"), 0.85),
}


def coverage(worlds: int, n: int) -> dict[str, float]:
    hits = dict.fromkeys(TRUTH, 0)
    luck = np.random.default_rng(7)
    for _ in range(worlds):
        rows = world(n, luck)
        for name, (metric, truth) in TRUTH.items():
            low, high = metric(rows).interval()
            hits[name] += low <= truth <= high
    return {name: count / worlds for name, count in hits.items()}


def test_intervals_cover() -> None:
    assert all(0.9 <= share <= 0.99 for share in coverage(300, 400).values()), coverage(300, 400)


@pytest.mark.slow
def test_intervals_cover_closely() -> None:
    found = coverage(3000, 1000)
    assert all(0.935 <= share <= 0.965 for share in found.values()), found
