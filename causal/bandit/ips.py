"""Inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores, ones


@dataclass(frozen=True)
class IPS:
    """V = mean(w r): weigh each reward by how much likelier the target makes what was shown.

    Unbiased when the propensities are right and the logger could show all that the target shows. The
    variance grows with the weights, and adding a constant to every reward changes it. `ipw` in obp.

    Source: Horvitz and Thompson (1952), "A generalization of sampling without replacement from a finite
    universe", JASA 47, section 3; for policies, Strehl, Langford, Li and Kakade (2010), "Learning from
    logged implicit exploration data", section 3.
    """

    name: ClassVar[str] = "IPS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put w r above the line and 1 below it."""
        return (Score(data.weight * data.reward, ones(data.weight)),)
