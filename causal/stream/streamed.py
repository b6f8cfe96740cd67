"""What a stream leaves: values, standard errors, intervals and differences, from sums alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import special

from causal.contract import Interval
from causal.evaluation import Estimate, to_frame
from causal.stream.tally import Tally
from causal.sums import ScoreSums
from simlab.errors import BadInput, nearest

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("normal", "student-t", "cluster", "poisson")
"""Intervals that sums can give."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """What estimators say of a log whose rows are gone.

    Attributes:
        names: of the estimates, in order: "target: estimator", or the estimator alone for one target.
        tally: sums of scores and of weights.
        leans: for each name, the key of its weights in the tally, or "".
        grouped: whether users are the units of every spread.
        files: how many files were read.
    """

    names: tuple[str, ...]
    tally: Tally
    leans: tuple[str, ...]
    grouped: bool
    files: int

    def __len__(self) -> int:
        """Return N, how many rows were scored."""
        return self.tally.sums.count

    def sums(self, name: str) -> ScoreSums:
        """Return the sums of one estimate's scores.

        Raises:
            BadInput: for a name that is not there.
        """
        return _part(self.tally.sums, self._columns(name), ())

    def estimates(
        self,
        kind: str | Sequence[str] = "student-t",
        level: float = 0.95,
        *,
        replicates: int = 1000,
        names: Sequence[str] | None = None,
    ) -> list[Estimate]:
        """Return an estimate for each name; its `scores` are empty, for the rows are gone.

        Args:
            kind: one or more of `KINDS`. With `group="user"` users are the units of each, as in memory; there
                users share buckets, which tell the standard error to a part in √(2 buckets).
            level: coverage of the intervals.
            replicates: of the Poisson bootstrap.
            names: which ones; by default all.

        Raises:
            BadInput: for another kind, a level outside (0, 1), a name that is not there, or sums that give no
                value.
        """
        return [
            self._estimate(name, self.sums(name), kind, level, replicates, *self.overlap(name))
            for name in (self.names if names is None else names)
        ]

    def difference(
        self,
        a: str,
        b: str,
        kind: str | Sequence[str] = "student-t",
        level: float = 0.95,
        *,
        replicates: int = 1000,
        name: str = "difference",
    ) -> Estimate:
        """Return V(a) - V(b) for two names: targets or estimators that scored the same rows.

        The sums hold the products of all pairs of score columns, so what both share cancels, as in
        `causal.evaluation.paired_difference`.
        """
        sums = _part(self.tally.sums, self._columns(a), self._columns(b))
        nan = float("nan")
        return self._estimate(name, sums, kind, level, replicates, nan, nan)

    def to_frame(
        self, kind: str | Sequence[str] = "student-t", level: float = 0.95, *, replicates: int = 1000
    ) -> "pd.DataFrame":
        """Return one row per estimate, as pandas; see `causal.evaluation.to_frame`."""
        return to_frame(self.estimates(kind, level, replicates=replicates))

    def _columns(self, name: str) -> range:
        if name not in self.names:
            raise BadInput(f"there is no estimate named {name}{nearest(name, self.names)}")
        at = self.names.index(name)
        start = 2 * sum(self.tally.widths[:at])
        return range(start, start + 2 * self.tally.widths[at])

    def overlap(self, name: str) -> tuple[float, float]:
        """Return the effective number of rows and the largest share of one name's weights, of the worst slot.

        NaN where it has no weights.
        """
        self._columns(name)
        key = self.leans[self.names.index(name)]
        if not key:
            return float("nan"), float("nan")
        total, square, largest = self.tally.weights[key]
        ess = torch.where(square > 0, total.square() / square, 0.0)
        share = torch.where(total > 0, largest / total, 1.0)
        return float(ess.min()), float(share.max())

    def _estimate(
        self,
        name: str,
        sums: ScoreSums,
        kind: str | Sequence[str],
        level: float,
        replicates: int,
        ess: float,
        share: float,
    ) -> Estimate:
        if not 0 < level < 1:
            raise BadInput(f"level is {level}, but a coverage is between 0 and 1")
        if replicates < 2:
            raise BadInput(f"replicates is {replicates}, but a bootstrap needs at least 2")
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        intervals = tuple(self._interval(sums, each, level, replicates) for each in kinds)
        spread = sums.stderr(clustered=self.grouped)
        return Estimate(name, sums.value(), spread, intervals, sums.count, ess, share, scores=())

    def _interval(self, sums: ScoreSums, kind: str, level: float, replicates: int) -> Interval:
        if kind not in KINDS:
            raise BadInput(f"there is no interval named {kind} from sums{nearest(kind, KINDS)}")
        if kind == "cluster" and not self.grouped:
            raise BadInput("a cluster interval needs a group for each row, and none was given")
        if kind == "student-t" and self.grouped:
            found = sums.interval("cluster", level)
            return Interval(found.low, found.high, kind, level)
        if kind == "normal" and self.grouped:
            half = float(special.ndtri((1 + level) / 2)) * sums.stderr(clustered=True)
            return Interval(sums.value() - half, sums.value() + half, kind, level)
        return sums.interval(kind, level, replicates)


def _part(sums: ScoreSums, plus: Sequence[int], minus: Sequence[int]) -> ScoreSums:
    """Return the sums of some columns; of `minus` the numerators change their sign."""
    at = torch.tensor([*plus, *minus])
    sign = torch.ones(len(at), dtype=torch.float64)
    sign[len(plus) :: 2] = -1
    return ScoreSums(
        sums.count,
        sums.sums[at] * sign,
        sums.cross[at][:, at] * torch.outer(sign, sign),
        sums.buckets[:, at] * sign,
        sums.rows,
        sums.seed,
    )
