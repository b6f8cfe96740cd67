"""Standard inverse propensity scoring of whole slates."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones


@dataclass(frozen=True)
class SIPS:
    """V = mean(w Σ_k r_k): weigh what a slate earned by how much likelier the target makes all of it.

    w = π(a_1 … a_K | x) / π_0(a_1 … a_K | x) of the whole, ordered slate. It assumes nothing of how slots
    answer to each other, so it is unbiased whenever the logger could show every slate that the target shows.
    The price is the variance: weights multiply over slots. Works with one reward a slate.

    Source: Swaminathan et al. (2017), "Off-policy evaluation for slate recommendation", section 2 (as IPS).
    `SlateStandardIPS` in obp.
    """

    name: ClassVar[str] = "SIPS"
    needs: ClassVar[tuple[str, ...]] = ("joint",)
    leans: ClassVar[str] = "joint"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put w Σ_k r_k above the line and 1 below it."""
        weight = data.need("joint")
        return (Score(weight * data.reward.sum(1), ones(weight)),)
