"""A slow, plain twin of the feed: one user, one slot and one topic at a time, in float64."""

import math
from dataclasses import dataclass, field

from envs.users.feed import Feed


@dataclass
class TwinUser:
    taste: list[float]
    consumed: list[float]
    boredom: list[float]
    satisfaction: float = 1.0
    sessions: int = 0
    gap: float = 0.0
    patience: float = 0.0
    active: bool = True
    steps: int = 0


@dataclass
class TwinMarket:
    """A market of users, stepped with given luck."""

    world: Feed
    users: list[TwinUser]
    popularity: list[float]
    enters: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    standing: list[float] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    time: int = 0

    def available(self, item: int) -> bool:
        born = not self.enters or self.enters[item] <= self.time < self.leaves[item]
        return born and (not self.present or self.present[item % len(self.present)])

    def attraction(self, user: TwinUser, item: int) -> float:
        spec, world = self.world.spec, self.world
        if item == world.blank or not self.available(item):
            return 0.0
        e = world.topics[item].tolist()
        match = sum(
            u * (1 - spec.boredom * b) * x for u, b, x in zip(user.taste, user.boredom, e, strict=True)
        )
        share = (self.popularity[item] + world.market.floor) / (1 + world.market.floor)
        logit = spec.slope * match + spec.base + spec.quality * float(world.quality[item])
        logit += spec.conformity * math.log(share)
        return 1 / (1 + math.exp(-logit))

    def step(self, slates: list[list[int]], luck: list[list[float]]) -> list[list[int]]:
        """Return the clicks of each user, and change users and popularity."""
        spec, world = self.world.spec, self.world
        theta = world.examination().tolist()
        items = world.catalog.n_items
        was_there = [user.active for user in self.users]
        clicks: list[list[int]] = []
        for user, slate, draw in zip(self.users, slates, luck, strict=True):
            row = [
                int(user.active and draw[4 + k] < theta[k] * self.attraction(user, item))
                for k, item in enumerate(slate)
            ]
            clicks.append(row)
        for user, slate, draw, row in zip(self.users, slates, luck, clicks, strict=True):
            eaten = [0.0] * spec.topics
            for item, c in zip(slate, row, strict=True):
                if c:
                    eaten = [a + b for a, b in zip(eaten, world.topics[item].tolist(), strict=True)]
            user.taste = [u + spec.drift * c for u, c in zip(user.taste, eaten, strict=True)]
            size = math.sqrt(sum(u * u for u in user.taste))
            user.taste = [u / size for u in user.taste]
            user.consumed = [c + spec.boredom_memory * z for c, z in zip(eaten, user.consumed, strict=True)]
            user.boredom = [
                1.0 if z > spec.boredom_limit else spec.boredom_recovery * b
                for z, b in zip(user.consumed, user.boredom, strict=True)
            ]
            got = sum(row)
            user.satisfaction = 0.8 * user.satisfaction + 0.2 * got
            leaves = draw[0] < (spec.churn / 4 if got else spec.churn)
            if spec.budget:
                user.patience += spec.refund * got - 1
                leaves = leaves or user.patience <= 0
            odds = math.log(spec.comeback / (1 - spec.comeback)) + user.satisfaction - 1
            returns = leaves and draw[1] < 1 / (1 + math.exp(-odds))
            if returns:
                days = math.ceil(math.log(draw[2]) / math.log(1 - 1 / spec.gap))
                user.gap = days
                user.sessions += 1
                user.patience = spec.budget
                user.consumed = [z * 2.0**-days for z in user.consumed]
                user.boredom = [b * 2.0**-days for b in user.boredom]
            user.steps += 1
            if (leaves and not returns) or user.steps >= spec.horizon:
                user.active = False
        count, shown = [0.0] * items, [0.0] * items
        for slate, row, there in zip(slates, clicks, was_there, strict=True):
            for item, c in zip(slate, row, strict=True):
                if item != world.blank and self.available(item):
                    count[item] += c
                    shown[item] += there
        weighed = [c + spec.impression * x for c, x in zip(count, shown, strict=True)]
        total = sum(weighed) + spec.outside
        start = world.market.start.tolist()
        if self.enters or self.present:
            known = [self.available(i) and not (self.enters and self.enters[i]) for i in range(items)]
            start = [s * k for s, k in zip(start, known, strict=True)]
            start = [s * items / sum(start) for s in start]
        keep = world.market.keep
        self.popularity = [
            keep * p + (1 - keep) * (items * c + spec.outside * s) / total
            for p, c, s in zip(self.popularity, weighed, start, strict=True)
        ]
        for g in range(len(self.standing)):
            mine = range(g, items, len(self.standing))
            fair = sum(shown[i] for i in mine) / sum(shown) / (len(mine) / items)
            memory = spec.provider_memory
            self.standing[g] = memory * self.standing[g] + (1 - memory) * fair
        self.time += 1
        staying = [
            p and v >= spec.provider_patience for p, v in zip(self.present, self.standing, strict=True)
        ]
        self.present = staying
        return clicks
