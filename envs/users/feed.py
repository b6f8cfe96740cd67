"""The feed: users who drift, get bored, leave and come back, in a market where popularity feeds on itself."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.position_based import PositionBased
from envs.popularity import Popularity
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.seeds import Seed


@dataclass(frozen=True)
class FeedSpec:
    """Settings of the feed. Each effect is a switch of its own: 0 (or None) turns it off.

    Attributes:
        items: size of the catalogue.
        slots: K, items per slate.
        topics: dimensions of taste.
        horizon: time limit in steps (slates).
        world_seed: seed of the items; two worlds with the same spec are the same world.
        slope: how sharply attraction reacts to taste, in logits per unit of affinity (0 … 1).
        base: logit of an item without any match.
        quality: logits per standard deviation of item quality.
        position_bias: η of the examination 1/k^η of slot k = 1, 2, ….
        examination: P(examined) of each slot, instead of 1/k^η.
        conformity: logits per unit of log popularity: how much people like what others like.
        popularity_spread: standard deviation of the initial log popularity; 0 is a cold market.
        popularity_feedback: share of popularity that is replaced by fresh clicks at each step, 0 … 1.
        outside: clicks per step from outside the market, which follow the initial popularity.
        drift: how far taste moves toward a clicked item, per click.
        boredom: share of the taste for a topic that is lost while the user is bored of it, 0 … 1.
        boredom_limit: recent consumption of a topic, in clicks on items of pure topic, that bores.
        boredom_memory: share of recent consumption that is remembered after a step, 0 … 1.
        boredom_recovery: share of boredom that survives a step, 0 … 1.
        churn: probability of leaving the session after a step without a click; a quarter of it after a
            step with clicks.
        comeback: probability that a user who left with average satisfaction returns for a next session.
        gap: mean days away between sessions; consumption and boredom halve each day.
        profile_noise: noise of the profile that a recommender sees of the initial taste; None hides it.
        remember: slates of history that a recommender sees.
    """

    items: int = 1000
    slots: int = 10
    topics: int = 16
    horizon: int = 50
    world_seed: int = 0
    slope: float = 6.0
    base: float = -4.0
    quality: float = 0.5
    position_bias: float = 1.0
    examination: tuple[float, ...] | None = None
    conformity: float = 0.3
    popularity_spread: float = 1.0
    popularity_feedback: float = 0.02
    outside: float = 10.0
    drift: float = 0.05
    boredom: float = 1.0
    boredom_limit: float = 2.5
    boredom_memory: float = 0.8
    boredom_recovery: float = 0.9
    churn: float = 0.08
    comeback: float = 0.5
    gap: float = 3.0
    profile_noise: float | None = 0.3
    remember: int = 5

    def __post_init__(self) -> None:
        for name, low in (("items", 1), ("slots", 1), ("topics", 1), ("horizon", 1), ("remember", 0)):
            if getattr(self, name) < low:
                raise BadInput(f"{name} is {getattr(self, name)}, but it is at least {low}")
        shares = ("popularity_feedback", "boredom", "boredom_memory", "boredom_recovery", "churn", "comeback")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}, but it is a share between 0 and 1")
        for name in ("position_bias", "popularity_spread", "outside", "drift", "boredom_limit", "gap"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadInput(f"{name} is {value}, but it is at least 0")
        for name in ("slope", "base", "quality", "conformity"):
            if not math.isfinite(getattr(self, name)):
                raise BadInput(f"{name} is {getattr(self, name)}, but it is a finite number")
        if self.slots > self.items:
            raise BadInput(f"slots is {self.slots}, but there are only {self.items} items")
        if self.examination is not None and len(self.examination) != self.slots:
            raise BadInput(f"examination has {len(self.examination)} values for {self.slots} slots")
        if self.profile_noise is not None and not self.profile_noise >= 0:
            raise BadInput(f"profile_noise is {self.profile_noise}, but it is at least 0, or None to hide it")


@dataclass(frozen=True)
class FeedUsers:
    """What changes in a user.

    Attributes:
        taste: u, a unit vector over topics.
        profile: what the recommender was told of the initial taste.
        consumed: z, recent consumption by topic.
        boredom: b, how bored the user is of each topic, 0 … 1.
        satisfaction: moving average of clicks per step.
        session: how many times the user came back.
        gap: days away before this session.
    """

    taste: Float[Tensor, "user topic"]
    profile: Float[Tensor, "user topic"]
    consumed: Float[Tensor, "user topic"]
    boredom: Float[Tensor, "user topic"]
    satisfaction: Float[Tensor, " user"]
    session: Float[Tensor, " user"]
    gap: Float[Tensor, " user"]


class Feed(SlateWorld[FeedUsers]):
    """A feed of items for users who change.

    ## Description
    Each item i has a topic vector e_i (unit length, no negative entries), a quality q_i and a popularity p_i.
    Each user has a taste u (unit length, no negative entries), recent consumption z and boredom b over the
    topics. With ∘ the product by topic, an examined item is clicked with probability
    σ(slope · ⟨u∘(1 - boredom·b), e_i⟩ + base + quality · q_i + conformity · log p_i).

    ## Action
    K different item ids, top first.

    ## Observation
    A `Context`: the profile (a noisy picture of the initial taste), time, session and days away; the last
    slates with their clicks; the popularity of every item. Taste and boredom are hidden.

    ## Reward
    The number of clicks. Slot k is examined with probability 1/k^η, or with any given vector.

    ## What changes after a step, with c = Σ of the topic vectors of the clicked items
    * drift: u ← (u + drift · c) / ‖·‖
    * boredom: z ← boredom_memory · z + c; b_t ← 1 where z_t > boredom_limit, else boredom_recovery · b_t.
      A user who is fed one topic burns out on it, so that whoever rations it earns more in the long run
    * popularity: see `envs.popularity`; it is shared by the users of a shard
    * churn: the user leaves the session with probability `churn` after no click, a quarter of it after some;
      and comes back with probability σ(logit(comeback) + satisfaction - 1), after a geometric number of days
      with mean `gap`, during which z and b halve each day

    ## Episode end
    `terminated` when a user leaves and does not come back; `truncated` at the horizon.

    ## Version history
    * v0: first version.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    name: ClassVar[str] = "simlab/Feed-v0"
    Spec: ClassVar[type[FeedSpec]] = FeedSpec

    def __init__(self, spec: FeedSpec | None = None, device: torch.device | str = "cpu") -> None:
        spec = spec or FeedSpec()
        self.spec = spec
        self.device = torch.device(device)
        self.slots, self.horizon, self.remember = spec.slots, spec.horizon, spec.remember
        # A uniform has 23 bits: no normal is beyond 6, no logarithm of days beyond 32.
        self.feature_bound = max(1 + 6 * (spec.profile_noise or 0.0), float(spec.horizon), 32.0)
        seed = Seed(spec.world_seed).split("feed items")
        item = torch.arange(spec.items)
        luck = seed.at(item, torch.zeros_like(item))
        topics = luck.uniform("topics", spec.topics) ** 4  # a few strong topics for each item
        topics = topics / topics.norm(dim=1, keepdim=True)
        quality = _normal(luck.uniform("quality", 1)).squeeze(1)
        start = (spec.popularity_spread * _normal(luck.uniform("popularity", 1)).squeeze(1)).exp()
        start = start / start.mean()
        self.topics, self.quality = topics.to(self.device), quality.to(self.device)
        self.catalog = Catalog(
            torch.cat([topics, quality.unsqueeze(1)], 1).to(self.device),
            feature_names=(*(f"topic_{t}" for t in range(spec.topics)), "quality"),
        )
        if spec.examination is not None:
            self.clicks = PositionBased(torch.tensor(spec.examination)).to(self.device)
        else:
            self.clicks = PositionBased.power(spec.slots, spec.position_bias).to(self.device)
        self.market = Popularity(
            start.to(self.device), spec.popularity_feedback > 0, 1 - spec.popularity_feedback, spec.outside
        )
        self._worth = spec.base + spec.quality * self.quality
        # One row more for the blank item: no topic, and a logit that no taste can lift.
        self._rows = torch.cat([self.topics, torch.zeros(1, spec.topics, device=self.device)])

    def to(self, device: torch.device | str) -> "Feed":
        """Return the same world on another device."""
        return Feed(self.spec, device)

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> FeedUsers:
        """Draw tastes with a few strong topics, and the profile that is seen of them."""
        spec = self.spec
        luck = seed.at(user, torch.zeros_like(user))
        taste = luck.uniform("taste", spec.topics) ** 3
        taste = taste / taste.norm(dim=1, keepdim=True)
        if spec.profile_noise is None:
            profile = torch.zeros_like(taste)
        else:
            profile = taste + spec.profile_noise * _normal(luck.uniform("profile", spec.topics))
        zero = torch.zeros(len(user), device=user.device)
        none = torch.zeros_like(taste)
        return FeedUsers(taste, profile, none, none, torch.ones_like(zero), zero, zero)

    def _wish(self, users: FeedUsers) -> Float[Tensor, "user topic"]:
        """Return slope · u∘(1 - boredom · b)."""
        wish: Tensor = users.taste * self.spec.slope
        if self.spec.boredom:
            wish.addcmul_(wish, users.boredom, value=-self.spec.boredom)
        return wish

    def _appeal(self, popularity: Float[Tensor, " item"]) -> Float[Tensor, " item_and_blank"]:
        """Return the logit of each item that is the same for every user, and of the blank item."""
        logit = self._worth
        if self.spec.conformity:
            logit = logit + self.spec.conformity * self.market.appeal(popularity)
        return torch.nn.functional.pad(logit, (0, 1), value=-torch.inf)

    def respond(
        self, users: FeedUsers, popularity: Float[Tensor, " item"], slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return σ(⟨wish, e_i⟩ + appeal_i)."""
        flat = slate.reshape(-1)
        rows = self._rows.index_select(0, flat).view(*slate.shape, -1)
        logit = self._appeal(popularity).index_select(0, flat).view(slate.shape)
        affinity = torch.bmm(rows, self._wish(users).unsqueeze(2)).squeeze(2)
        return logit.add_(affinity).sigmoid_()

    def relevance(self, state: State[FeedUsers]) -> Float[Tensor, "user item"]:
        """Return P(click | examined) of every item for every user."""
        logit = self._appeal(state.popularity)[:-1]
        return torch.addmm(logit, self._wish(state.users), self.topics.T).sigmoid()

    def evolve(
        self,
        users: FeedUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[FeedUsers, Bool[Tensor, " user"]]:
        """Drift, get bored, leave and come back."""
        spec = self.spec
        taste, consumed, boredom = users.taste, users.consumed, users.boredom
        if spec.drift or spec.boredom:
            eaten = torch.nn.functional.embedding_bag(slate, self._rows, per_sample_weights=click, mode="sum")
            if spec.drift:
                taste = torch.add(taste, eaten, alpha=spec.drift)
                taste = taste / taste.norm(dim=1, keepdim=True)
            if spec.boredom:
                consumed = torch.add(eaten, consumed, alpha=spec.boredom_memory)
                boredom = (boredom * spec.boredom_recovery).masked_fill_(consumed > spec.boredom_limit, 1.0)
        clicks = click.sum(1)
        satisfaction = torch.lerp(clicks, users.satisfaction, 0.8)
        if not spec.churn:
            gone = torch.zeros(len(clicks), dtype=torch.bool, device=clicks.device)
            return (
                FeedUsers(taste, users.profile, consumed, boredom, satisfaction, users.session, users.gap),
                gone,
            )
        leaves = luck[:, 0] < torch.where(clicks > 0, spec.churn / 4, spec.churn)
        comeback = math.log(spec.comeback / (1 - spec.comeback)) if 0 < spec.comeback < 1 else None
        if comeback is None:
            returns = leaves & bool(spec.comeback)
        else:
            returns = leaves & (luck[:, 1] < (satisfaction + (comeback - 1)).sigmoid_())
        if spec.gap:
            # Days away are geometric with mean `gap` and at least one where the mean allows it.
            stay = 1 - 1 / max(spec.gap, 1.0)
            days = (luck[:, 2].log() / math.log(stay)).ceil_() if stay > 0 else torch.ones_like(clicks)
            days = days * returns
            if spec.boredom:
                rested = torch.exp2(-days).unsqueeze(1)
                consumed, boredom = consumed * rested, boredom * rested
            gap = torch.where(returns, days, users.gap)
        else:
            gap = users.gap
        return (
            FeedUsers(taste, users.profile, consumed, boredom, satisfaction, users.session + returns, gap),
            leaves & ~returns,
        )

    def observe_users(self, state: State[FeedUsers]) -> Float[Tensor, "user feat"]:
        """Return profile, share of the time limit used, sessions so far, log of days away."""
        users = state.users
        time = (state.step / self.horizon).to(users.profile.dtype)
        rest = torch.stack([time, users.session, users.gap.log1p()], 1)
        return torch.cat([users.profile, rest], 1)


def _normal(uniform: Float[Tensor, "user draw"]) -> Float[Tensor, "user draw"]:
    """Turn uniforms in (0, 1) into standard normals."""
    normal: Tensor = torch.special.ndtri(uniform.double())
    return normal.float()


PART = Feed
