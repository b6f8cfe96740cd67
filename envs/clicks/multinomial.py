"""The multinomial logit with a no-click option: one click at most, by utility."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from envs.clicks._choice import Choice


@dataclass(frozen=True)
class Multinomial(Choice):
    """At most one click: P(click at k) = w_k exp(ℓ_k) / (exp(ℓ_0) + Σ_j w_j exp(ℓ_j)), ℓ_0 being no click.

    In attractions a = σ(ℓ − ℓ_0), see `attraction_of`, this is w_k o_k / (1 + Σ_j w_j o_j), o = a / (1 − a).
    That is the algebra of `Proportional` too: the two differ in what an attraction is made from.

    Source: McFadden (1974), "Conditional logit analysis of qualitative choice behavior"; with a no-click
    option: RecSim (Ie et al. 2019, arXiv:1909.04847), `MultinomialLogitChoiceModel`; with weights
    w_k = exp(bias · k): RecSim NG (Mladenov et al. 2021, arXiv:2103.08057).

    Attributes:
        weight: w, what a slot does to the odds; 1 is nothing.
    """

    @staticmethod
    def attraction_of(
        logit: Float[Tensor, "*shape"], no_click_logit: float | int | Tensor = 0.0
    ) -> Float[Tensor, "*shape"]:
        """Return a = σ(ℓ − ℓ_0): P(click) of an item shown alone.

        Args:
            logit: ℓ of each item; −∞ is an item that is never clicked.
            no_click_logit: ℓ_0, a number or something that broadcasts against `logit`.
        """
        return (logit - no_click_logit).sigmoid()
