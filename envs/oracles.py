"""Policies that know the truth: bounds and yardsticks, not recommenders.

An oracle reads the world's state, so it takes a `Privileged` context; `roll` gives it one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from envs.contract import Privileged
from envs.world import SlateWorld
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import masked, top


@dataclass(frozen=True)
class Index:
    """Show the items with the highest values of an index that reads the world's state.

    Attributes:
        index: State → a value of each item, [user item].
        name: the name of the policy in tables and logs.
    """

    index: Callable[[Any], Float[Tensor, "user item"]]
    name: str = "index"
    privileged: ClassVar[bool] = True

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the candidates with the highest values, best slot first.

        Raises:
            BadInput: for a context without a state.
        """
        if not isinstance(context, Privileged):
            raise BadInput(f"policy {self.name} reads the state of a world, so it can only act inside one")
        values = self.index(context.state)
        if context.candidates.stride(0):  # else the whole catalogue in order: a column is an item
            values = values.gather(1, context.candidates)
        return Deterministic(top(masked(values, context.mask), slots), values.shape[1])


@dataclass(frozen=True)
class Oracle:
    """Myopic: the items that truly earn the most now, best slot first.

    Where clicks are position-based and examination does not rise with the slot, and where one of the items is
    chosen and all are worth the same, it maximises the expected reward of the step exactly.

    Attributes:
        world: the world whose truth it reads.
    """

    world: SlateWorld[Any]
    name: str = "oracle"
    privileged: ClassVar[bool] = True

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the best slate."""
        return Index(self.world.myopic, self.name).distribution(context, slots)


@dataclass(frozen=True)
class FarSighted:
    """Far-sighted: sorts items by the world's own `foresight`, whose docstring says how it was found.

    Attributes:
        world: the world whose truth it reads.
    """

    world: SlateWorld[Any]
    name: str = "far-sighted"
    privileged: ClassVar[bool] = True

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on the slate with the highest index."""
        return Index(self.world.foresight, self.name).distribution(context, slots)
