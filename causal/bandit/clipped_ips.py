"""Inverse propensity scoring with clipped weights."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores, ones
from simlab.errors import BadInput


@dataclass(frozen=True)
class ClippedIPS:
    """V = mean(min(w, clip) r): no row counts for more than `clip` rows.

    Biased towards zero for rewards of at least 0: the bias is -E[(w - clip)⁺ r]. Exact again where no weight
    exceeds the clip. `ipw_clip` in obp.

    Args:
        clip: the largest weight that a row keeps; above 0.

    Source: Ionides (2008), "Truncated importance sampling", JCGS 17(2), section 2.

    Raises:
        BadInput: if the clip is not above 0.
    """

    clip: float = 10.0

    name: ClassVar[str] = "clipped IPS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise BadInput(f"clip is {self.clip}, but the largest weight that a row keeps is above 0")

    def score(self, data: Rounds) -> Scores:
        """Put min(w, clip) r above the line and 1 below it."""
        return (Score(data.weight.clamp(max=self.clip) * data.reward, ones(data.weight)),)
