"""The more robust doubly robust estimator."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Rounds, Score, Scores, ones


@dataclass(frozen=True)
class MRDR:
    """V = mean(q_target + w (r - q_logged)) with a reward model fitted to make this vary least.

    DR with another model (`causal.mrdr.robust`): unbiased when the propensities are right, whatever the
    model, provided that it was not fitted on the rows that it scores; and when they are wrong and the model
    is right. It pays where no model of the family is right: then its errors are put where they cost DR
    little.

    Source: Farajtabar, Chow and Ghavamzadeh (2018), "More robust doubly robust off-policy evaluation", ICML,
    section 4.

    Differs: obp weighs rows by π (1 - p) / p² for stochastic targets too, where DR's variance has π² and
    cross terms between items (`causal.mrdr.robust_weight`).
    """

    name: ClassVar[str] = "MRDR"
    needs: ClassVar[tuple[str, ...]] = ("robust_logged", "robust_target")
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put the corrected model above the line and 1 below it."""
        q_logged, q_target = data.need("robust_logged"), data.need("robust_target")
        return (Score(q_target + data.weight * (data.reward - q_logged), ones(q_target)),)
