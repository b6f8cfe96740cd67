"""The multinomial logit with a no-click option: utilities become odds by the exponential."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from envs.clicks._choice import Choice


@dataclass(frozen=True)
class Multinomial(Choice):
    """At most one click: P(click at k) = w_k exp(v_k) / (exp(v_0) + Σ_j w_j exp(v_j)).

    v_k is the logit of the item at slot k and v_0 that of no click. Its attraction, the probability of a click
    on it alone, is σ(v_k − v_0): see `attraction_of`. From there on it shares its algebra with `proportional`.

    Source: McFadden (1974), "Conditional logit analysis of qualitative choice behavior", equation 12; with
    slot weights, the choice of RecSim NG (Mladenov et al. 2021, arXiv:2103.08057).

    Attributes:
        weight: w, what a slot does to the odds; 1 is nothing.
    """

    @staticmethod
    def attraction_of(logit: Float[Tensor, "*shape"], no_click_logit: float) -> Float[Tensor, "*shape"]:
        """Return σ(logit − no_click_logit)."""
        return (logit - no_click_logit).sigmoid()
