"""A slow, plain twin of SARDINE: one user, one slot and one topic at a time, in float64."""

import math
from collections import deque
from dataclasses import dataclass, field

from envs.users.sardine import Sardine


@dataclass
class TwinSardine:
    """One user, stepped with given luck. Topics of clicks and their steps stand in queues, oldest first."""

    world: Sardine
    taste: list[float]
    time: int = 0
    clicks: deque[tuple[int, int]] = field(default_factory=deque)
    bored: list[bool] = field(default_factory=lambda: [False] * 10)
    timeout: list[int] = field(default_factory=list)
    forgotten_early: int = 0
    times_bored: int = 0

    def __post_init__(self) -> None:
        spec = self.world.spec
        self.clicks = deque(maxlen=spec.recall)
        self.timeout = [spec.window] * 10
        self.items = self.world.catalog.features.double().tolist()
        self.longest = max(math.sqrt(sum(x * x for x in e)) for e in self.items)

    def interest(self) -> list[float]:
        if self.world.spec.boredom == "user_car":
            return [0.0 if any(self.bored) else u for u in self.taste]
        return [0.0 if b else u for u, b in zip(self.taste, self.bored, strict=True)]

    def chance(self, item: int, slot: int) -> float:
        spec = self.world.spec
        if item == self.world.blank:
            return 0.0
        score = sum(v * x for v, x in zip(self.interest(), self.items[item], strict=True)) / self.longest
        attention = spec.decay**slot
        if spec.click_model == "mixed_decay":
            attention = 0.5 * attention + 0.5 * spec.decay ** (spec.slots - 1 - slot)
        return float(spec.scale * attention / (1 + math.exp(-spec.slope * (score - spec.offset))))

    def step(self, slate: list[int], luck: list[float]) -> list[int]:
        """Return the clicks on a slate, and change the user."""
        spec = self.world.spec
        click = [int(x < self.chance(item, k)) for k, (item, x) in enumerate(zip(slate, luck, strict=True))]
        chosen = [item for item, c in zip(slate, click, strict=True) if c]
        for item in chosen:
            if len(self.clicks) == spec.recall and self.clicks[0][1] >= self.time - spec.window + 1:
                self.forgotten_early += 1
            self.clicks.append((self.items[item].index(max(self.items[item])), self.time))
        self.time += 1
        while self.clicks and self.clicks[0][1] < self.time - spec.window:
            self.clicks.popleft()
        for t in range(10):
            if self.bored[t]:
                self.timeout[t] -= 1
            if self.timeout[t] == 0:
                self.bored[t] = False
            if not self.bored[t]:
                self.timeout[t] = spec.window
        for t, n in enumerate(self.count()):
            if n >= spec.boredom_threshold:
                self.times_bored += not self.bored[t]
                self.bored[t] = True
        if chosen:
            rows = [self.items[item] for item in chosen]
            blend = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            if spec.influence_blend == "scalar":
                blend = [sum(blend) / 10] * 10
            taste = [spec.omega * u + (1 - spec.omega) * x for u, x in zip(self.taste, blend, strict=True)]
            size = math.sqrt(sum(u * u for u in taste))
            self.taste = [u / size for u in taste]
        return click

    def count(self) -> list[int]:
        return [sum(topic == t for topic, _ in self.clicks) for t in range(10)]

    def features(self) -> list[float]:
        spec = self.world.spec
        seen = [min(n / spec.boredom_threshold, 1.0) for n in self.count()]
        return [*self.interest(), *seen, *(t / spec.window for t in self.timeout)]
