"""The marginalised doubly robust estimator, by states."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class MDR:
    """V = mean(Σ_t γ^t [μ_t (r_t - Q̂_t) + μ_{t-1} V̂_t]), μ_t = d_π(s_t)/d_0(s_t) ρ_t, μ_{-1} = 1.

    The same sum is V̂_0 + Σ_t γ^t μ_t (r_t + γ V̂_{t+1} - Q̂_t), so it is unbiased when the ratios are
    right, whatever the model, and when the model is right, whatever the ratios. The ratios may be those of
    each step or of the discounted occupancy. With both estimated well its interval holds: their errors meet
    only as a product.

    Source: Kallus and Uehara (2020), "Double reinforcement learning for efficient off-policy evaluation in
    Markov decision processes", JMLR 21, with the ratio of states times ρ_t for the marginal ratio.

    Differs: `sm_dr` of SCOPE-RL 0.2.1 puts the zero that stands for V̂ after the last step one place too
    early (the last but one step bootstraps 0, the last step its own V̂), and with `n_step_pdis=0` leaves ρ_t
    out.
    """

    name: ClassVar[str] = "MDR"
    needs: ClassVar[tuple[str, ...]] = ("state", "q_logged", "v_target")
    leans: ClassVar[str] = "by_state"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put the corrected model above the line and 1 below it."""
        numerator = data.doubly_robust(data.by_state)
        return (Score(numerator, ones(numerator)),)
