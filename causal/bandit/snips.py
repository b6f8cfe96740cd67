"""Self-normalised inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores


@dataclass(frozen=True)
class SNIPS:
    """V = mean(w r) / mean(w): divide by the weights that were drawn, not by their number.

    Consistent, with a bias of order 1/N; a constant reward comes back exactly.

    Source: Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning",
    equation 9.
    """

    name: ClassVar[str] = "SNIPS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put w r above the line and w below it."""
        return (Score(data.weight * data.reward, data.weight),)
