"""Any ranker as an actor: a distribution over slates through which gradients flow."""

from jaxtyping import Float
from torch import Tensor, nn

from simlab.adapters._state import full
from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Ranker
from simlab.slates import PlackettLuce


class Actor(nn.Module):
    """Plackett–Luce over logits / temperature, in the ranker's own mode and with gradients.

    `simlab.policies.softmax.Softmax` is the same distribution for acting alone: in eval mode, without
    gradients. This one keeps the contract of a policy too.

    Args:
        ranker: who scores; it is used, not copied.
        temperature: above 0.
        name: in tables and logs.

    Raises:
        BadInput: for a temperature that is not above 0.
    """

    def __init__(self, ranker: Ranker, temperature: float | int = 1.0, name: str = "actor") -> None:
        super().__init__()
        if not temperature > 0:
            raise BadInput(f"temperature is above 0, not {temperature}")
        self.ranker, self.temperature, self.name = ranker, temperature, name

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the ranker's state, which `distribution` and a critic of the same body take again."""
        return self.ranker.encode(full(context, self.ranker.past))

    def forward(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return logits / temperature; masked candidates are scored too."""
        return self.ranker.score(full(context, self.ranker.past), state) / self.temperature

    def distribution(
        self, context: Context, slots: int, state: Float[Tensor, "user dim"] | None = None
    ) -> PlackettLuce:
        """Return the distribution over slates; its `log_prob` carries the gradient of the ranker."""
        return PlackettLuce(self(context, state), slots, context.mask)
