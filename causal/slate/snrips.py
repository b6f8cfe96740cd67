"""Self-normalised reward interaction inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates


@dataclass(frozen=True)
class SNRIPS:
    """V = Σ_k mean(w_{1:k} r_k) / mean(w_{1:k}): RIPS, each slot divided by its own weights.

    Consistent where RIPS is unbiased, with a bias of order 1/N, and biased as RIPS is where it is not. A
    reward that is constant at each slot comes back exactly.

    Source: McInerney, Brost, Chandar, Mehrotra and Carterette (2020), "Counterfactual evaluation of slate
    recommendations with sequential reward interactions" (their estimator is normalised slot by slot).
    `SelfNormalizedSlateRewardInteractionIPS` in obp.
    """

    name: ClassVar[str] = "SNRIPS"
    needs: ClassVar[tuple[str, ...]] = ("cascade",)
    leans: ClassVar[str] = "cascade"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Give each slot w_{1:k} r_k above a line of its own and w_{1:k} below it."""
        pairs = zip(data.need("cascade").unbind(1), data.slots().unbind(1), strict=True)
        return tuple(Score(weight * reward, weight) for weight, reward in pairs)
