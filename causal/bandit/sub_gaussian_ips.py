"""Inverse propensity scoring with weights that a power mean bounds."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Rounds, Score, Scores, ones
from simlab.errors import BadInput


@dataclass(frozen=True)
class SubGaussianIPS:
    """V = mean(ŵ r) with ŵ = w / (1 - λ + λ w), the harmonic mean of w and 1.

    No ŵ exceeds 1/λ, yet ŵ stays smooth in the target's probabilities, so one can descend its gradient. It
    draws all weights towards 1: V falls short by E[λ w (w - 1) / (1 - λ + λ w) r], **whatever** the weights,
    and small weights grow. With λ of the order √(1/N) the bias fades as fast as the noise. λ = 0 is IPS, and
    λ = 1 counts each round once that the target could have logged.

    Args:
        shrinkage: λ, from 0 to 1; the larger, the more the weights shrink. 0.01 caps them at 100.

    Source: Metelli, Russo and Restelli (2021), "Subgaussian and differentiable importance sampling for
    off-policy evaluation and learning", NeurIPS 34 (the power-mean correction with s = -1).

    Differs: at λ = 1 a weight of 0 stays 0, its limit; `sg-ipw` of obp 0.5.7 divides 0 by 0 and its value is
    NaN, which its own tuning then picks.

    Raises:
        BadInput: if λ is not from 0 to 1.
    """

    shrinkage: float = 0.01

    name: ClassVar[str] = "sub-Gaussian IPS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_shrinkage(self.shrinkage)

    def score(self, data: Rounds) -> Scores:
        """Put ŵ r above the line and 1 below it."""
        return (Score(harmonic(data.weight, self.shrinkage) * data.reward, ones(data.weight)),)


def harmonic(weight: Float[Tensor, " round"], shrinkage: float) -> Float[Tensor, " round"]:
    """Return w / (1 - λ + λ w), and 0 where w is 0, for λ = 1 too.

    >>> harmonic(torch.tensor([0.0, 1.0, 9.0]), 0.5)
    tensor([0.0000, 1.0000, 1.8000])
    """
    return torch.where(weight > 0, weight / (1 - shrinkage + shrinkage * weight), 0.0)


def check_shrinkage(shrinkage: float) -> None:
    """Refuse a λ that is not from 0 to 1.

    Raises:
        BadInput: naming it.
    """
    if not 0 <= shrinkage <= 1:
        raise BadInput(f"shrinkage is {shrinkage}, but the sub-Gaussian forms need a λ from 0 to 1")
