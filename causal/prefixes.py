"""What a slate distribution says of beginnings of slates, and of items at slots: exact for every kind.

Cascade weights need P(a_1 … a_k) and P(a at k | a_1 … a_{k-1}), which the distribution over whole slates
implies. Each known distribution has its own closed form; any other is asked about every slate, where there
are at most `LISTED`.
"""

from functools import cache, singledispatch
from itertools import permutations
from math import perm

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.slates import (
    Deterministic,
    Mixture,
    OrderStatistics,
    PlackettLuce,
    Ranked,
    SlateDistribution,
    Uniform,
)

LISTED = 5_040
"""How many ordered slates may be listed: 10 · 9 · 8 · 7."""


@singledispatch
def prefix_log_probs(
    distribution: SlateDistribution, columns: Int[Tensor, "user above"]
) -> Float[Tensor, "user above"]:
    """Return log P(a_1 … a_k) for each k of the given beginnings of slates; -inf where it cannot be drawn.

    Raises:
        BadInput: for a distribution without a closed form over more slates than can be listed.
    """
    slates, chance = listed(distribution)
    out = torch.empty(columns.shape, dtype=torch.float64, device=columns.device)
    for k in range(columns.shape[1]):
        chance = chance * (slates[:, k] == columns[:, k : k + 1])
        out[:, k] = chance.sum(1)
    return out.log()


@singledispatch
def next_item(
    distribution: SlateDistribution, columns: Int[Tensor, "user above"]
) -> Float[Tensor, "user cand"]:
    """Return P(candidate at the next slot | these items are above it, in this order).

    A row sums to one; where the beginning itself cannot be drawn it is all zeros, or any distribution.

    Raises:
        BadInput: for a distribution without a closed form over more slates than can be listed.
    """
    slates, chance = listed(distribution)
    for k in range(columns.shape[1]):
        chance = chance * (slates[:, k] == columns[:, k : k + 1])
    out = torch.zeros(len(columns), candidates(distribution), dtype=torch.float64, device=columns.device)
    out.index_add_(1, slates[:, columns.shape[1]], chance)
    return out / out.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def listed(
    distribution: SlateDistribution,
) -> tuple[Int[Tensor, "slate slot"], Float[Tensor, "user slate"]]:
    """Return every ordered slate and its probability in each row.

    Raises:
        BadInput: for more than `LISTED` slates.
    """
    cands, slots = candidates(distribution), distribution.slots
    if perm(cands, slots) > LISTED:
        raise BadInput(
            f"{type(distribution).__name__} has no closed form for this, and {perm(cands, slots)} slates of "
            f"{slots} from {cands} are too many to list (at most {LISTED})"
        )
    slates = every_slate(cands, slots)
    first = distribution.mode()
    slates = slates.to(first.device)
    return slates, torch.stack(
        [distribution.log_prob(s.expand(len(first), -1)).double().exp() for s in slates], dim=1
    )


@singledispatch
def placed(
    distribution: SlateDistribution, columns: Int[Tensor, "user pick"]
) -> Float[Tensor, "user slot pick"]:
    """Return P(item at slot) of some items at every slot."""
    table = distribution.slot_marginals().double()
    return table.gather(2, columns.unsqueeze(1).expand(-1, table.shape[1], -1))


def candidates(distribution: SlateDistribution) -> int:
    """Return C, how many columns there are to choose from."""
    match distribution:
        case PlackettLuce():
            return distribution.logits.shape[1]
        case Uniform():
            return distribution.mask.shape[1]
        case Ranked():
            return distribution.scores.shape[1]
        case Deterministic():
            return distribution.candidates
        case OrderStatistics():
            return len(distribution.alpha)
        case Mixture():
            return candidates(distribution.parts[0])
    return distribution.slot_marginals().shape[2]


@cache
def every_slate(cands: int, slots: int) -> Int[Tensor, "slate slot"]:
    """List every ordered slate of columns."""
    return torch.tensor(list(permutations(range(cands), slots)))


