"""The user browsing model: examination depends on the slot and on how far above the last click was."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from envs.clicks.contract import ClickModel, Parameter, check_slots
from simlab.errors import BadInput


@dataclass(frozen=True)
class UserBrowsing(ClickModel):
    """P(click at k | the clicks above) = γ_{k,d} a_k, with d = k − (slot of the last click above k).

    Slots count from 1 here. Where nothing above was clicked, the last click is at slot 0, and d = k.
    Marginals come from the exact chances q_k(j) that the last click above k was at j:

        q_1(0) = 1,   P(examined k) = Σ_j γ_{k,k−j} q_k(j),   q_{k+1}(k) = P(examined k) a_k,
        q_{k+1}(j) = q_k(j) (1 − γ_{k,k−j} a_k)   for j < k.

    Source: Dupret and Piwowarski (2008), "A user browsing model to predict search engine click data from past
    observations", section 3.2, with one browsing behaviour.

    Attributes:
        examination: γ, P(examined) in [0, 1], with γ_{k,d} in row k − 1 and column d − 1. So column 0 follows
            a click right above, and the diagonal no click at all. Nothing above the diagonal is used.

    Raises:
        BadInput: for an examination outside [0, 1], or that is not square.
    """

    examination: Float[Tensor, "slot distance"]

    def __post_init__(self) -> None:
        if self.examination.ndim != 2:
            raise BadInput(f"examination has {self.examination.ndim} axes, but it is a table [slot distance]")
        slots, distances = self.examination.shape
        if slots != distances:
            raise BadInput(f"examination is {slots} × {distances}, but it has as many distances as slots")
        bad = ~((self.examination >= 0) & (self.examination <= 1))
        if bool(bad.any()):
            k, d = (int(i) for i in bad.nonzero()[0])
            value = float(self.examination[k, d])
            raise BadInput(f"examination, slot {k}, distance {d + 1}: {value:g} is not a probability")

    @classmethod
    def typical(cls, slots: int) -> "UserBrowsing":
        """Return γ_{k,d} = 1/√d: attention returns with each click, and falls away from it."""
        distance = torch.arange(1, slots + 1, dtype=torch.float64)
        return cls((distance**-0.5).float().expand(slots, slots).tril())

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return γ, of which the first is 1: only the products γ a are seen."""
        free = torch.ones(slots, slots, dtype=torch.bool).tril()
        start = torch.full((slots, slots), 0.5, dtype=torch.float64).tril()
        free[0, 0], start[0, 0] = False, 1.0
        return {"examination": Parameter(start, free)}

    def conditional(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return γ_{k,d} a_k."""
        check_slots("examination", self.examination, attraction)
        rank = torch.arange(1, attraction.shape[1] + 1, device=click.device)
        last = pad((click > 0) * rank, (1, -1)).cummax(1).values
        flat = self.examination.to(attraction.dtype).reshape(-1)
        return attraction * flat[(rank - 1) * (len(self.examination) + 1) - last]

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(examined k) a_k."""
        return attraction * self.examined(attraction)

    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(examined k), by the recursion over the slot of the last click."""
        check_slots("examination", self.examination, attraction)
        table = self.examination.to(attraction.dtype)
        last = torch.ones_like(attraction[:, :1])  # q_k(j), j = 0 … k − 1
        seen = []
        for k in range(attraction.shape[1]):
            each = last * table[k, : k + 1].flip(0)  # seen, and the last click was at j
            seen.append(each.sum(1))
            clicked = attraction[:, k : k + 1] * each
            last = torch.cat([last - clicked, clicked.sum(1, keepdim=True)], 1)
        return torch.stack(seen, 1)

    @torch.no_grad()
    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user draw"]
    ) -> Float[Tensor, "user slot"]:
        """Click where the slot's uniform is below γ_{k,d} a_k, from the top to the bottom."""
        check_slots("examination", self.examination, attraction)
        table = self.examination.to(attraction.dtype)
        column = torch.zeros(len(attraction), dtype=torch.long, device=attraction.device)  # d − 1
        clicks = []
        for k in range(attraction.shape[1]):
            hit = uniform[:, k] < attraction[:, k] * table[k].index_select(0, column)
            clicks.append(hit)
            column = (column + 1).masked_fill_(hit, 0)
        return torch.stack(clicks, 1).to(attraction.dtype)
