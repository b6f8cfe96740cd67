"""The dynamic Bayesian network: a click may satisfy, and who is satisfied stops."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._chain import Chain
from envs.clicks.contract import Parameter, check_probability, check_slots


@dataclass(frozen=True)
class DynamicBayesian(Chain):
    """A click satisfies with probability s; an unsatisfied user goes on with probability γ.

    The chain of `envs.clicks._chain` with λ = γ (1 − s) after a click and μ = γ after none. With γ = 1 it is
    the simplified network (`simplified`).

    Source: Chapelle and Zhang (2009), "A dynamic Bayesian network click model for web search ranking",
    equations 1a to 1e; the simplified network is section 5. There s belongs to the item.

    Attributes:
        continuation: γ, P(goes on | not satisfied), in [0, 1].
        satisfaction: s, P(satisfied | click), in [0, 1]: one, one a slot, or one a row and slot.

    Raises:
        BadInput: for a value outside [0, 1].
    """

    of_items: ClassVar[tuple[str, ...]] = ("satisfaction",)

    continuation: Float[Tensor, ""]
    satisfaction: Float[Tensor, "*shape"]

    def __post_init__(self) -> None:
        check_probability("continuation", self.continuation)
        check_probability("satisfaction", self.satisfaction)

    @classmethod
    def typical(cls, slots: int) -> "DynamicBayesian":
        """Return γ = 0.9 and s = 0.5."""
        return cls(torch.tensor(0.9), torch.tensor(0.5))

    @classmethod
    def simplified(cls, satisfaction: Float[Tensor, "*shape"]) -> "DynamicBayesian":
        """Return the network with γ = 1: who is not satisfied reads to the end."""
        return cls(satisfaction.new_ones(()), satisfaction)

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return γ and s."""
        half, free = torch.tensor(0.5, dtype=torch.float64), torch.tensor(True)
        return {"continuation": Parameter(half + 0.4, free), "satisfaction": Parameter(half, free)}

    def onward(self, attraction: Float[Tensor, "user slot"]) -> tuple[Tensor, Tensor]:
        """Return γ (1 − s) and γ."""
        satisfied = self.satisfaction
        if satisfied.ndim:  # else one for all
            check_slots("satisfaction", satisfied, attraction)
            satisfied = satisfied[..., : attraction.shape[1]]
        goes_on = self.continuation.to(attraction.dtype)
        return goes_on * (1 - satisfied.to(attraction.dtype)), goes_on
