"""Bandits that know one number of each item: how often it was clicked when it was seen."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.bandits._agent import Bandit, theta_of, within
from envs.contract import Response
from envs.world import SlateWorld
from simlab.context import Context
from simlab.seeds import Seed


@dataclass(eq=False)
class Counting(Bandit):
    """Counts for each item, over all users and steps.

    `state` holds, float64: N `shown` [item], Ñ = Σ θ_k `examined` [item] (the showings that count, each by
    the examination of its slot), S `clicks` [item], t `rounds` [] (slates shown), and θ `theta` [slot].
    Where clicks are position-based with this θ, E[S] = Ñ · P(click | examined), so S / Ñ is the click rate
    of an item that is seen (Lagrée, Vernade and Cappé 2016).
    """

    KEEPS: ClassVar[tuple[str, ...]] = ("shown", "examined", "clicks", "rounds", "theta")

    def begin(self, world: SlateWorld[Any], context: Context, seed: Seed) -> None:
        """Count from zero."""
        zero = torch.zeros(world.catalog.n_items, dtype=torch.float64, device=world.device)
        self.state = {
            "shown": zero,
            "examined": zero.clone(),
            "clicks": zero.clone(),
            "rounds": zero.new_zeros(()),
            "theta": theta_of(world),
        }

    def counted(self, click: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1 at the slots whose answer is counted; here all."""
        return torch.ones_like(click)

    def update(self, context: Context, slate: Int[Tensor, "user slot"], response: Response) -> None:
        """Add showings, examinations and clicks of the users who were there."""
        state = self.ready()
        counted = (self.counted(response.click) * response.active.unsqueeze(1)).double()
        item = slate.reshape(-1)
        state["shown"].index_add_(0, item, counted.reshape(-1))
        state["examined"].index_add_(0, item, (counted * state["theta"]).reshape(-1))
        state["clicks"].index_add_(0, item, (counted * response.click).reshape(-1))
        state["rounds"] += response.active.sum()

    def rates(self) -> Float[Tensor, " item"]:
        """Return (S + m) / (Ñ + 1): one prior examination at m, the mean rate of all items.

        m = (ΣS + 1) / (ΣÑ + 2), so an item that was never seen has the rate of the others.
        """
        state = self.ready()
        mean = (state["clicks"].sum() + 1) / (state["examined"].sum() + 2)
        return (state["clicks"] + mean) / (state["examined"] + 1)

    def of_candidates(self, index: Float[Tensor, " item"], context: Context) -> Float[Tensor, "user cand"]:
        """Look the candidates' numbers up."""
        return index.to(context.device)[within(context, len(index)).candidates]
