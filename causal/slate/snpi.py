"""The self-normalised pseudo-inverse estimator."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates


@dataclass(frozen=True)
class SNPI:
    """V = mean(w Σ_k r_k) / mean(w) with w = q_πᵀ Γ⁺ 1_s: PI, divided by the weights that were drawn.

    Consistent where PI is unbiased, with a bias of order 1/N; a constant reward comes back exactly. Weights
    may be below 0, so on few rows the sum below the line can be near 0.

    Source: Swaminathan, Krishnamurthy, Agarwal, Dudík, Langford, Jose and Zitouni (2017), "Off-policy
    evaluation for slate recommendation", section 3 (wPI).
    """

    name: ClassVar[str] = "SNPI"
    needs: ClassVar[tuple[str, ...]] = ("pseudo",)
    leans: ClassVar[str] = "pseudo"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put w Σ_k r_k above the line and w below it."""
        weight = data.need("pseudo")
        return (Score(weight * data.reward.sum(1), weight),)
