"""Intervals against slow twins, exact cases and refusals."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds, Score, Scores, influence, stderr, value
from causal.evaluation import paired_difference
from causal.intervals import KINDS, _blocks, _kept, bootstrap_draws, clustered, interval, merged
from causal.likelihood import furthest, likelihood_ends
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.worlds import bandit_world, take


def drawn(n: int, seed: int, group: bool = False) -> Rounds:
    world = bandit_world()
    rounds, probability = world.rounds(q=0.5 * world.reward)
    generator = torch.Generator().manual_seed(seed)
    rounds = take(rounds, torch.multinomial(probability, n, replacement=True, generator=generator))
    users = torch.arange(n) // 4
    return Rounds(rounds.reward, rounds.weight, rounds.q_logged, rounds.q_target, users if group else None)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"anytime"}))
def test_a_constant_reward_has_no_spread(kind: str) -> None:
    """With all rewards 1 the self-normalised value is 1 in every log and every resample."""
    rounds = drawn(500, seed=0)
    scores = SNIPS().score(Rounds(torch.ones(500, dtype=torch.float64), rounds.weight))
    assert float(rounds.weight.std()) > 0.5
    group = torch.arange(500) // 5 if kind == "cluster" else None
    found = interval(scores, kind, group=group)
    assert found.low == pytest.approx(1, abs=1e-12)
    assert found.high == pytest.approx(1, abs=1e-12)
    assert found.width < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_their_value_and_grow_with_the_level(kind: str) -> None:
    rounds = drawn(2000, seed=1)
    for estimator in (IPS(), SNIPS(), SNDR()):
        scores = estimator.score(rounds)
        group = torch.arange(2000) // 2
        narrow, wide = (interval(scores, kind, level, group) for level in (0.8, 0.99))
        assert wide.low < narrow.low < value(scores) < narrow.high < wide.high
        assert wide.kind == kind
        assert wide.level == 0.99


def test_normal_and_student_are_the_delta_method() -> None:
    """The slow twin: the ratio's variance written out from the covariance of numerator and denominator."""
    scores = SNIPS().score(drawn(60, seed=2))
    above, below = scores[0].numerator.numpy(), scores[0].denominator.numpy()
    v = above.mean() / below.mean()
    cov = np.cov(above, below)
    variance = (cov[0, 0] - 2 * v * cov[0, 1] + v**2 * cov[1, 1]) / below.mean() ** 2 / 60
    assert stderr(scores) == pytest.approx(variance**0.5, rel=1e-12)
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 59)
    assert interval(scores, "normal").high == pytest.approx(v + z * variance**0.5, rel=1e-12)
    assert interval(scores, "student-t").low == pytest.approx(v - t * variance**0.5, rel=1e-12)


def test_bootstrap_draws_have_the_delta_methods_spread() -> None:
    scores = SNDR().score(drawn(2000, seed=3))
    draws = bootstrap_draws(scores, 2000, Seed(1))
    assert float(draws.std()) == pytest.approx(stderr(scores), rel=0.06)  # 4 deviations of a deviation
    assert float(draws.mean()) == pytest.approx(value(scores), abs=4 * stderr(scores) / 2000**0.5 + 1e-3)


def test_bootstrap_is_chunked_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of samples are drawn one after the other from one stream: their size changes nothing."""
    scores = SNIPS().score(drawn(50, seed=4))
    whole = bootstrap_draws(scores, 40, Seed(2))
    monkeypatch.setattr("causal.intervals._CELLS", 7 * 50)
    _kept.cache_clear()
    assert len(list(_blocks(50, 40, Seed(2)))) == 6
    assert torch.allclose(bootstrap_draws(scores, 40, Seed(2)), whole, atol=1e-12)
    assert not torch.allclose(bootstrap_draws(scores, 40, Seed(3)), whole)
    # Counts too many to keep are drawn again, the same.
    monkeypatch.setattr("causal.intervals._KEPT", 0)
    _kept.cache_clear()
    assert torch.allclose(bootstrap_draws(scores, 40, Seed(2)), whole, atol=1e-12)
    assert _kept.cache_info().currsize == 0


def statistic(g: list[float]) -> float:
    """Return Owen's -2 log likelihood ratio of a mean of 0, by his Lagrange multiplier: the slow twin."""
    x = np.array(g)
    edge = 1e-12
    low, high = -(1 - edge) / x.max(), -(1 - edge) / x.min()
    multiplier = optimize.brentq(lambda m: float((x / (1 + m * x)).sum()), low, high, xtol=1e-16, rtol=1e-14)
    return float(2 * np.log1p(multiplier * x).sum())


