"""Which few of many items are looked at: the best by the first stage, and some drawn evenly of the rest."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.context import PAD, Context
from simlab.policies.greedy import scores
from simlab.rankers.contract import Ranker, checked
from simlab.retrieval import Retriever
from simlab.seeds import Seed


@dataclass(frozen=True)
class Candidates:
    """The columns of a context that were picked, in ascending order.

    Attributes:
        columns: positions in `Context.candidates`, no repeats where the mask is True.
        mask: False where a row had fewer to pick from.
        log_q: log of the probability with which each was picked: 0 for what was retrieved.
    """

    columns: Int[Tensor, "user cand"]
    mask: Bool[Tensor, "user cand"]
    log_q: Float[Tensor, "user cand"]

    def narrow(self, context: Context) -> Context:
        """Return the context in which there is nothing else."""
        return replace(
            context,
            candidates=context.candidates.gather(1, self.columns),
            mask=self.mask,
            popularity=None if context.popularity is None else context.popularity.gather(1, self.columns),
        )


def pick(
    context: Context, retriever: Retriever | None, first: Ranker | None, count: int, drawn: int, seed: Seed
) -> Candidates:
    """Return the best `count` candidates by the first stage, and `drawn` of the others.

    The others are drawn evenly: laid out in order and cut into `drawn` parts of equal size (or one more),
    each of which gives one item. So no item is drawn twice, and one of a part of s items has q = 1 / s. The
    draw hangs on the seed, the user and everything that is seen of the user, and on nothing else: the same
    context always gets the same candidates, so that a policy that acts on them is a function of the context.

    The whole catalogue is searched by the retriever. Other candidates (a given list, items that are gone)
    are all scored by the first stage.

    Args:
        context: users and what may be shown to them.
        retriever: of the first stage's items, or None to draw all candidates.
        first: the first stage, or None to draw all.
        count: how many to retrieve.
        drawn: how many to draw.
        seed: of the draws.
    """
    rows, width = context.candidates.shape
    whole = _whole(context)
    if width <= (count if first is not None else drawn):  # nothing to choose
        columns = torch.arange(width, device=context.device).expand(rows, width)
        return Candidates(columns, context.mask, torch.zeros(1, 1, device=context.device).expand(rows, width))
    if first is None or retriever is None:
        kept = torch.zeros(rows, 0, dtype=torch.long, device=context.device)
    elif whole and retriever.n_items == width:
        kept = retriever.search(_states(first, context), count)[0]
    else:
        kept = scores(first, context).masked_fill(~context.mask, -torch.inf).topk(count, dim=1).indices
    kept = kept.sort(1).values
    drawn = min(drawn, width - kept.shape[1])
    free: Tensor | None = None
    if whole:
        left = torch.full((rows, 1), width - kept.shape[1], device=context.device)
    else:
        free = context.mask.scatter(1, kept, False).cumsum(1)
        left = free[:, -1:]
    rank, size = _parts(left, drawn, seed, context)
    # The r-th of the free columns: r and as many as were kept below it.
    if free is None:
        keys = (kept - torch.arange(kept.shape[1], device=kept.device)).contiguous()
        others = rank + torch.searchsorted(keys, rank, right=True)
    else:
        others = torch.searchsorted(free, rank + 1).clamp(max=width - 1)
    columns = torch.cat([kept, others], 1)
    allowed = torch.ones(1, 1, dtype=torch.bool, device=kept.device).expand(kept.shape)
    mask = torch.cat([allowed if free is None else context.mask.gather(1, kept), size > 0], 1)
    # A part of nothing has a column that another part may have too: what may be shown comes first.
    order = (2 * columns + ~mask).argsort(1)
    log_q = torch.cat([torch.zeros_like(kept, dtype=torch.float32), -size.clamp(min=1).log()], 1)
    return Candidates(columns.gather(1, order), mask.gather(1, order), log_q.gather(1, order))


def _parts(
    left: Int[Tensor, "user one"], drawn: int, seed: Seed, context: Context
) -> tuple[Int[Tensor, "user draw"], Int[Tensor, "user draw"]]:
    """Return one rank of each of `drawn` equal parts of 0 … left - 1, and the parts' sizes."""
    edge = torch.arange(drawn + 1, device=left.device) * left // max(drawn, 1)
    size = edge[:, 1:] - edge[:, :-1]
    words = seed.at(context.user, _moment(context)).uniform("candidates", 2 * drawn).double()
    # Two draws of 23 bits make one of 46: a part may have a million items.
    uniform = (words[:, :drawn] - 2.0**-24) + words[:, drawn:] * 2.0**-23
    return edge[:, :-1] + (uniform * size).long(), size


def _moment(context: Context) -> Int[Tensor, " user"]:
    """Hash everything that is seen of a user but the id; padding of the history does not matter."""
    seen = torch.cat([context.feedback, context.features.float()], 1).contiguous().view(torch.int32).long()
    past = context.history.shape[1]
    word = torch.randint(
        torch.iinfo(torch.long).min,
        torch.iinfo(torch.long).max,
        (max(past, context.features.shape[1]), 3),
        generator=torch.Generator().manual_seed(0),
    ).to(context.device)
    newest = word[:past].flip(0)  # the newest item always has the first word
    return (
        ((context.history - PAD) * newest[:, 0]).sum(1)
        + (seen[:, :past] * newest[:, 1]).sum(1)
        + (seen[:, past:] * word[: context.features.shape[1], 2]).sum(1)
    )


@torch.no_grad()
def _states(first: Ranker, context: Context) -> Float[Tensor, "user dim"]:
    """Return the first stage's view of the users."""
    return first.eval().encode(checked(context, first.sizes))


def _whole(context: Context) -> bool:
    """Tell whether the candidates are the whole catalogue in order, and all may be shown."""
    row, mask = context.candidates[:1], context.mask
    if context.candidates.stride(0) != 0 or mask.stride() != (0, 0) or not bool(mask[:1, :1].all()):
        return False
    return bool((row[0] == torch.arange(row.shape[1], device=row.device)).all())
