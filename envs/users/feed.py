"""The feed: users who drift, get bored, leave and come back, in a market where popularity feeds on itself."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.clicks.position_based import PositionBased
from envs.market import Market, MarketState
from envs.spec import WorldSpec, setting
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.parts import names, part
from simlab.seeds import Seed


@dataclass(frozen=True)
class FeedSpec(WorldSpec):
    """Settings of the feed, besides those of every world. Each effect is a switch: 0 (or None) turns it off.

    Attributes:
        topics: dimensions of taste.
        slope: how sharply attraction reacts to taste, in logits per unit of affinity (0 … 1).
        base: logit of an item without any match.
        quality: logits per standard deviation of item quality.
        click_model: name of the click model; one other than position_based has its typical parameters.
        position_bias: η of the examination 1/k^η of slot k = 1, 2, …, for position_based.
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
    """

    items: int = setting(1000, 1)
    slots: int = setting(10, 1)
    topics: int = setting(16, 1)
    horizon: int = setting(50, 1)
    slope: float = setting(6.0)
    base: float = setting(-4.0)
    quality: float = setting(0.5)
    click_model: str = setting("position_based", among=tuple(names("click model")))
    position_bias: float = setting(1.0, 0)
    examination: tuple[float, ...] | None = setting(None, 0, 1)
    conformity: float = setting(0.3)
    popularity_spread: float = setting(1.0, 0)
    popularity_feedback: float = setting(0.02, 0, 1)
    outside: float = setting(10.0, 0)
    drift: float = setting(0.05, 0)
    boredom: float = setting(1.0, 0, 1)
    boredom_limit: float = setting(2.5, 0)
    boredom_memory: float = setting(0.8, 0, 1)
    boredom_recovery: float = setting(0.9, 0, 1)
    churn: float = setting(0.08, 0, 1)
    comeback: float = setting(0.5, 0, 1)
    gap: float = setting(3.0, 0)
    profile_noise: float | None = setting(0.3, 0)

    def check(self) -> None:
        """Refuse an examination of another length, or with a click model that has none of its own."""
        if self.examination is not None and len(self.examination) != self.slots:
            raise BadInput(f"examination has {len(self.examination)} values for {self.slots} slots")
        if self.examination is not None and self.click_model != "position_based":
            raise BadInput(f"examination goes with click_model=position_based, not with {self.click_model}")


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

    ids: ClassVar[dict[str, dict[str, Any]]] = {"simlab/Feed-v0": {}}
    Spec: ClassVar[type[FeedSpec]] = FeedSpec

    def build(self) -> None:
        """Draw items with a few strong topics each."""
        spec = self.spec
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
        self.clicks = self._click_model().to(self.device)
        self.market = Market(
            start.to(self.device), spec.popularity_feedback > 0, 1 - spec.popularity_feedback, spec.outside
        )
        self._worth = spec.base + spec.quality * self.quality
        # One row more for the blank item: no topic, and a logit that no taste can lift.
        self._rows = torch.cat([self.topics, torch.zeros(1, spec.topics, device=self.device)])

    def _click_model(self) -> ClickModel:
        spec = self.spec
        if spec.examination is not None:
            return PositionBased(torch.tensor(spec.examination))
        if spec.click_model == "position_based":
            return PositionBased.power(spec.slots, spec.position_bias)
        chosen: ClickModel = part("click model", spec.click_model).typical(spec.slots)  # type: ignore[attr-defined]
        return chosen

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
        self, users: FeedUsers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return σ(⟨wish, e_i⟩ + appeal_i)."""
        flat = slate.reshape(-1)
        rows = self._rows.index_select(0, flat).view(*slate.shape, -1)
        logit = self._appeal(market.popularity).index_select(0, flat).view(slate.shape)
        affinity = torch.bmm(rows, self._wish(users).unsqueeze(2)).squeeze(2)
        return logit.add_(affinity).sigmoid_()

    def relevance(self, state: State[FeedUsers]) -> Float[Tensor, "user item"]:
        """Return P(click | examined) of every item for every user."""
        logit = self._appeal(state.popularity)[:-1]
        return torch.addmm(logit, self._wish(state.users), self.topics.T).sigmoid()

    def foresight(self, state: State[FeedUsers], price: float = 1.5, believe: bool = False) -> Tensor:
        """Return the attraction of each item, less a toll on what would bore.

        a_i · (1 - price · ⟨u∘(1 - boredom·b)∘z/limit, e_i⟩): a click is worth less the nearer its topics are
        to burning out. A heuristic, not a proven optimum. The price of 1.5 was found by search over
        {1, 1.5, 2.5} on 600 users, with boredom as the only effect.

        Args:
            state: where the shard is.
            price: how dear a click is that leads toward burn-out; 0 is the myopic oracle.
            believe: plan as if boredom were on, even where it is off.
        """
        spec, users = self.spec, state.users
        attraction = self.relevance(state)
        if not (spec.boredom or believe):
            return attraction
        taste = users.taste * (1 - spec.boredom * users.boredom)
        if spec.boredom:
            near = (users.consumed / max(spec.boredom_limit, 1e-9)).clamp(max=1.0)
        else:  # nobody is ever bored: a believer still rations every topic
            near = torch.full_like(taste, 0.5)
        toll: Tensor = price * (taste * near) @ self.topics.T
        return attraction * (1 - toll)

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
