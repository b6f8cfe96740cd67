"""Any ranker's body as a critic: the value of a user's state."""

from jaxtyping import Float
from torch import Tensor, nn

from simlab.adapters._state import ValueHead, copied, full, state_width
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed

BODIES = ("shared", "detached", "own")


class Critic(nn.Module):
    """V(s): a small network on the state that a ranker's `encode` returns.

    Args:
        ranker: whose state it is, such as the actor's.
        body: "shared": the values' gradient trains the ranker too. "detached": it stops at the state. "own":
            the critic has a copy of the ranker, with no weight in common.
        hidden: widths of the layers.
        seed: of the first weights.

    Raises:
        BadInput: for an unknown body, with the nearest one.
    """

    def __init__(
        self, ranker: Ranker, *, body: str = "shared", hidden: tuple[int, ...] = (64,), seed: Seed = Seed(0)
    ) -> None:
        super().__init__()
        if body not in BODIES:
            raise BadInput(f"body is {', '.join(BODIES)}, not {body}{nearest(body, BODIES)}")
        self.body = body
        self.ranker = copied(ranker) if body == "own" else ranker
        self.head = ValueHead(state_width(ranker), hidden, seed)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the ranker's state, which `forward` takes again."""
        return self.ranker.encode(full(context, self.ranker.past))

    def forward(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, " user"]:
        """Return the value of each user's state.

        Args:
            context: the users; their candidates do not matter.
            state: what `encode` returned (the actor's, too, unless the body is its own).
        """
        state = self.encode(context) if state is None else state
        value: Tensor = self.head(state.detach() if self.body == "detached" else state)
        return value
