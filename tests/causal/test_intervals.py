"""Intervals against slow twins, exact cases and refusals."""

import numpy as np
import pytest
import torch
from scipy import stats

from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Rounds, Score, Scores, influence, stderr, value
from causal.intervals import KINDS, bootstrap_draws, clustered, interval
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


@pytest.mark.parametrize("kind", KINDS)
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
    rounds = drawn(400, seed=1)
    for estimator in (IPS(), SNIPS(), SNDR()):
        scores = estimator.score(rounds)
        group = torch.arange(400) // 2
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
    assert torch.allclose(bootstrap_draws(scores, 40, Seed(2)), whole, atol=1e-12)
    assert not torch.allclose(bootstrap_draws(scores, 40, Seed(3)), whole)


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
    for kind in ("bootstrap", "bca", "poisson"):
        found = interval(scores, kind)
        assert (found.low, found.high) == (float("-inf"), float("inf"))


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
    none = Rounds(torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(BadInput, match="all weights are zero"):
        interval(SNIPS().score(none))
