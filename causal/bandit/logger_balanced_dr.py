"""DR for several loggers, weighed against all of them together."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import MODEL, Rounds, Score, Scores, ones


@dataclass(frozen=True)
class LoggerBalancedDR:
    """V = mean(q_target + w (r - q_logged)) with w = π / Σ_l ρ_l π_l: DR with the weights of the mixture.

    Unbiased when either the mixture's propensities or the reward model are right (cross-fitted). Naive
    pooling of the loggers is `DR` itself, with each round's own propensity. `causal.loggers.several` makes
    the weights. Its standard error is at most too large, as that of `causal.bandit.logger_balanced_ips`.

    Source: Kallus, Saito and Uehara (2021), "Optimal off-policy evaluation from multiple logging policies",
    ICML (DR on the mixture of the loggers). `multi_bal_dr` in obp, whose 0.5.7 raises a TypeError when asked
    for an interval.
    """

    name: ClassVar[str] = "logger-balanced DR"
    needs: ClassVar[tuple[str, ...]] = (*MODEL, "mixture")
    leans: ClassVar[str] = "mixture"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put the corrected model above the line and 1 below it."""
        q_logged, q_target = data.model()
        return (Score(q_target + data.need("mixture") * (data.reward - q_logged), ones(q_target)),)
