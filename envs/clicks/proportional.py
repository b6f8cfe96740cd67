"""RecSim's proportional choice: scores themselves are the odds, and no click has a mass of its own."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from envs.clicks._choice import Choice


@dataclass(frozen=True)
class Proportional(Choice):
    """At most one click: P(click at k) = w_k s_k / (m + Σ_j w_j s_j), with scores s ≥ 0 and a no-click mass m.

    The attraction of an item, the probability of a click on it alone, is s / (s + m): see `attraction_of`.
    From there on it shares its algebra with `multinomial`.

    Source: RecSim 0.2.4, `MultinomialProportionalChoiceModel` (Ie et al. 2019, arXiv:1909.04847).

    Attributes:
        weight: w, what a slot does to the odds; 1 is nothing.
    """

    @staticmethod
    def attraction_of(score: Float[Tensor, "*shape"], no_click_mass: float) -> Float[Tensor, "*shape"]:
        """Return s / (s + m), for scores of at least 0 and a mass m > 0."""
        return score / (score + no_click_mass)
