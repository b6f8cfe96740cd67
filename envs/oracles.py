"""Policies that know the truth: bounds and yardsticks, not recommenders.

An oracle reads the world's state, so it takes a `Privileged` context; `roll` gives it one.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from envs.contract import Privileged
from envs.users.feed import Feed
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import masked, top


def _state(name: str, context: Context) -> Any:
    if not isinstance(context, Privileged):
        raise BadInput(f"policy {name} reads the state of a world, so it can only act inside one")
    return context.state


def _best(scores: Float[Tensor, "user cand"], context: Context, slots: int) -> SlateDistribution:
    """Return all mass on the highest scores."""
    scores = masked(scores, context.mask)
    return Deterministic(top(scores, slots), scores.shape[1])


@dataclass(frozen=True)
class Oracle:
    """Myopic: the items that are truly the most attractive now, best slot first.

    It maximises the expected clicks of the step exactly, because examination does not rise with the slot.

    Attributes:
        world: the world whose truth it reads.
    """

    world: SlateWorld[Any]
    name: str = "oracle"
    privileged: ClassVar[bool] = True

    def scores(self, state: Any) -> Float[Tensor, "user item"]:
        """Return what the slate is sorted by."""
        return self.world.relevance(state)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the best slate."""
        return _best(self.scores(_state(self.name, context)), context, slots)


@dataclass(frozen=True)
class FarSighted:
    """Ration what would bore: a click is worth less the nearer its topics are to burning out.

    Items are sorted by a_i · (1 - price · ⟨u∘(1 - boredom·b)∘z/limit, e_i⟩), with a_i the true attraction.
    This index is a heuristic: a strong far-sighted policy, not a proven optimum. The price of 1.5 was found
    by search over {1, 1.5, 2.5} on 600 users, in the feed with boredom as the only effect.

    Attributes:
        world: the feed whose truth it reads.
        price: how dear a click is that leads toward burn-out; 0 is the myopic oracle.
        believe: plan as if boredom were on, even where it is off.
    """

    world: Feed
    name: str = "far-sighted"
    price: float = 1.5
    believe: bool = False
    privileged: ClassVar[bool] = True

    def scores(self, state: Any) -> Float[Tensor, "user item"]:
        """Return the priced attraction of each item."""
        world, users = self.world, state.users
        attraction = world.relevance(state)
        if not (world.spec.boredom or self.believe):
            return attraction
        taste = users.taste * (1 - world.spec.boredom * users.boredom)
        if world.spec.boredom:
            near = (users.consumed / max(world.spec.boredom_limit, 1e-9)).clamp(max=1.0)
        else:  # nobody is ever bored: a believer still rations every topic
            near = torch.full_like(taste, 0.5)
        toll: Tensor = self.price * (taste * near) @ world.topics.T
        return attraction * (1 - toll)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the best slate."""
        return _best(self.scores(_state(self.name, context)), context, slots)
