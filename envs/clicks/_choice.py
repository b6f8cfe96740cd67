"""What models of choice share: the items of a slate compete for at most one click.

Shown alone, item i is clicked with its attraction a_i: its odds against no click are o_i = a_i / (1 − a_i).
Shown together, P(click at k) = w_k o_k / (1 + Σ_j w_j o_j), with a weight w_k for each slot (Luce 1959,
"Individual choice behavior"). All items are seen, and an item further down takes clicks from those above it.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks.contract import ClickModel, Parameter, check_slots
from simlab.errors import BadInput

C = TypeVar("C", bound="Choice")


@dataclass(frozen=True)
class Choice(ClickModel):
    """At most one click: P(click at k) = w_k o_k / (1 + Σ_j w_j o_j), with o = a / (1 − a).

    Odds are finite: 1 − a is at least the machine epsilon (1.2e-7 in float32), so of several items that are
    sure to be clicked alone, each is clicked equally often.

    Attributes:
        weight: w, what a slot does to the odds; 1 is nothing.

    Raises:
        BadInput: for a weight that is negative or not finite.
    """

    weight: Float[Tensor, " slot"]

    def __post_init__(self) -> None:
        bad = ~((self.weight >= 0) & self.weight.isfinite())
        if bool(bad.any()):
            k = int(bad.nonzero()[0, 0])
            raise BadInput(f"weight, slot {k}: {float(self.weight[k]):g} is not a finite number from 0")

    @classmethod
    def log_linear(cls: type[C], slots: int, bias: float) -> C:
        """Return w_k = exp(bias · k), k = 0 …: RecSim NG adds bias · k to the logit of slot k."""
        return cls((bias * torch.arange(slots, dtype=torch.float64)).exp().float())

    @classmethod
    def typical(cls: type[C], slots: int) -> C:
        """Return w = 1: the slot does not matter, as in RecSim."""
        return cls(torch.ones(slots))

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return w, of which the first is 1: only the products w_k o_i are seen."""
        free = torch.ones(slots, dtype=torch.bool)
        free[0] = False
        return {"weight": Parameter(torch.ones(slots, dtype=torch.float64), free, high=1e4)}

    def _room(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1 − a, at least the machine epsilon."""
        return (1 - attraction).clamp(min=torch.finfo(attraction.dtype).eps)

    def _odds(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return w_k o_k."""
        check_slots("weight", self.weight, attraction)
        return attraction / self._room(attraction) * self.weight[: attraction.shape[1]].to(attraction.dtype)

    def conditional(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return p_k / (1 − Σ_{j<k} p_j) = w_k o_k / (1 + Σ_{j≥k} w_j o_j), and 0 after a click."""
        odds = self._odds(attraction)
        below = odds.flip(1).cumsum(1).flip(1)
        nothing_above = (click.cumsum(1) - click) == 0
        return odds / (1 + below) * nothing_above

    def log_prob(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, " user"]:
        """Return log(w_k o_k) of the click, if any, minus log(1 + Σ_j w_j o_j); −∞ for more than one."""
        hit, mass = click > 0, self._odds(attraction).sum(1)
        weight = self.weight[: attraction.shape[1]].to(attraction.dtype)
        # The logarithm of a quotient would make gradients NaN where an item without odds was clicked.
        above = torch.where(hit, attraction * weight, 1.0).log()
        below = torch.where(hit, self._room(attraction), 1.0).log()
        return ((above - below).sum(1) - mass.log1p()).masked_fill(hit.sum(1) > 1, -torch.inf)

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return w_k o_k / (1 + Σ_j w_j o_j)."""
        odds = self._odds(attraction)
        return odds / (1 + odds.sum(1, keepdim=True))

    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1 everywhere: who chooses among items has seen all of them."""
        return torch.ones_like(attraction)

    def draws(self, slots: int) -> int:
        """Return 1: one choice is made on a slate."""
        return 1

    @torch.no_grad()
    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user draw"]
    ) -> Float[Tensor, "user slot"]:
        """Click at the first slot where the cumulative probability exceeds the uniform; no click is last.

        Compared as cumulative odds: Σ_{j≤k} w_j o_j > u (1 + Σ_j w_j o_j).
        """
        mass = self._odds(attraction).cumsum(1)
        bar = torch.addcmul(uniform[:, :1], uniform[:, :1], mass[:, -1:])
        reached = mass.gt_(bar)  # 0, …, 0, 1, …, 1, in place: half the time of a mask and a cast
        click = reached.clone()
        click[:, 1:].sub_(reached[:, :-1])
        return click
