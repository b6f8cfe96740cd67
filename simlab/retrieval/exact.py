"""The exact search: a matrix product block by block, in bounded memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

CELLS = 1 << 22
"""Numbers that are held at once beside the vectors: 16 MB of float32, a few times."""
GROUP = 32
"""Neighbouring items whose largest score stands for them."""


def exact_search(
    states: Float[Tensor, "user dim"], vectors: Float[Tensor, "item dim"], count: int
) -> tuple[Int[Tensor, "user cand"], Float[Tensor, "user cand"]]:
    """Return the `count` items of each user with the largest ⟨state, v⟩, best first, and their scores.

    Of a large catalogue only the maximum of each `GROUP` neighbours is kept at first. The best `count` items
    are in the `count` groups with the largest maxima, since each group above the last of these has an item
    above it. So these groups alone are scored again and sorted: `topk` over n / 32 numbers instead of n. The
    two products may round differently, so items whose scores differ in the last bit may change places.
    """
    n, users = len(vectors), len(states)
    few = n <= 4 * GROUP * count  # most of the groups would be kept
    rows = max(1, min(256, (CELLS if few else GROUP * CELLS) // n))
    found = torch.empty(users, count, dtype=torch.long, device=states.device)
    worth = torch.empty(users, count, dtype=vectors.dtype, device=states.device)
    for first in range(0, users, rows):
        part = states[first : first + rows]
        if few:
            values, items = (part @ vectors.T).topk(count, dim=1)
        else:
            items, values = _by_groups(part, vectors, count)
        found[first : first + rows], worth[first : first + rows] = items, values
    return found, worth


def _by_groups(
    states: Float[Tensor, "user dim"], vectors: Float[Tensor, "item dim"], count: int
) -> tuple[Int[Tensor, "user cand"], Float[Tensor, "user cand"]]:
    """Find the groups with the largest maxima, then the best items in them."""
    n, users = len(vectors), len(states)
    maxima = torch.empty(users, -(-n // GROUP), dtype=vectors.dtype, device=states.device)
    step = max(GROUP, CELLS // users // GROUP * GROUP)
    for first in range(0, n, step):
        score = states @ vectors[first : first + step].T
        if score.shape[1] % GROUP:
            score = functional.pad(score, (0, -score.shape[1] % GROUP), value=-torch.inf)
        groups = score.view(users, -1, GROUP)
        at = first // GROUP
        torch.amax(groups, 2, out=maxima[:, at : at + groups.shape[1]])
    best = maxima.topk(count, dim=1, sorted=False).indices
    members = (best.unsqueeze(2) * GROUP + torch.arange(GROUP, device=best.device)).flatten(1)
    found, worth = [], []
    rows = max(1, CELLS // (members.shape[1] * vectors.shape[1]))
    for first in range(0, users, rows):
        item = members[first : first + rows]
        near = functional.embedding(item.clamp(max=n - 1), vectors)  # [user member dim]
        score = (near @ states[first : first + rows].unsqueeze(2)).squeeze(2)
        values, place = score.masked_fill(item >= n, -torch.inf).topk(count, dim=1)
        found.append(item.gather(1, place))
        worth.append(values)
    return torch.cat(found), torch.cat(worth)
