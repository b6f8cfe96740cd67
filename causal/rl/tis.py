"""Trajectory importance sampling."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class TIS:
    """V = mean(w_{0:T} Σ_t γ^t r_t): weigh each return by how much likelier the target makes it.

    Unbiased when the propensities are right and the logger could do all that the target does. The variance
    can grow exponentially with the horizon, for the reward of a step is weighted by what was chosen after it
    too. `tis` in SCOPE-RL.

    Source: Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation", ICML (the
    ordinary importance sampling estimator).
    """

    name: ClassVar[str] = "TIS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "whole"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put w Σ_t γ^t r_t above the line and 1 below it."""
        numerator = data.whole * data.returns()
        return (Score(numerator, ones(numerator)),)
