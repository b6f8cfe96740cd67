"""Balanced weights: the density ratio of target to logger, from a classifier that tells them apart.

Label the logged pairs (x, a) with 0 and the pairs that the target would have made, (x, a ~ π), with 1. With
as much mass in both classes, the odds of a classifier that knows its probabilities are the ratio of densities

    b(x, a) = P(1 | x, a) / P(0 | x, a) = π(a|x) / π₀(a|x).

No propensity is needed; where the classifier is wrong, the ratio is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from causal.folds import Folds
from causal.pages import marginals_at, pages_of
from causal.rewards import positions
from causal.sklearn_reward import Layout, check_size, numbers
from simlab.adapters.seeding import fit_weighted, seeded, weight_key
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed

CELLS = 1 << 22
"""Cells of the design matrix, 32 MB, up to which all items are listed and weighed; beyond, items are drawn.
Predictions hold as many at once."""


@dataclass(frozen=True, eq=False)
class Balance:
    """Density ratios, out of fold.

    Attributes:
        weight: b of each round; NaN in the burn-in of time order.
        folds: which model says it.
        loss: the classifier's log-loss out of fold, with both classes of the same mass. log 2 = 0.693 if it
            cannot tell target from logger; the smaller, the further apart they are.
        capped: rounds whose odds were cut, for the classifier was as good as certain.
    """

    weight: Float[Tensor, " round"]
    folds: Folds
    loss: float
    capped: Bool[Tensor, " round"]


def balance(
    log: Log,
    target: Policy,
    classifier: Any,
    *,
    folds: int = 3,
    seed: Seed = Seed(0),
    group: bool = True,
    catalog: Catalog | None = None,
    past: int = 0,
    page_slots: int | None = None,
    draws: int = 1,
    listed: bool | None = None,
    **order: Any,
) -> Balance:
    """Estimate the density ratio of each logged round, by a classifier that was not fitted on it.

    The design is that of `causal.sklearn_reward`: context features, one-hot item, the item's features,
    one-hot position. A classifier that is linear in it cannot know a ratio that hangs on context and item
    together: give one that can (trees, or a pipeline with products), and calibrate it
    (`CalibratedClassifierCV`), for the odds of an uncalibrated one are no ratio.

    The target's pairs are all candidates, weighed by π(a|x), where the design stays small and the classifier
    takes weights (`simlab.adapters.seeding.weight_key`); else `draws` items drawn from π for each round, as
    in the paper.

    The design is dense. A fit holds 8 bytes a column for each logged round and for each of the target's
    pairs, and learners often copy it. Odds are asked for in blocks of 32 MB.

    Source: Sondhi, Arbour and Dimmery (2020), "Balanced off-policy evaluation in general action spaces",
    AISTATS, section 3.

    Differs: obp's `ImportanceWeightEstimator` always draws, one item a round, with the same seed in all
    folds; its `fitting_method="raw"` sets the one-hot logged item against the target's probabilities, which
    for a stochastic target any classifier tells apart.

    Args:
        log: one item a row.
        target: whose value is wanted.
        classifier: any scikit-learn classifier with `predict_proba`; it is cloned, never changed. Each
            `random_state` that is None, those inside it too, is set from the seed.
        folds: of cross-fitting.
        seed: of folds, draws and fits.
        group: keep all rounds of a user in one fold.
        catalog: the items, to use their features.
        past: how many items of history the target wants.
        page_slots: places of the page, with `position`, as in `causal.rounds.rounds`.
        draws: items drawn for each round where they are drawn.
        listed: whether to list all candidates; by default where that is cheap and can be weighed.
        order: `order`, `time` and `fold` of `causal.folds.Folds.deal`.

    Raises:
        BadInput: for slates, a position off the page, a classifier without probabilities or, if `listed`,
            without weights, fewer than one draw, and a design of more than `causal.sklearn_reward.LARGEST`
            cells.
    """
    if log.slots > 1:
        raise BadInput(f"balanced weights are for one item a row, but slate has {log.slots} slots")
    if not hasattr(classifier, "predict_proba"):
        raise BadInput(f"{type(classifier).__name__} has no predict_proba, so it gives no odds")
    if draws < 1:
        raise BadInput(f"draws is {draws}, but the target needs at least one pair a round")
    place = positions(log).squeeze(1)
    pages = pages_of(log, page_slots)
    context, features = log.context(past), numbers(log.features, len(log))
    pairs = _Pairs(Layout(log.n_items, pages, catalog), features, place.cpu().numpy())
    key, width = weight_key(classifier), pairs.width
    if listed is None:
        listed = key is not None and len(log) * context.candidates.shape[1] * width <= CELLS
    if listed and key is None:
        raise BadInput(f"{type(classifier).__name__} takes no sample_weight, so items must be drawn")
    row, item, mass = _aimed(log, target, context, pages, 0 if listed else draws, seed.split("draws"))
    logged = log.slate[:, 0].cpu().numpy()
    dealt = Folds.deal(log, folds, seed.split("folds"), group, **order)
    fold = dealt.fold.cpu().numpy()
    odds, loss, total = np.full(len(log), np.nan), 0.0, 0.0
    capped = np.zeros(len(log), dtype=bool)
    for number in range(dealt.count):
        kept = np.zeros(len(log), dtype=bool)
        kept[dealt.train(number).cpu().numpy()] = True
        mine, aimed = np.flatnonzero(kept), np.flatnonzero(kept[row])
        # Without weights, both classes have the same mass if logged rows repeat.
        real = np.repeat(mine, draws) if key is None else mine
        rows, items = np.concatenate([real, row[aimed]]), np.concatenate([logged[real], item[aimed]])
        check_size(len(rows), width, "draw fewer items, or give fewer rounds")
        y = np.repeat([0, 1], [len(real), len(aimed)])
        by = None if key is None else np.concatenate([np.ones(len(real)), mass[aimed]])
        luck = seed.split(f"fold {number}")
        # Mixed, for some learners hang on the order: neighbours at the same distance are taken as they come.
        mixed = torch.randperm(len(y), generator=luck.split("order").torch()).numpy()
        by = None if by is None else by[mixed]
        model = seeded(classifier, luck.value)
        fit_weighted(model, pairs.design(rows[mixed], items[mixed]), y[mixed], by)
        edge = 0.5 / len(mine)  # less than one row of either class: nobody can be surer than that
        here, there = np.flatnonzero(fold == number), np.flatnonzero(fold[row] == number)
        one = pairs.chance(model, here, logged[here])
        capped[here] = (one < edge) | (one > 1 - edge)
        one = one.clip(edge, 1 - edge)
        odds[here] = one / (1 - one)
        two = pairs.chance(model, row[there], item[there]).clip(edge, 1)
        loss -= float((mass[there] * np.log(two)).sum() + np.log1p(-one).sum())
        total += 2 * len(here)
    device = log.slate.device
    return Balance(
        torch.from_numpy(odds).to(device), dealt, loss / total, torch.from_numpy(capped).to(device)
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The design of pairs, each a round and an item."""

    layout: Layout
    features: NDArray[np.float64]
    place: NDArray[np.int64]

    @property
    def width(self) -> int:
        return self.layout.width(self.features.shape[1])

    def design(self, row: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.layout.design(self.features[row], item, self.place[row])

    def chance(self, model: Any, row: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return P(1 | pair), a block of pairs at a time."""
        out = np.empty(len(row))
        block = max(1, CELLS // self.width)
        for start in range(0, len(row), block):
            at = slice(start, start + block)
            out[at] = model.predict_proba(self.design(row[at], item[at]))[:, 1]
        return out


def _aimed(
    log: Log, target: Policy, context: Context, pages: int, draws: int, seed: Seed
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the target's pairs: round, item and mass; all candidates where no draws are asked for."""
    place = positions(log)
    size = max(1, CELLS // (pages * context.candidates.shape[1]))
    rows, items, masses = [], [], []
    generator = seed.torch()
    for start in range(0, len(log), size):
        at = slice(start, start + size)
        part = context.rows(at)
        with torch.no_grad():
            chance = marginals_at(target.distribution(part, pages), place[at]).squeeze(1)
        if draws:
            column = torch.multinomial(chance.cpu(), draws, replacement=True, generator=generator)
            row = torch.arange(len(part)).repeat_interleave(draws)
            mass = torch.full((len(row),), 1 / draws, dtype=torch.float64)
            item = part.candidates.cpu()[row, column.reshape(-1)]
        else:
            row, where = (chance > 0).nonzero(as_tuple=True)
            item, mass = part.candidates[row, where], chance[row, where]
        rows.append((row + start).cpu().numpy())
        items.append(item.cpu().numpy())
        masses.append(mass.cpu().numpy())
    return np.concatenate(rows), np.concatenate(items), np.concatenate(masses)
