"""TOC and RATE: EconML's digits, truths by integration, exact ties, derivatives by the weights, coverage."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate

from causal.targeting.measure import Measure
from causal.targeting.ranks import Ranks
from causal.targeting.rate import autoc, econml_rate, half_sample, rate_qini, toc
from causal.targeting.returns import cost_area, returns
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.uplift.test_curves import CASES, Array, answers, hillstrom

RATES: list[Callable[..., Measure]] = [autoc, rate_qini]


def scores() -> Array:
    hillstrom()
    with np.load(CASES / "hillstrom_dr_outcomes.npz") as found:
        dr: Array = found["dr"]
        return dr


@pytest.mark.parametrize("score", ["score_ols", "score_seg", "score_rand"])
@pytest.mark.parametrize(("metric", "name"), [("autoc", "toc"), ("qini", "qini")])
def test_econml_comes_back_on_its_own_grid(score: str, metric: str, name: str) -> None:
    z, wanted = hillstrom(), answers("hillstrom_drtester")[f"{score}/{name}"]
    found = econml_rate(z[score][z["test"]], scores(), z[score][z["train"]], metric)
    assert found.value == pytest.approx(wanted["coeff"], abs=1e-12)
    assert found.stderr == pytest.approx(wanted["se"], abs=1e-12)


def test_the_digits() -> None:
    z = hillstrom()
    rank = z["score_ols"][z["test"]]
    theirs = econml_rate(rank, scores(), z["score_ols"][z["train"]])
    assert (round(theirs.value, 6), round(theirs.stderr, 6)) == (0.020936, 0.003579)
    whole = autoc(rank, scores())  # the ends of the curve are in it
    assert (round(whole.value, 6), round(whole.stderr, 6)) == (0.025385, 0.004524)


def by_rows(rank: Array, gain: Array, metric: str) -> float:
    """A slow twin: the mean of TOC(j / N), weighted by 1 or by j / N."""
    ordered = gain[np.argsort(-rank, kind="stable")]
    n = len(gain)
    each = [ordered[: j + 1].mean() - gain.mean() for j in range(n)]
    return float(np.mean(each if metric == "autoc" else [v * (j + 1) / n for j, v in enumerate(each)]))


@pytest.mark.parametrize("metric", RATES)
def test_ties_are_the_mean_over_all_orders(metric: Callable[..., Measure]) -> None:
    luck = np.random.default_rng(0)
    rank, gain = np.array([2.0, 1, 1, 1, 0, 0]), luck.normal(size=6)
    name = "autoc" if metric is autoc else "qini"
    twin, whole = [], []
    for order in itertools.permutations(range(6)):
        at = np.array(order)
        at = at[np.argsort(-rank[at], kind="stable")]
        twin.append(by_rows(-np.arange(6.0), gain[at], name))
        whole.append(metric(-np.arange(6.0), gain[at]).value)
    assert metric(rank, gain, grid="rows").value == pytest.approx(np.mean(twin), abs=1e-12)
    assert metric(rank, gain).value == pytest.approx(np.mean(whole), abs=1e-12)


@pytest.mark.parametrize("metric", RATES)
def test_influences_are_the_derivatives_by_the_weights(metric: Callable[..., Measure]) -> None:
    luck = np.random.default_rng(1)
    n = 40
    rank, gain, weight = luck.integers(0, 15, n) * 1.0, luck.normal(size=n), luck.uniform(0.5, 2, n)
    steps = np.eye(n) * 1e-6 * weight
    found = metric(rank, gain, weight=weight)
    slope = [
        (metric(rank, gain, weight=weight + s).value - metric(rank, gain, weight=weight - s).value) / 2e-6
        for s in steps
    ]
    np.testing.assert_allclose(found.influence, slope, atol=1e-8)


def test_weights_users_and_order() -> None:
    luck = np.random.default_rng(2)
    n = 50
    rank, gain = luck.integers(0, 20, n) * 1.0, luck.normal(size=n)
    order, twice = luck.permutation(n), np.tile(np.arange(n), 2)
    for metric in RATES:
        found = metric(rank, gain)
        for other in (
            metric(rank[order], gain[order]),
            metric(rank, gain, weight=np.full(n, 3.0)),
            metric(rank[twice], gain[twice], user=twice),
            metric(Ranks.of(rank), gain),
        ):
            assert other.value == pytest.approx(found.value, abs=1e-12)
            assert other.stderr == pytest.approx(found.stderr, abs=1e-12)
    band = toc(rank, gain)
    users = toc(rank, gain, user=np.arange(n))  # row by row, where the other sums squares
    np.testing.assert_allclose(band.value, users.value, atol=1e-12)
    np.testing.assert_allclose(band.stderr, users.stderr, atol=1e-12)
    assert autoc(np.zeros(n), gain).value == pytest.approx(0, abs=1e-12)
    assert autoc(np.zeros(n), gain).stderr == pytest.approx(0, abs=1e-12)


def effect_first(u: float) -> float:
    """Return the effect at share u of a ranking: 1 - u."""
    return 1 - u


def test_truths_by_integration() -> None:
    n = 20_000
    u = (np.arange(n) + 0.5) / n
    gain = 1 - u

    def curve(q: float) -> float:
        return float(integrate.quad(effect_first, 0, q)[0]) / q - 0.5

    area = integrate.quad(curve, 0, 1)[0]
    weighted = integrate.quad(lambda q: q * curve(q), 0, 1)[0]
    assert area == pytest.approx(0.25, abs=1e-9)
    assert autoc(gain, gain).value == pytest.approx(area, abs=1e-4)
    assert rate_qini(gain, gain).value == pytest.approx(weighted, abs=1e-6)
    band = toc(gain, gain, [0.1, 0.5, 1.0])
    np.testing.assert_allclose(band.value, [curve(q) for q in (0.1, 0.5, 1.0)], atol=1e-9)
    assert band.stderr[-1] == pytest.approx(0, abs=1e-9)


def causalml_autoc(gain: Array) -> float:
    """Return what causalml 0.18's `rate_score` computes for effects in the order of the score."""
    n = len(gain)
    q = np.linspace(0, 1, n + 1)
    curve = np.append(0.0, np.cumsum(gain) / np.arange(1, n + 1) - gain.mean())
    return float(np.average((curve[1:] + curve[:-1]) / 2, weights=2 / (q[1:] + q[:-1])))


