"""Softmax: a ranker's scores as chances, slot by slot."""

from dataclasses import dataclass

from simlab.context import Context
from simlab.errors import BadInput
from simlab.policies.greedy import scores
from simlab.rankers.contract import Ranker
from simlab.slates import PlackettLuce, SlateDistribution


@dataclass(frozen=True)
class Softmax:
    """Plackett–Luce over logits / temperature: a stochastic ranker with exact propensities.

    Attributes:
        ranker: who scores.
        temperature: above 0; the smaller, the greedier.
        name: in tables and logs.

    Raises:
        BadInput: for a temperature that is not above 0.
    """

    ranker: Ranker
    temperature: float = 1.0
    name: str = "softmax"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise BadInput(f"temperature is above 0, not {self.temperature}; policy greedy is its limit")

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return Plackett–Luce over the scaled logits."""
        return PlackettLuce(scores(self.ranker, context) / self.temperature, slots, context.mask)
