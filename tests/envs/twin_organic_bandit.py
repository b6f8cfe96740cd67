"""A slow, plain twin of organic and bandit sessions: one event and one product at a time, in float64."""

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import cast

import torch

from envs.users.organic_bandit import OrganicBandit, OrganicBanditSpec
from simlab.context import Context
from simlab.seeds import Seed
from simlab.slates import Ranked, SlateDistribution

NORMAL = NormalDist()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def click_rate(spec: OrganicBanditSpec, x: float) -> float:
    a, b, c, d, e = spec.link
    return sigmoid(a * sigmoid(b * sigmoid(c * x) - d) - e)


def geometric(luck: float, stay: float) -> int:
    """Return N ≥ 1 with P(N > n) = stayⁿ, by counting."""
    n = 1
    while luck < stay**n:
        n += 1
    return n


@dataclass
class TwinShopper:
    """A user, stepped with given luck; `viewed` are the views that a recommender remembers, newest last."""

    world: OrganicBandit
    taste: list[float]
    viewed: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    time: int = 0
    active: bool = True

    def dot(self, row: torch.Tensor) -> float:
        return cast(float, sum(a * b for a, b in zip(self.taste, row.tolist(), strict=True)))

    def view(self, luck: float) -> int:
        """Draw from softmax(Γω + μ): the first product at which the distribution function passes the luck."""
        logits = [
            self.dot(row) + mu for row, mu in zip(self.world.gamma, self.world.mu.tolist(), strict=True)
        ]
        weights = [math.exp(x - max(logits)) for x in logits]
        total, target = 0.0, luck * sum(weights)
        for product, weight in enumerate(weights):
            total += weight
            if target < total:
                return product
        return len(weights) - 1

    def session(self, length: int, moves: int, key: tuple[float, float]) -> None:
        """View products; of a session with more views than are remembered the first are not drawn."""
        spec = self.world.spec
        kept = min(length, spec.views)
        bits = [int(u * 2**23) for u in key]
        who = torch.full((kept,), (bits[0] << 23) + bits[1])
        luck = Seed(0).split("organic views").at(who, torch.arange(kept)).uniform("view", spec.dims + 1)
        self.fresh = []
        for number in range(kept):
            steps = moves + length - kept if number == 0 else 1
            draw = luck[number].tolist()
            for k in range(spec.dims):
                self.taste[k] += spec.drift * math.sqrt(steps) * NORMAL.inv_cdf(draw[1 + k])
            self.fresh.append(self.view(draw[0]))
        self.viewed = (self.viewed + self.fresh)[-spec.views :]
        self.time += length

    @classmethod
    def born(cls, world: OrganicBandit, luck: list[float]) -> "TwinShopper":
        dims = world.spec.dims
        taste = [world.spec.taste_spread * NORMAL.inv_cdf(u) for u in luck[:dims]]
        shopper = cls(world, taste)
        shopper.session(geometric(luck[dims], world.spec.stay), 0, (luck[dims + 1], luck[dims + 2]))
        return shopper

    def step(self, slate: list[int], luck: list[float]) -> list[int]:
        """Be shown a slate, and live until the next one; return the clicks."""
        spec, world = self.world.spec, self.world
        theta = world.examination().tolist()
        clicks = []
        for k, item in enumerate(slate):
            chance = 0.0
            if self.active and item != world.blank:
                chance = theta[k] * click_rate(spec, self.dot(world.beta[item]) + float(world.nu[item]))
            clicks.append(int(luck[5 + k] < chance))
        if not self.active:
            return clicks
        self.time += 1
        self.fresh = []
        leave = spec.leave_organic if spec.leave_bandit is None else spec.leave_bandit
        if luck[0] < spec.bandit_to_organic:
            chain = "organic"
        elif luck[0] < spec.bandit_to_organic + leave:
            chain = "gone"
        else:
            chain = "bandit"
        state = "organic" if any(clicks) else chain
        if state == "organic":
            if luck[1] < spec.leave_organic / (spec.leave_organic + spec.organic_to_bandit):
                state = "gone"  # at the end of the session, which nobody sees
            else:
                moves = 1 if spec.click_drifts or chain == "organic" else 0
                self.session(geometric(luck[2], spec.stay), moves, (luck[3], luck[4]))
        self.active = state != "gone"
        return clicks

    def features(self) -> list[float]:
        items = self.world.catalog.n_items
        shares = [
            views.count(i) / max(len(views), 1) for views in (self.viewed, self.fresh) for i in range(items)
        ]
        return [*shares, math.log1p(len(self.fresh)), math.log1p(self.time)]


@dataclass(frozen=True)
class MostViewed:
    """Show what this user has viewed most; equals stand in random order.

    Attributes:
        items: how many products there are.
        of_another: read the views of the next row's user instead, who is a stranger.
    """

    items: int
    of_another: bool = False
    name: str = "most viewed"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        share = context.features[:, : self.items]
        return Ranked(share.roll(1, 0) if self.of_another else share, slots, context.mask)
