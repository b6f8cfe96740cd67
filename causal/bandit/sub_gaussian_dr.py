"""DR with weights that a power mean bounds."""

from dataclasses import dataclass
from typing import ClassVar

from causal.bandit.sub_gaussian_ips import check_shrinkage, harmonic
from causal.contract import MODEL, Rounds, Score, Scores, ones


@dataclass(frozen=True)
class SubGaussianDR:
    """V = mean(q_target + ŵ (r - q_logged)) with ŵ = w / (1 - λ + λ w), the harmonic mean of w and 1.

    The bias is -E[λ w (w - 1) / (1 - λ + λ w) (r - q_logged)], so it is exact with the right model. λ = 0 is
    DR, and λ = 1 lets each round correct the model once that the target could have logged.

    Args:
        shrinkage: λ, from 0 to 1; the larger, the more the weights shrink. 0.01 caps them at 100.

    Source: Metelli, Russo and Restelli (2021), "Subgaussian and differentiable importance sampling for
    off-policy evaluation and learning", NeurIPS 34, for the weights. `sg-dr` in obp puts them into DR.

    Differs: at λ = 1 a weight of 0 stays 0; obp 0.5.7 divides 0 by 0 there and its value is NaN.

    Raises:
        BadInput: if λ is not from 0 to 1.
    """

    shrinkage: float = 0.01

    name: ClassVar[str] = "sub-Gaussian DR"
    needs: ClassVar[tuple[str, ...]] = MODEL
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_shrinkage(self.shrinkage)

    def score(self, data: Rounds) -> Scores:
        """Put the model and its shrunken correction above the line and 1 below it."""
        q_logged, q_target = data.model()
        shrunk = harmonic(data.weight, self.shrinkage)
        return (Score(q_target + shrunk * (data.reward - q_logged), ones(q_target)),)