def test_causalmls_autoc_divides_by_the_share_once_more_and_drifts() -> None:
    seen = []
    for n in (100, 2_000, 20_000):
        gain = 1 - (np.arange(n) + 0.5) / n
        seen.append(round(causalml_autoc(gain), 3))
        assert autoc(gain, gain).value == pytest.approx(0.25, abs=1 / n)
    assert seen == [0.348, 0.395, 0.416]


def test_half_samples_agree_with_the_influences() -> None:
    luck = np.random.default_rng(3)
    n = 800
    rank = luck.normal(size=n)
    gain = rank + luck.normal(size=n)
    user = luck.integers(0, 200, n)
    for metric in RATES:

        def value(w: Array, metric: Callable[..., Measure] = metric) -> float:
            return metric(rank, gain, weight=w, user=user).value

        error = half_sample(value, n, user=user)
        assert error == pytest.approx(metric(rank, gain, user=user).stderr, rel=0.2)
    again = half_sample(lambda w: float(w.sum()), 10, replicates=3, seed=Seed(1))
    assert again == 0


def test_returns_by_hand_and_known_costs() -> None:
    found = returns([3, 2, 1, 0], [4.0, 2.0, 0.0, -2.0], value=2.0, cost=[1, 2, 3, 4], shares=[0.25, 0.5, 1])
    np.testing.assert_allclose(found.gain, [1, 1.5, 1])
    np.testing.assert_allclose(found.cost, [0.25, 0.75, 2.5])
    np.testing.assert_allclose(found.net, [1.75, 2.25, -0.5])
    np.testing.assert_allclose(found.per_treated, [4, 3, 1])
    np.testing.assert_allclose(found.per_cost, [4, 2, 0.4])
    flat = returns([3, 2, 1, 0], [4.0, 2.0, 0.0, -2.0], cost=1.0)
    assert flat.cost_stderr.tolist() == [0.0] * 20
    np.testing.assert_allclose(flat.net_stderr, flat.gain_stderr)
    free = returns([3, 2, 1, 0], [4.0, 2.0, 0.0, -2.0])
    assert np.isnan(free.per_cost).all()
    tied = returns([1, 1, 0, 0], [4.0, 2.0, 0.0, -2.0], shares=[0.25])
    assert tied.gain[0] == pytest.approx(0.75)  # the mean of 4 / 4 and 2 / 4


