"""A slow, plain twin of interest exploration, one user and slot at a time, in float64; and a bandit."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.users.interest_exploration import InterestExploration
from simlab.context import Context
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import top


@dataclass
class TwinUser:
    affinity: list[float]

    def chances(self, world: InterestExploration, slate: list[int]) -> list[float]:
        """Return P(click) of each slot: exp(g + f) against all others and e⁵."""
        weight = [
            0.0
            if item == world.blank
            else math.exp(self.affinity[int(world.topic[item])] + float(world.quality[item]))
            for item in slate
        ]
        return [w / (sum(weight) + math.exp(world.spec.no_click)) for w in weight]

    def step(self, world: InterestExploration, slate: list[int], uniform: float) -> list[int]:
        """Return the clicks: of the slots in turn, the first whose cumulative chance exceeds the uniform."""
        click, reached = [0] * len(slate), 0.0
        for k, chance in enumerate(self.chances(world, slate)):
            reached += chance
            if uniform < reached:
                click[k] = 1
                break
        return click


@dataclass(frozen=True)
class TopicBandit:
    """For each user, show the topic with the best click rate so far; within it, the best made items.

    The rate of a topic with n impressions and c clicks is (c + 6·p) / (n + 6), where p is the mean attraction
    of its items over all users; the bonus adds bonus · √(log(1 + N) / (n + 6)), with N impressions in all.

    Attributes:
        world: whose item features and average click rates it knows; it needs `remember` = `horizon`.
        prior: p of each topic.
        bonus: 0 is greedy, which never explores.
    """

    world: InterestExploration
    prior: Tensor
    bonus: float
    name: str = "topic bandit"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        blank = torch.tensor([-1])  # where the history is padded with -1
        topic = torch.cat([self.world.topic, blank])[context.history]
        shown = [(topic == t).float() for t in range(len(self.prior))]
        count = torch.stack([s.sum(1) for s in shown], 1)
        clicks = torch.stack([(s * context.feedback).sum(1) for s in shown], 1)
        rate = (clicks + 6 * self.prior) / (count + 6)
        rate = rate + self.bonus * (count.sum(1, keepdim=True).log1p() / (count + 6)).sqrt()
        score = 100 * rate.gather(1, self.world.topic[context.candidates])
        score = score + self.world.quality[context.candidates]
        return Deterministic(top(score, slots), score.shape[1])
