"""A distribution over slates of a few of many candidates."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.two_stage._candidates import Candidates
from simlab.context import PAD, Context
from simlab.seeds import Generator
from simlab.slates import SlateDistribution


class Narrowed(SlateDistribution):
    """A distribution over slates of a few columns, told in the columns of the wide context.

    All probabilities are given the few: a slate with anything else has none.

    Args:
        inner: over the columns of the narrow context.
        few: which these are.
        context: the narrow context.
        width: columns of the wide context.
    """

    def __init__(self, inner: SlateDistribution, few: Candidates, context: Context, width: int) -> None:
        self.inner, self.few, self.context, self.width = inner, few, context, width
        self.slots = inner.slots

    @property
    def offered(self) -> Int[Tensor, "user cand"]:
        """The items that could be shown, then -1: a log's `candidates`."""
        last = (~self.few.mask).to(torch.uint8).argsort(dim=1, stable=True)
        return self.context.candidates.masked_fill(~self.few.mask, PAD).gather(1, last)

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Draw from the few."""
        return self.few.columns.gather(1, self.inner.sample(generator))

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest slate."""
        return self.few.columns.gather(1, self.inner.mode())

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return the log-probability given the few; -inf for a slate with anything else."""
        place, there = self._place(columns)
        return self.inner.log_prob(place).masked_fill(~there.all(1), -torch.inf)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate at slot) in the wide context: zeros for all but the few."""
        narrow = self.inner.slot_marginals()
        at = self.few.columns.unsqueeze(1).expand(narrow.shape)
        return narrow.new_zeros(*narrow.shape[:2], self.width).scatter_add_(2, at, narrow)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(candidate at this slot) given the few."""
        place, there = self._place(columns)
        return self.inner.marginals(place).masked_fill(~there, 0.0)

    def _place(self, columns: Tensor) -> tuple[Int[Tensor, "user slot"], Bool[Tensor, "user slot"]]:
        """Return where each column is among the few, and whether it is there."""
        few = self.few.columns
        place = torch.searchsorted(few.contiguous(), columns.contiguous()).clamp(max=few.shape[1] - 1)
        there = (few.gather(1, place) == columns) & self.few.mask.gather(1, place)
        return place, there
