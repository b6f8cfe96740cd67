"""Weighted (self-normalised) trajectory importance sampling."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories


@dataclass(frozen=True)
class WIS:
    """V = mean(w_{0:T} Σ_t γ^t r_t) / mean(w_{0:T}): divide by the weights drawn, not by their number.

    Consistent, with a bias of order 1/N; never outside the returns that were logged. `sntis` in SCOPE-RL.

    Source: Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation", ICML (the
    weighted importance sampling estimator).
    """

    name: ClassVar[str] = "WIS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "whole"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put w Σ_t γ^t r_t above the line and w below it."""
        weight = data.whole
        return (Score(weight * data.returns(), weight),)
