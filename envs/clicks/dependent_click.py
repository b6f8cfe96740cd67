"""The dependent click model: a cascade that may go on after a click."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._chain import Chain
from envs.clicks.contract import Parameter, check_probability, check_slots


@dataclass(frozen=True)
class DependentClick(Chain):
    """The chain of `envs.clicks._chain` with λ_k after a click at slot k, and always on (μ = 1) after none.

    Source: Guo, Liu and Wang (2009), "Efficient multiple-click models in web search", section 4.

    Attributes:
        continuation: λ, P(goes on | click) of each slot, in [0, 1]; that of the last slot is not used.

    Raises:
        BadInput: for a continuation outside [0, 1].
    """

    continuation: Float[Tensor, " slot"]

    def __post_init__(self) -> None:
        check_probability("continuation", self.continuation)

    @classmethod
    def typical(cls, slots: int) -> "DependentClick":
        """Return λ = 0.6 at every slot."""
        return cls(torch.full((slots,), 0.6))

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return λ, but for the last slot's, which is never used."""
        free = torch.ones(slots, dtype=torch.bool)
        free[-1] = False
        return {"continuation": Parameter(torch.full((slots,), 0.5, dtype=torch.float64), free)}

    def onward(self, attraction: Float[Tensor, "user slot"]) -> tuple[Tensor, Tensor]:
        """Return λ and 1."""
        check_slots("continuation", self.continuation, attraction)
        return self.continuation[: attraction.shape[1]].to(attraction.dtype), attraction.new_ones(())
