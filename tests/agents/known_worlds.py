"""Four worlds so small that every slate, click and state can be listed: the best value is known exactly.

A user is in one of S **places**, and the place is seen (one-hot). Clicks are position-based; where a user
goes next follows from place, slate and clicks. So a world is a finite decision process: `exact` lists it from
the world's own click model and `advance`, and finds by dynamic programming what an episode is worth, on
average,

- to `random` slates,
- to the `fixed` slate that is best if everybody is shown the same one at every step,
- to the `myopic` policy, which earns the most now,
- to the `steady` policy, which is best for a discount and no time limit,
- to the `best` policy, which knows the time too.

A result is a share of the gap from random to best: (value - random) / (best - random).

| world | K | items | places | what it asks for |
|---|---|---|---|---|
| `BestItem` | 1 | 10 | 5 | the item that this kind of user likes |
| `BestSlate` | 3 | 8 | 3 | the items that this kind of user likes, the most liked on top |
| `DelayedChain` | 1 | 5 | 4 | three clicks in a row that pay nothing; then all pays three times as much |
| `BoredomTrap` | 2 | 6 | 16 | to show the favourite topic every second time only |
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations, product
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.position_based import PositionBased
from envs.market import Market, MarketState
from envs.spec import WorldSpec
from envs.world import SlateWorld, State
from simlab.context import Catalog, Context
from simlab.seeds import Seed
from simlab.slates import Deterministic, SlateDistribution


@dataclass(frozen=True)
class KnownUsers:
    """Users who are somewhere.

    Attributes:
        place: where, 0 … S - 1.
    """

    place: Int[Tensor, " user"]


@dataclass(frozen=True)
class Exact:
    """A world as a table.

    Attributes:
        slates: every slate.
        reward: the mean reward of each slate at each place.
        follow: P(next place | place, slate).
        start: P(first place).
        horizon: T.
    """

    slates: Int[Tensor, "slate slot"]
    reward: Float[Tensor, "place slate"]
    follow: Float[Tensor, "place slate next"]
    start: Float[Tensor, " place"]
    horizon: int

    @staticmethod
    def of(world: "KnownWorld") -> "Exact":
        """List every place, slate and click vector of a world."""
        places, slots = len(world.attraction), world.slots
        slates = torch.tensor(list(permutations(range(world.catalog.n_items), slots)))
        clicks = torch.tensor(list(product((0.0, 1.0), repeat=slots)))
        which, way, hit = (
            x.reshape(-1)
            for x in torch.meshgrid(
                torch.arange(places), torch.arange(len(slates)), torch.arange(len(clicks)), indexing="ij"
            )
        )
        slate, click = slates[way], clicks[hit]
        attraction = world.attraction[which.unsqueeze(1), slate].double()
        chance = world.clicks.log_prob(attraction, click.double()).exp()
        reward = (click * world.worth[which.unsqueeze(1), slate]).sum(1)
        shape = (places, len(slates), len(clicks))
        follow = torch.zeros(places, len(slates), places, dtype=torch.float64)
        follow.view(-1).index_add_(
            0, (which * len(slates) + way) * places + world.advance(which, slate, click), chance
        )
        start = torch.zeros(places, dtype=torch.float64)
        start[list(world.begin_at)] = 1 / len(world.begin_at)
        return Exact(slates, (chance * reward).view(shape).sum(2), follow, start, world.horizon)

    def value(self, shows: Float[Tensor, "place slate"]) -> float:
        """Return the mean return of an episode, if a place shows each slate with these probabilities."""
        reward, follow = (shows * self.reward).sum(1), torch.einsum("sa,san->sn", shows, self.follow)
        at, total = self.start, 0.0
        for _ in range(self.horizon):
            total, at = total + float(at @ reward), at @ follow
        return total

    def one(self, choice: Int[Tensor, " place"]) -> Float[Tensor, "place slate"]:
        """Return the probabilities of a policy that shows one slate at each place."""
        shows: Tensor = torch.nn.functional.one_hot(choice, len(self.slates)).double()
        return shows

    @cached_property
    def random(self) -> float:
        """The mean return of uniform slates."""
        return self.value(torch.full_like(self.reward, 1 / len(self.slates)))

    @cached_property
    def fixed_choice(self) -> Int[Tensor, " place"]:
        """The best slate for everybody, always."""
        same = [torch.full_like(self.start, a).long() for a in range(len(self.slates))]
        return max(same, key=lambda choice: self.value(self.one(choice)))

    @cached_property
    def fixed(self) -> float:
        """The mean return of the best slate for everybody, always."""
        return self.value(self.one(self.fixed_choice))

    @cached_property
    def myopic(self) -> float:
        """The mean return of what earns the most now."""
        return self.value(self.one(self.reward.argmax(1)))

    def steady_choice(self, gamma: float = 0.95) -> Int[Tensor, " place"]:
        """Return the best slate of each place for a discount and no time limit, by value iteration."""
        value = torch.zeros_like(self.start)
        for _ in range(1000):
            value = (self.reward + gamma * self.follow @ value).amax(1)
        return (self.reward + gamma * self.follow @ value).argmax(1)

    @cached_property
    def steady(self) -> float:
        """The mean return of `steady_choice`."""
        return self.value(self.one(self.steady_choice()))

    @cached_property
    def best(self) -> float:
        """The mean return of the best policy that knows the time, by backward induction."""
        value = torch.zeros_like(self.start)
        for _ in range(self.horizon):
            value = (self.reward + self.follow @ value).amax(1)
        return float(self.start @ value)

    def share(self, value: float) -> float:
        """Return how much of the gap from random to best a value closes."""
        return (value - self.random) / (self.best - self.random)


class KnownWorld(SlateWorld[KnownUsers]):
    """A world that can be listed. A world says what there is (`lay_out`) and where users go (`advance`).

    Attributes:
        theta: P(examined) of each slot.
        begin_at: the places where users begin, all equally likely.
        attraction: P(click | examined) at each place, 0 for the blank item.
        worth: of a click at each place.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {"known": {}}
    draws: ClassVar[int] = 1
    theta: ClassVar[tuple[float, ...]] = (1.0,)
    begin_at: tuple[int, ...]
    attraction: Float[Tensor, "place item_or_blank"]
    worth: Float[Tensor, "place item_or_blank"]

    @abstractmethod
    def lay_out(self) -> tuple[Float[Tensor, "place item"], Float[Tensor, "place item"], tuple[int, ...]]:
        """Return attraction and worth of each item at each place, and where users begin."""

    @abstractmethod
    def advance(
        self,
        place: Int[Tensor, " row"],
        slate: Int[Tensor, "row slot"],
        click: Float[Tensor, "row slot"],
    ) -> Int[Tensor, " row"]:
        """Return where users go."""

    def build(self) -> None:
        """Items are known by their identity alone: one-hot features."""
        attraction, worth, self.begin_at = self.lay_out()
        n = attraction.shape[1]
        self.attraction = torch.nn.functional.pad(attraction, (0, 1)).to(self.device)
        self.worth = torch.nn.functional.pad(worth, (0, 1)).to(self.device)
        self.catalog = Catalog(torch.eye(n, device=self.device))
        self.clicks = PositionBased(torch.tensor(self.theta, device=self.device))
        self.market = Market(torch.ones(n, device=self.device))
        self.feature_bound = 1.0

    @cached_property
    def exact(self) -> Exact:
        """The world as a table."""
        return Exact.of(self)

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> KnownUsers:
        luck = seed.at(user, torch.zeros_like(user)).uniform("place", 1).squeeze(1)
        start = torch.tensor(self.begin_at, device=self.device)
        return KnownUsers(start[(luck * len(start)).long().clamp(max=len(start) - 1)])

    def respond(
        self, users: KnownUsers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        return self.attraction[users.place.unsqueeze(1), slate]

    def value(self, users: KnownUsers, slate: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        return self.worth[users.place.unsqueeze(1), slate]

    def evolve(
        self,
        users: KnownUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[KnownUsers, Bool[Tensor, " user"]]:
        gone = torch.zeros(len(slate), dtype=torch.bool, device=self.device)
        return KnownUsers(self.advance(users.place, slate, click)), gone

    def observe_users(self, state: State[KnownUsers]) -> Float[Tensor, "user feat"]:
        return torch.nn.functional.one_hot(state.users.place, len(self.attraction)).float()

    def relevance(self, state: State[KnownUsers]) -> Float[Tensor, "user item"]:
        return self.attraction[state.users.place, : self.catalog.n_items]

    def myopic(self, state: State[KnownUsers]) -> Float[Tensor, "user item"]:
        return (self.attraction * self.worth)[state.users.place, : self.catalog.n_items]


class BestItem(KnownWorld):
    """Five kinds of users, each with an item of its own (.9), and one that all like a little (.55)."""

    Spec: ClassVar[Any] = partial(WorldSpec, items=10, slots=1, horizon=40, remember=0)

    def lay_out(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        kinds = torch.arange(5)
        attraction = torch.full((5, 10), 0.2)
        attraction[:, 1] = 0.55
        attraction[kinds, 2 * kinds] = 0.9
        return attraction, torch.ones(5, 10), (0, 1, 2, 3, 4)

    def advance(self, place: Tensor, slate: Tensor, click: Tensor) -> Tensor:
        """Nobody changes."""
        return place


class BestSlate(KnownWorld):
    """Three kinds of users, position-based clicks. The right items in the wrong order are not enough."""

    Spec: ClassVar[Any] = partial(WorldSpec, items=8, slots=3, horizon=40, remember=0)
    theta: ClassVar[tuple[float, ...]] = (1.0, 0.6, 0.3)

    def lay_out(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        attraction = torch.tensor(
            [
                [0.9, 0.6, 0.4, 0.1, 0.1, 0.1, 0.1, 0.2],
                [0.1, 0.2, 0.6, 0.9, 0.4, 0.1, 0.1, 0.1],
                [0.1, 0.1, 0.1, 0.2, 0.1, 0.9, 0.6, 0.4],
            ]
        )
        return attraction, torch.ones(3, 8), (0, 1, 2)

    def advance(self, place: Tensor, slate: Tensor, click: Tensor) -> Tensor:
        """Nobody changes."""
        return place


class DelayedChain(KnownWorld):
    """Three clicks in a row on an investment, then every click pays three times as much, for ever.

    Items 0 and 1 are investments: clicked less (.6) than the others (.7), and worth nothing. A click on
    another item pays 1 and leads back to place 0; at place 3 it pays 3, and the user stays. Who looks at what
    is clicked or paid now never invests.
    """

    Spec: ClassVar[Any] = partial(WorldSpec, items=5, slots=1, horizon=20, remember=0)

    def lay_out(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        attraction = torch.tensor([0.6, 0.6, 0.7, 0.7, 0.7]).expand(4, 5)
        worth = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]).repeat(4, 1)
        worth[3] *= 3
        return attraction, worth, (0,)

    def advance(self, place: Tensor, slate: Tensor, click: Tensor) -> Tensor:
        clicked, invested = click[:, 0] > 0, slate[:, 0] < 2
        moved = torch.where(invested, (place + 1).clamp(max=3), 0)
        return torch.where(clicked & (place < 3), moved, place)


class BoredomTrap(KnownWorld):
    """The favourite topic shown twice in a row bores: for six steps hardly anything is clicked.

    Two kinds of users, three topics of two items each: 0 and 1 are the favourite (.9) of the first kind, 2
    and 3 of the second; anything else is clicked less (.4). A slate with a favourite in it leads from level 0
    (fresh) to 1 (warned), and from there to boredom (.05), which takes six steps whatever is shown; a slate
    without one leads from 1 back to 0. A place is 8 · kind + level; level 7 is the first of boredom.
    """

    Spec: ClassVar[Any] = partial(WorldSpec, items=6, slots=2, horizon=25, remember=0)
    theta: ClassVar[tuple[float, ...]] = (1.0, 0.7)

    def lay_out(self) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        kind, level = torch.arange(16) // 8, torch.arange(16) % 8
        favourite = torch.arange(6) // 2 == kind.unsqueeze(1)
        attraction = torch.where(favourite, 0.9, 0.4).masked_fill((level >= 2).unsqueeze(1), 0.05)
        return attraction, torch.ones(16, 6), (0, 8)

    def advance(self, place: Tensor, slate: Tensor, click: Tensor) -> Tensor:
        kind, level = place // 8, place % 8
        shown = (slate // 2 == kind.unsqueeze(1)).any(1)
        awake = torch.where(shown, torch.where(level == 0, 1, 7), 0)
        after = torch.where(level < 2, awake, torch.where(level == 2, 0, level - 1))
        return 8 * kind + after


WORLDS: dict[str, type[KnownWorld]] = {
    "best_item": BestItem,
    "best_slate": BestSlate,
    "delayed_chain": DelayedChain,
    "boredom_trap": BoredomTrap,
}


@dataclass(frozen=True)
class ByPlace:
    """Shows the slate of a table for the place that it sees.

    Attributes:
        slates: one for each place.
        name: of the policy.
    """

    slates: Int[Tensor, "place slot"]
    name: str = "by place"

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        return Deterministic(self.slates[context.features.argmax(1)], context.candidates.shape[1])
