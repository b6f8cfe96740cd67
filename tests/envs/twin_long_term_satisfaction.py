"""A slow, plain twin of long-term satisfaction, one user at a time, in float64; and diets."""

import math
from dataclasses import dataclass

from envs.users.long_term_satisfaction import LongTermSatisfaction
from simlab.context import Context
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import top


@dataclass
class TwinUser:
    exposure: float
    seen: float = 0.0
    steps: int = 0

    def mean(self, world: LongTermSatisfaction, item: int) -> float:
        """Return SAT · (5c + 4(1 - c))."""
        satisfaction = 1 / (1 + math.exp(-world.spec.sensitivity * self.exposure))
        c = float(world.clickbait[item])
        return satisfaction * (c * world.spec.choc + (1 - c) * world.spec.kale)

    def step(
        self, world: LongTermSatisfaction, slate: list[int], luck: list[float]
    ) -> tuple[list[int], float]:
        """Return the clicks and the reward, and move on: the engagement comes before the change."""
        spec = world.spec
        self.steps += 1
        click = [0] * len(slate)
        there = [k for k, item in enumerate(slate) if item != world.blank]
        if not there:
            self.seen = 0.0
            return click, 0.0
        click[there[0]] = 1
        item = slate[there[0]]
        size, angle = math.sqrt(-2 * math.log(luck[0])), 2 * math.pi * luck[1]
        engagement = math.exp(self.mean(world, item) + spec.noise * size * math.cos(angle))
        noise = spec.innovation * size * math.sin(angle)
        self.exposure = spec.memory * self.exposure - 2 * (float(world.clickbait[item]) - 0.5) + noise
        self.seen = min(engagement, spec.limit)
        return click, self.seen if spec.clip_reward else engagement


@dataclass(frozen=True)
class Diet:
    """Show the candidates whose clickbait is nearest to `target`, and in the last steps to 1.

    Attributes:
        world: whose scores it reads.
        target: 1 is choc, 0 is kale.
        feast: steps at the end with clickbait.
    """

    world: LongTermSatisfaction
    target: float
    feast: int = 0
    name: str = "diet"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        left = (1 - context.features[:, 1:]) * self.world.horizon  # steps left, this one included
        target = (left < self.feast + 0.5).float() * (1 - self.target) + self.target
        score = -(self.world.clickbait[context.candidates] - target).abs()
        return Deterministic(top(score, slots), score.shape[1])
