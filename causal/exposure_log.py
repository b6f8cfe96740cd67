"""From a log of slates and what was bought to pairs of user and item, with the chances of every slot."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from causal.exposure import Exposures, examined
from causal.exposure_value import expected_dose
from causal.slate_inputs import Table, agree, checked_table, table_rows
from causal.targeting.measure import Array, measure, weights
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed

_CELLS = 1 << 20
"""Cells of [round, slot, cand] held at once: 8 MB."""
_SURE = 1 - 1e-9
"""A place of this chance is certain: from such a pair nothing can be learned."""


@torch.no_grad()
def exposures_of(
    log: Log,
    logger: Policy | Table,
    outcome: Tensor,
    features: Callable[[Context], Float[Tensor, "user cand feat"]],
    *,
    unshown: float | int = 0.1,
    names: tuple[str, ...] = (),
    seed: Seed = Seed(0),
    past: int = 0,
) -> Exposures:
    """Return a row for each item that a slate showed, and for a share of those that it left out.

    A pair that is left out and kept weighs for the others, so sums stay right on average. Pairs whose place
    was certain (never shown, say) are not there: their effect cannot be told.

    Args:
        log: the slates.
        logger: who showed them, or the probability of each item at each slot (see `causal.slates.slates`).
        outcome: of each round and item, seen or not, such as purchases; [round item], dense or sparse (COO).
        features: what is known of each candidate for each user, from the context that the log remembers.
        unshown: share of the pairs without exposure that is kept, in (0, 1].
        names: of the features.
        seed: of the pairs kept.
        past: how many items of history the context has.

    Raises:
        BadInput: for a logger that is not the one of the log, a log of single items at positions of a page,
            outcomes or features of another shape, a share out of range, or a logger that leaves nothing to
            chance.
    """
    if log.position is not None:
        raise BadInput("the log shows one item a round, at a `position`: exposures need whole slates")
    if not 0 < unshown <= 1:
        raise BadInput(f"unshown is {unshown}, but it is a share in (0, 1]")
    if tuple(outcome.shape) != (len(log), log.n_items):
        raise BadInput(
            f"outcome has shape {tuple(outcome.shape)}, but the log has {len(log)} rounds and {log.n_items} "
            "items"
        )
    table = checked_table(logger, log, log.context(past)) if isinstance(logger, Tensor) else None
    found: dict[str, list[Tensor]] = {}
    for rows, seen in _pieces(log, past):
        columns = seen.columns(log.slate[rows])
        if table is not None:
            shown = table_rows(table, rows, seen)
        else:
            assert not isinstance(logger, Tensor)
            drawn = logger.distribution(seen, log.slots)
            agree(
                "propensity",
                log.propensity[rows].double(),
                drawn.log_prob(columns).double().exp(),
                rows.start,
            )
            shown = drawn.slot_marginals().double()
        if log.slot_propensity is not None:
            said = shown.gather(2, columns.unsqueeze(2)).squeeze(2)
            agree("slot_propensity", log.slot_propensity[rows].double(), said, rows.start)
        known = features(seen)
        if known.shape[:2] != seen.candidates.shape or known.ndim != 3:
            raise BadInput(
                f"features returned {tuple(known.shape)}, but there are {tuple(seen.candidates.shape)} users "
                "and candidates"
            )
        found_here = _rows(rows.start, seen, columns, shown, unshown, seed)
        row, column = found_here.pop("row"), found_here.pop("column")
        item = found_here["item"]
        here = outcome.index_select(0, torch.arange(rows.start, rows.stop, device=outcome.device))
        here = here.to_dense() if here.is_sparse else here
        found_here |= {
            "x": known[row, column].double(),
            "y": here[row, item].double(),
            "user": seen.user[row],
        }
        for name, value in found_here.items():
            found.setdefault(name, []).append(value.cpu())
    whole: dict[str, Any] = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    if not len(whole["y"]):
        raise BadInput("the logger leaves no pair of user and item to chance, so no effect can be told")
    return Exposures.of(**whole, names=names)


@torch.no_grad()
def doses_of(
    data: Exposures, log: Log, target: Policy, examination: Any, *, past: int = 0, missing: float | int = 0.01
) -> Float[Array, " round"]:
    """Return how much of each pair a target policy lets its user see: `dose` of `ranking_gain`.

    Args:
        data: rows of `exposures_of`, or some of them (of whole slates).
        log: its log.
        target: another policy; it must come from other users than those that judge it.
        examination: θ of each slot.
        past: how many items of history the context has.
        missing: share of the target's doses that may fall on pairs that the log has not.

    Raises:
        BadInput: for rows that do not say slate and item, or where a larger share is missing, surely so by
            four standard errors: the logger never shows what the target does, and the log says nothing of it.
    """
    if data.slate is None or data.item is None:
        raise BadInput("the rows do not say of which slate and item they are: build them with exposures_of")
    theta, _ = examined(examination)
    found = np.zeros(len(data))
    order = np.argsort(data.slate, kind="stable")
    ends = data.slate[order]
    for rows, seen in _pieces(log, past):
        some = order[np.searchsorted(ends, rows.start) : np.searchsorted(ends, rows.stop)]
        if not len(some):
            continue
        dose = expected_dose(target.distribution(seen, log.slots), theta)
        every = torch.zeros(len(seen), log.n_items, dtype=torch.float64, device=dose.device)
        every.scatter_add_(1, seen.candidates.clamp(min=0), dose.masked_fill(~seen.mask, 0.0))
        found[some] = every.cpu().numpy()[data.slate[some] - rows.start, data.item[some]]
    whose = np.unique(data.slate, return_inverse=True)[1]
    slates = int(whose.max()) + 1
    whole = float(theta.sum()) * slates
    each = np.bincount(whose, weights(data.weight, len(data)) * found)
    there = measure(float(each.sum()) / whole, (each - each.mean()) / whole, None, "doses")
    if 1 - there.value > missing + 4 * there.stderr:
        raise BadInput(
            f"only {there.value:.1%} of what {target.name} lets users see is in the log: its logger never "
            "shows the rest, of which nothing can be said"
        )
    return found


def _pieces(log: Log, past: int) -> Iterator[tuple[slice, Context]]:
    """Yield some rounds at a time, and their contexts."""
    context = log.context(past)
    wide = max(context.candidates.shape[1] * (log.slots + 1), log.n_items)
    size = max(1, math.floor(_CELLS / wide))
    for start in range(0, len(log), size):
        rows = slice(start, min(start + size, len(log)))
        yield rows, context.rows(rows)


def _rows(
    first: int, seen: Context, columns: Tensor, shown: Tensor, unshown: float | int, seed: Seed
) -> dict[str, Tensor]:
    """Return the pairs of some rounds that are kept: where they are, their place and its chances."""
    users, slots = columns.shape
    cands = seen.candidates.shape[1]
    number = torch.arange(first, first + users, device=columns.device)
    place = torch.full((users, cands), slots, device=columns.device)
    place = place.scatter(1, columns, torch.arange(slots, device=columns.device).expand(users, -1))
    chance = shown.transpose(1, 2)
    chance = torch.cat([chance, (1 - chance.sum(2, keepdim=True)).clamp(0, 1)], 2)
    luck = seed.split("kept").at(number, torch.zeros_like(number)).uniform("kept", cands)
    open_ = seen.mask & (chance.amax(2) < _SURE)
    row, column = (open_ & ((place < slots) | (luck < unshown))).nonzero(as_tuple=True)
    where = place[row, column]
    return {
        "row": row, "column": column, "slot": where, "chance": chance[row, column],
        "weight": torch.where(where < slots, 1.0, 1 / unshown).double(),
        "item": seen.candidates[row, column], "slate": number[row],
    }  # fmt: skip
