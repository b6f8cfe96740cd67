"""The weighted (self-normalised) doubly robust estimator of a sequence."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from causal.contract import Score, Scores, Trajectories, ones


@dataclass(frozen=True)
class WDR:
    """V = mean(V̂_0) + Σ_t γ^t mean(w_{0:t} (r_t + γ V̂_{t+1} - Q̂_t)) / mean(w_{0:t}).

    DR whose weights sum to one at every step. Consistent when either the propensities or the Q-model are
    right, with a bias of order 1/N. The paper writes Σ_t γ^t (w_t (r_t - Q̂_t) + w_{t-1} V̂_t) with
    normalised weights; terms are gathered by denominator here, so that each is one ratio and all vary from
    log to log. A finished trajectory keeps its last weight in the later denominators, as in `wpdis`. `sndr`
    in SCOPE-RL.

    Source: Thomas and Brunskill (2016), "Data-efficient off-policy policy evaluation for reinforcement
    learning", ICML (WDR).
    """

    name: ClassVar[str] = "WDR"
    needs: ClassVar[tuple[str, ...]] = ("q_logged", "v_target")
    leans: ClassVar[str] = "prefix"
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Trajectories) -> Scores:
        """Score the first state and each step as ratios."""
        weight, v = data.prefix, data.need("v_target")
        after = torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], dim=1)
        above = weight * (data.reward + data.discount * after - data.need("q_logged")) * data.gammas
        steps = zip(above.unbind(1), weight.unbind(1), strict=True)
        return (Score(v[:, 0], ones(v[:, 0])), *(Score(a, w) for a, w in steps))
