"""The contract of a distribution over slates.

A slate is an ordered choice of K different candidates, top first. Distributions speak **columns**:
positions in `Context.candidates`. `Context.slate` turns columns into item ids and `Context.columns` back.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.seeds import Generator


class SlateDistribution(ABC):
    """A distribution over ordered slates for each of B users.

    Attributes:
        slots: K, the number of items of a slate.
    """

    slots: int

    @abstractmethod
    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Draw one slate of columns for each user."""

    @abstractmethod
    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest slate of each user; ties go to the lower column."""

    @abstractmethod
    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return the log-probability of each whole, ordered slate; -inf where it cannot be drawn."""

    @abstractmethod
    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate is at slot) for every slot and candidate. Each row sums to one.

        Large [user, slot, cand] tensors: ask for few rows at a time.
        """

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(candidate is at this slot) for each slot of the given slate."""
        return self.slot_marginals().gather(2, columns.unsqueeze(2)).squeeze(2)


def check_slots(mask: Bool[Tensor, "user cand"], slots: int) -> None:
    """Refuse a slate that is longer than the shortest list of candidates.

    Raises:
        BadInput: naming the row that has too few candidates.
    """
    if slots < 1:
        raise BadInput(f"a slate needs at least one slot, not {slots}")
    if 0 in mask.stride() and mask.stride() == (0, 0):  # one flag, expanded: nothing to count
        short = mask.shape[1] < slots
        row, have = 0, mask.shape[1]
    else:
        count = mask.sum(1)
        short = bool((count < slots).any())
        row = int(count.argmin()) if short else 0
        have = int(count[row]) if short else slots
    if short:
        raise BadInput(f"row {row} has {have} candidates, but the slate has {slots} slots")


def top(scores: Float[Tensor, "user cand"], slots: int) -> Int[Tensor, "user slot"]:
    """Return the columns of the highest scores, highest first, ties to the lower column."""
    values, columns = scores.topk(min(slots + 1, scores.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    if bool(tied.any()):  # topk breaks ties as it likes; a stable sort keeps the column order
        columns = columns.clone()
        columns[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, : columns.shape[1]]
    return columns[:, :slots]


def repeated(columns: Int[Tensor, "user slot"]) -> Bool[Tensor, " user"]:
    """Tell which slates show a candidate twice."""
    ordered = columns.sort(1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def masked(scores: Float[Tensor, "user cand"], mask: Bool[Tensor, "user cand"]) -> Float[Tensor, "user cand"]:
    """Return the scores with -inf where a candidate may not be shown."""
    if mask.stride() == (0, 0) and bool(mask[:1, :1].all()):
        return scores
    return scores.masked_fill(~mask, -torch.inf)
