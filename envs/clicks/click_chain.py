"""The click chain model: whether a user goes on after a click depends on how relevant the item is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._chain import Chain
from envs.clicks.contract import Parameter, check_probability


@dataclass(frozen=True)
class ClickChain(Chain):
    """The chain of `envs.clicks._chain` with λ = α₂ (1 − a) + α₃ a after a click and μ = α₁ after none.

    Source: Guo, Liu, Kannan, Minka, Taylor, Wang and Faloutsos (2009), "Click chain model in web search",
    section 3. There a has a posterior distribution; here it is a number.

    Attributes:
        after_skip: α₁, P(goes on | examined, no click), in [0, 1].
        after_irrelevant: α₂, P(goes on | click on an irrelevant item), in [0, 1].
        after_relevant: α₃, P(goes on | click on a relevant item), in [0, 1].

    Raises:
        BadInput: for a value outside [0, 1].
    """

    after_skip: Float[Tensor, ""]
    after_irrelevant: Float[Tensor, ""]
    after_relevant: Float[Tensor, ""]

    def __post_init__(self) -> None:
        for name in ("after_skip", "after_irrelevant", "after_relevant"):
            check_probability(name, getattr(self, name))

    @classmethod
    def typical(cls, slots: int) -> "ClickChain":
        """Return α₁ = 0.95, α₂ = 0.8, α₃ = 0.4: a good item ends the search more often."""
        return cls(torch.tensor(0.95), torch.tensor(0.8), torch.tensor(0.4))

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return the three."""
        free, half = torch.tensor(True), torch.tensor(0.5, dtype=torch.float64)
        return {
            "after_skip": Parameter(half + 0.4, free),
            "after_irrelevant": Parameter(half, free),
            "after_relevant": Parameter(half, free),
        }

    def onward(self, attraction: Float[Tensor, "user slot"]) -> tuple[Tensor, Tensor]:
        """Return α₂ (1 − a) + α₃ a and α₁."""
        dtype = attraction.dtype
        poor, good = self.after_irrelevant.to(dtype), self.after_relevant.to(dtype)
        return poor + attraction * (good - poor), self.after_skip.to(dtype)
