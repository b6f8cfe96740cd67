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
from causal.rewards import positions
from causal.sklearn_reward import Layout, numbers
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed

CELLS = 1 << 22
"""Cells of the design matrix, 32 MB, up to which all items are listed and weighed; beyond, items are
drawn."""


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
    takes `sample_weight`; else `draws` items drawn from π for each round, as in the paper.

    Source: Sondhi, Arbour and Dimmery (2020), "Balanced off-policy evaluation in general action spaces",
    AISTATS, section 3.

    Differs: obp's `ImportanceWeightEstimator` always draws, one item a round, with the same seed in all
    folds; its `fitting_method="raw"` sets the one-hot logged item against the target's probabilities, which
    for a stochastic target any classifier tells apart.

    Args:
        log: one item a row.
        target: whose value is wanted.
        classifier: any scikit-learn classifier with `predict_proba`; it is cloned, never changed.
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
        BadInput: for slates, and for a classifier without probabilities or, if `listed`, without weights.
    """
    if log.slots > 1:
        raise BadInput(f"balanced weights are for one item a row, but slate has {log.slots} slots")
    if not hasattr(classifier, "predict_proba"):
        raise BadInput(f"{type(classifier).__name__} has no predict_proba, so it gives no odds")
    place = positions(log).squeeze(1)
    pages = page_slots or int(place.max()) + 1
    layout = Layout(log.n_items, pages, catalog)
    context, features = log.context(past), numbers(log.features, len(log))
    key = weight_key(classifier)
    width = layout.width(features.shape[1])
    if listed is None:
        listed = key is not None and len(log) * context.candidates.shape[1] * width <= CELLS
    if listed and key is None:
        raise BadInput(f"{type(classifier).__name__} takes no sample_weight, so items must be drawn")
    row, item, mass = _aimed(log, target, context, pages, 0 if listed else draws, seed.split("draws"))
    logged, where = log.slate[:, 0].cpu().numpy(), place.cpu().numpy()
    dealt = Folds.deal(log, folds, seed.split("folds"), group, **order)
    fold = dealt.fold.cpu().numpy()
    odds, loss, total = np.full(len(log), np.nan), 0.0, 0.0
    capped = np.zeros(len(log), dtype=bool)
    for number in range(dealt.count):
        kept = np.zeros(len(log), dtype=bool)
        kept[dealt.train(number).cpu().numpy()] = True
        mine = np.flatnonzero(kept)
        pairs = np.flatnonzero(kept[row])
        x = np.concatenate(
            [
                layout.design(features[mine], logged[mine], where[mine]),
                layout.design(features[row[pairs]], item[pairs], where[row[pairs]]),
            ]
        )
        y = np.repeat([0, 1], [len(mine), len(pairs)])
        by = np.concatenate([np.ones(len(mine)), mass[pairs]])
        model = _fitted(classifier, x, y, by, key, draws, seed.split(f"fold {number}"))
        edge = 0.5 / len(mine)  # less than one row of either class: nobody can be surer than that
        here = np.flatnonzero(fold == number)
        one = model.predict_proba(layout.design(features[here], logged[here], where[here]))[:, 1]
        capped[here] = (one < edge) | (one > 1 - edge)
        one = one.clip(edge, 1 - edge)
        odds[here] = one / (1 - one)
        there = np.flatnonzero(fold[row] == number)
        for part in np.array_split(there, max(1, len(there) * width // CELLS)):
            two = model.predict_proba(layout.design(features[row[part]], item[part], where[row[part]]))[:, 1]
            loss -= float((mass[part] * np.log(two.clip(edge, 1))).sum())
        loss -= float(np.log1p(-one).sum())
        total += 2 * len(here)
    device = log.slate.device
    return Balance(
        torch.from_numpy(odds).to(device), dealt, loss / total, torch.from_numpy(capped).to(device)
    )


def weight_key(estimator: Any) -> str | None:
    """Return the keyword by which a scikit-learn estimator takes row weights, or None if it takes none."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = weight_key(last)
        return None if inner is None else f"{name}__{inner}"
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else None


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
            table = target.distribution(part, pages).slot_marginals().double()
        chance = table.gather(1, place[at].unsqueeze(2).expand(-1, -1, table.shape[2])).squeeze(1)
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


def _fitted(
    classifier: Any,
    x: NDArray[np.float64],
    y: NDArray[np.int64],
    by: NDArray[np.float64],
    key: str | None,
    draws: int,
    seed: Seed,
) -> Any:
    """Fit a clone with both classes of the same mass."""
    from sklearn.base import clone

    model = clone(classifier)
    if "random_state" in model.get_params() and model.get_params()["random_state"] is None:
        model.set_params(random_state=seed.value % (1 << 32))
    if key is None and draws > 1:  # without weights, both classes have the same mass if logged rows repeat
        again = np.where(y == 0, draws, 1)
        x, y = np.repeat(x, again, axis=0), np.repeat(y, again)
    # Mixed, for some learners hang on the order: neighbours at the same distance are taken as they come.
    mixed = torch.randperm(len(y), generator=seed.split("order").torch()).numpy()
    if key is None:
        return model.fit(x[mixed], y[mixed])
    return model.fit(x[mixed], y[mixed], **{key: by[mixed]})
