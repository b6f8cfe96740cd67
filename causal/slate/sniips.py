"""Self-normalised independent inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates


@dataclass(frozen=True)
class SNIIPS:
    """V = Σ_k mean(w_k r_k) / mean(w_k): IIPS, each slot divided by its own weights.

    Consistent where IIPS is unbiased, with a bias of order 1/N, and biased as IIPS is where it is not. A
    reward that is constant at each slot comes back exactly.

    Source: Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning",
    equation 9, for each slot. `SelfNormalizedSlateIndependentIPS` in obp.
    """

    name: ClassVar[str] = "SNIIPS"
    needs: ClassVar[tuple[str, ...]] = ("marginal",)
    leans: ClassVar[str] = "marginal"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Give each slot w_k r_k above a line of its own and w_k below it."""
        pairs = zip(data.need("marginal").unbind(1), data.slots().unbind(1), strict=True)
        return tuple(Score(weight * reward, weight) for weight, reward in pairs)
