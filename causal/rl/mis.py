"""Marginalised importance sampling by states."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class MIS:
    """V = mean(Σ_t γ^t d_π(s_t)/d_0(s_t) ρ_t r_t): weigh a reward by where the target would be.

    Unbiased when the ratios of states and the propensities are right. The variance does not grow
    exponentially with the horizon. The ratios may be those of each step or of the discounted occupancy. The
    interval takes the ratios as given: where they were estimated on the same trajectories
    (`causal.occupancy`) their error is missing from it, and `mdr` with a good Q-model is the estimator whose
    interval holds.

    Source: Xie, Ma and Wang (2019), "Towards optimal off-policy evaluation for reinforcement learning with
    marginalized importance sampling", NeurIPS; Liu, Li, Tang and Zhou (2018), "Breaking the curse of
    horizon", NeurIPS, for the discounted occupancy.

    Differs: `sm_is` of SCOPE-RL 0.2.1 with `n_step_pdis=0` leaves ρ_t out, which is the value of the
    logger's actions in the target's states.
    """

    name: ClassVar[str] = "MIS"
    needs: ClassVar[tuple[str, ...]] = ("state",)
    leans: ClassVar[str] = "by_state"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put Σ_t γ^t d_π/d_0(s_t) ρ_t r_t above the line and 1 below it."""
        numerator = (data.by_state * data.reward) @ data.gammas
        return (Score(numerator, ones(numerator)),)
