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
    needs_model: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True

    def score(self, rounds: Rounds) -> Scores:
        """Put w r above the line and 1 below it."""
        return (Score(rounds.weight * rounds.reward, ones(rounds.weight)),)
