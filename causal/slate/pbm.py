"""Position-based weighting: what is seen of an item, wherever it stands."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones


@dataclass(frozen=True)
class PBM:
    """V = mean(Σ_k w_k r_k) with w_k = Σ_j θ_j π(a_k at j) / Σ_j θ_j π_0(a_k at j).

    θ_j is the chance that slot j is examined. It assumes the position-based click model with these θ: a click
    is examination times attraction, and the attraction is the item's at every slot. Then it is unbiased, also
    where the logger never put the item at the target's slot, and with less variance than IIPS. With a wrong
    θ, or a reward m(a, k) of another form, its limit is Σ_a Σ_k π_0(a at k) m(a, k) w(a), and the bias is
    that less the value. Where slots have a weight α_j, θ_j α_j stands for θ_j (`causal.slates` does it).

    Source: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen (2018), "Offline evaluation of ranking
    policies with click models" (the position-based estimator, without its cap).
    """

    name: ClassVar[str] = "PBM"
    needs: ClassVar[tuple[str, ...]] = ("examined",)
    leans: ClassVar[str] = "examined"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put Σ_k w_k r_k above the line and 1 below it."""
        weighed = (data.need("examined") * data.slots()).sum(1)
        return (Score(weighed, ones(weighed)),)
