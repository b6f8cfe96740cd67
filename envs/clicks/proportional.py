"""RecSim's proportional choice: one click at most, in proportion to a score."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from envs.clicks._choice import Choice
from simlab.errors import BadInput


@dataclass(frozen=True)
class Proportional(Choice):
    """At most one click: P(click at k) = w_k s_k / (m + Σ_j w_j s_j), with scores s ≥ 0, no-click mass m > 0.

    In attractions a = s / (s + m), see `attraction_of`, this is w_k o_k / (1 + Σ_j w_j o_j), o = a / (1 − a).
    That is the algebra of `Multinomial` too: the two differ in what an attraction is made from.

    Source: RecSim (Ie et al. 2019, arXiv:1909.04847), `MultinomialProportionalChoiceModel`; there w = 1.

    Attributes:
        weight: w, what a slot does to the odds; 1 is nothing.
    """

    @staticmethod
    def attraction_of(
        score: Float[Tensor, "*shape"], no_click_mass: float | int = 1.0, least: float | int = 0.0
    ) -> Float[Tensor, "*shape"]:
        """Return a = s / (s + m), with s = score − least and m = no_click_mass − least.

        Args:
            score: of each item, `least` or more; an item with `least` is never clicked. That is not checked,
                since worlds call this at every step: a lower score has an attraction below 0.
            no_click_mass: the score of no click. RecSim's interest evolution has 1, with `least` = −1: m = 2.
            least: RecSim's `min_normalizer`.

        Raises:
            BadInput: for a no-click mass that is not above `least`: some item would be clicked for sure, and
                attractions of 1 cannot say which.
        """
        mass = no_click_mass - least
        if not mass > 0:
            raise BadInput(f"no_click_mass is {no_click_mass}, but it is more than {least}")
        share = score - least
        return share / (share + mass)
