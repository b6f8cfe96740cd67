"""Statistics of learning runs: a few seeds, several tasks, honest intervals.

A learner's return depends on its training seed, so a comparison is of runs, and runs are few. Scores are
[run task]; an interval resamples runs within each task (a stratified bootstrap) from a seed of its own.

Source: Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice",
NeurIPS, section 4. Their package, rliable, draws from the global generator even where a random state is
given; here the same seed gives the same interval.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.statistics import Summary

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Takes [rep run task] and returns [rep]."""

CHUNK = 1 << 22
"""Numbers that are resampled at a time."""


def _scores(scores: ArrayLike) -> Array:
    """Return scores as [run task] of float64.

    Raises:
        BadInput: for scores that are empty, of another shape or not finite.
    """
    found = np.asarray(scores, dtype=np.float64)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.size:
        raise BadInput(f"scores are [run task] with at least one of each, not {list(found.shape)}")
    if not np.isfinite(found).all():
        run, task = (int(i) for i in np.argwhere(~np.isfinite(found))[0])
        raise BadInput(f"run {run}, task {task}: the score is {found[run, task]}, which is not finite")
    return found


def _iqm(scores: Array) -> Array:
    """Return the interquartile mean of each rep: runs and tasks are one pool."""
    flat = np.sort(scores.reshape(len(scores), -1), axis=1)
    n = flat.shape[1]
    # The quarters are cut as scipy.stats.trim_mean cuts them: whole scores, rounded down.
    low = int(0.25 * n)
    return np.asarray(flat[:, low : n - low].mean(axis=1))


def _mean(scores: Array) -> Array:
    return np.asarray(scores.mean(axis=(1, 2)))


def _median(scores: Array) -> Array:
    """Return the median over tasks of the mean over runs, as Agarwal et al. have it."""
    return np.asarray(np.median(scores.mean(axis=1), axis=1))


def _gap(target: float) -> Statistic:
    return lambda scores: np.asarray(target - np.minimum(scores, target).mean(axis=(1, 2)))


