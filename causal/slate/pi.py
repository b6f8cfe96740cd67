"""The pseudo-inverse estimator."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones


@dataclass(frozen=True)
class PI:
    """V = mean(w Σ_k r_k) with w = q_πᵀ Γ⁺ 1_s: weigh a slate by which items stand where, not by all of it.

    1_s is the slate as [slot cand] ones and zeros, q_π = E_π[1_s | x] the target's slot marginals and Γ =
    E_0[1_s 1_sᵀ | x] the logger's chances of pairs (`causal.pseudo_inverse`). It assumes that what the whole
    slate earns is a sum over slots of something that depends on the slot and its item; which slot earned it
    need not be seen. Then it is unbiased if the logger could show each item where the target does. Else its
    limit is the target's value under the logger's best least-squares fit of such a sum. Weights may be below
    0.

    Source: Swaminathan, Krishnamurthy, Agarwal, Dudík, Langford, Jose and Zitouni (2017), "Off-policy
    evaluation for slate recommendation", section 3 (PI).
    """

    name: ClassVar[str] = "PI"
    needs: ClassVar[tuple[str, ...]] = ("pseudo",)
    leans: ClassVar[str] = "pseudo"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put w Σ_k r_k above the line and 1 below it."""
        weight = data.need("pseudo")
        return (Score(weight * data.reward.sum(1), ones(weight)),)
