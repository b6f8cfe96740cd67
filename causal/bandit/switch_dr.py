"""DR that switches to the model where weights are large."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import MODEL, Rounds, Score, Scores, ones
from simlab.errors import BadInput


@dataclass(frozen=True)
class SwitchDR:
    """V = mean(q_target + w 1[w ≤ τ] (r - q_logged)): correct the model only where the weight allows it.

    The paper adds DR of the actions with w(x, a) ≤ τ to the model's Σ_a π(a|x) q̂(x, a) 1[w(x, a) > τ] of the
    others. The two sums of the model are q_target together, so only the logged action's weight is needed.
    The bias is -E[w 1[w > τ] (r - q_logged)]: what the model gets wrong where weights are large. So it is
    exact with the right model, DR for τ = inf, and DM for τ = 0. `switch-dr` in obp, the same numbers.

    Args:
        threshold: τ, the largest weight that is trusted; at least 0.

    Source: Wang, Agarwal and Dudík (2017), "Optimal and adaptive off-policy evaluation in contextual
    bandits", ICML (SWITCH-DR, the SWITCH estimator with DR instead of IPS for the small weights).

    Raises:
        BadInput: if the threshold is below 0 or no number.
    """

    threshold: float = 10.0

    name: ClassVar[str] = "Switch-DR"
    needs: ClassVar[tuple[str, ...]] = MODEL
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise BadInput(f"threshold is {self.threshold}, but the largest weight to trust is at least 0")

    def score(self, data: Rounds) -> Scores:
        """Put the model, corrected where w ≤ τ, above the line and 1 below it."""
        q_logged, q_target = data.model()
        kept = data.weight.where(data.weight <= self.threshold, 0.0)
        return (Score(q_target + kept * (data.reward - q_logged), ones(q_target)),)
