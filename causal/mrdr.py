"""More robust doubly robust: a reward model that is fitted so that DR varies least for this target.

Given a context, DR's variance over what the logger shows is dᵀ Ω d with

    d_a = π(a|x) (q(x, a) - q̂(x, a)),    Ω = diag(1 / π₀(a|x)) - 1 1ᵀ,

and all else in its variance does not hang on q̂. Ordinary regression minimises Σ_a π₀(a|x) (q - q̂)² instead:
it is careful where the logger often goes, not where the target's weights are large.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Rounds
from causal.pages import marginals_at, pages_of
from causal.rewards import Fitted, RewardModel, cross_fit, positions
from causal.rounds import rounds as rounds_of
from simlab.context import Catalog, Context
from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed

KINDS = ("diagonal", "bound", "obp")

_CELLS = 1 << 21
"""Cells of [round, column] or [round, slot, item] held at once: 16 MB."""

WIDEST = 1 << 14
"""Columns of a linear model, at most: its normal equations are 2 GB, and solving holds a few of those."""


def robust_weight(
    weight: Float[Tensor, " round"], propensity: Float[Tensor, " round"], kind: str = "diagonal"
) -> Float[Tensor, " round"]:
    """Return the weight of each row's squared error (r - q̂)² for a model that any learner can fit.

    A learner takes a weight a row, so it can minimise Σ_a c_a (q - q̂)² but not the cross terms of Ω.

    - `diagonal`: w² (1 - p), Ω's diagonal. For a deterministic target there are no cross terms (one d_a is
      not zero) and this is exact: Farajtabar et al.'s 1[a = π(x)] (1 - p) / p².
    - `bound`: w². Ω is at most diag(1 / π₀), so this minimises an upper bound of the variance.
    - `obp`: w (1 - p) / p, as obp's `RegressionModel(fitting_method="mrdr")` has it.

    Differs: obp puts π(a|x) into the formula for deterministic targets, where a stochastic one has π(a|x)².
    So it minimises Σ_a π (1 / π₀ - 1) (q - q̂)², the mean variance over the deterministic targets that π is a
    mixture of. As dᵀ Ω d is convex in π, that is an upper bound of the variance, and not the variance: on the
    listed world of the tests its best model leaves more variance than the best of `VarianceReward`, which is
    exact for linear models.

    Args:
        weight: w, target / logger.
        propensity: p, the logger's probability of what it showed.
        kind: one of `KINDS`.

    Raises:
        BadInput: for another kind.
    """
    w, p = weight.double(), propensity.double()
    if kind == "diagonal":
        return w.square() * (1 - p)
    if kind == "bound":
        return w.square()
    if kind == "obp":
        return w * (1 - p) / p
    raise BadInput(f"kind is one of {', '.join(KINDS)}, not {kind}{nearest(kind, KINDS)}")


@dataclass(frozen=True)
class VarianceReward:
    """A recipe for the linear reward model that minimises DR's variance, cross terms and all.

    q̂(x, a, k) = β · φ(x, a, k) with φ = [1, x, one-hot a, the item's features, x × one-hot a, one-hot k].
    DR adds π·q̂ - w q̂(x, a) to w r, which is linear in β, so

        β = argmin Σ_i v_i (w_i r_i - z_i·β - m)² + ridge |β|²,
        z_i = w_i φ(x_i, a_i) - Σ_a π(a|x_i) φ(x_i, a),

    over β and m: least squares on the scores that the estimate is a mean of. In expectation this is dᵀ Ω d
    plus what does not hang on β, so it is the paper's objective E[w q_βᵀ Ω q_β] with q_β = π q̂ - 1[a] r, for
    any target. But it asks only for the propensity of what was shown, where Ω asks for the logger's whole
    policy. Slates have the additive model of `causal.rounds.rounds`, and w of the whole slate.

    Source: Farajtabar, Chow and Ghavamzadeh (2018), "More robust doubly robust off-policy evaluation", ICML,
    section 4 (contextual bandits).

    Args:
        target: whose value is wanted.
        ridge: of β, on sums over rows as in scikit-learn's Ridge; standardise features for it to be fair.
        interact: whether each item has its own slopes: items × features columns more.
        catalog: the items, to use their features.
        past: how many items of history the target wants.

    Raises:
        BadInput: for a ridge below 0; at `fit`, for more than `WIDEST` columns: memory is 8 bytes times the
            square of the columns, a few times over, and time goes with the cube.
    """

    target: Policy
    ridge: float | int = 1.0
    interact: bool = False
    catalog: Catalog | None = None
    past: int = 0
    name: ClassVar[str] = "variance"

    def __post_init__(self) -> None:
        if not self.ridge >= 0:
            raise BadInput(f"ridge is at least 0, not {self.ridge}")

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Solve the normal equations, summed over blocks of rows."""
        layout = _Linear(log.n_items, slots, self.interact, self.catalog)
        width, device = layout.width(0 if log.features is None else log.features.shape[1]), log.slate.device
        if width > WIDEST:
            raise BadInput(
                f"a linear model of {width:,} columns, and {WIDEST:,} are the most that are solved for: say "
                "interact=False, or fit a ranker with robust_weight"
            )
        mass = torch.ones(len(log), dtype=torch.float64, device=device)
        if weight is not None:
            mass = weight.to(device, torch.float64)
        gram = torch.zeros(width + 2, width + 2, dtype=torch.float64, device=device)
        context, place = log.context(self.past), positions(log)
        weights = rounds_of(log, self.target, past=self.past, page_slots=_page(log, slots)).weight
        block = max(1, _CELLS // max(width, slots * max(log.n_items, context.candidates.shape[1])))
        for start in range(0, len(log), block):
            rows = slice(start, start + block)
            part, w = context.rows(rows), weights[rows]
            with torch.no_grad():
                shown = self.target.distribution(part, slots)
            signed = -_spread(
                log.n_items, part, marginals_at(shown, None if log.position is None else place[rows])
            )
            signed.scatter_add_(2, log.slate[rows].unsqueeze(2), w[:, None, None].expand(-1, log.slots, 1))
            z = layout.design(part.features.double(), signed, place[rows])
            ones = torch.ones(len(w), 1, dtype=torch.float64, device=z.device)
            every = torch.cat([z, ones, (w * log.reward[rows].double()).unsqueeze(1)], 1)
            gram += every.T @ (every * mass[rows].unsqueeze(1))
        # The unpenalised constant m is taken out first: centred sums, then a ridge.
        middle = gram[:, -2] / gram[-2, -2]
        gram = gram - gram[-2, -2] * torch.outer(middle, middle)
        a = gram[:width, :width] + self.ridge * torch.eye(width, dtype=torch.float64, device=gram.device)
        beta = torch.linalg.pinv(a, rtol=1e-12, hermitian=True) @ gram[:width, -1]
        return _FittedLinear(layout, beta)


@dataclass(frozen=True, eq=False)
class _Linear:
    """Where things are in φ. All of it is linear in the one-hot item, so any mixture of items has a φ."""

    n_items: int
    slots: int
    interact: bool
    catalog: Catalog | None

    def width(self, features: int) -> int:
        """Return the number of columns."""
        known = 0 if self.catalog is None else self.catalog.features.shape[1]
        page = self.slots if self.slots > 1 else 0
        return 1 + features + self.n_items + known + page + (features * self.n_items if self.interact else 0)

    def design(
        self,
        features: Float[Tensor, "row feat"],
        signed: Float[Tensor, "row slot item"],
        place: Int[Tensor, "row slot"],
    ) -> Float[Tensor, "row width"]:
        """Return Σ_k Σ_a s_ka φ(x, a, k) of signed masses of items at slots."""
        items = signed.sum(1)
        total = items.sum(1, keepdim=True)
        parts = [total, features * total, items]
        if self.catalog is not None:
            parts.append(items @ self.catalog.features.double().to(items.device))
        if self.slots > 1:
            page = torch.zeros(len(items), self.slots, dtype=torch.float64, device=items.device)
            parts.append(page.scatter_add_(1, place, signed.sum(2)))
        if self.interact:
            parts.append((features.unsqueeze(2) * items.unsqueeze(1)).flatten(1))
        return torch.cat(parts, 1)


@dataclass(frozen=True, eq=False)
class _FittedLinear:
    layout: _Linear
    beta: Float[Tensor, " width"]

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Add up the parts of β · φ, without a row of φ for each candidate."""
        x, layout = context.features.double(), self.layout
        wide, n = x.shape[1], layout.n_items
        rest = self.beta[1 + wide :]
        item, rest = rest[:n], rest[n:]
        if layout.catalog is not None:
            known = layout.catalog.features.double().to(x.device)
            item, rest = item + known @ rest[: known.shape[1]], rest[known.shape[1] :]
        page = torch.zeros(int(position.max()) + 1, dtype=torch.float64, device=x.device)
        if layout.slots > 1:
            page, rest = rest[: layout.slots], rest[layout.slots :]
        value = (self.beta[0] + x @ self.beta[1 : 1 + wide]).unsqueeze(1) + item[context.candidates]
        if layout.interact:
            slopes, block = rest.view(wide, n), max(1, _CELLS // n)  # of all items, a block of rows at a time
            for start in range(0, len(x), block):
                rows = slice(start, start + block)
                value[rows] += (x[rows] @ slopes).gather(1, context.candidates[rows])
        return value.unsqueeze(1) + page[position].unsqueeze(2)


def robust(
    found: Rounds,
    log: Log,
    target: Policy,
    model: RewardModel,
    *,
    kind: str = "diagonal",
    folds: int = 3,
    seed: Seed = Seed(0),
    past: int = 0,
    page_slots: int | None = None,
    **order: Any,
) -> Rounds:
    """Fill `robust_logged` and `robust_target` with a model that is fitted for this target, out of fold.

    Args:
        found: `causal.rounds.rounds` of the same log and target; users stay whole where it has groups.
        log: the rounds.
        target: whose value is wanted.
        model: any recipe, fitted with `robust_weight`; or a `VarianceReward`, which knows the target.
        kind: of `robust_weight`.
        folds: of cross-fitting.
        seed: of folds and fits.
        past: how many items of history the target wants.
        page_slots: as in `causal.rounds.rounds`.
        order: `order`, `time` and `fold` of `causal.rewards.cross_fit`; a burn-in is left out.

    Raises:
        BadInput: if the rounds are not of this log, or the target never does what a fold's training rows log.
    """
    if len(found) != len(log):
        raise BadInput(f"there are weights of {len(found)} rounds, but the log has {len(log)}")
    weight = None if isinstance(model, VarianceReward) else robust_weight(found.weight, log.propensity, kind)
    pages = pages_of(log, page_slots)
    grouped = found.group is not None
    fit = cross_fit(log, model, folds, seed, grouped, slots=pages, weight=weight, **order)
    said = rounds_of(log, target, fit, past=past, page_slots=page_slots)
    kept = found if bool(fit.scored.all()) else found.rows(fit.scored)
    return replace(kept, robust_logged=said.q_logged, robust_target=said.q_target)


def _page(log: Log, slots: int) -> int | None:
    return None if log.position is None else slots


def _spread(
    n_items: int, context: Context, chance: Float[Tensor, "row slot cand"]
) -> Float[Tensor, "row slot item"]:
    """Put the columns of candidates where their items are."""
    out = torch.zeros(*chance.shape[:2], n_items, dtype=torch.float64, device=chance.device)
    return out.scatter_add_(2, context.candidates.unsqueeze(1).expand_as(chance), chance)
