"""Per-decision importance sampling."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class PDIS:
    """V = mean(Σ_t γ^t w_{0:t} r_t): weigh each reward by the choices made up to it, by none after.

    Unbiased when the propensities are right and the logger could do all that the target does; for most logs
    less noisy than `tis`. With one step it is IPS. `pdis` in SCOPE-RL.

    Source: Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation", ICML (the
    per-decision importance sampling estimator).
    """

    name: ClassVar[str] = "PDIS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "prefix"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put Σ_t γ^t w_{0:t} r_t above the line and 1 below it."""
        numerator = (data.prefix * data.reward) @ data.gammas
        return (Score(numerator, ones(numerator)),)
