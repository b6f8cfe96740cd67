"""IPS for several loggers, weighed against all of them together."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores, ones


@dataclass(frozen=True)
class LoggerBalancedIPS:
    """V = mean(π / Σ_l ρ_l π_l · r): whoever showed it, weigh by how likely the loggers were to show it.

    The weight (`mixture`) stays bounded where any logger of some share shows what the target does. Unbiased,
    for given numbers of rounds a logger too, and never of larger variance than naive pooling, which is `IPS`
    itself. It needs every logger's probability of every logged item: `causal.loggers.several` makes the
    weights. `causal.bandit.logger_weighted_ips` needs only each round's own.

    Where the numbers of rounds a logger are fixed, the rows of one logger differ in mean from those of
    another. The standard error counts that as noise, so it is at most too large.

    Source: Agarwal, Basu, Schnabel and Joachims (2017), "Effective evaluation using logged bandit feedback
    from multiple loggers", KDD (balanced IPS). `multi_bal_ipw` in obp, whose 0.5.7 raises a TypeError when
    asked for an interval.
    """

    name: ClassVar[str] = "logger-balanced IPS"
    needs: ClassVar[tuple[str, ...]] = ("mixture",)
    leans: ClassVar[str] = "mixture"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put the mixture's weight times r above the line and 1 below it."""
        weight = data.need("mixture")
        return (Score(weight * data.reward, ones(weight)),)
