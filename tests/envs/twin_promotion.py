"""A slow, plain twin of the promotion: one user, one item and one slot at a time, in float64."""

import math
from dataclasses import dataclass, field

from envs.users._promotion_spec import PromotionSpec


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@dataclass
class TwinItem:
    suits: list[float]
    moves: list[float]
    popularity: float


@dataclass
class TwinUser:
    """A user, stepped with given luck: one uniform for each item, then one for each slot."""

    spec: PromotionSpec
    items: list[TwinItem]
    x: list[float]
    z: float
    seen: dict[int, int] = field(default_factory=dict)
    steps: int = 0
    active: bool = True

    def groups(self, i: int) -> tuple[float, float, float]:
        """Persuadable, sure, sleeping dog."""
        spec, item = self.spec, self.items[i]
        r = sigmoid(spec.sharpness * dot(item.moves, self.x))
        h, g = spec.heterogeneity, spec.sleeping_dogs
        a = spec.effect * ((1 - h) + 2 * h * r)
        b = g * spec.effect * ((1 - h) + 2 * h * (1 - r))
        logit = spec.base + spec.taste * dot(item.suits, self.x) + spec.popularity * item.popularity
        s = (1 - a - b) * sigmoid(logit + spec.hidden * self.z)
        left = (1 - spec.fatigue) ** self.seen.get(i, 0)
        return left * a, s + (1 - left) * b, left * b

    def group(self, i: int, luck: float) -> str:
        a, s, b = self.groups(i)
        if luck < a:
            return "persuadable"
        if luck < a + s:
            return "sure"
        return "dog" if luck < a + s + b else "lost"

    def step(self, slate: list[int], luck: list[float]) -> tuple[list[int], float]:
        """Return clicks and reward of a slate; the id of no item is an empty slot."""
        clicks, reward = [0] * len(slate), 0.0
        if not self.active:
            return clicks, reward
        looked = set()
        for k, i in enumerate(slate):
            if i == len(self.items):
                continue
            reward -= self.spec.cost
            if luck[len(self.items) + k] < 1 / (k + 1) ** self.spec.position_bias:
                looked.add(i)
        for i in range(len(self.items)):
            buys = self.group(i, luck[i]) in (("persuadable", "sure") if i in looked else ("dog", "sure"))
            reward += buys
            if i in looked:
                clicks[slate.index(i)] = int(buys)
        for i in looked:
            self.seen[i] = self.seen.get(i, 0) + 1
        self.steps += 1
        self.active = self.steps < self.spec.horizon
        return clicks, reward
