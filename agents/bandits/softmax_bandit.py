"""Boltzmann exploration: the higher the mean click rate, the likelier the item."""

from dataclasses import dataclass

from agents.bandits._counts import Counting
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import PlackettLuce, SlateDistribution


@dataclass(eq=False)
class SoftmaxBandit(Counting):
    """Plackett–Luce over mean click rate / temperature, so propensities are exact.

    The rate is that of `Counting.rates`. With one slot it is P(i) ∝ exp(rate_i / τ).

    Source: Sutton and Barto (1998), "Reinforcement learning", section 2.3 (softmax action selection).
    Differences: the slate is drawn without replacement, and τ does not cool, so a share of bad items stays
    (Cesa-Bianchi et al. 2017, "Boltzmann exploration done right", show that no one schedule is right).

    Attributes:
        temperature: τ, in units of click rate; above 0.

    Raises:
        BadInput: for a temperature that is not above 0.
    """

    temperature: float = 0.03

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise BadInput(f"temperature is above 0, not {self.temperature}; epsilon_greedy is its limit")

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return Plackett–Luce over the scaled rates."""
        rates = self.of_candidates(self.rates() / self.temperature, context)
        return PlackettLuce(rates, slots, context.mask)
