"""What a world answers, and what an oracle is shown."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from simlab.context import Context


@dataclass(frozen=True)
class Response:
    """What users did with the slate.

    Attributes:
        click: 1 where the item was clicked.
        reward: what the step was worth, in the world's own unit (clicks, minutes, …).
        terminated: the user is gone for good.
        truncated: the time limit was reached by a user who is not gone.
        active: the user was there to see the slate; where False, the other fields are zero.
    """

    click: Float[Tensor, "user slot"]
    reward: Float[Tensor, " user"]
    terminated: Bool[Tensor, " user"]
    truncated: Bool[Tensor, " user"]
    active: Bool[Tensor, " user"]


@dataclass(frozen=True)
class Privileged(Context):
    """A context with the world's state in it, for oracles. Only an oracle asks for it."""

    state: Any = None
