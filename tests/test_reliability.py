"""Statistics of runs against SciPy, brute force and exact bootstrap distributions."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import trim_mean

from simlab import reliability
from simlab.errors import BadInput
from simlab.seeds import Seed


def test_the_interquartile_mean_is_the_trimmed_mean() -> None:
    luck = np.random.default_rng(0)
    for shape in ((4, 3), (5, 1), (7, 2), (10, 8)):
        scores = luck.normal(size=shape)
        assert reliability.iqm(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None), abs=1e-12)
    assert reliability.iqm([1.0, 2.0, 3.0]) == pytest.approx(2.0)


def test_the_bootstrap_has_the_exact_distribution() -> None:
    """Two runs of two tasks have 16 resamples, each as likely: their mean has these quantiles."""
    scores = np.array([[0.0, 0.0], [1.0, 10.0]])
    runs = list(itertools.product(range(2), repeat=2))
    every = [(scores[list(a), 0].mean() + scores[list(b), 1].mean()) / 2 for a in runs for b in runs]
    got = reliability.interval(scores, "mean", reps=40_000)
    assert got.mean == pytest.approx(2.75)
    assert got.stderr == pytest.approx(np.std(every), rel=0.02)
    assert (got.low, got.high) == (0.0, 5.5)


def test_the_seed_decides() -> None:
    scores = np.random.default_rng(1).normal(size=(6, 3))
    one, again, other = (reliability.interval(scores, seed=Seed(s)) for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_resampling_stays_within_a_task() -> None:
    """Runs that are all the same leave nothing to resample, however far the tasks are apart."""
    got = reliability.interval([[0.0, 100.0], [0.0, 100.0]], "mean")
    assert (got.mean, got.low, got.high, got.stderr) == (50.0, 50.0, 50.0, 0.0)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(2).normal(size=(5, 2))
    whole = reliability.interval(scores, reps=1000)
    monkeypatch.setattr(reliability, "CHUNK", 100)
    assert reliability.interval(scores, reps=1000) == whole


def test_probability_of_improvement_is_that_of_all_pairs() -> None:
    luck = np.random.default_rng(3)
    x, y = luck.integers(0, 4, (5, 3)).astype(float), luck.integers(0, 4, (4, 3)).astype(float)
    wins = [(a > b) + 0.5 * (a == b) for t in range(3) for a in x[:, t] for b in y[:, t]]
    got = reliability.probability_of_improvement(x, y)
    assert got.mean == pytest.approx(np.mean(wins))
    assert got.low <= got.mean <= got.high
    assert reliability.probability_of_improvement(x, x).mean == pytest.approx(0.5)
    sure = reliability.probability_of_improvement(x + 10, y)
    assert (sure.mean, sure.low, sure.high) == (1.0, 1.0, 1.0)


def test_gap_profile_and_curve() -> None:
    scores = np.array([[0.5], [1.5], [0.7], [1.0]])
    assert reliability.optimality_gap(scores) == pytest.approx((0.5 + 0.0 + 0.3 + 0.0) / 4)
    profile = reliability.performance_profile(scores, [0.0, 0.6, 1.0, 2.0])
    assert profile["share"].tolist() == [1.0, 0.75, 0.25, 0.0]
    assert (profile["low"] <= profile["share"]).all()
    curve = reliability.learning_curve([10, 20], np.hstack([scores, scores + 1]))
    assert isinstance(curve, pd.DataFrame)
    assert curve["iqm"].tolist() == pytest.approx([reliability.iqm(scores), reliability.iqm(scores) + 1])
    assert curve["runs"].tolist() == [4, 4]


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInput, match="run 1, task 0: the score is nan, which is not finite"):
        reliability.iqm([0.0, float("nan")])
    with pytest.raises(BadInput, match="statistic is iqm, mean, median, or a function, not mode"):
        reliability.interval([0.0, 1.0], "mode")
    with pytest.raises(BadInput, match="the scores are of 2 tasks, and the others of 1"):
        reliability.probability_of_improvement([[0.0, 1.0]], [[0.0]])
    with pytest.raises(BadInput, match="there are returns of 2 checkpoints, but 1 steps"):
        reliability.learning_curve([1], [[0.0, 1.0]])
    with pytest.raises(BadInput, match="at least one of each"):
        reliability.iqm(np.zeros((0, 2)))


@pytest.mark.slow
def test_the_interval_of_ten_runs_covers() -> None:
    """Of the mean of 10 runs × 4 tasks: a percentile bootstrap is a little narrow, 90 to 96 %."""
    luck, hits = np.random.default_rng(5), 0
    for trial in range(1000):
        got = reliability.interval(luck.normal(size=(10, 4)), "mean", seed=Seed(trial), reps=500)
        hits += got.low <= 0 <= got.high
    assert 0.90 <= hits / 1000 <= 0.96
