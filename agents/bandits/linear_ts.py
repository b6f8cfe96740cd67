"""Linear Thompson sampling: rank by a draw of the weights from their posterior."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from agents.bandits._ensemble import Ensemble
from agents.bandits._linear import Linear
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import SlateDistribution


@dataclass(eq=False)
class LinearTS(Linear):
    """Draw w_1 … w_M from N(ŵ, v² A⁻¹) after every step; each user is ranked by φ(u, i)ᵀ w_m of an even pick.

    Features, A and ŵ are those of `Linear`. The slate distribution is an `Ensemble`, so propensities are
    exact for the M draws, and 1/M at least for whatever was shown.

    Source: Agrawal and Goyal (2013), "Thompson sampling for contextual bandits with linear payoffs", ICML,
    algorithm 1. Differences: M draws are shared by the users of a step in place of a draw for each round
    (ensemble sampling, Lu and Van Roy 2017); v is a setting, where theory takes R √(9 d ln(t/δ)); a slate
    takes the K largest; regressors are scaled by θ_k; statistics are updated once for a batch of users.

    Attributes:
        spread: v, the standard deviation of a click's noise; 0 does not explore.
        draws: M.
        form: "shared" or "disjoint".
        ridge: λ.
        user_dim: numbers that describe a user at most.
        item_dim: numbers that describe an item at most.

    Raises:
        BadInput: for a spread below 0 or fewer than one draw, and as in `Linear`.
    """

    KEEPS: ClassVar[tuple[str, ...]] = (*Linear.BASE, "draws")

    spread: float = 0.1
    draws: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.spread >= 0:
            raise BadInput(f"spread is at least 0, not {self.spread}")
        if self.draws < 1:
            raise BadInput(f"draws is at least 1, not {self.draws}")

    def refresh(self, seed: Seed) -> None:
        """Solve and draw: w = ŵ + v L⁻ᵀ z with A = L Lᵀ and z standard normal."""
        factor, w = self.solve()
        noise = torch.randn(self.draws, *w.shape, generator=seed.torch(), dtype=torch.float64)
        # One column for each draw: [d, draw], or [item, p, draw].
        columns = noise.to(w.device).movedim(0, -1)
        moved = torch.linalg.solve_triangular(factor.mT, columns, upper=True)
        self.state["draws"] = self.spread_over_items(w + self.spread * moved.movedim(-1, 0)).contiguous()

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the even mixture of the draws' rankings."""
        context = self.known(context)
        a = self.users(context)
        return Ensemble(a, self.state["draws"].to(a.device), context.candidates, context.mask, slots)
