"""Are a log's propensities those that it was drawn with? Held against an estimate that has not seen the row.

If the logged p is right, what an estimate says of the same row can be no better on average: E[p̂ / p] ≤ 1 for
every p̂ that was fitted elsewhere. Two tests follow, an e-value and a z-score of each item, and neither needs
the estimate to be right.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from causal.propensity import Propensities
from causal.propensity_calibration import slope

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
"""Where the ratios' distribution is reported."""

MIN_COUNT = 30
"""Times that an item is shown before it is judged."""

ALARM = 1e-3
"""Below this p-value the sentence says that the logged propensities are not right."""

_ROWS = 1 << 14
"""Rows on which the calibration slope is fitted, at most."""

_CELLS = 1 << 23
"""Cells of [round, cand] on which it is fitted, at most: 64 MB, a few times over."""


@dataclass(frozen=True)
class Audit:
    """Logged propensities p beside estimated ones p̂.

    Attributes:
        n: rounds that were scored.
        ratio: quantiles of p / p̂ at `QUANTILES`.
        loss_logged: log-loss of the logged propensities, mean(-log p), in nats.
        loss_estimated: of the estimated ones. In expectation the right propensities have the smallest loss of
            all, so a smaller one here speaks against the log.
        p_value: against the logged propensities: one over the e-value of `evidence`, at most 1.
        evidence: log10 of the e-value mean_k exp Σ_{i in fold k} log(p̂_i / p_i). If the logged propensities
            are right it is above log10(1 / α) with a chance of at most α, at any sample size, for independent
            rows.
        slope: b of p ∝ p̂^b: 1 if the estimate knows how sure it is, below 1 if it is too sure.
        z: for each item at the top that was shown at least `MIN_COUNT` times, Σ (1[shown] p̂/p - p̂(item))
            over its standard error: near N(0, 1) if the logged propensities are right, whatever the estimate.
        floored: rounds whose estimate hangs on its floor.
        missing: rounds that show an item which their model never met.
    """

    n: int
    ratio: tuple[float, ...]
    loss_logged: float
    loss_estimated: float
    p_value: float
    evidence: float
    slope: float
    z: dict[int, float]
    floored: int
    missing: int

    @property
    def off(self) -> tuple[int, ...]:
        """The items whose z is too large for chance, after Bonferroni's correction, the worst first."""
        if not self.z:
            return ()
        edge = float(stats.norm.isf(ALARM / (2 * len(self.z))))
        found = [item for item, z in self.z.items() if abs(z) > edge]
        return tuple(sorted(found, key=lambda item: -abs(self.z[item])))

    def sentences(self) -> tuple[str, ...]:
        """Say what was found, the worst first."""
        low, high = self.ratio[0], self.ratio[-1]
        out = []
        if self.p_value < ALARM:
            out.append(
                f"an estimate that has not seen the rows foretells what was shown better than the logged "
                f"propensities do (log-loss {self.loss_estimated:.4f} < {self.loss_logged:.4f}, e-value "
                f"10^{self.evidence:.1f}): the logged propensities are not those of the logger"
            )
        if self.off:
            worst = self.off[0]
            which = ", ".join(str(item) for item in self.off[:5])
            out.append(
                f"{len(self.off)} of {len(self.z)} items are not shown as their logged propensities say "
                f"(item {which}; worst is {worst} with z = {self.z[worst]:.1f})"
            )
        if not out:
            out.append(
                f"nothing speaks against the logged propensities: log-loss {self.loss_logged:.4f}, and "
                f"{self.loss_estimated:.4f} of the estimate"
            )
        out.append(
            f"logged / estimated is {self.ratio[2]:.3g} at the median and {low:.3g} to {high:.3g} in 98 % of "
            f"rounds; the estimate's calibration slope is {self.slope:.2f}"
        )
        if self.floored:
            out.append(
                f"{self.floored} of {self.n} estimates hang on the floor, {self.missing} of them or others "
                "show an item that their model never met"
            )
        return tuple(out)


