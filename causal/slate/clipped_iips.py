"""Independent inverse propensity scoring with clipped weights."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Slates, ones
from simlab.errors import BadInput


@dataclass(frozen=True)
class ClippedIIPS:
    """V = mean(Σ_k min(w_k, clip) r_k): no slot counts for more than `clip` slots.

    It assumes what IIPS does. Then it is biased towards zero for rewards of at least 0: the bias is
    -Σ_k E[(w_k - clip)⁺ r_k]. Exact again where no weight exceeds the clip.

    Args:
        clip: the largest weight that a slot keeps; above 0.

    Source: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen (2018), "Offline evaluation of ranking
    policies with click models" (the item-position estimator, whose cap M this is).

    Raises:
        BadInput: if the clip is not above 0.
    """

    clip: float = 10.0

    name: ClassVar[str] = "clipped IIPS"
    needs: ClassVar[tuple[str, ...]] = ("marginal",)
    leans: ClassVar[str] = "marginal"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise BadInput(f"clip is {self.clip}, but the largest weight that a slot keeps is above 0")

    def score(self, data: Slates) -> Scores:
        """Put Σ_k min(w_k, clip) r_k above the line and 1 below it."""
        weighed = (data.need("marginal").clamp(max=self.clip) * data.slots()).sum(1)
        return (Score(weighed, ones(weighed)),)
