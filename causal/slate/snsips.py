"""Self-normalised inverse propensity scoring of whole slates."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates


@dataclass(frozen=True)
class SNSIPS:
    """V = mean(w Σ_k r_k) / mean(w): SIPS, divided by the weights that were drawn.

    Consistent wherever SIPS is unbiased, with a bias of order 1/N; a constant reward comes back exactly.
    Works with one reward a slate.

    Source: Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning",
    equation 9, with whole slates as actions. `SelfNormalizedSlateStandardIPS` in obp.
    """

    name: ClassVar[str] = "SNSIPS"
    needs: ClassVar[tuple[str, ...]] = ("joint",)
    leans: ClassVar[str] = "joint"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put w Σ_k r_k above the line and w below it."""
        weight = data.need("joint")
        return (Score(weight * data.reward.sum(1), weight),)
