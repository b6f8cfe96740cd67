"""Rank-weighted average treatment effects: does a score put those first whom treatment moves most?

With Γ a score of the effect (`scores.py`), TOC(u) = E[Γ | the top u] - E[Γ], and

    AUTOC = ∫ TOC(u) du = E[(-ln V - 1) Γ],    RATE-Qini = ∫ u TOC(u) du = E[(½ - V) Γ],

with V the share of rows ranked above (Yadlowsky, Fleming, Shah, Brunskill and Wager 2025, "Evaluating
treatment prioritization rules via rank-weighted average treatment effects", JASA 120, equations 2.4-2.6).
Both are linear in Γ, so giving tied rows their block's mean is the exact mean over all orders of ties.

causalml 0.18's `rate_score` divides TOC by u once more (and scales these weights to sum to 1), so its number
is no AUTOC: it drifts to TOC(0) as 1 / ln N. With effect 1 - U and U uniform, whose AUTOC is ∫ (1 - u) / 2 du
= ¼, it gives .348, .395 and .416 at 100, 2,000 and 20,000 rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from causal.targeting.measure import Measure, column, measure, users, weights
from causal.targeting.ranks import Ranks, from_here
from causal.targeting.tops import shares, tops
from simlab.errors import BadInput
from simlab.seeds import Seed

Array = np.ndarray

METRICS = ("autoc", "qini")


@dataclass(frozen=True, eq=False)
class Band:
    """A curve at some shares, with pointwise standard errors.

    Attributes:
        share: of the rows, best first.
        value: in the unit of the curve.
        stderr: its standard error.
        name: what it is.
    """

    share: Float[Array, " point"]
    value: Float[Array, " point"]
    stderr: Float[Array, " point"]
    name: str

    def interval(self, level: float = 0.95) -> tuple[Float[Array, " point"], Float[Array, " point"]]:
        """Return (low, high) of each point by the normal distribution."""
        z = float(stats.norm.ppf((1 + level) / 2)) * self.stderr
        return self.value - z, self.value + z


def autoc(
    priority: Any, scores: Any, *, weight: Any = None, user: Any = None, grid: str = "continuous"
) -> Measure:
    """Return the area under the TOC curve, in the outcome's unit; 0 for a score that says nothing.

    Args:
        priority: what ranks the rows, [round], higher first; or its `Ranks`, sorted once for several metrics.
        scores: Γ of each row, [round] (`aipw`; for a policy over arms, `pick`).
        weight: of each row.
        user: whose row it is.
        grid: "continuous", the integral over u; or "rows", the mean of TOC(j / N) over j = 1 … N, as grf's
            `rank_average_treatment_effect` (rows without weights). They differ by O(ln N / N).

    Raises:
        BadInput: for columns that do not fit, or an unknown grid.
    """
    return _rate(priority, scores, weight, user, "autoc", grid)


def rate_qini(
    priority: Any, scores: Any, *, weight: Any = None, user: Any = None, grid: str = "continuous"
) -> Measure:
    """Return the area under u · TOC(u); arguments as for `autoc`.

    It is the area between the gain curve of scores and the straight line to its end, gained a row.

    Raises:
        BadInput: as `autoc`.
    """
    return _rate(priority, scores, weight, user, "qini", grid)


def toc(priority: Any, scores: Any, at: Any = None, *, weight: Any = None, user: Any = None) -> Band:
    """Return TOC(u) at some shares, with pointwise standard errors.

    At 1 it is 0. The standard error counts that the threshold moves (`tops.py`).

    Args:
        priority: what ranks the rows, [round].
        scores: Γ of each row, [round].
        at: shares in (0, 1]; by default .05, .1, … 1.
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit, or shares out of (0, 1].
    """
    ranks, gain, mass, who = _columns(priority, scores, weight, user)
    found = tops(ranks, gain[:, None], mass, who, shares(at))
    value = found.value[:, 0] / found.share - found.whole[0]
    error = [found.stderr(i, np.array([1 / u, -1.0])) for i, u in enumerate(found.share)]
    return Band(found.share, value, np.array(error), "TOC")


def half_sample(
    metric: Callable[[Float[Array, " round"]], float],
    rows: int,
    *,
    weight: Any = None,
    user: Any = None,
    replicates: int = 200,
    seed: Seed = Seed(0),
) -> float:
    """Return a metric's standard error by half-sampling, as grf and the paper do: O(N log N) a replicate.

    Each replicate gives half of the rows (or users) their weight and the rest 0. The deviation over
    replicates is the standard error: half of the rows make the variance twice as large, and drawing them
    without replacement halves it again.

    >>> import numpy as np
    >>> luck = np.random.default_rng(0)
    >>> rank, gain = luck.normal(size=(2, 400))
    >>> error = half_sample(lambda w: autoc(rank, gain, weight=w).value, 400)
    >>> round(error / autoc(rank, gain).stderr, 1)
    1.0

    Args:
        metric: the value for a row weight, such as `lambda w: autoc(rank, gain, weight=w).value`.
        rows: how many there are.
        weight: of each row.
        user: whose row it is; users are kept whole.
        replicates: how many half samples.
        seed: which halves.

    Raises:
        BadInput: with fewer than 4 rows or users, or fewer than 2 replicates.
    """
    mass, who = weights(weight, rows), users(user, rows)
    place = np.arange(rows) if who is None else who
    many = int(place.max()) + 1
    if many < 4 or replicates < 2:
        raise BadInput(f"half-sampling needs 4 rows or users and 2 replicates, not {many} and {replicates}")
    luck = seed.split("halves").numpy()
    found = np.zeros(replicates)
    for r in range(replicates):
        kept = np.zeros(many)
        kept[luck.permutation(many)[: many // 2]] = 1.0
        found[r] = metric(mass * kept[place])
    return float(found.std(ddof=1))


def econml_rate(
    priority: Any, scores: Any, train_priority: Any, metric: str = "autoc", percentiles: Any = None
) -> Measure:
    """Return EconML 0.17's `DRTester.evaluate_uplift`: its grid, its thresholds, its standard error.

    The thresholds are percentiles of the training rows' priority, 50 of them from 5 to 95; the curve there is
    Σ over steps of value · width, left ends only. So the top and the bottom 5 % are left out, and the number
    is not the AUTOC of the paper (on Hillstrom .020936 against .025385 of `autoc`). Its standard error takes
    the share above each threshold as known. For EconML's digits; `autoc` and `rate_qini` are the definitions.

    Args:
        priority: what ranks the rows, [round].
        scores: Γ of each row, [round].
        train_priority: the training rows' priority.
        metric: "autoc" (EconML's "toc") or "qini".
        percentiles: rising, by default 50 from 5 to 95.

    Raises:
        BadInput: for columns that do not fit, or no rows above a threshold.
    """
    rank = column("priority", priority)
    gain = column("scores", scores, len(rank))
    if metric not in METRICS:
        raise BadInput(f"metric is {' or '.join(METRICS)}, not {metric}")
    at = np.linspace(5, 95, 50) if percentiles is None else column("percentiles", percentiles)
    edge = np.percentile(column("train_priority", train_priority), at)[:-1]
    width = np.diff(at) / 100
    order = np.argsort(rank, kind="stable")
    above = len(rank) - np.searchsorted(rank[order], edge, side="left")
    if above.min() == 0:
        raise BadInput(f"no row is above the training rows' percentile {at[int(above.argmin())]:g}")
    mean = float(gain.mean())
    share = above / len(rank)
    sums = np.append(np.cumsum(gain[order][::-1]), 0.0)[above - 1]
    value = sums / above - mean if metric == "autoc" else share * (sums / above - mean)
    step = width / share if metric == "autoc" else width
    total = float(value @ width)
    within = np.append(0.0, np.cumsum(step))[np.searchsorted(edge, rank, side="right")]
    change = (gain - mean) * (within - float(step @ share)) - total
    n = len(rank)
    return Measure(total, float(np.sqrt(np.mean(change**2) / n)), f"{metric} (EconML)", change / n)


def _rate(priority: Any, scores: Any, weight: Any, user: Any, metric: str, grid: str) -> Measure:
    if grid not in ("continuous", "rows"):
        raise BadInput(f"grid is continuous or rows, not {grid}")
    ranks, gain, mass, who = _columns(priority, scores, weight, user)
    gain, mass = ranks.ordered(gain), ranks.ordered(mass)
    each = ranks.blocks(mass)
    end = np.cumsum(each)
    total = float(end[-1])
    end /= total
    curve = np.diff(_area(np.append(0.0, end), metric))
    mean = ranks.blocks(mass * gain) / each
    jump = (_slope(end, metric) * (mean - np.append(mean[1:], mean[-1])))[:-1]  # the last end is always 1
    later = np.append(from_here(jump), 0.0) if len(jump) else np.zeros(1)
    change = mass * ranks.repeat((later - float(jump @ end[:-1])) / total)
    if len(each) < len(gain):
        change += mass * (gain - ranks.repeat(mean)) * ranks.repeat(curve / each)
    value = float(curve @ mean)
    if grid == "rows":
        if not (mass == 1).all():
            raise BadInput("grid rows is for rows without weights; take continuous")
        value = float(ranks.blocks(_row_weights(len(gain), metric)) @ mean)
    return measure(value, ranks.put(change), who, "AUTOC" if metric == "autoc" else "RATE-Qini")


def _area(v: Float[Array, " end"], metric: str) -> Float[Array, " end"]:
    """Return ∫ from 0 to v of -ln v - 1, or of ½ - v."""
    log = np.log(v, out=np.zeros_like(v), where=v > 0)
    found: Array = v * (1 - v) / 2 if metric == "qini" else -v * log
    return found


def _slope(v: Float[Array, " end"], metric: str) -> Float[Array, " end"]:
    found: Array = 0.5 - v if metric == "qini" else -np.log(v) - 1
    return found


def _row_weights(rows: int, metric: str) -> Float[Array, " round"]:
    """Return the weight of the row at each place in the mean of TOC(j / N), or of j / N · TOC(j / N)."""
    place = np.arange(1, rows + 1)
    if metric == "autoc":
        found: Array = (from_here(1 / place) - 1) / rows
        return found
    return ((rows + 1 - place) / rows - (rows + 1) / (2 * rows)) / rows


def _columns(
    priority: Any, scores: Any, weight: Any, user: Any
) -> tuple[Ranks, Array, Array, Int[Array, " round"] | None]:
    gain = column("scores", scores)
    mass, who = weights(weight, len(gain)), users(user, len(gain))
    ranks = Ranks.by(priority, mass)
    if ranks.rows != len(gain):
        raise BadInput(f"column priority has {ranks.rows} rows, but the scores have {len(gain)}")
    return ranks, gain, mass, who
