"""Self-normalised marginalised importance sampling by states."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories


@dataclass(frozen=True)
class SNMIS:
    """V = Σ_t γ^t mean(μ_t r_t) / mean(μ_t), with μ_t = d_π(s_t)/d_0(s_t) ρ_t.

    The marginalised weights sum to one at every step. Consistent, with a bias of order 1/N, when the ratios
    are right, and those of each step: the ratio of a discounted occupancy has no mean of 1 at a step. A
    finished trajectory stands in the denominators with the ratio of having finished (`Trajectories`):
    without it this would be the mean reward of the target's survivors. `sm_snis` in SCOPE-RL with
    `n_step_pdis=0`, which leaves ρ_t out (see `mis`).

    Source: Xie, Ma and Wang (2019), "Towards optimal off-policy evaluation for reinforcement learning with
    marginalized importance sampling", NeurIPS, for the weights; normalised step by step as in `wpdis`.
    """

    name: ClassVar[str] = "SNMIS"
    needs: ClassVar[tuple[str, ...]] = ("state",)
    leans: ClassVar[str] = "by_state"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Score each step as a ratio: γ^t μ_t r_t above the line and μ_t below it."""
        weight = data.by_state
        above = weight * data.reward * data.gammas
        return tuple(Score(a, w) for a, w in zip(above.unbind(1), weight.unbind(1), strict=True))
