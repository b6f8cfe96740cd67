"""PBM-UCB: optimism about items, with clicks weighed by how well their slot is seen."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from agents.bandits._counts import Counting
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import Ranked, SlateDistribution


@dataclass(eq=False)
class PbmUcb(Counting):
    """Rank by S_i/Ñ_i + √(N_i/Ñ_i) · √(δ / (2 Ñ_i)), with δ = exploration · log t; unseen items first.

    N_i counts showings, Ñ_i = Σ_k θ_k N_ik examinations, S_i clicks, and t slates. θ must be known: it is the
    world's, or the given one. The best index goes to slot 1, the next to slot 2, and so on, which is best
    where θ falls with the slot.

    Source: Lagrée, Vernade and Cappé (2016), "Multiple-play bandits in the position-based model", NeurIPS,
    section 5 (PBM-UCB), with δ = (1 + ε) log t. Differences: statistics are updated once for a batch of
    users; slots are filled by descending θ also where θ is not sorted.

    Attributes:
        exploration: 1 + ε of the paper; 0 does not explore.
        theta: the examination of each slot; the world's if None.

    Raises:
        BadInput: for an exploration below 0 or a θ outside (0, 1]; in `learn`, where no θ is given and the
            world has none.
    """

    exploration: float = 1.0
    theta: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.exploration >= 0:
            raise BadInput(f"exploration is at least 0, not {self.exploration}")
        for slot, value in enumerate(self.theta or ()):
            if not 0 < value <= 1:
                raise BadInput(f"theta, slot {slot}: {value} is not in (0, 1]")

    def begin(self, world: SlateWorld[Any], context: Context, seed: Seed) -> None:
        """Count from zero, with a θ that is known."""
        super().begin(world, context, seed)
        if self.theta is None:
            self.state["theta"] = world.examination().to(world.device, torch.float64)
            return
        if len(self.theta) != world.slots:
            raise BadInput(f"theta has {len(self.theta)} slots, but the slate has {world.slots}")
        self.state["theta"] = torch.tensor(self.theta, dtype=torch.float64, device=world.device)

    def index(self) -> Float[Tensor, " item"]:
        """Return the upper confidence bounds; infinite where nobody has looked."""
        state = self.ready()
        seen = state["examined"]
        delta = self.exploration * state["rounds"].clamp(min=1).log()
        bound = (state["clicks"] + (state["shown"] * delta / 2).sqrt()) / seen
        return torch.where(seen > 0, bound, torch.inf)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the ranking by index; ties in random order."""
        return Ranked(self.of_candidates(self.index(), context), slots, context.mask)
