"""The doubly robust estimator of the cascade."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import MODEL, Score, Scores, Slates, ones


@dataclass(frozen=True)
class CascadeDR:
    """V = mean(Σ_k [w_{1:k} (r_k - Q̂_k(a_{1:k})) + w_{1:k-1} Σ_a π(a | a_{<k}) Q̂_k(a_{<k}, a)]).

    Q̂_k models what slots k and below earn under the target, given the items down to k; the weight before the
    first slot is 1. Like RIPS it assumes that what a slot earns does not depend on the items below it. Then
    it is unbiased when either the propensities or the model are right, provided that the model was not fitted
    on the rows that it scores. Where that fails, with right propensities, its bias is that of RIPS for any
    model: what the model adds has mean zero.

    Source: Kiyohara, Saito, Matsuhiro, Narita, Shimizu and Yamamoto (2022), "Doubly robust off-policy
    evaluation for ranking policies under the cascade behavior model", section 4. `SlateCascadeDoublyRobust`
    in obp.
    """

    name: ClassVar[str] = "Cascade-DR"
    needs: ClassVar[tuple[str, ...]] = ("cascade", *MODEL)
    leans: ClassVar[str] = "cascade"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        """Put the model, corrected slot by slot, above the line and 1 below it."""
        weight, reward = data.need("cascade"), data.slots()
        q_logged, q_target = (data.need(name) for name in MODEL)
        before = weight.roll(1, 1)
        before[:, 0] = 1.0
        total = (weight * (reward - q_logged) + before * q_target).sum(1)
        return (Score(total, ones(total)),)
