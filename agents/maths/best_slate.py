"""The best slate, exactly, for catalogues of any size: no enumeration and no linear programme.

What is best depends on how users click.

- One click by choice (`envs.clicks` multinomial and proportional), odds v, the null item 0:

      value(A) = (v_0 q_0 + Σ_{i∈A} v_i q_i) / (v_0 + Σ_{i∈A} v_i).

  `dinkelbach` is exact; `greedy` and `top_k` are the usual heuristics. All items are seen, so the order of
  the slots does not matter (unless they have weights): the best comes first.
- Each slot on its own (position-based): `by_position`, exact by sorting.
- From the top to the first click (cascade): `by_cascade`, exact by dynamic programming.

Slates are columns of the candidates. Nothing here has a gradient but `value_of_slate`.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.maths import _kernels, _newton
from envs.clicks.contract import ClickModel
from envs.clicks.multinomial import Multinomial
from envs.clicks.proportional import Proportional
from simlab.errors import BadInput

CHECK_EVERY = 3
"""Steps between looks at whether all rows are done: on a GPU each look waits for it."""


def choice_odds(
    clicks: ClickModel, attraction: Float[Tensor, "user cand"]
) -> tuple[Float[Tensor, "user cand"], Float[Tensor, " user"]]:
    """Return the odds v_i = a_i / (1 − a_i) of a choice model of `envs.clicks`, and the null item's, 1.

    1 − a is at least the machine epsilon, as in the click model. Its slots' weights, if they are not all 1,
    are the `weight` of `dinkelbach` and `value_of_slate`.

    Raises:
        BadInput: for a click model in which items do not compete for one click.
    """
    if not isinstance(clicks, Multinomial | Proportional):
        raise BadInput(f"clicks is Multinomial or Proportional, not {type(clicks).__name__}")
    room = (1 - attraction).clamp(min=torch.finfo(attraction.dtype).eps)
    return attraction / room, attraction.new_ones(len(attraction))


def value_of_slate(
    columns: Int[Tensor, "user slot"],
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    weight: Float[Tensor, " slot"] | None = None,
) -> Float[Tensor, " user"]:
    """Return (v_0 q_0 + Σ_k w_k v q) / (v_0 + Σ_k w_k v) over the slate; column −1 is an empty slot."""
    shown = odds.gather(1, columns.clamp(min=0)) * (columns >= 0)
    if weight is not None:
        shown = shown * weight
    # From the null item's value: exact where values are large and close to each other.
    above = (shown * (value.gather(1, columns.clamp(min=0)) - null_value.unsqueeze(1))).sum(1)
    return null_value + above / (null_odds + shown.sum(1))


@torch.no_grad()
def dinkelbach(
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
    iterations: int = 32,
    exactly: bool = True,
    weight: Float[Tensor, " slot"] | None = None,
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return the slate with the largest value(A) and this value, by λ ← value(K largest of v_i (q_i − λ)).

    With N and D above and below the line, F(λ) = max_A N(A) − λ D(A) is convex and falls; its root is the
    best value, and each step is Newton's. From the second step on λ rises, and F · D falls at least 4 times
    in every step (F'/F + D'/D ≤ 1): 32 steps are more than floats can tell apart, and 3 to 5 are usual. A row
    is done when its λ rises no more. On a CPU each row is worked off alone, by a compiled loop.

    The slate has K items even where fewer are better: an item with v_i (q_i − λ) < 0 lowers the value.
    `exactly=False` leaves those out; what is left is the best of all slates of 0 to K items. Fewer are never
    better where K items have q_i ≥ λ at the best λ, and then both are the same.

    Slots may have weights w_k ≥ 0, P(click at k) = w_k v / (v_0 + Σ_j w_j v_j): the item with the k-th
    largest v (q − λ) stands where w is k-th largest (rearrangement inequality), and the rest is the same.

    Args:
        odds: v ≥ 0, finite.
        value: q, finite, of either sign.
        null_odds: v_0 > 0, of no click.
        null_value: q_0, the value of no click.
        slots: K.
        mask: False where a candidate may not be shown.
        iterations: bound on the steps after the first; the slate is the best seen if it is reached.
        exactly: K items, or at most K.
        weight: w of each slot; 1 if not given.

    Returns:
        Columns, best first by v (q − λ) (with weights: in the order of slots); −1 are empty slots below the
        others, with `exactly=False` only. Ties go either way. And the value, without a gradient: see
        `value_of_slate`.

    Raises:
        BadInput: for slots that are not from 1 to the number of candidates, and if K items must be shown, for
            a row with fewer candidates that may be, or without K finite numbers.

    Source: Dinkelbach (1967), "On nonlinear fractional programming", Management Science 13(7); the steps of
    0-1 problems: Matsui, Saruwatari and Shigeno (1992), "An analysis of Dinkelbach's algorithm for 0-1
    fractional programming problems". Ie et al. (2019, arXiv:1905.12767, section 5) solve the same problem by
    a linear programme.
    """
    _check_slots(slots, odds.shape[1])
    if mask is not None and mask.stride() == (0, 0) and bool(mask[:1, :1].all()):
        mask = None  # one flag for all: nothing is masked
    per_slot = odds.new_ones(slots) if weight is None else weight[:slots].to(odds.dtype)
    down = per_slot.sort(descending=True).values
    by = _by_rows if odds.device.type == "cpu" else _by_tensors
    columns, best = by(odds, value, mask, null_odds, null_value, down, exactly, iterations)
    if exactly:
        _check_enough(mask, (columns >= 0).all(1), slots)
    return (columns if weight is None else _by_weight(columns, per_slot)), best


