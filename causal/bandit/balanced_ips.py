"""Balanced inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores


@dataclass(frozen=True)
class BalancedIPS:
    """V = mean(b r) / mean(b) with b the density ratio of target to logger that a classifier estimates.

    Needs no propensities. Consistent when the classifier's odds converge to the ratio (`causal.balance`),
    with a bias of order 1/N and that of the classifier besides; a constant reward comes back exactly. The
    standard error takes b as given: that b was estimated is not in it.

    Source: Sondhi, Arbour and Dimmery (2020), "Balanced off-policy evaluation in general action spaces",
    AISTATS, section 3, for deterministic targets; for stochastic ones as
    `BalancedInverseProbabilityWeighting` of obp has it.
    """

    name: ClassVar[str] = "balanced IPS"
    needs: ClassVar[tuple[str, ...]] = ("balance",)
    leans: ClassVar[str] = "balance"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put b r above the line and b below it."""
        weight = data.need("balance")
        return (Score(weight * data.reward, weight),)
