"""Means and intervals against SciPy."""

import numpy as np
import pytest
from scipy import stats

from simlab.errors import BadInput
from simlab.statistics import mean_interval, paired_interval


def test_mean_interval_is_scipys() -> None:
    x = np.random.default_rng(0).gamma(2.0, size=37)
    for level in (0.5, 0.95, 0.999):
        mine = mean_interval(x, level)
        low, high = stats.t.interval(level, 36, x.mean(), stats.sem(x))
        assert (mine.low, mine.high) == pytest.approx((low, high), abs=1e-12)
        assert mine.stderr == pytest.approx(stats.sem(x), abs=1e-14)
        assert mine.mean == pytest.approx(x.mean())
        assert mine.n == 37


def test_paired_interval_is_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=20)
    b = a + 0.3 + 0.1 * rng.normal(size=20)
    mine, theirs = paired_interval(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_groups_of_one_size_are_their_means() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(8), 25)
    a = rng.normal(size=200) + rng.normal(size=8)[groups]
    b = rng.normal(size=200)
    order = rng.permutation(200)  # groups need not be sorted
    mine = paired_interval(a[order], b[order], groups[order])
    means = (a - b).reshape(8, 25).mean(1)
    low, high = stats.t.interval(0.95, 7, means.mean(), stats.sem(means))
    assert (mine.low, mine.high) == pytest.approx((low, high))
    assert mine.n == 8


def test_groups_of_one_are_no_groups() -> None:
    x = np.random.default_rng(3).normal(size=12)
    a, b = mean_interval(x), mean_interval(x, groups=[f"seed {i}" for i in range(12)])
    assert (a.mean, a.stderr, a.low, a.high, a.n) == pytest.approx((b.mean, b.stderr, b.low, b.high, b.n))


def test_clustering_widens_where_groups_differ() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(5, 60, size=12)
    groups = np.repeat(np.arange(12), sizes)
    x = rng.normal(size=len(groups)) + 2 * rng.normal(size=12)[groups]
    assert mean_interval(x, groups=groups).stderr > 2 * mean_interval(x).stderr


@pytest.mark.slow
def test_coverage_with_groups() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(2000):
        groups = np.repeat(np.arange(10), rng.integers(10, 20, size=10))
        x = rng.normal(size=len(groups)) + rng.normal(size=10)[groups]
        found = mean_interval(x, groups=groups)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 2000 <= 0.97  # 95 %, and four standard errors of 2,000 draws


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mean_interval([1.0]), "at least two values, not 1"),
        (lambda: mean_interval([]), "at least two values, not 0"),
        (lambda: mean_interval([1.0, 2.0], groups=[3, 3]), "at least two groups, not 1"),
        (lambda: mean_interval([1.0, np.nan]), "value 1 is nan"),
        (lambda: mean_interval([1.0, 2.0], 1.0), "between 0 and 1, not 1.0"),
        (lambda: mean_interval([1.0, 2.0], groups=[1]), "2 values have 1 groups"),
        (lambda: paired_interval([1.0, 2.0], [1.0]), r"\(2,\) and \(1,\) are not"),
    ],
)
def test_refusals(call: object, sentence: str) -> None:
    assert callable(call)
    with pytest.raises(BadInput, match=sentence):
        call()
