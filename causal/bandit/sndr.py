"""The self-normalised doubly robust estimator."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import MODEL, Rounds, Score, Scores, ones


@dataclass(frozen=True)
class SNDR:
    """V = mean(q_target) + mean(w (r - q_logged)) / mean(w): DR whose correction is self-normalised.

    Consistent when either the propensities or the reward model are right, with a bias of order 1/N. It is a
    sum of two ratios, and both vary from log to log, so both are scored. `sndr` in obp.

    Source: Thomas and Brunskill (2016), "Data-efficient off-policy policy evaluation for reinforcement
    learning", section 4 (the weighted doubly robust estimator, here with a horizon of one).
    """

    name: ClassVar[str] = "SNDR"
    needs: ClassVar[tuple[str, ...]] = MODEL
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Score the model and the self-normalised correction as two ratios."""
        q_logged, q_target = data.model()
        correction = data.weight * (data.reward - q_logged)
        return (Score(q_target, ones(q_target)), Score(correction, data.weight))
