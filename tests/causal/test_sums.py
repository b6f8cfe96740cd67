"""Sums of scores: streaming gives what the whole gives."""

import functools
import operator

import pytest
import torch

from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Rounds, Score, Scores, stderr, value
from causal.intervals import clustered, interval
from causal.sums import ScoreSums, dealt, multipliers
from simlab.errors import BadInput
from simlab.seeds import Seed


def made(n: int, seed: int) -> Rounds:
    g = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.rand(n, generator=g, dtype=torch.float64)

    return Rounds(noise(), -noise().log(), noise(), noise())


def part(scores: Scores, rows: torch.Tensor) -> Scores:
    return tuple(Score(s.numerator[rows], s.denominator[rows]) for s in scores)


@pytest.mark.parametrize("seed", range(5))
def test_any_split_in_any_order_is_the_whole(seed: int) -> None:
    scores = SNDR().score(made(500, seed))
    whole = ScoreSums.of(scores, seed=Seed(seed))
    g = torch.Generator().manual_seed(seed)
    belongs = torch.randint(0, 6, (500,), generator=g)  # rows scattered over six workers
    parts = []
    for worker in torch.randperm(6, generator=g).tolist():
        rows = (belongs == worker).nonzero().squeeze(1)
        parts.append(ScoreSums.of(part(scores, rows), rows=rows, seed=Seed(seed)))
    merged = functools.reduce(operator.add, parts)
    assert merged.count == whole.count == 500
    for name in ("sums", "cross", "buckets"):
        assert torch.allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-10)
    assert merged.value() == pytest.approx(value(scores), rel=1e-12)
    assert merged.stderr() == pytest.approx(stderr(scores), rel=1e-10)
    for kind in ("normal", "student-t"):
        a, b = merged.interval(kind), interval(scores, kind)
        assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-10)
    a, b = merged.interval("poisson"), whole.interval("poisson")
    assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-10)


def test_a_large_mean_does_not_drown_the_spread() -> None:
    """Rewards of a million and a bit: raw sums of squares would keep four digits of the variance."""
    x = 1e6 + torch.rand(4000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores: Scores = (Score(x, torch.ones_like(x)),)
    halves = [ScoreSums.of(part(scores, torch.arange(i, 4000, 2))) for i in (0, 1)]
    assert (halves[0] + halves[1]).stderr() == pytest.approx(stderr(scores), rel=1e-9)


def test_multipliers_are_poisson_and_keyed_by_bucket() -> None:
    m = multipliers(4000, 50, Seed(4)).double()
    assert torch.equal(m[:3000], multipliers(3000, 50, Seed(4)).double())
    assert torch.equal(m[:, :7], multipliers(4000, 7, Seed(4)).double())
    assert torch.equal(m[:, :1], multipliers(4000, 1, Seed(4)).double())
    assert not torch.equal(m, multipliers(4000, 50, Seed(5)).double())
    # 200,000 draws: mean and variance are 1 ± 4/√200,000 and 1 ± 4·√(3/200,000).
    assert float(m.mean()) == pytest.approx(1, abs=0.009)
    assert float(m.var()) == pytest.approx(1, abs=0.016)
    zero, one, two = ((m == k).double().mean().item() for k in (0, 1, 2))
    assert (zero, one, two) == pytest.approx((0.3679, 0.3679, 0.1839), abs=0.0045)
    # Buckets and replicates do not follow each other.
    assert abs(float(torch.corrcoef(m[:, :2].T)[0, 1])) < 4 / 4000**0.5
    assert abs(float(torch.corrcoef(m[:2])[0, 1])) < 4 / 50**0.5


def test_rows_are_dealt_evenly_and_by_id() -> None:
    ids = torch.arange(200_000)
    where = dealt(ids, 1000, Seed(1))
    assert torch.equal(where[500:700], dealt(ids[500:700], 1000, Seed(1)))
    count = torch.bincount(where, minlength=1000).double()
    # Pearson's statistic of 1,000 equal cells is 999 ± 45.
    assert float(((count - 200) ** 2 / 200).sum()) == pytest.approx(999, abs=4 * 45)
    # Every fourth row (the top of slates of four) is no more in some buckets than in others.
    top = torch.bincount(where[::4], minlength=1000).double()
    assert float(((top - 50) ** 2 / 50).sum()) == pytest.approx(999, abs=4 * 45)


@pytest.mark.parametrize("rows", [3000, 100_000])
def test_replicates_have_the_right_spread(rows: int) -> None:
    """Also where a bucket holds many rows."""
    scores = SNIPS().score(made(rows, 3))
    sums = ScoreSums.of(scores, seed=Seed(1))
    assert float(sums.draws(2000).std()) == pytest.approx(stderr(scores), rel=0.07)
    assert sums.stderr(clustered=True) == pytest.approx(stderr(scores), rel=0.05)


def test_a_bucket_a_row_is_the_row_by_row_bootstrap() -> None:
    """With more buckets than anybody shares, replicates are those of the rows, computed in the plain way."""
    scores = SNIPS().score(made(40, 8))
    ids = torch.arange(1000)
    where = dealt(ids, 1 << 14, Seed(3))
    alone = ids[torch.bincount(where, minlength=1 << 14)[where] == 1][:40]
    sums = ScoreSums.of(scores, rows=alone, buckets=1 << 14, seed=Seed(3))
    counts = multipliers(1 << 14, 100, Seed(3)).double()[where[alone]]
    (s,) = scores
    plain = (counts.T @ s.numerator) / (counts.T @ s.denominator)
    assert torch.allclose(sums.draws(100), plain, rtol=1e-12)


def test_a_constant_reward_has_no_spread() -> None:
    weight = made(500, 9).weight
    assert float(ScoreSums.of(SNIPS().score(Rounds(torch.ones_like(weight), weight))).draws(50).std()) == 0


def test_user_ids_as_row_ids_resample_users() -> None:
    """Each user's rows come and go together, also when they lie in two files."""
    rounds = made(600, 4)
    users = torch.arange(600) % 150
    scores = IPS().score(Rounds(rounds.reward[users], rounds.weight[users]))  # four copies of 150 rows
    first, second = torch.arange(300), torch.arange(300, 600)
    sums = [ScoreSums.of(part(scores, rows), rows=users[rows], seed=Seed(2)) for rows in (first, second)]
    both, wanted = sums[0] + sums[1], stderr(clustered(scores, users))
    assert float(both.draws(2000).std()) == pytest.approx(wanted, rel=0.08)
    assert both.stderr(clustered=True) == pytest.approx(wanted, rel=0.02)  # some users share a bucket
    assert both.stderr(clustered=True) > 1.7 * stderr(scores)
    exact = interval(scores, "cluster", group=users)
    found = both.interval("cluster")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=0.02)


