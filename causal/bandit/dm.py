"""The direct method."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores, ones


@dataclass(frozen=True)
class DM:
    """V = mean(Σ_a π(a|x) q̂(x, a)): believe the reward model.

    As biased as the model is where the target acts, and no interval of it knows that: the spread is only that
    of the contexts. Exact when q̂ is the true expected reward. `dm` in obp.

    Source: Beygelzimer and Langford (2009), "The offset tree for learning with partial labels" (the
    regression approach); Dudík, Langford and Li (2011), "Doubly robust policy evaluation and learning",
    section 2 (V_DM).
    """

    name: ClassVar[str] = "DM"
    needs: ClassVar[tuple[str, ...]] = ("q_target",)
    leans: ClassVar[str] = ""
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put the modelled reward of the target above the line and 1 below it."""
        q_target = data.need("q_target")
        return (Score(q_target, ones(q_target)),)
