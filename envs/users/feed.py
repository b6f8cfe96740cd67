"""The feed: users who drift, get bored, leave and come back, in a market where popularity feeds on itself."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.clicks.position_based import PositionBased
from envs.market import Lifecycle, Market, MarketState, Supply
from envs.users._feed_spec import FeedSpec
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.parts import part
from simlab.seeds import Seed


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
        patience: what is left of the session's budget.
    """

    taste: Float[Tensor, "user topic"]
    profile: Float[Tensor, "user topic"]
    consumed: Float[Tensor, "user topic"]
    boredom: Float[Tensor, "user topic"]
    satisfaction: Float[Tensor, " user"]
    session: Float[Tensor, " user"]
    gap: Float[Tensor, " user"]
    patience: Float[Tensor, " user"]


__all__ = ["PART", "Feed", "FeedSpec", "FeedUsers"]

STILL = {"drift": 0.0, "boredom": 0.0, "churn": 0.0, "popularity_feedback": 0.0, "conformity": 0.0}
"""Every effect off but the position bias."""

COLD = {"popularity_spread": 0.0}
"""All items start equally popular."""


class Feed(SlateWorld[FeedUsers]):
    """A feed of items for users who change.

    ## Description
    Each item i has a topic vector e_i (unit length, no negative entries), a quality q_i and a popularity p_i.
    Each user has a taste u (unit length, no negative entries), recent consumption z and boredom b over the
    topics. With ∘ the product by topic, an examined item is clicked with probability
    σ(slope · ⟨u∘(1 - boredom·b), e_i⟩ + base + quality · q_i + conformity · log((p_i + .05) / 1.05)).

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
    * popularity: see `envs.market`; it is shared by the users of a shard
    * churn: the user leaves the session with probability `churn` after no click, a quarter of it after some;
      and comes back with probability σ(logit(comeback) + satisfaction - 1), after a geometric number of days
      with mean `gap`, during which z and b halve each day

    * budget: a session costs 1 patience a slate, a click gives `refund` back, and the user leaves the session
      when patience is used up
    * lifecycle and providers (`envs.market`): items not born yet, dead or withdrawn are no candidates

    ## Ids
    Each shows one effect; `Feed-v0` has drift, boredom, churn, conformity and popularity feedback at once.

    | id | what is on, besides taste, quality and position bias |
    |---|---|
    | Static-v0 | nothing |
    | Drift-v0 | drift |
    | Boredom-v0 | boredom |
    | Return-v0 | sessions with a budget of patience; satisfied users come back |
    | Conformity-v0 | conformity and popularity feedback, in a cold market: herding |
    | PopularityLoop-v0 | popularity feedback alone, in a cold market: it moves what is shown, not liked |
    | ColdStart-v0 | births without any popularity, deaths, conformity and feedback |
    | Providers-v0 | 10 providers who leave when they are shown too little, and popularity feedback |

    ## Episode end
    `terminated` when a user leaves and does not come back; `truncated` at the horizon.

    ## Version history
    * v0: first version.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {
        "simlab/Static-v0": STILL,
        "simlab/Drift-v0": STILL | {"drift": 0.05},
        "simlab/Boredom-v0": STILL | {"boredom": 1.0},
        "simlab/Return-v0": STILL | {"budget": 6.0, "horizon": 100},
        "simlab/Conformity-v0": STILL | {"conformity": 1.0, "popularity_feedback": 0.05, **COLD},
        "simlab/PopularityLoop-v0": STILL | {"popularity_feedback": 0.02, **COLD},
        "simlab/ColdStart-v0": STILL
        | {"popularity_feedback": 0.05, "conformity": 0.3, "unborn": 0.3, "lifetime": 100.0},
        "simlab/Providers-v0": STILL
        | {"popularity_feedback": 0.05, "providers": 10, "provider_patience": 0.2},
        "simlab/Feed-v0": {},
    }
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
            start.to(self.device),
            feedback=spec.popularity_feedback > 0,
            keep=1 - spec.popularity_feedback,
            outside=spec.outside,
            impression=spec.impression,
            lifecycle=self._lifecycle(),
            supply=self._supply(item.to(self.device)),
            slots=spec.slots,
        )
        self._worth = spec.base + spec.quality * self.quality
        # One row more for the blank item: no topic, and a logit that no taste can lift.
        self._rows = torch.cat([self.topics, torch.zeros(1, spec.topics, device=self.device)])

    def _lifecycle(self) -> Lifecycle | None:
        spec = self.spec
        if not (spec.late or spec.lifetime):
            return None
        return Lifecycle(spec.late, max(spec.horizon - 1, 1), spec.lifetime)

    def _supply(self, item: Int[Tensor, " item"]) -> Supply | None:
        spec = self.spec
        if not spec.providers:
            return None
        return Supply.of(item % spec.providers, spec.provider_memory, spec.provider_patience)

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
        return FeedUsers(taste, profile, none, none, torch.ones_like(zero), zero, zero, zero + spec.budget)

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
        """Return the attraction of each item, less a toll on what would bore; without boredom, no toll.

        a_i · (1 - price · ⟨u∘(1 - boredom·b)∘z/limit, e_i⟩): a click is worth less the nearer its topics are
        to burning out. A heuristic, not a proven optimum: drift, popularity and patience are not planned for.
        The price of 1.5 was found by search over {1, 1.5, 2.5} on 600 users, with boredom as the only effect.

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
        patience = users.patience
        if not (spec.churn or spec.budget):
            gone = torch.zeros(len(clicks), dtype=torch.bool, device=clicks.device)
            session, gap = users.session, users.gap
        else:
            leaves = luck[:, 0] < torch.where(clicks > 0, spec.churn / 4, spec.churn)
            if spec.budget:
                patience = torch.add(patience - 1, clicks, alpha=spec.refund)
                leaves = leaves | (patience <= 0)
            returns = leaves & self._returns(satisfaction, luck[:, 1])
            session, gap, gone = users.session + returns, users.gap, leaves & ~returns
            if spec.budget:
                patience = torch.where(returns, spec.budget, patience)
            if spec.gap:
                days = self._days(luck[:, 2]) * returns
                if spec.boredom:
                    rested = torch.exp2(-days).unsqueeze(1)
                    consumed, boredom = consumed * rested, boredom * rested
                gap = torch.where(returns, days, gap)
        after = FeedUsers(taste, users.profile, consumed, boredom, satisfaction, session, gap, patience)
        return after, gone

    def _returns(
        self, satisfaction: Float[Tensor, " user"], luck: Float[Tensor, " user"]
    ) -> Bool[Tensor, " user"]:
        """Tell who would come back, with probability σ(logit(comeback) + satisfaction - 1)."""
        chance = self.spec.comeback
        if not 0 < chance < 1:
            return torch.full_like(luck, bool(chance), dtype=torch.bool)
        return luck < (satisfaction + (math.log(chance / (1 - chance)) - 1)).sigmoid_()

    def _days(self, luck: Float[Tensor, " user"]) -> Float[Tensor, " user"]:
        """Return days away: geometric with mean `gap`, and at least one."""
        stay = 1 - 1 / max(self.spec.gap, 1.0)
        return (luck.log() / math.log(stay)).ceil_() if stay > 0 else torch.ones_like(luck)

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
