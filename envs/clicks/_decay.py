"""What SARDINE's two click models share: one decay γ makes the position bias of all slots."""

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._independent import Independent
from envs.clicks.contract import Parameter, check_probability

D = TypeVar("D", bound="Decay")


@dataclass(frozen=True)
class Decay(Independent):
    """Independent clicks with P(click at k) = θ_k a_k, where θ = scale · (a shape of one parameter γ).

    Attributes:
        decay: γ, in [0, 1].
        scale: the factor of each slot, in [0, 1]; SARDINE's has one α for all slots. Its length is K.

    Raises:
        BadInput: for a value outside [0, 1].
    """

    slotted: ClassVar[str] = "scale"

    decay: Float[Tensor, ""]
    scale: Float[Tensor, " slot"]

    def __post_init__(self) -> None:
        check_probability("decay", self.decay)
        check_probability("scale", self.scale)

    @classmethod
    def of(cls: type[D], slots: int, decay: float = 0.85, scale: float = 1.0) -> D:
        """Return the model with γ and one scale for all K slots."""
        return cls(torch.tensor(decay), torch.full((slots,), scale))

    @classmethod
    def typical(cls: type[D], slots: int) -> D:
        """Return γ = 0.85 and scale 1, as in SARDINE's slates of 10 out of 1,000 items."""
        return cls.of(slots)

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return γ; the scale stays 1, because only its products with attractions are seen."""
        one = torch.tensor(0.8, dtype=torch.float64)
        scale = torch.ones(slots, dtype=torch.float64)
        return {
            "decay": Parameter(one, torch.tensor(True)),
            "scale": Parameter(scale, torch.zeros(slots, dtype=torch.bool)),
        }

    def _powers(self) -> Float[Tensor, " slot"]:
        """Return γ^k, k = 0 … K − 1."""
        return self.decay ** torch.arange(len(self.scale), device=self.decay.device)
