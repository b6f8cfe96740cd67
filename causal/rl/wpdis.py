"""Weighted (self-normalised) per-decision importance sampling."""

from dataclasses import dataclass
from typing import ClassVar

from causal.contract import Score, Scores, Trajectories


@dataclass(frozen=True)
class WPDIS:
    """V = Σ_t γ^t mean(w_{0:t} r_t) / mean(w_{0:t}): every step is divided by the weights drawn up to it.

    Consistent, with a bias of order 1/N. It is a sum of one ratio per step, and all of their denominators
    vary from log to log, so all are scored. A finished trajectory earns 0 and keeps its last weight in the
    later denominators: E[w_{0:t}] = 1 only over all trajectories. Over those still running it is
    P_π(running) / P_0(running) on average, and dividing by that would give the mean reward of the target's
    survivors: with rewards of at least 0, more than its value. `snpdis` in SCOPE-RL, which knows
    trajectories of one length only.

    Source: Thomas (2015), "Safe reinforcement learning", PhD thesis, University of Massachusetts Amherst
    (consistent weighted per-decision importance sampling).

    Differs: Precup, Sutton and Singh (2000) divide the sum of all steps by one sum of discounted weights,
    which is not consistent.
    """

    name: ClassVar[str] = "WPDIS"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = "prefix"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Score each step as a ratio: γ^t w_{0:t} r_t above the line and w_{0:t} below it."""
        weight = data.prefix
        above = weight * data.reward * data.gammas
        return tuple(Score(a, w) for a, w in zip(above.unbind(1), weight.unbind(1), strict=True))