def audit(estimated: Propensities) -> Audit:
    """Hold the log's own propensities against estimated ones, by losses, an e-value and a z of each item.

    The e-value is the split likelihood ratio of Wasserman, Ramdas and Balakrishnan (2020), "Universal
    inference", PNAS, averaged over the folds (their cross-fit form), with the one hypothesis that the logged
    propensities are right. It holds for a model that is fitted on other rows and nothing else, and
    needs rows of different folds to be independent.

    The z-scores reweigh what was shown to the estimated policy: E[1[a shown] p̂(a) / p(a)] = p̂(a) if p is
    right. They vary less than 1[a shown] / p does, whose spread is set by the smallest propensities.

    The estimate's table is read twice, a block of rows at a time; the slope takes at most 16,384 evenly
    spaced rows and 64 MB of it.

    Args:
        estimated: of the log that is audited, with its own propensities; for slates the items at the top are
            judged, where the log has `slot_propensity`.
    """
    log, kept = estimated.log, estimated.folds.scored
    p, guess = log.propensity.double(), estimated.chance
    gain = (guess / p).log()[kept]
    fold = estimated.folds.fold[kept]
    sums = torch.zeros(estimated.folds.count, dtype=torch.float64, device=gain.device)
    sums = sums.index_add_(0, fold, gain)
    evidence = float(torch.logsumexp(sums, 0) - math.log(len(sums))) / math.log(10)
    top = p if log.slots == 1 else None if log.slot_propensity is None else log.slot_propensity[:, 0].double()
    ratio = np.quantile((p / guess)[kept].cpu().numpy(), QUANTILES)
    return Audit(
        n=int(kept.sum()),
        ratio=tuple(ratio.tolist()),
        loss_logged=-float(p[kept].log().mean()),
        loss_estimated=-float(guess[kept].log().mean()),
        p_value=min(1.0, 10 ** min(-evidence, 0.0)),
        evidence=evidence,
        slope=_slope(estimated),
        z={} if top is None else _items(estimated, top),
        floored=int(estimated.floored.sum()),
        missing=int(estimated.missing.sum()),
    )


def _slope(estimated: Propensities) -> float:
    """Return the calibration slope on evenly spaced rows that a model scores."""
    log, scored = estimated.log, estimated.folds.scored
    wide = log.n_items if log.candidates is None else log.candidates.shape[1]
    kept, most = scored.nonzero().squeeze(1), max(1, min(_ROWS, _CELLS // wide))
    chosen = torch.zeros_like(scored)
    chosen[kept[:: -(-len(kept) // most)]] = True
    tables, hits, masks = [], [], []
    for rows, context, table in estimated.blocks():
        pick = chosen[rows].nonzero().squeeze(1)
        tables.append(table[pick])
        hits.append(context.rows(pick).columns(log.slate[rows][pick, :1]).squeeze(1))
        masks.append(context.mask[pick])
    return slope(torch.cat(tables), torch.cat(hits), torch.cat(masks))


def _items(estimated: Propensities, p: Float[Tensor, " round"]) -> dict[int, float]:
    """Return z of each item that is shown often enough, by sums over blocks of rows."""
    log = estimated.log
    item: Int[Tensor, " round"] = log.slate[:, 0]
    total = torch.zeros(log.n_items, dtype=torch.float64, device=p.device)
    square = torch.zeros_like(total)
    for rows, context, table in estimated.blocks():
        kept = estimated.folds.scored[rows]
        part, table = context.rows(kept), table[kept]
        column = part.columns(item[rows][kept].unsqueeze(1))
        # Each candidate's term is -p̂, and what was shown has p̂ / p besides.
        term = -table * part.mask
        term.scatter_add_(1, column, table.gather(1, column) / p[rows][kept].unsqueeze(1))
        where = part.candidates.reshape(-1)
        total.index_add_(0, where, term.reshape(-1))
        square.index_add_(0, where, term.square().reshape(-1))
    count = torch.bincount(item[estimated.folds.scored], minlength=log.n_items)
    judged = ((count >= MIN_COUNT) & (square > 1e-18)).nonzero().squeeze(1)
    return {int(i): float(total[i] / square[i].sqrt()) for i in judged}
