"""ε-greedy: the best mean click rates, and now and then a random slate."""

from dataclasses import dataclass

from agents.bandits._counts import Counting
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import Mixture, Ranked, SlateDistribution, Uniform


@dataclass(eq=False)
class EpsilonGreedy(Counting):
    """(1 - ε) · items by mean click rate, best first, + ε · a uniformly random slate.

    The rate is that of `Counting.rates`: clicks over examinations, with the world's θ where it has one.
    Propensities are exact, and no slate has probability zero.

    Source: Sutton and Barto (2018), "Reinforcement learning", section 2.4. Differences: the coin is thrown
    once for a slate, not for each slot, and ε stays, so regret grows in proportion to ε.

    Attributes:
        epsilon: in [0, 1].

    Raises:
        BadInput: for an ε outside [0, 1].
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise BadInput(f"epsilon is a probability in [0, 1], not {self.epsilon}")

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the mixture of the ranking and the uniform slates."""
        best = Ranked(self.of_candidates(self.rates(), context), slots, context.mask)
        return Mixture([best, Uniform(context.mask, slots)], (1 - self.epsilon, self.epsilon))
