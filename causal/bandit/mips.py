"""Marginalised inverse propensity scoring."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores, ones


@dataclass(frozen=True)
class MIPS:
    """V = mean(w(x, e) r): weigh by how much likelier the target makes what the shown item *is*.

    With e the item's embedding (its category, cluster, attributes), w(x, e) = p(e|x, π) / p(e|x, π₀) is the
    mean of the items' own weights given e, so it varies less, the less the more items share an e; and it
    needs the logger to have tried each e, not each item. Unbiased when the reward hangs on the item through e
    alone (no direct effect) and w(x, e) is right. Else its bias is

        E_{x, e ~ π₀} Σ_{a<b} π₀(a|x,e) π₀(b|x,e) (q(x,a,e) - q(x,b,e)) (w(x,b) - w(x,a)),

    small where items of one e are alike in reward, or in weight.

    Source: Saito and Joachims (2022), "Off-policy evaluation for large action spaces via embeddings", ICML,
    section 3 (the estimator and its bias).
    """

    name: ClassVar[str] = "MIPS"
    needs: ClassVar[tuple[str, ...]] = ("embedding",)
    leans: ClassVar[str] = "embedding"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put w(x, e) r above the line and 1 below it."""
        weight = data.need("embedding")
        return (Score(weight * data.reward, ones(weight)),)
