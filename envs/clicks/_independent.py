"""What models share in which a slot's click does not depend on other clicks."""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks.contract import ClickModel, check_slots


class Independent(ClickModel):
    """Clicks are independent over slots, and slot k is examined with P(examined) = θ_k, whatever is shown.

    A model writes `theta`; P(click at k) is θ_k a_k unless it says otherwise in `probs`, which returns a
    tensor of its own: `sample` writes into it.

    Attributes:
        slotted: the field with a value for each slot that θ is made of.
    """

    slotted: ClassVar[str] = "examination"

    @abstractmethod
    def theta(self) -> Float[Tensor, " slot"]:
        """Return the position bias θ = P(examined)."""

    def conditional(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return P(click at k): the clicks above change nothing."""
        return self.probs(attraction)

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return θ_k a_k."""
        return attraction * self._theta(attraction)

    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return θ: the same for every user."""
        return self._theta(attraction).expand_as(attraction)

    @torch.no_grad()
    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user draw"]
    ) -> Float[Tensor, "user slot"]:
        """Click where the slot's uniform is below P(click)."""
        return self.probs(attraction).gt_(uniform)  # in place: a quarter of the time of a mask and a cast

    def _theta(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, " slot"]:
        """Return θ of the slots that are shown, in the attraction's type."""
        check_slots(self.slotted, getattr(self, self.slotted), attraction)
        return self.theta()[: attraction.shape[1]].to(attraction.dtype)
