"""SARDINE's top-down decay: attention falls by a factor from slot to slot."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from envs.clicks._decay import Decay


@dataclass(frozen=True)
class TopDownDecay(Decay):
    """Clicks are independent over slots: P(click at k) = θ_k a_k, θ_k = scale · γ^k, k = 0 … K − 1.

    Source: SARDINE (Deffayet et al. 2024), click model `tdPBM`.

    Attributes:
        decay: γ, in [0, 1].
        scale: the factor of each slot, in [0, 1]. Its length is K.
    """

    def theta(self) -> Float[Tensor, " slot"]:
        """Return θ_k = scale · γ^k."""
        return self.scale * self._powers()