def test_refusals() -> None:
    scores = SNIPS().score(made(10, 5))
    sums = ScoreSums.of(scores)
    with pytest.raises(BadInput, match="cannot be merged"):
        sums.merge(ScoreSums.of(SNDR().score(made(10, 5))))
    with pytest.raises(BadInput, match="same seed"):
        sums.merge(ScoreSums.of(scores, seed=Seed(1)))
    with pytest.raises(BadInput, match="carry none"):
        ScoreSums.of(scores, buckets=0).interval("poisson")
    with pytest.raises(BadInput, match="not bca"):
        sums.interval("bca")
    with pytest.raises(BadInput, match="10 rows of scores have 3 row ids"):
        ScoreSums.of(scores, rows=torch.arange(3))
    with pytest.raises(BadInput, match="at least 2 rows"):
        ScoreSums.of(SNIPS().score(made(1, 5))).stderr()
    with pytest.raises(BadInput, match="all weights are zero"):
        ScoreSums.of((Score(torch.ones(3).double(), torch.zeros(3).double()),)).value()


def test_sums_refuse_what_intervals_do() -> None:
    scores = SNIPS().score(made(30, 6))
    sums = ScoreSums.of(scores)
    for level in (95.0, -0.5):
        with pytest.raises(BadInput, match=f"level is {level}, but a coverage is between 0 and 1"):
            sums.interval("normal", level)
    with pytest.raises(BadInput, match="replicates is 1, but a bootstrap needs at least 2"):
        sums.interval("poisson", replicates=1)
    broken = (Score(torch.tensor([1.0, float("nan")]).double(), torch.ones(2).double()),)
    with pytest.raises(BadInput, match="row 1"):
        ScoreSums.of(broken)
    none = tuple(Score(s.numerator[:0], s.denominator[:0]) for s in scores)
    with pytest.raises(BadInput, match="there are no rows"):
        ScoreSums.of(none).value()
    users = torch.arange(30, dtype=torch.int32)
    assert torch.equal(ScoreSums.of(scores, rows=users).buckets, sums.buckets)
