"""Independent inverse propensity scoring: each slot by itself."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones


@dataclass(frozen=True)
class IIPS:
    """V = mean(Σ_k w_k r_k): weigh what each slot earned by how much likelier its own item is there.

    w_k = π(a_k at slot k | x) / π_0(a_k at slot k | x). It assumes that what a slot earns depends on its own
    item and position alone, as in a position-based or any item-position click model: this is the
    item-position estimator of the source. Then it is unbiased. Else it values the target's items among the
    *logger's* neighbours: its limit is Σ_k Σ_a π(a at k) E_0[r_k | a at k], and the bias is that less the
    value.

    Source: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen (2018), "Offline evaluation of ranking
    policies with click models" (the item-position estimator, without its cap: see `clipped_iips`).
    `SlateIndependentIPS` in obp.
    """

    name: ClassVar[str] = "IIPS"
    needs: ClassVar[tuple[str, ...]] = ("marginal",)
    leans: ClassVar[str] = "marginal"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put Σ_k w_k r_k above the line and 1 below it."""
        weighed = (data.need("marginal") * data.slots()).sum(1)
        return (Score(weighed, ones(weighed)),)
