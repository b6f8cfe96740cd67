"""The market: what users who share a world do to its items.

Popularity feeds on itself: exposure → clicks → popularity → clicks. It is a share of attention with mean 1
over the catalogue: 3 means three times the average item.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Seed


@dataclass(frozen=True)
class MarketState:
    """What changes in a market.

    Attributes:
        popularity: of each item, mean 1.
        time: steps since the market began.
        available: which items may be shown, if that changes; None is all of them, always.
    """

    popularity: Float[Tensor, " item"]
    time: Int[Tensor, ""]
    available: Bool[Tensor, " item"] | None = None


@dataclass(frozen=True)
class Market:
    """How a market remembers what was clicked.

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
    feedback: bool = False
    keep: float = 1.0
    outside: float = 0.0
    floor: float = 0.05

    def begin(self, first_user: int, seed: Seed) -> MarketState:
        """Return a fresh market; its luck is that of its first user."""
        return MarketState(self.start, torch.zeros((), dtype=torch.long, device=self.start.device))

    def appeal(self, popularity: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
        """Return log((p + floor) / (1 + floor)): 0 for an average item."""
        return ((popularity + self.floor) / (1 + self.floor)).log()

    def update(
        self,
        state: MarketState,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        active: Bool[Tensor, " user"],
    ) -> MarketState:
        """Return the market after one step of all its users.

        Clicks are counted in whole numbers, so the sum does not depend on its order.

        Args:
            state: the market before the step.
            slate: what each user was shown.
            click: what was clicked.
            active: the users who were there.
        """
        if not self.feedback:
            return state
        popularity = state.popularity
        n = popularity.shape[0]
        count = torch.zeros(n + 1, dtype=click.dtype, device=click.device)  # one more for the blank item
        count.scatter_add_(0, slate.reshape(-1), click.reshape(-1))
        count = count[:n]
        total = count.sum() + self.outside
        fresh = (count * n + self.outside * self.start) / total.clamp(min=1e-12)
        fresh = torch.where(total > 0, fresh, popularity)
        return replace(state, popularity=torch.lerp(fresh, popularity, self.keep), time=state.time + 1)
