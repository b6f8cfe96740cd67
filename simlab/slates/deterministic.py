"""Deterministic: one slate has all the probability."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.seeds import Generator
from simlab.slates.contract import SlateDistribution


class Deterministic(SlateDistribution):
    """All mass on one slate per user.

    Args:
        columns: the slate of each user.
        candidates: C, how many columns there are to choose from.
    """

    def __init__(self, columns: Int[Tensor, "user slot"], candidates: int) -> None:
        self.columns = columns
        self.candidates = candidates
        self.slots = columns.shape[1]

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Return the slate; no luck is used."""
        return self.columns

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the slate."""
        return self.columns

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return 0 for the slate and -inf for any other."""
        same = (columns == self.columns).all(1)
        return torch.zeros(len(columns), dtype=torch.float64, device=columns.device).masked_fill(
            ~same, -torch.inf
        )

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return one-hot rows."""
        rows, slots = self.columns.shape
        out = torch.zeros(rows, slots, self.candidates, dtype=torch.float64, device=self.columns.device)
        return out.scatter_(2, self.columns.unsqueeze(2), 1.0)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1 where the slot agrees and 0 where it does not."""
        return (columns == self.columns).double()
