"""The position-based model: a click needs an examined slot and an attractive item.

P(click at k) = θ_k · a_k, independently over slots, with θ_k = P(examined) and a_k = P(click | examined).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.errors import BadInput


@dataclass(frozen=True)
class PositionBased:
    """Clicks are independent over slots: P(click at k) = θ_k a_k.

    Source: Richardson, Dominowska and Ragno (2007), "Predicting clicks", equation 2; Chuklin, Markov and
    de Rijke (2015), "Click models for web search", section 3.3.

    Attributes:
        examination: θ, the position bias: P(examined) of each slot, in [0, 1].

    Raises:
        BadInput: for an examination outside [0, 1].
    """

    examination: Float[Tensor, " slot"]

    def __post_init__(self) -> None:
        for slot, chance in enumerate(self.examination.tolist()):
            if not 0 <= chance <= 1:
                raise BadInput(f"examination, slot {slot}: {chance} is not a probability")

    @staticmethod
    def power(slots: int, eta: float) -> "PositionBased":
        """Return θ_k = 1/k^η, k = 1 … K; η = 0 is no position bias."""
        rank = torch.arange(1, slots + 1, dtype=torch.float64)
        return PositionBased((rank**-eta).float())

    def to(self, device: torch.device | str) -> "PositionBased":
        """Return the same model on another device."""
        return PositionBased(self.examination.to(device))

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return θ_k a_k."""
        return attraction * self.examination

    def log_prob(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, " user"]:
        """Return Σ_k c_k log p_k + (1 - c_k) log(1 - p_k)."""
        chance = self.probs(attraction)
        clicked, passed = torch.xlogy(click, chance), torch.special.xlog1py(1 - click, -chance)
        return torch.add(clicked, passed).sum(1)

    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Click where the slot's uniform is below p_k."""
        return (uniform < self.probs(attraction)).to(attraction.dtype)

    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(examined) of each slot: here the same for every user."""
        return self.examination.to(attraction.dtype).expand_as(attraction)
