"""DR with optimistic shrinkage of its weights."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from causal.contract import MODEL, Rounds, Score, Scores, ones
from simlab.errors import BadInput


@dataclass(frozen=True)
class DRos:
    """V = mean(q_target + ŵ (r - q_logged)) with ŵ = w λ / (w² + λ): large weights count little, not much.

    A weight of √λ is halved, which is also the largest that ŵ becomes: √λ / 2. The bias is
    -E[w³ / (w² + λ) (r - q_logged)], so it is exact with the right model. λ = inf is DR, and λ = 0 is DM.
    `dr-os` in obp, the same numbers.

    Args:
        shrinkage: λ, at least 0; the **smaller**, the more the weights shrink. 100 halves a weight of 10.

    Source: Su, Dimakopoulou, Krishnamurthy and Dudík (2020), "Doubly robust off-policy evaluation with
    shrinkage", ICML (the optimistic shrinker).

    Differs: λ = inf is DR here; the fraction as written is inf / inf.

    Raises:
        BadInput: if λ is below 0 or no number.
    """

    shrinkage: float = 100.0

    name: ClassVar[str] = "DRos"
    needs: ClassVar[tuple[str, ...]] = MODEL
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.shrinkage >= 0:
            raise BadInput(f"shrinkage is {self.shrinkage}, but DRos needs a λ of at least 0")

    def score(self, data: Rounds) -> Scores:
        """Put the model and its shrunken correction above the line and 1 below it."""
        q_logged, q_target = data.model()
        w = data.weight
        # As w / (1 + (w/√λ)²) it has its limits for a huge w and for an infinite λ.
        scale = math.sqrt(self.shrinkage)
        shrunk = w / (1 + (w / scale).square()) if scale > 0 else torch.zeros_like(w)
        return (Score(q_target + shrunk * (data.reward - q_logged), ones(q_target)),)
