"""Where another policy would show the pairs of a log: what the gain of a ranking is made of."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.exposure import Exposures
from causal.exposure_dose import examined
from causal.exposure_log import pieces
from causal.targeting.measure import Array, column, measure, weights
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy


@torch.no_grad()
def places_of(
    data: Exposures, log: Log, target: Policy | Tensor, *, past: int = 0, missing: float | int = 0.01
) -> Float[Array, "round slot"]:
    """Return the chance that a target shows each pair at each slot: what `ranking_gain` takes with a θ.

    Args:
        data: rows of `exposures_of`, or some of them (of whole slates).
        log: its log.
        target: another policy, or the slates that one would show, [round slot], where an id that is no item
            leaves a slot empty (`slate_by_effect`). It must come from other users than those that judge it.
        past: how many items of history the context has.
        missing: share of what the target shows that may fall on pairs that the log has not.

    Raises:
        BadInput: for rows that do not say slate and item or are of another log, or where a larger share is
            missing, surely so by four standard errors: the logger never shows what the target does, and the
            log says nothing of it.
    """
    slate, item = _of_log(data, log)
    if isinstance(target, Tensor) and tuple(target.shape) != (len(log), log.slots):
        raise BadInput(
            f"the target's slates have shape {tuple(target.shape)}, but the log has {len(log)} rounds of "
            f"{log.slots} slots"
        )
    found = np.zeros((len(data), log.slots))
    order = np.argsort(slate, kind="stable")
    ends = slate[order]
    whole = np.zeros(len(log))
    for rows, seen in pieces(log, past):
        some = order[np.searchsorted(ends, rows.start) : np.searchsorted(ends, rows.stop)]
        if not len(some):
            continue
        row = torch.from_numpy(slate[some] - rows.start).to(seen.device)
        asked = torch.from_numpy(item[some]).to(seen.device)
        if isinstance(target, Tensor):
            shown = target[rows].to(seen.device)
            found[some] = (shown[row] == asked.unsqueeze(1)).double().cpu().numpy()
            whole[rows] = ((shown >= 0) & (shown < log.n_items)).sum(1).cpu().numpy()
            continue
        table = target.distribution(seen, log.slots).slot_marginals().double()
        column = torch.zeros(len(seen), log.n_items + 1, dtype=torch.long, device=seen.device)
        number = torch.arange(seen.candidates.shape[1], device=seen.device).expand(seen.candidates.shape)
        column.scatter_(1, seen.candidates.masked_fill(~seen.mask, log.n_items), number)
        found[some] = table[row, :, column[row, asked]].cpu().numpy()
        whole[rows] = log.slots
    name = "the target" if isinstance(target, Tensor) else target.name
    _refuse_missing(data, found.sum(1), whole, slate, missing, name)
    return found


def doses_of(
    data: Exposures,
    log: Log,
    target: Policy | Tensor,
    examination: Any,
    *,
    past: int = 0,
    missing: float | int = 0.01,
) -> Float[Array, " round"]:
    """Return how much of each pair a target lets its user see: `places_of`, by θ of each slot.

    Raises:
        BadInput: as `places_of`, or for a θ of another number of slots.
    """
    theta, _ = examined(examination, log.slots)
    found: Array = places_of(data, log, target, past=past, missing=missing) @ theta
    return found


def places_by(data: Exposures, index: Any) -> Float[Array, "round slot"]:
    """Return the chance of each slot if each slate's pairs were sorted by an index, ties at random.

    A slate's rows are then its candidates: keep all pairs (`unshown=1.0`), or what is ranked is those that
    are there. The result is that of every order of the rows.

    >>> from causal.exposure import Exposures
    >>> three = Exposures.of([[1.0]] * 3, [0, 1, -1], [1, 0, 0], [[1 / 3] * 3] * 3, user=[7, 7, 7])
    >>> places_by(three, [0.1, 0.5, 0.1])
    array([[0. , 0.5],
           [1. , 0. ],
           [0. , 0.5]])

    Args:
        data: rows that say their slate, or their user where each saw one.
        index: τ̂ of each row, say; the largest stands first.

    Raises:
        BadInput: for rows without slates and users, or an index that does not fit.
    """
    whose = data.user if data.slate is None else data.slate
    if whose is None:
        raise BadInput("pairs are sorted within their slate, and this log says neither slates nor users")
    by = column("index", index, len(data))
    order = np.lexsort((-by, whose))
    number = np.arange(len(data))
    slate, value = whose[order], by[order]
    fresh = np.append(True, slate[1:] != slate[:-1])
    other = fresh | np.append(True, value[1:] != value[:-1])
    top = np.maximum.accumulate(np.where(fresh, number, 0))  # where the row's slate begins
    first = np.maximum.accumulate(np.where(other, number, 0))  # and its ties
    many = np.bincount(np.cumsum(other) - 1)[np.cumsum(other) - 1]
    least = (first - top)[:, None]
    slots = np.arange(data.slots)
    found = np.empty((len(data), data.slots))
    found[order] = ((slots >= least) & (slots < least + many[:, None])) / many[:, None]
    return found


def _of_log(data: Exposures, log: Log) -> tuple[Int[Array, " round"], Int[Array, " round"]]:
    """Return slates and items of rows that are of a log."""
    if data.slate is None or data.item is None:
        raise BadInput("the rows do not say of which slate and item they are: build them with exposures_of")
    for name, ids, many in (("slate", data.slate, len(log)), ("item", data.item, log.n_items)):
        wrong = np.flatnonzero((ids < 0) | (ids >= many))
        if len(wrong):
            raise BadInput(
                f"column {name}, row {wrong[0]}: {ids[wrong[0]]} is none of the {many} of the log; give the "
                "log that the rows were made from"
            )
    shown = np.flatnonzero(data.shown)
    slot = np.minimum(data.slot[shown], log.slots - 1)
    other = log.slate.cpu().numpy()[data.slate[shown], slot] != data.item[shown]
    if other.any():
        row = int(shown[np.flatnonzero(other)[0]])
        raise BadInput(
            f"row {row}: item {data.item[row]} was shown at slot {data.slot[row]}, but not in round "
            f"{data.slate[row]} of this log; give the log that the rows were made from"
        )
    return data.slate, data.item


def _refuse_missing(
    data: Exposures,
    shown: Float[Array, " round"],
    whole: Float[Array, " slate"],
    slate: Int[Array, " round"],
    missing: float | int,
    name: str,
) -> None:
    """Refuse a target of whose items too many are not in the log."""
    each = np.bincount(slate, weights(data.weight, len(data)) * shown, minlength=len(whole))
    there = np.bincount(slate, minlength=len(whole)) > 0
    each, total = each[there], float(whole[there].sum())
    if not total:
        return
    share = float(each.sum()) / total
    stderr = measure(share, (each - share * whole[there]) / total, None, name).stderr if len(each) > 1 else 0
    if 1 - share > missing + 4 * stderr:
        raise BadInput(
            f"only {share:.1%} of what {name} lets users see is in the log: its logger never "
            "shows the rest, of which nothing can be said"
        )
