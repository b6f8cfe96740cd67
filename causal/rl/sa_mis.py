"""Marginalised importance sampling by states and actions."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class SAMIS:
    """V = mean(Σ_t γ^t d_π(s_t, a_t)/d_0(s_t, a_t) r_t): `mis` with a ratio that includes the action.

    Unbiased when the ratios are right; they need no propensities, so neither does it. The interval takes the
    ratios as given, as in `mis`. `sam_is` in SCOPE-RL with `n_step_pdis=0`.

    Source: Uehara, Huang and Jiang (2020), "Minimax weight and Q-function learning for off-policy
    evaluation", ICML.
    """

    name: ClassVar[str] = "MIS (state, action)"
    needs: ClassVar[tuple[str, ...]] = ("state_action",)
    leans: ClassVar[str] = "state_action"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put Σ_t γ^t d_π/d_0(s_t, a_t) r_t above the line and 1 below it."""
        numerator = (data.need("state_action") * data.reward) @ data.gammas
        return (Score(numerator, ones(numerator)),)