@pytest.mark.parametrize("estimator", [IPS(), SNIPS(), DR()], ids=lambda e: e.name)
@pytest.mark.parametrize("n", [12, 300])
def test_empirical_likelihood_solves_owens_equation(estimator: Estimator[Rounds], n: int) -> None:
    """At both ends the estimating equation numerator - V · denominator has the wanted likelihood ratio."""
    (score,) = scores = estimator.score(drawn(n, seed=11))
    for level in (0.8, 0.95, 0.99):
        found = interval(scores, "empirical-likelihood", level)
        reach = float(stats.f.ppf(level, 1, n - 1))
        for end in (found.low, found.high):
            g = (score.numerator - end * score.denominator).tolist()
            assert statistic(g) == pytest.approx(reach, rel=1e-8)


def test_empirical_likelihood_of_clicks_is_the_binomials() -> None:
    """For rows of 0 and 1 it is the binomial likelihood ratio, in closed form; its end is never below 0."""
    for n, k in ((40, 1), (500, 20), (2, 1)):
        x = (torch.arange(n) < k).double()
        low, high = likelihood_ends((Score(x, torch.ones_like(x)),), 3.0)
        assert 0 < low < k / n < high < 1
        for v in (low, high):
            ratio = k * math.log(v * n / k) + (n - k) * math.log((1 - v) * n / (n - k))
            assert -2 * ratio == pytest.approx(3.0, rel=1e-9)


def test_empirical_likelihood_of_a_sum_of_ratios_is_the_profile() -> None:
    """The slow twin climbs the ball of weights with a general optimiser, on fourteen rows."""
    scores = SNDR().score(drawn(14, seed=12))
    reach = 2.5
    x = [(s.numerator.numpy(), s.denominator.numpy()) for s in scores]

    def of(p: NDArray[np.float64]) -> float:
        return float(sum((p * a).sum() / (p * b).sum() for a, b in x))

    ends = likelihood_ends(scores, reach)
    for sign, end in zip((1, -1), ends, strict=True):
        best = optimize.minimize(
            lambda p, sign=sign: sign * of(p),
            np.full(14, 1 / 14),
            method="SLSQP",
            bounds=[(1e-6, 1)] * 14,
            constraints=[
                {"type": "eq", "fun": lambda p: p.sum() - 1},
                {"type": "ineq", "fun": lambda p: reach + 2 * np.log(14 * p).sum()},
            ],
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert best.success
        assert end == pytest.approx(sign * best.fun, abs=1e-5)


def test_empirical_likelihood_and_its_jackknife_meet() -> None:
    """Jing, Yuan and Zhou's pseudo-values give the same ends to order 1/N, so to 1/√N of the width."""
    for n in (200, 3200, 51_200):
        scores = SNDR().score(drawn(n, seed=13))
        sums = [(s.numerator.sum(), s.denominator.sum()) for s in scores]
        without = sum((a - s.numerator) / (b - s.denominator) for (a, b), s in zip(sums, scores, strict=True))
        assert isinstance(without, torch.Tensor)
        pseudo = n * value(scores) - (n - 1) * without
        low, high = likelihood_ends((Score(pseudo, torch.ones_like(pseudo)),), 3.84)
        ours = likelihood_ends(scores, 3.84)
        assert ours == pytest.approx((low, high), abs=1.2 / n**0.5 * (high - low))
        assert high - low == pytest.approx(2 * 3.84**0.5 * stderr(scores), rel=1 / n**0.5)


def test_empirical_likelihood_does_not_mind_the_unit() -> None:
    """Rewards times 7 plus 3 under self-normalisation: the interval moves with them."""
    rounds = drawn(80, seed=14)
    one = SNIPS().score(rounds)
    two = SNIPS().score(Rounds(7 * rounds.reward + 3, rounds.weight))
    a, b = (interval(s, "empirical-likelihood") for s in (one, two))
    assert b.low == pytest.approx(7 * a.low + 3, rel=1e-9)
    assert b.high == pytest.approx(7 * a.high + 3, rel=1e-9)


def test_the_furthest_weights_are_at_the_edge_of_the_ball() -> None:
    for n, reach in ((2, 4000.0), (3, 0.01), (50, 3.84), (200_000, 3.84), (200_000, 1e-4)):
        x = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) ** -0.3
        p = furthest(x, reach)
        assert float(p.sum()) == pytest.approx(1, rel=1e-12)
        assert float((p * x).sum()) > float(x.mean())
        if reach < 1000:  # beyond, a single row is left to within the smallest number
            assert float(-2 * (n * p).log().sum()) == pytest.approx(reach, rel=1e-5, abs=1e-9)
    same = furthest(torch.full((5,), 3.0, dtype=torch.float64), 3.84)
    assert torch.equal(same, torch.full((5,), 0.2, dtype=torch.float64))


