"""LinUCB: rank by a linear prediction plus what is not known of it."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from agents.bandits._linear import Linear
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import Ranked, SlateDistribution


@dataclass(eq=False)
class LinUcb(Linear):
    """Rank by φ(u, i)ᵀ ŵ + α √(φ(u, i)ᵀ A⁻¹ φ(u, i)), with features and A as in `Linear`.

    Source: Li, Chu, Langford and Schapire (2010), "A contextual-bandit approach to personalized news article
    recommendation", WWW, algorithm 1 (`form="disjoint"`). Differences: the default form has one weight vector
    for all items over user, item and their products, in place of the paper's hybrid of a shared and an
    item's own part; a slate takes the K largest bounds; regressors are scaled by the examination θ_k of their
    slot; statistics are updated once for a batch of users.

    It is deterministic but for ties: users who look alike see the same slate within a step.

    Attributes:
        alpha: α, width of the bound in standard deviations of unit noise; 0 does not explore.
        form: "shared" or "disjoint".
        ridge: λ.
        user_dim: numbers that describe a user at most.
        item_dim: numbers that describe an item at most.

    Raises:
        BadInput: for an α below 0, and as in `Linear`.
    """

    KEEPS: ClassVar[tuple[str, ...]] = (*Linear.BASE, "width")

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise BadInput(f"alpha is at least 0, not {self.alpha}")

    def refresh(self, seed: Seed) -> None:
        """Solve, and lay out M_i with φᵀ A⁻¹ φ = aᵀ M_i a, as [item, p²]."""
        factor, _ = self.solve()
        cov = torch.cholesky_inverse(factor)
        if self.form == "disjoint":
            self.state["width"] = cov.reshape(len(cov), -1)
            return
        b = self.state["items"]
        q = b.shape[1]
        p = len(cov) // q
        outer = (b.unsqueeze(2) * b.unsqueeze(1)).reshape(len(b), q * q)
        self.state["width"] = outer @ cov.reshape(p, q, p, q).permute(1, 3, 0, 2).reshape(q * q, p * p)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the ranking by upper confidence bound; ties in random order."""
        context = self.known(context)
        a = self.users(context)
        squares = (a.unsqueeze(2) * a.unsqueeze(1)).reshape(len(a), -1)
        width = (squares @ self.state["width"].to(a.device).T).clamp(min=0).sqrt()
        bound = a @ self.state["mean"].to(a.device).T + self.alpha * width
        return Ranked(bound.gather(1, context.candidates), slots, context.mask)
