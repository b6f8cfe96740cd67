"""Popularity that feeds on itself: exposure → clicks → popularity → clicks.

Popularity is a share of attention with mean 1 over the catalogue: 3 means three times the average item.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Popularity:
    """The market's memory of what was clicked.

    After each step, with c_i the market's clicks on item i, n items and m clicks from outside,

        p_i ← keep · p_i + (1 - keep) · n (c_i + m p⁰_i / n) / (Σ_j c_j + m),

    so the mean stays 1. Without feedback p stays p⁰.

    Attributes:
        start: p⁰, mean 1.
        feedback: whether clicks move popularity.
        keep: share of the old popularity that survives a step, in [0, 1]; the rest decays.
        outside: m, clicks per step from people outside this market, who follow p⁰. It keeps a market of
            one user from being its own crowd.
        floor: added inside the logarithm of `appeal`, so that a forgotten item is not hidden for ever.
    """

    start: Float[Tensor, " item"]
    feedback: bool
    keep: float
    outside: float
    floor: float = 0.05

    def appeal(self, popularity: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
        """Return log((p + floor) / (1 + floor)): 0 for an average item."""
        return ((popularity + self.floor) / (1 + self.floor)).log()

    def update(
        self,
        popularity: Float[Tensor, " item"],
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
    ) -> Float[Tensor, " item"]:
        """Return the popularity after one step of the whole market.

        Clicks are counted in whole numbers, so the sum does not depend on its order.
        """
        if not self.feedback:
            return popularity
        n = popularity.shape[0]
        count = torch.zeros(n + 1, dtype=click.dtype, device=click.device)  # one more for the blank item
        count.scatter_add_(0, slate.reshape(-1), click.reshape(-1))
        count = count[:n]
        total = count.sum() + self.outside
        fresh = (count * n + self.outside * self.start) / total.clamp(min=1e-12)
        fresh = torch.where(total > 0, fresh, popularity)
        return torch.lerp(fresh, popularity, self.keep)