def test_a_denominator_that_may_be_zero_gives_no_bound() -> None:
    """Weights of both signs whose mean is within reach of 0: the ratio may be anything."""
    below = torch.tensor([3.0, -2.0, 1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    above = torch.linspace(0, 1, 6, dtype=torch.float64)
    found = interval((Score(above, below),), "empirical-likelihood")
    assert (found.low, found.high) == (-math.inf, math.inf)
    # With enough rows the mean's sign is sure, and the interval has ends: also where the sign is minus.
    many = (below + 1).repeat(100)
    for sign in (1.0, -1.0):
        sure = interval((Score(above.repeat(100), sign * many),), "empirical-likelihood")
        assert sure.width < 0.2


def test_bca_is_scipys_for_a_plain_mean() -> None:
    """Same construction, other draws: the ends agree to the noise of 20,000 resamples."""
    x = np.random.default_rng(5).exponential(size=80)
    one = torch.from_numpy(x)
    ours = interval((Score(one, torch.ones_like(one)),), "bca", replicates=20_000)
    theirs = stats.bootstrap((x,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(6))
    ends = theirs.confidence_interval
    assert ours.low == pytest.approx(ends.low, abs=0.02 * (ends.high - ends.low))
    assert ours.high == pytest.approx(ends.high, abs=0.03 * (ends.high - ends.low))
    plain = interval((Score(one, torch.ones_like(one)),), "bootstrap", replicates=20_000)
    assert ours.high > plain.high  # it leans into the long tail


def test_bernstein_is_theorem_4() -> None:
    x = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    scores: Scores = (Score(x, torch.ones_like(x)),)
    log = np.log(2 / 0.025)
    half = np.sqrt(2 * float(x.var()) * log / 8) + 7 * log / (3 * 7)
    assert interval(scores, "bernstein", spread=1.0).high == pytest.approx(0.625 + half, rel=1e-12)
    assert interval(scores, "bernstein", spread=4.0).width > interval(scores, "bernstein").width


def test_clusters_of_copies_count_once() -> None:
    """Every row written four times for one user: clusters give the interval of the rows written once."""
    once = drawn(100, seed=7)
    four = take(once, torch.arange(100).repeat_interleave(4))
    group = torch.arange(100).repeat_interleave(4) * 17 + 3
    for estimator in (IPS(), SNIPS(), SNDR()):
        a, b = estimator.score(once), estimator.score(four)
        right, found = interval(a, "student-t"), interval(b, "cluster", group=group)
        assert found.low == pytest.approx(right.low, rel=1e-12)
        assert found.high == pytest.approx(right.high, rel=1e-12)
        assert interval(b, "student-t").width < 0.6 * right.width
        # Every kind takes users as its units once it is given them.
        assert interval(b, "bca", group=group).width == pytest.approx(interval(a, "bca").width, rel=1e-9)


def test_clusters_keep_the_value() -> None:
    rounds = drawn(90, seed=8)
    scores = SNDR().score(rounds)
    group = torch.randint(0, 9, (90,), generator=torch.Generator().manual_seed(1))
    assert value(clustered(scores, group)) == pytest.approx(value(scores), rel=1e-12)
    assert float(influence(clustered(scores, group)).mean()) == pytest.approx(0, abs=1e-12)


def test_a_log_that_cannot_bound_the_value_gets_no_bound() -> None:
    """One row of twenty has weight: a third of the resamples have none, so no value."""
    weight = torch.zeros(20, dtype=torch.float64)
    weight[3] = 5.0
    scores = SNIPS().score(Rounds(torch.ones(20, dtype=torch.float64), weight))
    for kind in ("bootstrap", "bca", "poisson", "empirical-likelihood"):
        found = interval(scores, kind)
        assert (found.low, found.high) == (float("-inf"), float("inf"))
    # The sequence has not begun.
    assert interval(scores, "anytime").width == math.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_thing_differs_from_itself_by_nothing(kind: str, grouped: bool) -> None:
    """Exactly zero, with no width but for sequences: for one ratio, a sum of two, in rows and clusters."""
    rounds = drawn(1000, seed=15)
    group = torch.arange(1000) // 4 if grouped or kind == "cluster" else None
    for estimator in (IPS(), SNIPS(), DR(), SNDR()):
        scores = estimator.score(rounds)
        found = paired_difference(scores, scores, kind, group=group, replicates=100)
        assert found.value == 0
        assert found.stderr == 0
        nothing = (-float("inf"), float("inf")) if kind == "anytime" else (0, 0)  # it has no spread to go by
        assert (found.interval.low, found.interval.high) == nothing


def test_merging_keeps_the_value_and_the_influence() -> None:
    rounds = drawn(100, seed=16)
    scores = SNDR().score(rounds) + DR().score(rounds) + SNIPS().score(rounds)
    less = merged(scores)
    assert len(scores) == 4
    assert len(less) == 2
    assert value(less) == pytest.approx(value(scores), rel=1e-12)
    assert torch.allclose(influence(less), influence(scores), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_rows(kind: str) -> None:
    """Two rows, equal rows, one giant weight: an interval that holds the value, or none, never a crash."""
    group = torch.arange(2) if kind == "cluster" else None
    one = torch.ones(2, dtype=torch.float64)
    two = interval((Score(torch.tensor([0.0, 1.0], dtype=torch.float64), one),), kind, group=group)
    assert two.low < 0.5 < two.high
    same = interval((Score(0.3 * one, one),), kind, group=group)
    if kind in ("anytime", "poisson"):
        # Two rows are before the first look, and a Poisson resample of two has none in one case of seven.
        assert same.width == math.inf
    else:
        assert (same.low, same.high) == pytest.approx((0.3, 0.3), abs=1e-12)
    weight = torch.ones(100, dtype=torch.float64)
    weight[7] = 1e9
    reward = torch.arange(100).double() % 2
    rounds = Rounds(reward, weight)
    group = torch.arange(100) if kind == "cluster" else None
    for estimator in (IPS(), SNIPS()):
        scores = estimator.score(rounds)
        found = interval(scores, kind, group=group)
        assert not math.isnan(found.low)
        assert not math.isnan(found.high)
        assert found.low <= value(scores) <= found.high


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(kind: str, bad: float) -> None:
    x = torch.tensor([0.0, 1.0, bad, bad], dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1])
    with pytest.raises(BadInput, match=f"row 2: the numerator of a score is {bad}, not a finite number"):
        interval((Score(x, torch.ones_like(x)),), kind, group=group)
    with pytest.raises(BadInput, match=f"row 2: the denominator of a score is {bad}"):
        interval((Score(torch.ones_like(x), x),), kind, group=group)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_all_zero_are_refused(kind: str) -> None:
    none = Rounds(torch.ones(60, dtype=torch.float64), torch.zeros(60, dtype=torch.float64))
    none = Rounds(none.reward, none.weight, none.reward, none.reward)
    for estimator in (SNIPS(), SNDR()):
        with pytest.raises(BadInput, match="all weights are zero"):
            interval(estimator.score(none), kind, group=torch.arange(60))


def test_refusals() -> None:
    scores = IPS().score(drawn(20, seed=9))
    with pytest.raises(BadInput, match="no interval named studnt-t; did you mean student-t"):
        interval(scores, "studnt-t")
    with pytest.raises(BadInput, match=r"level is 95\.0"):
        interval(scores, level=95.0)
    with pytest.raises(BadInput, match="needs a group"):
        interval(scores, "cluster")
    with pytest.raises(BadInput, match="at least 2 clusters, not 1"):
        interval(scores, "normal", group=torch.zeros(20, dtype=torch.long))
    with pytest.raises(BadInput, match="at least 2 rows, not 1"):
        interval(IPS().score(drawn(1, seed=9)))
    with pytest.raises(BadInput, match="at least 2"):
        interval(scores, "bca", replicates=1)
    with pytest.raises(BadInput, match="planned is 1"):
        interval(scores, "anytime", planned=1)
    none = Rounds(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(BadInput, match="all weights are zero"):
        interval(SNIPS().score(none))


@pytest.mark.parametrize("buckets", [64, 4096])
def test_many_rows_are_resampled_in_buckets_of_one_size(
    buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than buckets: all of them count, and the spread is that of single rows."""
    monkeypatch.setattr("causal.intervals.BUCKETS", buckets)
    luck = torch.Generator().manual_seed(3)
    n = 3 * 4096 + 5
    weight = -torch.rand(n, generator=luck, dtype=torch.float64).log()
    # The last rows are worth more: leaving them out, or counting some twice, would show.
    reward = torch.linspace(0, 1, n, dtype=torch.float64) ** 3
    scores = (Score(weight * reward, weight),)
    draws = bootstrap_draws(scores, 2000, Seed(4))
    error = stderr(scores)
    assert float(draws.mean()) == pytest.approx(value(scores), abs=4 * error / 2000**0.5 + 0.02 * error)
    # Of 64 buckets the spread itself is known to a part in √128.
    assert float(draws.std()) == pytest.approx(error, rel=0.07 + 3 / (2 * buckets) ** 0.5)


def test_rows_without_any_spread_say_nothing_at_any_time() -> None:
    """A thousand rounds without a click: the sequence has not begun, and so has its last interval."""
    zero = torch.zeros(1000, dtype=torch.float64)
    found = interval((Score(zero, torch.ones_like(zero)),), "anytime")
    assert (found.low, found.high) == (-float("inf"), float("inf"))


def test_groups_of_another_length_are_refused() -> None:
    one = torch.ones(5, dtype=torch.float64)
    with pytest.raises(BadInput, match="5 rows of scores have a group of 3"):
        interval((Score(one, one),), "student-t", group=torch.arange(3))