def test_the_cost_curve() -> None:
    gain, price = np.array([3.0, 1.0]), np.array([1.0, 3.0])
    assert cost_area([2, 1], gain, price).value == pytest.approx((0.5 * 3 + 3 * 3.5) / 16)
    luck = np.random.default_rng(4)
    n = 30
    rank, gain, price = luck.integers(0, 9, n) * 1.0, luck.normal(1, 1, n), luck.uniform(1, 2, n)
    assert cost_area(np.zeros(n), gain, price).value == pytest.approx(0.5)
    found = cost_area(rank, gain, price)
    slope = [
        (cost_area(rank, gain, price, weight=1 + s).value - cost_area(rank, gain, price, weight=1 - s).value)
        / 2e-6
        for s in np.eye(n) * 1e-6
    ]
    np.testing.assert_allclose(found.influence, slope, atol=1e-8)


def test_refusals() -> None:
    gain = [1.0, 2.0, 3.0]
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: autoc([1.0, 2.0], gain), "column priority has 2 rows, but 3 are asked for"),
        (lambda: autoc(gain, gain, grid="thirds"), "grid is continuous or rows, not thirds"),
        (lambda: autoc(gain, gain, weight=[1, 2, 3], grid="rows"), "grid rows is for rows without weights"),
        (lambda: autoc(gain, [1.0, np.inf, 2.0]), "column scores, row 1: inf is not a finite number"),
        (lambda: autoc(gain, gain, weight=[1, -1, 1]), "column weight, row 1: -1 is negative"),
        (lambda: autoc([1.0], [1.0]), "a standard error needs at least 2 rows, not 1"),
        (lambda: autoc(gain, gain, user=[1, 1, 1]), "a standard error needs at least 2 users, not 1"),
        (lambda: toc(gain, gain, [0.5, 1.5]), "column shares, row 1: 1.5 is no share"),
        (lambda: econml_rate(gain, gain, gain, "toc"), "metric is autoc or qini, not toc"),
        (lambda: econml_rate(gain, gain, [9.0, 9.0]), "no row is above the training rows' percentile 5"),
        (lambda: half_sample(lambda w: 0.0, 3), "half-sampling needs 4 rows or users"),
        (lambda: cost_area(gain, gain, 0.0), "the total cost is 0"),
    ]
    for call, words in calls:
        with pytest.raises(BadInput, match=words):
            call()


def coverage(worlds: int, n: int) -> dict[str, float]:
    """Count how often intervals hold the truth of effect U, ranked by U; also with four rows a user."""
    luck = np.random.default_rng(5)
    hits = dict.fromkeys(("autoc", "qini", "toc .2", "net .4", "users"), 0)
    for _ in range(worlds):
        rank = luck.random(n)
        gain = rank + luck.normal(size=n)
        low, high = toc(rank, gain, [0.2]).interval()
        net = returns(rank, gain, value=2.0, cost=1 + rank, shares=[0.4]).interval()
        user = np.arange(n) // 4
        own, mood = luck.random(n // 4)[user], luck.normal(size=n // 4)[user]
        users = rate_qini(own, own + mood + luck.normal(size=n), user=user)
        for name, ends, truth in (
            ("autoc", autoc(rank, gain).interval(), 0.25),
            ("qini", rate_qini(rank, gain).interval(), 1 / 12),
            ("toc .2", (low[0], high[0]), 0.4),
            ("net .4", (net[0][0], net[1][0]), 0.4 * (2 * 0.8 - 1.8)),
            ("users", users.interval(), 1 / 12),
        ):
            hits[name] += bool(ends[0] <= truth <= ends[1])
    return {name: count / worlds for name, count in hits.items()}


def test_intervals_cover() -> None:
    found = coverage(250, 400)
    assert all(0.9 <= share <= 0.99 for share in found.values()), found


@pytest.mark.slow
def test_intervals_cover_closely() -> None:
    found = coverage(3000, 2000)
    assert all(0.935 <= share <= 0.965 for share in found.values()), found
