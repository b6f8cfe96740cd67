"""Trust bias: users examine less further down, and believe the ranker more further up."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks._independent import Independent
from envs.clicks.contract import Parameter, check_probability, check_slots


@dataclass(frozen=True)
class TrustBias(Independent):
    """Clicks are independent over slots: P(click at k) = θ_k (ε⁺_k a_k + ε⁻_k (1 − a_k)).

    An examined item is relevant with probability a, and is then clicked with probability ε⁺; one that is not
    relevant is clicked too, with probability ε⁻, because it stands where good ones stand. The model is affine
    in a: α_k a + β_k with α = θ (ε⁺ − ε⁻) and β = θ ε⁻.

    What is identified. Clicks show α_k a_i + β_k alone, and those are the same for a' with a = m a' + n,
    m > 0, α' = α m, β' = β + α n. Let ε⁺ > ε⁻.

    * ε⁺ = 1 costs nothing: θ = α + β and ε⁻ = β / (α + β) give any α > 0, β ≥ 0 with α + β ≤ 1.
    * ε⁻ = 0 at the last slot K says β'_K = 0, so n = −β_K / α_K.
    * θ = 1 at the first slot says α'_1 + β'_1 = 1, so m = (1 − β_1) / α_1 − n.

    So there is one such a', and it is a valid one: a' = (a − n) / m is in [0, 1], because n ≤ 0 and
    1 − n ≤ m by α_1 + β_1 ≤ 1. The β' are 0 or more where β_k / α_k is least at the last slot, and
    θ' = α' + β' is 1 or less where α and β are largest at the first: where attention and trust both fall
    with the slot. Two kinds of items are enough, if their attractions differ.

    Source: Agarwal, Wang, Li, Bendersky and Najork (2019), "Addressing trust bias for unbiased
    learning-to-rank", equation 4; as an affine model: Vardasbi, Oosterhuis and de Rijke (2020), "When
    inverse propensity scoring does not work", section 4.

    Attributes:
        examination: θ, P(examined) of each slot, in [0, 1].
        true_positive: ε⁺, P(click | examined, relevant) of each slot, in [0, 1].
        false_positive: ε⁻, P(click | examined, not relevant) of each slot, in [0, 1].

    Raises:
        BadInput: for a value outside [0, 1].
    """

    speaks_unasked: ClassVar[bool] = True

    examination: Float[Tensor, " slot"]
    true_positive: Float[Tensor, " slot"]
    false_positive: Float[Tensor, " slot"]

    def __post_init__(self) -> None:
        for name in ("examination", "true_positive", "false_positive"):
            check_probability(name, getattr(self, name))

    @staticmethod
    def power(slots: int, eta: float, trust: float) -> "TrustBias":
        """Return θ_k = 1/k^η, ε⁺ = 1, and ε⁻ falling evenly from `trust` at the top to 0 at the last slot."""
        rank = torch.arange(1, slots + 1, dtype=torch.float64)
        fall = (slots - rank) / max(slots - 1, 1)
        return TrustBias((rank**-eta).float(), torch.ones(slots), (trust * fall).float())

    @classmethod
    def typical(cls, slots: int) -> "TrustBias":
        """Return θ_k = 1/k, ε⁺ = 1, and ε⁻ from 0.3 at the top to 0: as `parameters` identifies them."""
        return cls.power(slots, 1.0, 0.3)

    @classmethod
    def parameters(cls, slots: int) -> dict[str, Parameter]:
        """Return θ but for the first, which is 1, and ε⁻ but for the last, which is 0; ε⁺ stays 1."""
        one = torch.ones(slots, dtype=torch.float64)
        free = torch.ones(slots, dtype=torch.bool)
        below, above = free.clone(), free.clone()
        below[0] = False
        above[-1] = False
        return {
            "examination": Parameter((one * 0.5).masked_fill(~below, 1.0), below),
            "true_positive": Parameter(one, ~free),
            "false_positive": Parameter((one * 0.1).masked_fill(~above, 0.0), above),
        }

    def theta(self) -> Float[Tensor, " slot"]:
        """Return θ."""
        return self.examination

    def probs(self, attraction: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return θ_k (ε⁺_k a_k + ε⁻_k (1 − a_k))."""
        for name in ("examination", "true_positive", "false_positive"):
            check_slots(name, getattr(self, name), attraction)
        slots, dtype = attraction.shape[1], attraction.dtype
        slope = self.examination * (self.true_positive - self.false_positive)
        floor = self.examination * self.false_positive
        return torch.addcmul(floor[:slots].to(dtype), attraction, slope[:slots].to(dtype))
