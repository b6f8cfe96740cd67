"""The contracts of a world and of its parts.

A **world** is frozen data: items, a user model, a click model, popularity. A **State** holds everything
that changes. `reset`, `observe` and `step` are pure and batched. One state is one **shard**: the users who
share a market (its popularity). A shard is also the unit of computation: it always has the same shape, so
the same seed gives the same bits, whichever worker runs it and however many shards run beside it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.seeds import Seed


@dataclass(frozen=True)
class Response:
    """What users did with the slate.

    Attributes:
        click: 1 where the item was clicked.
        reward: what the step was worth: the number of clicks.
        terminated: the user is gone for good.
        truncated: the time limit was reached by a user who is not gone.
        active: the user was there to see the slate; where False, the other fields are zero.
    """

    click: Float[Tensor, "user slot"]
    reward: Float[Tensor, " user"]
    terminated: Bool[Tensor, " user"]
    truncated: Bool[Tensor, " user"]
    active: Bool[Tensor, " user"]


@runtime_checkable
class World(Protocol):
    """A simulator of users. Every method is pure; all randomness is keyed by the seed.

    Attributes:
        name: the versioned id, such as "simlab/Feed-v0".
        catalog: the items.
        slots: K.
        horizon: the time limit in steps.
        spec: the frozen, typed settings.
    """

    name: ClassVar[str]
    catalog: Catalog
    slots: int
    horizon: int
    spec: Any

    def reset(self, n: int, seed: Seed, first_user: int = 0) -> Any:
        """Return the state of n new users, with ids first_user … first_user + n - 1."""
        ...

    def observe(self, state: Any) -> Context:
        """Return what a recommender may see."""
        ...

    def step(self, state: Any, slate: Int[Tensor, "user slot"], seed: Seed) -> tuple[Any, Response]:
        """Show each user a slate of item ids and return the next state and what came back."""
        ...

    def expected(self, state: Any, slate: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the exact probability of a click on each slot."""
        ...

    def relevance(self, state: Any) -> Float[Tensor, "user item"]:
        """Return P(click | examined) of every item: what a recommender would like to know."""
        ...

    def examination(self) -> Float[Tensor, " slot"]:
        """Return the true position bias: P(examined) at each slot."""
        ...


@dataclass(frozen=True)
class Privileged(Context):
    """A context with the world's state in it, for oracles. Only an oracle asks for it."""

    state: Any = None


@runtime_checkable
class ClickModel(Protocol):
    """What is clicked on a slate, given how attractive each item is: a_k = P(click | examined), in [0, 1].

    `sample` maps one uniform per slot to clicks, so that two slates can be shown under the same luck.
    """

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the marginal click probability of each slot."""
        ...

    def examined(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the marginal probability that each slot is examined."""
        ...

    def log_prob(
        self, attraction: Float[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, " user"]:
        """Return the joint log-probability of a click vector."""
        ...

    def sample(
        self, attraction: Float[Tensor, "user slot"], uniform: Float[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Turn one uniform per slot into clicks of 0 and 1."""
        ...
