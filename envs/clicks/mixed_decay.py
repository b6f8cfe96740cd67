"""SARDINE's mixed decay: half of the users look from the top, half from the bottom."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from envs.clicks._decay import Decay


@dataclass(frozen=True)
class MixedDecay(Decay):
    """Clicks are independent over slots: P(click at k) = θ_k a_k, θ_k = scale · (½ γ^k + ½ γ^{K−1−k}).

    Here k = 0 … K − 1. The two halves are mixed slot by slot, not user by user, as in SARDINE.

    Source: SARDINE (Deffayet et al. 2024), click model `mixPBM`.

    Attributes:
        decay: γ, in [0, 1].
        scale: the factor of each slot, in [0, 1]. Its length is K.
    """

    def theta(self) -> Float[Tensor, " slot"]:
        """Return θ_k = scale · (½ γ^k + ½ γ^{K−1−k})."""
        powers = self._powers()
        return self.scale * (powers + powers.flip(0)) / 2
