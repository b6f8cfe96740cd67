"""From scores to a table: value, standard error, interval, and how many rows really count."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import (
    Estimator,
    Interval,
    Score,
    Scored,
    Scores,
    possible,
    stderr,
    value,
)
from causal.intervals import clustered, interval, merged
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Estimate:
    """What an estimator says of a target policy, and how sure it is.

    Attributes:
        name: the estimator's name.
        value: the estimated mean reward of a round.
        stderr: standard error by the delta method; of clusters where the rounds have groups.
        intervals: as asked for; the first is `interval`.
        n: number of rounds.
        ess: effective number of rounds, (Σw)² / Σw²; NaN for a difference.
        max_weight_share: the largest weight over the sum of weights; NaN for a difference.
        scores: of each round, for paired differences and sums.
        group: cluster of each round, if any.
    """

    name: str
    value: float
    stderr: float
    intervals: tuple[Interval, ...]
    n: int
    ess: float
    max_weight_share: float
    scores: Scores = field(repr=False)
    group: Int[Tensor, " round"] | None = field(default=None, repr=False)

    @property
    def interval(self) -> Interval:
        """The first interval."""
        return self.intervals[0]


ROOMS = {"Rounds": "estimator", "Slates": "slate estimator", "Trajectories": "trajectory estimator"}
"""The kind of part that scores each kind of data."""


def estimate(
    estimator: Estimator[Any],
    rounds: Scored,
    kind: str | Sequence[str] = "student-t",
    level: float = 0.95,
    *,
    seed: Seed = Seed(0),
    replicates: int = 1000,
) -> Estimate:
    """Apply one estimator.

    Where `rounds.group` is set, users are the units of the standard error and of every interval.

    Args:
        estimator: what to score with.
        rounds: what to score: rounds, slates or trajectories.
        kind: one or more of `causal.intervals.KINDS`.
        level: coverage of the intervals.
        seed: of bootstraps.
        replicates: of bootstraps.

    Raises:
        BadInput: if the data lack what the estimator needs, the target never does what was logged, or there
            are fewer than two rows or clusters.
    """
    ess, share = overlap(estimator, rounds)
    return _summary(
        estimator.name,
        estimator.score(rounds),
        kind,
        level,
        rounds.group,
        seed,
        replicates,
        ess,
        share,
    )


def overlap(estimator: Estimator[Any], data: Scored) -> tuple[float, float]:
    """Return the effective number of rows and the largest share of the weights that an estimator leans on.

    Where it weighs each slot or step, the worst of them; NaN for an estimator without weights.
    """
    if not estimator.leans:
        return float("nan"), float("nan")
    weight = getattr(data, estimator.leans)
    if weight is None:
        data.need(estimator.leans)
    each = weight.unbind(1) if weight.ndim == 2 else (weight,)
    return min(effective(w) for w in each), max(largest_share(w) for w in each)


def evaluate(
    rounds: Scored,
    estimators: Iterable[Estimator[Any]] | None = None,
    kind: str | Sequence[str] = "student-t",
    level: float = 0.95,
    *,
    seed: Seed = Seed(0),
    replicates: int = 1000,
) -> list[Estimate]:
    """Apply several estimators to the same rounds.

    Args:
        rounds: what to score.
        estimators: by default all of the catalogue whose needs the data meet.
        kind: as in `estimate`.
        level: as in `estimate`.
        seed: as in `estimate`.
        replicates: as in `estimate`.
    """
    if estimators is None:
        found = [part() for part in all_parts(ROOMS[type(rounds).__name__]).values()]
        estimators = [e for e in found if possible(e, rounds)]
    return [estimate(e, rounds, kind, level, seed=seed, replicates=replicates) for e in estimators]


def paired_difference(
    a: Scores,
    b: Scores,
    kind: str | Sequence[str] = "student-t",
    level: float = 0.95,
    *,
    group: Int[Tensor, " round"] | None = None,
    seed: Seed = Seed(0),
    replicates: int = 1000,
    name: str = "difference",
) -> Estimate:
    """Return V(a) - V(b) for two targets (or estimators) on one log.

    The scores are of the same rounds, so what both share cancels: the influence of a difference is the
    difference of influences, and resamples take the same rounds for both.

    Args:
        a: scores of the first.
        b: scores of the second, of the same rows in the same order.
        kind: as in `estimate`.
        level: as in `estimate`.
        group: cluster of each row.
        seed: as in `estimate`.
        replicates: as in `estimate`.
        name: of the difference, for tables.

    Raises:
        BadInput: for scores or groups of another number of rows, or as `estimate`.
    """
    for side, scores in (("first", a), ("second", b)):
        if not scores:
            raise BadInput(f"a difference needs scores on both sides, and the {side} has none")
    one, two = len(a[0].numerator), len(b[0].numerator)
    if one != two:
        raise BadInput(
            f"the first scores are of {one} rows and the second of {two}: a difference is on the same rows"
        )
    if group is not None and len(group) != one:
        raise BadInput(f"{one} rows of scores have a group of {len(group)}")
    both = merged(a + tuple(Score(-s.numerator, s.denominator) for s in b))
    nan = float("nan")
    return _summary(name, both, kind, level, group, seed, replicates, nan, nan)


def to_frame(estimates: Iterable[Estimate]) -> "pd.DataFrame":
    """Return one row per estimate, as pandas.

    `low` and `high` are of the first interval; the ends of further ones are named after their kind.
    """
    import pandas as pd

    rows = []
    for e in estimates:
        row: dict[str, object] = {
            "estimator": e.name,
            "value": e.value,
            "stderr": e.stderr,
            "low": e.interval.low,
            "high": e.interval.high,
            "interval": e.interval.kind,
            "level": e.interval.level,
            "n": e.n,
            "ess": e.ess,
            "max_weight_share": e.max_weight_share,
        }
        for more in e.intervals[1:]:
            row[f"low_{more.kind}"], row[f"high_{more.kind}"] = more.low, more.high
        rows.append(row)
    return pd.DataFrame(rows)


def effective(weight: Float[Tensor, " round"]) -> float:
    """Return the effective sample size (Σw)² / Σw² (Kong 1992); 0 where all weights are zero."""
    square = float(weight.square().sum())
    return float(weight.sum()) ** 2 / square if square > 0 else 0.0


def largest_share(weight: Float[Tensor, " round"]) -> float:
    """Return max w / Σw; 1 where all weights are zero, for then nothing is shared."""
    total = float(weight.sum())
    return float(weight.max()) / total if total > 0 else 1.0


def _summary(
    name: str,
    scores: Scores,
    kind: str | Sequence[str],
    level: float,
    group: Int[Tensor, " round"] | None,
    seed: Seed,
    replicates: int,
    ess: float,
    share: float,
) -> Estimate:
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    return Estimate(
        name=name,
        value=value(scores),
        stderr=stderr(scores if group is None else clustered(scores, group)),
        intervals=tuple(interval(scores, k, level, group, seed=seed, replicates=replicates) for k in kinds),
        n=len(scores[0].numerator),
        ess=ess,
        max_weight_share=share,
        scores=scores,
        group=group,
    )