def _shared(
    free: Bool[Tensor, "user cand"], columns: Int[Tensor, "user above"]
) -> Float[Tensor, "user cand"]:
    """Share a slot evenly among the candidates that are free for it and not shown above it."""
    left = free.scatter(1, columns, False)
    return left.double() / left.sum(1, keepdim=True).clamp(min=1)


@prefix_log_probs.register
def _(distribution: PlackettLuce, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user above"]:
    wide = PlackettLuce(distribution.logits.double(), distribution.slots)
    return wide.slot_log_probs(columns).cumsum(1)


@next_item.register
def _(distribution: PlackettLuce, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
    left = distribution.logits.double().scatter(1, columns, -torch.inf)
    return left.softmax(1).nan_to_num(0.0)


@prefix_log_probs.register
def _(distribution: Deterministic, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user above"]:
    return (columns == distribution.columns[:, : columns.shape[1]]).cumprod(1).double().log()


@next_item.register
def _(distribution: Deterministic, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
    slot = columns.shape[1]
    out = torch.zeros(len(columns), distribution.candidates, dtype=torch.float64, device=columns.device)
    return out.scatter_(1, distribution.columns[:, slot : slot + 1], 1.0)


@prefix_log_probs.register
def _(distribution: Uniform, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user above"]:
    left = distribution.mask.sum(1, keepdim=True) - torch.arange(columns.shape[1], device=columns.device)
    return (distribution.mask.gather(1, columns).double() / left).log().cumsum(1)


@next_item.register
def _(distribution: Uniform, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
    return _shared(distribution.mask, columns)


@prefix_log_probs.register
def _(distribution: Ranked, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user above"]:
    depth = columns.shape[1]
    best, ties = distribution.best[:, :depth], distribution.ties()[:, :depth]
    above = torch.ones(depth, depth, dtype=torch.bool, device=best.device).tril(-1)
    gone = ((best.unsqueeze(2) == best.unsqueeze(1)) & above).sum(2)
    fits = distribution.scores.gather(1, columns) == best
    return (fits.double() / (ties - gone)).log().cumsum(1)


@next_item.register
def _(distribution: Ranked, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
    return _shared(distribution.scores == distribution.best[:, columns.shape[1], None], columns)


@prefix_log_probs.register
def _(distribution: OrderStatistics, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user above"]:
    # The first k of the K largest are the k largest.
    law = distribution.alpha, distribution.beta
    shorter = [OrderStatistics(*law, k + 1, distribution.rows) for k in range(columns.shape[1])]
    return torch.stack([d.log_prob(columns[:, : d.slots]) for d in shorter], dim=1)


@prefix_log_probs.register
def _(distribution: Mixture, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user above"]:
    chances = torch.tensor(distribution.chances, dtype=torch.float64, device=columns.device)
    parts = torch.stack([prefix_log_probs(part, columns) for part in distribution.parts])
    return (parts + chances.log()[:, None, None]).logsumexp(0)


@next_item.register
def _(distribution: Mixture, columns: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
    above = torch.zeros((), dtype=torch.float64, device=columns.device)
    below = torch.zeros((), dtype=torch.float64, device=columns.device)
    for part, chance in zip(distribution.parts, distribution.chances, strict=True):
        begun = torch.full((len(columns), 1), chance, dtype=torch.float64, device=columns.device)
        if columns.shape[1]:
            begun *= prefix_log_probs(part, columns)[:, -1:].exp()
        above = above + begun * next_item(part, columns)
        below = below + begun
    return torch.where(below > 0, above / below, 0.0)


@placed.register
def _(distribution: PlackettLuce, columns: Int[Tensor, "user pick"]) -> Float[Tensor, "user slot pick"]:
    return distribution.placements(columns).double()


@placed.register
def _(distribution: Mixture, columns: Int[Tensor, "user pick"]) -> Float[Tensor, "user slot pick"]:
    parts = zip(distribution.parts, distribution.chances, strict=True)
    return torch.stack([chance * placed(part, columns) for part, chance in parts]).sum(0)
