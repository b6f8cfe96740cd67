"""From a log of slates and what was bought to pairs of user and item, with the chances of every slot."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.exposure import Exposures
from causal.slate_inputs import Table, agree, checked_table, table_rows
from envs.exposures import place_chances, with_left_out
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
    logger: Policy | Table | None,
    outcome: Tensor,
    features: Callable[[Context], Float[Tensor, "user cand feat"]],
    *,
    unshown: float | int = 0.1,
    least: float | int = 0.0,
    names: tuple[str, ...] = (),
    seed: Seed = Seed(0),
    past: int = 0,
) -> Exposures:
    """Return a row for each item that a slate showed, and for a share of those that it left out.

    A pair that is left out and kept weighs for the others, so sums stay right on average; which are kept
    hangs on the seed, the user and how many rounds he had before, not on the order of the log. Pairs whose
    place was certain (never shown, say) are not there: their effect cannot be told.

    Without a logger the rows are of shown items alone, by the log's `slot_propensity` (see `Exposures.of`):
    items are then compared between slots, and every item must have had a chance at every slot.

    Args:
        log: the slates.
        logger: who showed them, or the probability of each item at each slot (see `causal.slates.slates`), or
            None where nobody knows. Where a distribution's marginals are estimates, so are the chances
            (`envs.exposures.place_chances`).
        outcome: of each round and item, seen or not, such as purchases; [round item], dense or sparse (COO).
        features: what is known of each candidate for each user, from the context that the log remembers.
        unshown: share of the pairs without exposure that is kept, in (0, 1].
        least: chance of being shown below which a pair is left out, in [0, 1): hardly ever shown, it says
            little, and few of its kind carry an average. What is estimated is then about the others.
        names: of the features.
        seed: of the pairs kept.
        past: how many items of history the context has.

    Raises:
        BadInput: for a logger that is not the one of the log, a log of single items at positions of a page,
            outcomes or features of another shape or not finite, a share out of range, a logger that leaves
            nothing to chance, or neither a logger nor slot propensities.
    """
    if log.position is not None:
        raise BadInput("the log shows one item a round, at a `position`: exposures need whole slates")
    if not 0 < unshown <= 1:
        raise BadInput(f"unshown is {unshown}, but it is a share in (0, 1]")
    if not 0 <= least < 1:
        raise BadInput(f"least is {least}, but it is a chance in [0, 1)")
    if tuple(outcome.shape) != (len(log), log.n_items):
        raise BadInput(
            f"outcome has shape {tuple(outcome.shape)}, but the log has {len(log)} rounds and {log.n_items} "
            "items"
        )
    if logger is None and log.slot_propensity is None:
        raise BadInput("the log has no column slot_propensity, and no logger was given: give one of the two")
    table = checked_table(logger, log, log.context(past)) if isinstance(logger, Tensor) else None
    turn = _turns(log)
    found: dict[str, list[Tensor]] = {}
    for rows, seen in pieces(log, past):
        columns = seen.columns(log.slate[rows])
        if logger is None:
            here = _shown(log, rows, columns)
        else:
            chance = _chances(log, logger if table is None else table, rows, seen, columns)
            luck = seed.split("kept").at(seen.user, turn[rows])
            kept = luck.uniform("kept", seen.candidates.shape[1]) < unshown
            here = _rows(seen, columns, chance, kept, least)
            here["weight"] = torch.where(here["slot"] < log.slots, 1.0, 1 / unshown).double()
        row, column = here.pop("row"), here.pop("column")
        known = features(seen)
        if known.shape[:2] != seen.candidates.shape or known.ndim != 3:
            raise BadInput(
                f"features returned {tuple(known.shape)}, but there are {tuple(seen.candidates.shape)} users "
                "and candidates"
            )
        sold = outcome.index_select(0, torch.arange(rows.start, rows.stop, device=outcome.device))
        sold = sold.to_dense() if sold.is_sparse else sold
        item = seen.candidates[row, column]
        here |= {
            "x": known[row, column].double(), "y": sold.to(item.device)[row, item].double(),
            "user": seen.user[row], "item": item, "slate": row + rows.start,
        }  # fmt: skip
        _refuse_gaps(here)
        for name, value in here.items():
            found.setdefault(name, []).append(value.cpu())
    whole: dict[str, Any] = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    if not len(whole["y"]):
        raise BadInput("the logger leaves no pair of user and item to chance, so no effect can be told")
    return Exposures.of(**whole, names=names)


def _turns(log: Log) -> Int[Tensor, " round"]:
    """Return how many rounds each round's user had before, so that luck does not hang on the log's order."""
    order = log.order()
    user, place = log.user[order], torch.arange(len(log), device=log.user.device)
    fresh = torch.ones_like(user, dtype=torch.bool)
    fresh[1:] = user[1:] != user[:-1]
    found = torch.empty_like(place)
    found[order] = place - torch.where(fresh, place, 0).cummax(0).values
    return found


def pieces(log: Log, past: int) -> Iterator[tuple[slice, Context]]:
    """Yield some rounds at a time, and their contexts."""
    context = log.context(past)
    wide = max(context.candidates.shape[1] * (log.slots + 1), log.n_items)
    size = max(1, math.floor(_CELLS / wide))
    for start in range(0, len(log), size):
        rows = slice(start, min(start + size, len(log)))
        yield rows, context.rows(rows)


def _chances(
    log: Log, logger: Policy | Table, rows: slice, seen: Context, columns: Tensor
) -> Float[Tensor, "user cand place"]:
    """Return the chances of places under the logger, which must be that of the log."""
    if isinstance(logger, Tensor):
        chance = with_left_out(table_rows(logger, rows, seen))
    else:
        drawn = logger.distribution(seen, log.slots)
        said = drawn.log_prob(columns).double().exp()
        agree("propensity", log.propensity[rows].double(), said, rows.start)
        chance = place_chances(drawn, columns)
        if not getattr(drawn, "exact_marginals", True):  # scaled: not to be compared to the digit
            return chance
    if log.slot_propensity is not None:
        at = columns.unsqueeze(2).expand(-1, -1, chance.shape[2])
        said = chance.gather(1, at).diagonal(dim1=1, dim2=2)
        agree("slot_propensity", log.slot_propensity[rows].double(), said, rows.start)
    return chance


def _rows(
    seen: Context, columns: Tensor, chance: Float[Tensor, "user cand place"], kept: Tensor, least: float | int
) -> dict[str, Tensor]:
    """Return the pairs of some rounds that are kept: where they are, their place and its chances."""
    users, slots = columns.shape
    place = torch.full(tuple(seen.candidates.shape), slots, device=columns.device)
    place = place.scatter(1, columns, torch.arange(slots, device=columns.device).expand(users, -1))
    open_ = seen.mask & (chance.amax(2) < _SURE) & (1 - chance[:, :, slots] >= least)
    row, column = (open_ & ((place < slots) | kept)).nonzero(as_tuple=True)
    return {"row": row, "column": column, "slot": place[row, column], "chance": chance[row, column]}


def _shown(log: Log, rows: slice, columns: Tensor) -> dict[str, Tensor]:
    """Return the pairs that some rounds showed, with the chance of what happened alone."""
    users, slots = columns.shape
    assert log.slot_propensity is not None
    number = torch.arange(users, device=columns.device).repeat_interleave(slots)
    slot = torch.arange(slots, device=columns.device).repeat(users)
    chance = log.slot_propensity[rows].double().reshape(-1)
    return {"row": number, "column": columns.reshape(-1), "slot": slot, "propensity": chance}


def _refuse_gaps(here: dict[str, Tensor]) -> None:
    """Refuse an outcome or a feature that is not finite, by its round and item."""
    for name, values in (("outcome", here["y"].unsqueeze(1)), ("features", here["x"])):
        wrong = ~values.isfinite()
        if bool(wrong.any()):
            row, column = (int(i) for i in wrong.nonzero()[0])
            where = f"round {int(here['slate'][row])}, item {int(here['item'][row])}"
            place = f", column {column}" if name == "features" else ""
            raise BadInput(f"{name}, {where}{place}: {float(values[row, column])} is not a finite number")
