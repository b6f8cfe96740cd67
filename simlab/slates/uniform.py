"""Uniform: every ordered slate of allowed candidates is equally likely."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Generator, uniforms
from simlab.slates.contract import SlateDistribution, check_slots, masked, repeated


class Uniform(SlateDistribution):
    """P(slate) = (n-K)!/n! with n the number of allowed candidates of the row.

    Args:
        mask: True where a candidate may be shown.
        slots: K.

    Raises:
        BadInput: if a row has fewer candidates than slots.
    """

    def __init__(self, mask: Bool[Tensor, "user cand"], slots: int) -> None:
        check_slots(mask, slots)
        self.mask = mask
        self.slots = slots

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Keep the K largest of one uniform per candidate."""
        rows, cands = self.mask.shape
        noise = uniforms(generator, "plackett-luce", rows, cands, self.mask.device)
        return masked(noise, self.mask).topk(self.slots, dim=1).indices

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the first allowed columns: all slates tie."""
        return (~self.mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.slots]

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return -Σ_k log(n - k), or -inf for a slate with a masked or repeated candidate."""
        n = self.mask.sum(1, dtype=torch.float64)
        value = -(n.unsqueeze(1) - torch.arange(self.slots, device=n.device)).log().sum(1)
        impossible = ~self.mask.gather(1, columns).all(1) | repeated(columns)
        return value.masked_fill(impossible, -torch.inf)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return 1/n for every allowed candidate at every slot."""
        share = self.mask.double() / self.mask.sum(1, keepdim=True)
        return share.unsqueeze(1).expand(-1, self.slots, -1)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1/n, or 0 for a masked candidate."""
        return self.mask.gather(1, columns).double() / self.mask.sum(1, keepdim=True)