STATISTICS: Mapping[str, Statistic] = {"iqm": _iqm, "mean": _mean, "median": _median}
"""By the name that `interval` takes."""


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half of all runs of all tasks.

    >>> iqm([0.0, 1.0, 2.0, 100.0])
    1.5

    Args:
        scores: [run task], or [run].
    """
    return float(_iqm(_scores(scores)[None])[0])


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """Return how far runs stay below `target` on average; what is above counts as the target.

    Args:
        scores: [run task], or [run].
        target: of the scores' own scale.
    """
    return float(_gap(target)(_scores(scores)[None])[0])


def interval(
    scores: ArrayLike,
    statistic: str | Statistic = "iqm",
    *,
    seed: Seed = Seed(0),
    level: float = 0.95,
    reps: int = 20_000,
) -> Summary:
    """Return a statistic of the runs (as `mean`) with a percentile interval of the stratified bootstrap.

    With fewer than about five runs the interval is too narrow: its ends are then the best and the worst run.

    Args:
        scores: [run task], or [run].
        statistic: "iqm", "mean", "median", or a function of [rep run task].
        seed: of the resampling.
        level: of the interval.
        reps: how many resamples.

    Raises:
        BadInput: for an unknown statistic, and for scores that cannot be.
    """
    found = _scores(scores)
    if isinstance(statistic, str):
        if statistic not in STATISTICS:
            raise BadInput(f"statistic is {', '.join(STATISTICS)}, or a function, not {statistic}")
        statistic = STATISTICS[statistic]
    drawn = _bootstrap([found], lambda parts: statistic(parts[0]), seed, reps)
    return _summary(float(statistic(found[None])[0]), drawn, len(found), level)


def probability_of_improvement(
    scores: ArrayLike,
    other: ArrayLike,
    *,
    seed: Seed = Seed(0),
    level: float = 0.95,
    reps: int = 20_000,
) -> Summary:
    """Return P(a run of `scores` beats a run of `other`), the mean over tasks; a tie counts half.

    Args:
        scores: [run task].
        other: [run task], of the same tasks and any number of runs.
        seed: of the resampling.
        level: of the interval.
        reps: how many resamples.

    Raises:
        BadInput: for other tasks, and for scores that cannot be.
    """
    x, y = _scores(scores), _scores(other)
    if x.shape[1] != y.shape[1]:
        raise BadInput(f"the scores are of {x.shape[1]} tasks, and the others of {y.shape[1]}")

    def better(parts: Sequence[Array]) -> Array:
        a, b = parts
        gap = a[:, :, None, :] - b[:, None, :, :]
        return np.asarray(((gap > 0) + 0.5 * (gap == 0)).mean(axis=(1, 2, 3)))

    drawn = _bootstrap([x, y], better, seed, reps, times=len(y))
    return _summary(float(better([x[None], y[None]])[0]), drawn, min(len(x), len(y)), level)


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    *,
    seed: Seed = Seed(0),
    level: float = 0.95,
    reps: int = 2_000,
) -> pd.DataFrame:
    """Return the share of runs above each threshold, with a pointwise band: the run-score distribution.

    Args:
        scores: [run task], or [run].
        thresholds: where to ask.
        seed: of the resampling.
        level: of the band.
        reps: how many resamples.

    Returns:
        A table with the columns threshold, share, low and high.
    """
    found, points = _scores(scores), np.asarray(thresholds, dtype=np.float64)
    rows = []
    for point in points:
        above = (found > point).astype(np.float64)
        got = interval(above, "mean", seed=seed, level=level, reps=reps)
        rows.append((float(point), got.mean, got.low, got.high))
    return pd.DataFrame(rows, columns=["threshold", "share", "low", "high"])


def learning_curve(
    steps: Sequence[int],
    returns: ArrayLike,
    *,
    seed: Seed = Seed(0),
    level: float = 0.95,
    reps: int = 5_000,
) -> pd.DataFrame:
    """Return the interquartile mean over runs at each checkpoint, with its interval.

    Args:
        steps: user-steps at each checkpoint.
        returns: [run checkpoint].
        seed: of the resampling.
        level: of the interval.
        reps: how many resamples.

    Returns:
        A table with the columns steps, iqm, low, high and runs.

    Raises:
        BadInput: for another number of checkpoints.
    """
    found = _scores(returns)
    if found.shape[1] != len(steps):
        raise BadInput(f"there are returns of {found.shape[1]} checkpoints, but {len(steps)} steps")
    rows = []
    for number, step in enumerate(steps):
        got = interval(found[:, number], seed=seed, level=level, reps=reps)
        rows.append((int(step), got.mean, got.low, got.high, len(found)))
    return pd.DataFrame(rows, columns=["steps", "iqm", "low", "high", "runs"])


def _bootstrap(
    parts: Sequence[Array],
    statistic: Callable[[Sequence[Array]], Array],
    seed: Seed,
    reps: int,
    times: int = 1,
) -> Array:
    """Return the statistic of resampled runs, resampled within each task."""
    if reps < 1:
        raise BadInput(f"reps is at least 1, not {reps}")
    luck = seed.split("stratified bootstrap").numpy()
    chunk = max(1, CHUNK // (max(p.size for p in parts) * times))
    found = []
    for first in range(0, reps, chunk):
        count = min(chunk, reps - first)
        drawn = []
        for part in parts:
            index = luck.integers(0, len(part), (count, *part.shape))
            drawn.append(np.take_along_axis(np.broadcast_to(part, (count, *part.shape)), index, axis=1))
        found.append(statistic(drawn))
    return np.concatenate(found)


def _summary(value: float, drawn: Array, n: int, level: float) -> Summary:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Summary(value, float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0, float(low), float(high), n)
