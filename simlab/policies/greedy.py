"""Greedy: the highest scores of a ranker, best first."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Ranker, checked
from simlab.slates import Ranked, SlateDistribution


@dataclass(frozen=True)
class Greedy:
    """Sort the candidates by a ranker's score; equal scores stand in uniformly random order.

    The propensities of ties are exact: see `simlab.slates.ranked`.

    Attributes:
        ranker: who scores.
        name: in tables and logs.
    """

    ranker: Ranker
    name: str = "greedy"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the ranking by score."""
        return Ranked(scores(self.ranker, context), slots, context.mask)


CELLS = 1 << 20
"""How many (user, candidate) pairs are scored at once: a network's layers must fit into memory."""


@torch.no_grad()
def scores(ranker: Ranker, context: Context) -> Float[Tensor, "user cand"]:
    """Return a ranker's logits in eval mode and without gradients.

    Rows are scored in chunks of `CELLS` pairs; the result is one tensor [user, cand].

    Raises:
        BadInput: for a context that the ranker cannot be asked about (`checked`), and naming the first row
            and item whose score is not a number.
    """
    context = checked(context, ranker.sizes)
    if context.candidates.numel() == 0:
        return torch.zeros(context.candidates.shape, device=context.device)
    training = ranker.training
    if training:
        ranker.eval()
    try:
        rows, cands = context.candidates.shape
        size = max(1, CELLS // max(cands, 1))
        if rows <= size:
            logits = ranker.score(context)
        else:
            parts = [context.rows(slice(i, i + size)) for i in range(0, rows, size)]
            logits = torch.cat([ranker.score(part) for part in parts])
    finally:
        if training:
            ranker.train()
    if bool(logits.isnan().any()):
        row, column = (int(x) for x in logits.isnan().nonzero()[0])
        item = int(context.candidates[row, column])
        raise BadInput(f"ranker {ranker.name} gives row {row}, item {item} a score that is not a number")
    return logits