def _by_rows(
    odds: Tensor,
    value: Tensor,
    mask: Tensor | None,
    null_odds: Tensor,
    null_value: Tensor,
    weight: Tensor,
    exactly: bool,
    iterations: int,
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return the best slates, highest v (q - λ) first, and values; by a compiled loop over rows."""
    columns, best = odds.new_empty(len(odds), len(weight), dtype=torch.long), torch.empty_like(null_value)
    given: list[Tensor | None] = [odds, value, mask, null_odds, null_value, weight]
    same = [x if x is None else x.detach().contiguous() for x in given]
    _kernels.each(_newton.best_slates, len(odds), *same, exactly, iterations, columns, best)
    return columns, best


def _by_tensors(
    odds: Tensor,
    value: Tensor,
    mask: Tensor | None,
    null_odds: Tensor,
    null_value: Tensor,
    weight: Tensor,
    exactly: bool,
    iterations: int,
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return what `_by_rows` does, all rows at once."""

    def step(rate: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of the K largest v (q - λ), and Newton's next λ."""
        index = odds * (value - rate.unsqueeze(1))
        if mask is not None:
            index = index.masked_fill_(~mask, -torch.inf)
        index, columns = index.topk(len(weight), dim=1)
        shown = odds.gather(1, columns)
        if not exactly:
            index, shown = index.clamp(min=0), shown * (index > 0)
        above = torch.addmv(null_odds * (null_value - rate), index, weight)
        below = torch.addmv(null_odds, shown, weight)
        return columns, rate + above / below.clamp(min=torch.finfo(below.dtype).tiny)

    columns, best = step(null_value)
    for i in range(iterations):
        other, rate = step(best)
        risen = rate > best
        columns, best = other.where(risen.unsqueeze(1), columns), rate.where(risen, best)
        if i % CHECK_EVERY == 0 and not bool(risen.any()):
            break
    index = odds.gather(1, columns) * (value.gather(1, columns) - best.unsqueeze(1))
    if mask is not None:
        index = index.masked_fill(~mask.gather(1, columns), -torch.inf)
    index, order = index.sort(dim=1, descending=True)
    columns = columns.gather(1, order)
    return columns.where(index > (-torch.inf if exactly else 0), -1), best


def _by_weight(columns: Int[Tensor, "user slot"], weight: Float[Tensor, " slot"]) -> Int[Tensor, "user slot"]:
    """Return the columns, best first, moved to the slots with the largest weights, largest first."""
    return torch.empty_like(columns).index_copy_(1, weight.argsort(descending=True, stable=True), columns)


def _check_slots(slots: int, cands: int) -> None:
    """Refuse a slate without slots, or with more slots than candidates."""
    if not 1 <= slots <= cands:
        raise BadInput(f"slots is {slots}, but a slate has 1 to {cands} of {cands} candidates")


def _check_shown(mask: Bool[Tensor, "user cand"], columns: Int[Tensor, "user slot"]) -> None:
    """Refuse slates with candidates that may not be shown: there were too few others."""
    _check_enough(mask, mask.gather(1, columns).all(1), columns.shape[1])


def _check_enough(mask: Bool[Tensor, "user cand"] | None, enough: Bool[Tensor, " user"], slots: int) -> None:
    """Refuse the first row that had too few candidates."""
    if not bool(enough.all()):
        row = int((~enough).nonzero()[0, 0])
        if mask is None:
            raise BadInput(f"row {row} has odds or values that are no finite numbers")
        have = int(mask[row].sum())
        raise BadInput(f"row {row} has {have} candidates, but the slate has {slots} slots")


@torch.no_grad()
def greedy(
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
) -> Int[Tensor, "user slot"]:
    """Fill slot after slot, each with the item that makes the value of the slate so far largest.

    A heuristic. Source: Ie et al. (2019, arXiv:1905.12767), section 5, "greedy", there with q_0 = 0.

    Raises:
        BadInput: for a row with fewer candidates than slots.
    """
    _check_slots(slots, odds.shape[1])
    worth = odds * (value - null_value.unsqueeze(1))
    above, below = torch.zeros_like(null_odds), null_odds
    left = torch.zeros_like(odds) if mask is None else torch.zeros_like(odds).masked_fill_(~mask, -torch.inf)
    chosen = []
    for _ in range(slots):
        gain = (above.unsqueeze(1) + worth) / (below.unsqueeze(1) + odds) + left
        most, column = gain.max(1, keepdim=True)
        left.scatter_(1, column, -torch.inf)
        above = above + worth.gather(1, column).squeeze(1)
        below = below + odds.gather(1, column).squeeze(1)
        chosen.append(column)
    if mask is not None:
        _check_enough(mask, ~most.squeeze(1).isneginf(), slots)
    return torch.cat(chosen, dim=1)


@torch.no_grad()
def top_k(
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
) -> Int[Tensor, "user slot"]:
    """Return the items with the largest v q, best first; the null item does not matter.

    A heuristic: it is the first step of `dinkelbach` from λ = 0, and so exact for a best value of 0. Source:
    Ie et al. (2019, arXiv:1905.12767), section 5, "top-k".

    Raises:
        BadInput: for a row with fewer candidates than slots.
    """
    _check_slots(slots, odds.shape[1])
    worth = odds * value
    columns = (worth if mask is None else worth.masked_fill_(~mask, -torch.inf)).topk(slots, dim=1).indices
    if mask is not None:
        _check_shown(mask, columns)
    return columns


@torch.no_grad()
def by_position(
    worth: Float[Tensor, "user cand"],
    examination: Float[Tensor, " slot"],
    mask: Bool[Tensor, "user cand"] | None = None,
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return the slate with the largest Σ_k θ_k x_{a_k}, and this value: the k-th best x at the k-th best θ.

    Exact by the rearrangement inequality, for θ ≥ 0 and any x. For SlateQ in a world with several clicks,
    x_i = α_i Q̄(s, i): see `agents.maths.slateq`.

    Args:
        worth: x, attraction times the value of a click.
        examination: θ ≥ 0 of each slot.
        mask: False where a candidate may not be shown.

    Raises:
        BadInput: for a row with fewer candidates than slots.
    """
    _check_slots(len(examination), worth.shape[1])
    if mask is not None:
        worth = worth.masked_fill(~mask, -torch.inf)
    best, columns = worth.topk(len(examination), dim=1)
    if mask is not None:
        _check_shown(mask, columns)
    theta = examination.to(worth.dtype)
    return _by_weight(columns, theta), best @ theta.sort(descending=True).values


@torch.no_grad()
def by_cascade(
    attraction: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
    exactly: bool = True,
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return the best slate of a user who stops at the first click, and its value.

    value(a) = Σ_k α_k q_k Π_{j<k} (1 − α_j) + q_0 Π_k (1 − α_k). Of two neighbours the one with the larger q
    stands first: swapping i above j costs a multiple ≥ 0 of α_i α_j (q_i − q_j). So some best slate is in
    descending order of q, and dynamic programming over the sorted items is exact: with V(i, k) the best
    value of items i … with k slots left,

        V(i, k) = max{V(i + 1, k), α_i q_i + (1 − α_i) V(i + 1, k − 1)},    V(·, 0) = q_0.

    One step per candidate for all users at once: O(cand · slot) for each user. With one q ≥ q_0 for all items
    it is the sort by α, and `by_position` with θ = 1 is faster.

    Args:
        attraction: α in [0, 1].
        value: q of a click.
        null_value: q_0, of no click at all.
        slots: K.
        mask: False where a candidate may not be shown.
        exactly: K items; else at most K, and the empty slots below have column −1.

    Raises:
        BadInput: for a row with fewer candidates than slots.
    """
    rows, cands = attraction.shape
    _check_slots(slots, cands)
    q = value if mask is None else value.masked_fill(~mask, -torch.inf)
    q, order = q.sort(dim=1, descending=True)
    a = attraction.gather(1, order)
    never, stay = q.isneginf(), 1 - a
    gain = torch.where(never, -torch.inf, a * q)
    best = attraction.new_full((rows, slots + 1), -torch.inf)
    best[:, 0] = null_value
    if not exactly:
        best[:] = null_value.unsqueeze(1)
    take = torch.zeros(cands, rows, slots, dtype=torch.bool, device=attraction.device)
    for i in range(cands - 1, -1, -1):
        after = best[:, :-1]
        shown = gain[:, i : i + 1] + stay[:, i : i + 1] * after
        shown = shown.where(~after.isneginf(), -torch.inf)  # 0 · −∞: too few items are left
        take[i] = shown > best[:, 1:]
        best[:, 1:] = torch.maximum(best[:, 1:], shown)
    if exactly and mask is not None:
        _check_enough(mask, ~best[:, -1].isneginf(), slots)
    columns = torch.full((rows, slots + 1), -1, dtype=torch.long, device=attraction.device)
    left = torch.full((rows, 1), slots, device=attraction.device)  # slots still empty
    for i in range(cands):
        now = take[i].gather(1, (left - 1).clamp(min=0)) & (left > 0)
        at = torch.where(now, slots - left, slots)  # the last place is thrown away
        columns.scatter_(1, at, order[:, i : i + 1])
        left = left - now.long()
    return columns[:, :slots], best[:, -1]
