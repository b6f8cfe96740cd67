"""The cascade model: the user reads from the top and stops at the first click."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._chain import Chain
from envs.clicks.contract import Parameter


@dataclass(frozen=True)
class Cascade(Chain):
    """At most one click: P(click at k) = a_k Π_{j<k} (1 − a_j).

    The chain of `envs.clicks._chain` with λ = 0 after a click and μ = 1 after none. It has no parameters.
    RecSim's cascade with an attention probability is this one with attractions that have it as a factor.

    Source: Craswell, Zoeter, Taylor and Ramsey (2008), "An experimental comparison of click position-bias
    models", section 3.4.
    """

    @classmethod
    def typical(cls, slots: int) -> "Cascade":
        """Return the cascade."""
        return cls()

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return nothing: there is nothing to fit but attractions."""
        return {}

    def onward(self, attraction: Float[Tensor, "user slot"]) -> tuple[Tensor, Tensor]:
        """Return 0 and 1."""
        return attraction.new_zeros(()), attraction.new_ones(())

    def conditional(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return a_k where nothing above was clicked, else 0."""
        return attraction * ((click.cumsum(1) - click) == 0)

    @torch.no_grad()
    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user draw"]
    ) -> Float[Tensor, "user slot"]:
        """Click at the first slot whose uniform is below its attraction."""
        wanted = torch.gt(attraction, uniform).to(attraction.dtype)
        return wanted * (wanted.cumsum(1) == 1)
