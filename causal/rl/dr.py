"""The doubly robust estimator of a sequence."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class TrajectoryDR:
    """V = mean(D_0), D_t = V̂_t + ρ_t (r_t + γ D_{t+1} - Q̂_t): the Q-model, corrected step by step.

    Written out, V = mean(Σ_t γ^t [w_{0:t} (r_t - Q̂_t) + w_{0:t-1} V̂_t]). Unbiased when the propensities
    are right, whatever the model; and when the model is right, whatever the propensities, provided that it
    was not fitted on the trajectories that it scores (`causal.fqe` cross-fits). With one step it is the
    bandit's DR. `dr` in SCOPE-RL.

    Source: Jiang and Li (2016), "Doubly robust off-policy value evaluation for reinforcement learning", ICML
    (the recursion of the doubly robust estimator).
    """

    name: ClassVar[str] = "DR"
    needs: ClassVar[tuple[str, ...]] = ("q_logged", "v_target")
    leans: ClassVar[str] = "prefix"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put the corrected model above the line and 1 below it."""
        numerator = data.doubly_robust(data.prefix)
        return (Score(numerator, ones(numerator)),)
