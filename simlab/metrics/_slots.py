"""The first slots of a ranking whose equal scores come in random order."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """The first K slots of each user's ranking, each with the group of equal scores that fills it.

    A group's m items are in random order, every order as likely. `place` is where in its group a slot is.

    Attributes:
        size: m, the items of the slot's group, those beyond slot K too.
        place: 0 for the group's first slot.
        relevant: r, the relevant items of the group.
        above: relevant items of the groups before.
        gain: the group's mean gain.
    """

    size: Float[Tensor, "user slot"]
    place: Float[Tensor, "user slot"]
    relevant: Float[Tensor, "user slot"]
    above: Float[Tensor, "user slot"]
    gain: Float[Tensor, "user slot"]


def top_slots(
    scores: Float[Tensor, "user item"],
    relevant: Bool[Tensor, "user item"],
    gain: Float[Tensor, "user item"] | Bool[Tensor, "user item"],
    k: int,
) -> Slots:
    """Return the first k slots.

    Only the group at slot k can have items beyond it, and its score is known, so the k best are enough: no
    sort of the catalogue, one pass over it for that group.
    """
    best = scores.topk(k, dim=1)
    ordered = best.values
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = fresh.cumsum(1) - 1
    last = scores == ordered[:, -1:]

    def totals(of_slot: Tensor, of_last: Tensor) -> Tensor:
        """Sum by group; the last group's sum is over the catalogue."""
        total = torch.zeros_like(of_slot).scatter_add_(1, group, of_slot)
        return total.scatter_(1, group[:, -1:], of_last.unsqueeze(1)).gather(1, group)

    hit = relevant.gather(1, best.indices).double()
    r = totals(hit, (relevant & last).sum(1).double())
    m = totals(torch.ones_like(hit), last.sum(1).double())
    if gain.dtype == torch.bool:
        mean = r / m
    else:
        whole = (gain * last).sum(1, dtype=torch.float64)
        mean = totals(gain.gather(1, best.indices).double(), whole) / m
    begin = _begin(fresh)
    before = torch.nn.functional.pad(hit.cumsum(1), (1, 0)).gather(1, begin)
    slot = torch.arange(k, device=scores.device)
    return Slots(m, (slot - begin).double(), r, before, mean)


def _begin(fresh: Bool[Tensor, "user slot"]) -> Int[Tensor, "user slot"]:
    """Return the first slot of each slot's group."""
    slot = torch.arange(fresh.shape[1], device=fresh.device)
    return (slot * fresh).cummax(1).values
