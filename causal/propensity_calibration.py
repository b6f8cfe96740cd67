"""Calibration of propensity models: temperature and isotonic, on rows that the model has not seen."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from causal.folds import assign
from causal.propensity import FittedPropensity, PropensityModel
from causal.rewards import positions
from causal.sklearn_propensity import whole
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.seeds import Seed

CALIBRATIONS = ("isotonic", "temperature")

_CELLS = 1 << 21
"""Cells of [round, cand] held at once: 16 MB."""

_TINY = 1e-12
"""The least probability of which a logarithm is taken."""

_FLATTEST = 0.02
"""The least slope that calibration uses: a model that knows nothing, or worse, becomes nearly even."""


@dataclass(frozen=True)
class Calibrated:
    """A recipe that corrects another one on rows that it was not fitted on.

    One part of the rows it is given is held out; the recipe is fitted on the rest, and the correction on what
    it then says of the part. So nothing of a scored fold reaches the correction either.

    - `temperature`: p ∝ p̂^(1/T), with the T of the least log-loss (Guo, Pleiss, Sun and Weinberger 2017, "On
      calibration of modern neural networks", ICML, section 4.2).
    - `isotonic`: each candidate's p̂ goes through one non-decreasing function, fitted to whether it was shown,
      and a row is divided by its sum (Zadrozny and Elkan 2002, "Transforming classifier scores into accurate
      multiclass probability estimates", KDD, one against all).

    Of slates the item at the top is looked at. The correction sees evenly spaced rows of the held-out part,
    at most 16 M candidates of them: 128 MB, a few times over.

    Args:
        model: the recipe to correct.
        kind: one of `CALIBRATIONS`.
        parts: 1 / parts of the users (or rounds, where there are fewer users) are held out.

    Raises:
        BadInput: for an unknown kind or fewer than 2 parts.
    """

    model: PropensityModel
    kind: str = "isotonic"
    parts: int = 5
    name: ClassVar[str] = "calibrated"

    def __post_init__(self) -> None:
        if self.kind not in CALIBRATIONS:
            known = " or ".join(CALIBRATIONS)
            raise BadInput(f"calibration is {known}, not {self.kind}{nearest(self.kind, CALIBRATIONS)}")
        if self.parts < 2:
            raise BadInput(f"calibration holds out one of parts, so parts is at least 2, not {self.parts}")

    @property
    def past(self) -> int:
        """The recipe's own."""
        return self.model.past

    def fit(
        self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None
    ) -> FittedPropensity:
        """Fit the recipe on most rows, and the correction on the rest."""
        users = len(torch.unique(log.user)) >= 2 * self.parts
        part = assign(log, self.parts, seed.split("calibration"), users)
        train, held = (part != 0).nonzero().squeeze(1), (part == 0).nonzero().squeeze(1)
        inner = self.model.fit(log.rows(train), slots, seed, None if weight is None else weight[train])
        context, place = log.context(self.past), positions(log)[:, 0]
        size = max(1, _CELLS // context.candidates.shape[1])
        held = held[:: max(1, -(-len(held) // (8 * size)))]  # a correction needs no more than 16 M cells
        tables, hits, masks = [], [], []
        for at in torch.split(held, size):
            rows = context.rows(at)
            tables.append(inner.probabilities(rows, place[at]))
            hits.append(rows.columns(log.slate[at, :1]).squeeze(1))
            masks.append(rows.mask)
        by = torch.ones(len(held), dtype=torch.float64) if weight is None else weight[held].double()
        table, hit, mask = torch.cat(tables), torch.cat(hits), torch.cat(masks)
        if self.kind == "temperature":
            return _Tempered(inner, 1 / max(slope(table, hit, mask, by.to(table.device)), _FLATTEST))
        return _Stepped(inner, _isotonic(table, hit, mask, by))


@dataclass(frozen=True, eq=False)
class _Tempered:
    inner: FittedPropensity
    temperature: float

    def probabilities(self, context: Context, position: Int[Tensor, " user"]) -> Float[Tensor, "user cand"]:
        return _power(self.inner.probabilities(context, position), context.mask, 1 / self.temperature)


@dataclass(frozen=True, eq=False)
class _Stepped:
    inner: FittedPropensity
    curve: Any

    def probabilities(self, context: Context, position: Int[Tensor, " user"]) -> Float[Tensor, "user cand"]:
        table = self.inner.probabilities(context, position)
        said = self.curve.predict(table.cpu().numpy().reshape(-1)).reshape(table.shape)
        return whole(torch.from_numpy(said).to(table), context.mask)


def slope(
    table: Float[Tensor, "row cand"],
    hit: Int[Tensor, " row"],
    mask: Bool[Tensor, "row cand"],
    weight: Float[Tensor, " row"] | None = None,
) -> float:
    """Return the b for which p ∝ p̂^b fits best what was shown: the calibration slope.

    1 where p̂ knows how sure it is, below 1 where it is too sure, above 1 where it is not sure enough; 0 or
    less where it knows nothing. It is the maximum-likelihood slope of a conditional logit on log p̂ (Cox
    1958, "Two further applications of a model for binary regression", for two outcomes), sought between -10
    and 20; the likelihood is concave, so there is one.
    """
    by = torch.ones(len(hit), dtype=torch.float64, device=table.device) if weight is None else weight

    def surprise(b: float) -> float:
        said = _power(table, mask, b).gather(1, hit.unsqueeze(1)).squeeze(1)
        return -float((by * said.clamp(min=torch.finfo(torch.float64).tiny).log()).sum())

    found = minimize_scalar(surprise, bounds=(-10.0, 20.0), method="bounded", options={"xatol": 1e-7})
    return float(found.x)


def _power(
    table: Float[Tensor, "row cand"], mask: Bool[Tensor, "row cand"], power: float
) -> Float[Tensor, "row cand"]:
    """Return p^power over its sum; in logarithms, so that tiny chances do not vanish."""
    logit = power * table.clamp(min=_TINY).log()
    return logit.masked_fill(~mask, -torch.inf).softmax(1)


def _isotonic(
    table: Float[Tensor, "row cand"],
    hit: Int[Tensor, " row"],
    mask: Bool[Tensor, "row cand"],
    weight: Float[Tensor, " row"],
) -> Any:
    """Fit a non-decreasing function from p̂ to whether the candidate was shown, over all candidates."""
    from sklearn.isotonic import IsotonicRegression

    shown = torch.zeros_like(table).scatter_(1, hit.unsqueeze(1), 1.0)
    by = weight.to(table.device).unsqueeze(1).expand_as(table)
    x, y, w = (part[mask].cpu().numpy() for part in (table, shown, by))
    return IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y, sample_weight=w)
