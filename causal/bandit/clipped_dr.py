"""DR with clipped weights."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import MODEL, Rounds, Score, Scores, ones
from simlab.errors import BadInput


@dataclass(frozen=True)
class ClippedDR:
    """V = mean(q_target + min(w, clip) (r - q_logged)): no row corrects the model more than `clip` times.

    The bias is -E[(w - clip)⁺ (r - q_logged)], so it is exact with the right model, or where no weight
    exceeds the clip. Clip = inf is DR. `dr` with a `lambda_` in obp, the same numbers.

    Args:
        clip: the largest weight that a row keeps; above 0.

    Source: Su, Dimakopoulou, Krishnamurthy and Dudík (2020), "Doubly robust off-policy evaluation with
    shrinkage", ICML (the pessimistic shrinker).

    Raises:
        BadInput: if the clip is not above 0.
    """

    clip: float = 10.0

    name: ClassVar[str] = "clipped DR"
    needs: ClassVar[tuple[str, ...]] = MODEL
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise BadInput(f"clip is {self.clip}, but the largest weight that a row keeps is above 0")

    def score(self, data: Rounds) -> Scores:
        """Put the model and its clipped correction above the line and 1 below it."""
        q_logged, q_target = data.model()
        kept = data.weight.clamp(max=self.clip)
        return (Score(q_target + kept * (data.reward - q_logged), ones(q_target)),)
