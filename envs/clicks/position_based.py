"""The position-based model: a click needs an examined slot and an attractive item.

P(click at k) = θ_k · a_k, independently over slots, with θ_k = P(examined) and a_k = P(click | examined).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._independent import Independent
from envs.clicks.contract import Parameter, check_probability


@dataclass(frozen=True)
class PositionBased(Independent):
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
        check_probability("examination", self.examination)

    @staticmethod
    def power(slots: int, eta: float) -> "PositionBased":
        """Return θ_k = 1/k^η, k = 1 … K; η = 0 is no position bias."""
        rank = torch.arange(1, slots + 1, dtype=torch.float64)
        return PositionBased((rank**-eta).float())

    @classmethod
    def typical(cls, slots: int) -> "PositionBased":
        """Return θ_k = 1/k."""
        return cls.power(slots, 1.0)

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return θ, of which the first is 1: only the products θ_k a_i are seen."""
        free = torch.ones(slots, dtype=torch.bool)
        free[0] = False
        start = torch.full((slots,), 0.5, dtype=torch.float64)
        return {"examination": Parameter(start.masked_fill(~free, 1.0), free)}

    def theta(self) -> Float[Tensor, " slot"]:
        """Return θ."""
        return self.examination
