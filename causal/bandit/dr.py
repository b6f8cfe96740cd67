"""The doubly robust estimator."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import MODEL, Rounds, Score, Scores, ones


@dataclass(frozen=True)
class DR:
    """V = mean(q_target + w (r - q_logged)): the model, corrected by what it got wrong.

    Unbiased when either the propensities or the reward model are right, provided that the model was not
    fitted on the rows that it scores (cross-fitting). `dr` in obp.

    Source: Dudík, Langford and Li (2011), "Doubly robust policy evaluation and learning", section 2 (V_DR);
    Robins, Rotnitzky and Zhao (1994) for missing data.
    """

    name: ClassVar[str] = "DR"
    needs: ClassVar[tuple[str, ...]] = MODEL
    leans: ClassVar[str] = "weight"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds) -> Scores:
        """Put the corrected model above the line and 1 below it."""
        q_logged, q_target = data.model()
        return (Score(q_target + data.weight * (data.reward - q_logged), ones(q_target)),)
