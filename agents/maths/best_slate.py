"""The best slate of a choice model, exactly: Dinkelbach's iteration and top-k."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def dinkelbach(
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
    iterations: int = 12,
) -> tuple[Int[Tensor, "user slot"], Float[Tensor, " user"]]:
    """Return the slate with the largest (v0 q0 + Σ_A v q) / (v0 + Σ_A v), and that value."""
    worth, rate = odds * value, null_value
    columns = torch.zeros(len(odds), slots, dtype=torch.long, device=odds.device)
    for _ in range(iterations):
        index = torch.addcmul(worth, odds, rate.unsqueeze(1), value=-1)
        if mask is not None:
            index = index.masked_fill(~mask, -torch.inf)
        columns = index.topk(slots, dim=1).indices
        above = null_odds * null_value + worth.gather(1, columns).sum(1)
        new = above / (null_odds + odds.gather(1, columns).sum(1))
        if torch.equal(new, rate):
            break
        rate = new
    return columns, rate


def greedy(
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
) -> Int[Tensor, "user slot"]:
    """Fill the slate slot by slot, each time with the item that raises the value most."""
    above, below = null_odds * null_value, null_odds
    free = torch.ones_like(odds, dtype=torch.bool) if mask is None else mask.clone()
    chosen = []
    for _ in range(slots):
        gain = (above.unsqueeze(1) + odds * value) / (below.unsqueeze(1) + odds)
        column = gain.masked_fill(~free, -torch.inf).argmax(1, keepdim=True)
        free = free.scatter(1, column, False)
        above = above + (odds * value).gather(1, column).squeeze(1)
        below = below + odds.gather(1, column).squeeze(1)
        chosen.append(column)
    return torch.cat(chosen, dim=1)


def top_k(
    odds: Float[Tensor, "user cand"],
    value: Float[Tensor, "user cand"],
    null_odds: Float[Tensor, " user"],
    null_value: Float[Tensor, " user"],
    slots: int,
    mask: Bool[Tensor, "user cand"] | None = None,
) -> Int[Tensor, "user slot"]:
    """Return the items with the largest v q."""
    worth = odds * value
    return (worth if mask is None else worth.masked_fill(~mask, -torch.inf)).topk(slots, dim=1).indices
