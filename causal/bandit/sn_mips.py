"""Self-normalised marginalised inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores


@dataclass(frozen=True)
class SNMIPS:
    """V = mean(w(x, e) r) / mean(w(x, e)): MIPS divided by the weights that were drawn.

    Consistent where `MIPS` is unbiased, with a bias of order 1/N; a constant reward comes back exactly, also
    where the weights were learned and their mean is not 1.

    Source: Saito and Joachims (2022), "Off-policy evaluation for large action spaces via embeddings", ICML,
    section 3, with the denominator of Swaminathan and Joachims (2015), "The self-normalized estimator for
    counterfactual learning", equation 9. `SelfNormalizedMarginalizedInverseProbabilityWeighting` in obp.
    """

    name: ClassVar[str] = "SNMIPS"
    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    leans: ClassVar[str] = "embedding"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put w(x, e) r above the line and w(x, e) below it."""
        weight = data.need("embedding")
        return (Score(weight * data.reward, weight),)
