"""The direct method: fitted-Q evaluation."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class TrajectoryDM:
    """V = mean(V̂_0(s_0)): believe what the Q-model says of the first state.

    As biased as the model is, and no interval of it knows that: the spread is only that of the first states.
    With Q̂ of `causal.fqe` this is fitted-Q evaluation. Exact when Q̂ is the target's. `dm` in SCOPE-RL.

    Source: Le, Voloshin and Yue (2019), "Batch policy learning under constraints", ICML (fitted-Q
    evaluation).
    """

    name: ClassVar[str] = "DM"
    needs: ClassVar[tuple[str, ...]] = ("v_target",)
    leans: ClassVar[str] = ""
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Put the modelled value of the first state above the line and 1 below it."""
        first = data.need("v_target")[:, 0]
        return (Score(first, ones(first)),)
