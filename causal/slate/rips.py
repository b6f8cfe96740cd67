"""Reward interaction inverse propensity scoring: the cascade."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones


@dataclass(frozen=True)
class RIPS:
    """V = mean(Σ_k w_{1:k} r_k): weigh what a slot earned by the items down to it.

    w_{1:k} = π(a_1 … a_k | x) / π_0(a_1 … a_k | x). It assumes that what a slot earns does not depend on the
    items below it, as where users read from the top (a cascade). Then it is unbiased, with less variance than
    SIPS. Else it values the target's top k among the *logger's* lower items: its limit is
    Σ_k E_π over a_{1:k} of E_0[r_k | a_{1:k}], and the bias is that less the value.

    Source: McInerney, Brost, Chandar, Mehrotra and Carterette (2020), "Counterfactual evaluation of slate
    recommendations with sequential reward interactions". `SlateRewardInteractionIPS` in obp.
    """

    name: ClassVar[str] = "RIPS"
    needs: ClassVar[tuple[str, ...]] = ("cascade",)
    leans: ClassVar[str] = "cascade"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put Σ_k w_{1:k} r_k above the line and 1 below it."""
        weighed = (data.need("cascade") * data.slots()).sum(1)
        return (Score(weighed, ones(weighed)),)
