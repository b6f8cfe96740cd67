"""Document-based weighting: an item is worth the same wherever it stands."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones


@dataclass(frozen=True)
class DocumentIPS:
    """V = mean(Σ_k w_k r_k) with w_k = P_π(a_k on the slate) / P_0(a_k on the slate).

    It assumes the document-based click model: a click depends on the item, not on its slot nor on its
    neighbours. Then it is unbiased, with less variance than IIPS. Where positions matter, with
    reward m(a, k), its limit is Σ_a Σ_k π_0(a at k) m(a, k) w(a), and the bias is that less the value. It is
    the position-based estimator (`pbm`) with the same examination everywhere.

    Source: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen (2018), "Offline evaluation of ranking
    policies with click models" (the document-based estimator, without its cap).
    """

    name: ClassVar[str] = "document IPS"
    needs: ClassVar[tuple[str, ...]] = ("document",)
    leans: ClassVar[str] = "document"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put Σ_k w_k r_k above the line and 1 below it."""
        weighed = (data.need("document") * data.slots()).sum(1)
        return (Score(weighed, ones(weighed)),)
