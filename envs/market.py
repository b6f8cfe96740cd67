"""The market: what users who share a world do to its items, and what that does to those who supply them.

Popularity feeds on itself: exposure → clicks → popularity → clicks. Items are born and die. Providers whose
items are not shown leave, and take their items with them. Each of these is a switch of its own.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Seed

NEVER = (1 << 31) - 1
"""A time that no market reaches."""


@dataclass(frozen=True)
class MarketState:
    """What changes in a market.

    Attributes:
        popularity: of each item, mean 1 over the catalogue.
        time: steps since the market began.
        available: which items may be shown; None is all of them, always.
        enters: the time at which each item is born, if items are born or die; 0 is from the start.
        leaves: the time from which each item is dead.
        standing: each provider's moving average of exposure, in fair shares: 1 is its share of the catalogue.
        present: which providers are still there.
    """

    popularity: Float[Tensor, " item"]
    time: Int[Tensor, ""]
    available: Bool[Tensor, " item"] | None = None
    enters: Int[Tensor, " item"] | None = None
    leaves: Int[Tensor, " item"] | None = None
    standing: Float[Tensor, " provider"] | None = None
    present: Bool[Tensor, " provider"] | None = None


@dataclass(frozen=True)
class Lifecycle:
    """Items are born, without any popularity, and die.

    Attributes:
        unborn: how many items are not there at the start; which ones is the market's luck.
        until: their births are spread evenly over the steps 1 … until.
        lifetime: mean steps from birth (or from the start) to death, geometric; 0 is for ever.
    """

    unborn: int
    until: int
    lifetime: float


@dataclass(frozen=True)
class Supply:
    """Providers leave when their items are shown too little.

    After each step, with x_g the share of impressions on provider g's items over its share of the catalogue,
    v_g ← memory · v_g + (1 - memory) · x_g, from v_g = 1; the provider leaves for good once v_g < patience.
    The discounted exposure is that of RecSim NG's ecosystem (Mladenov et al. 2021, arXiv:2103.08057), whose
    providers react to it by a logit instead.

    Attributes:
        provider: who supplies each item, 0 … G - 1.
        share: each provider's share of the catalogue.
        memory: share of the old standing that survives a step.
        patience: the standing, in fair shares, below which a provider leaves; 0 is never.
    """

    provider: Int[Tensor, " item"]
    share: Float[Tensor, " provider"]
    memory: float
    patience: float

    @staticmethod
    def of(provider: Int[Tensor, " item"], memory: float, patience: float) -> "Supply":
        """Return the supply of these owners."""
        count = torch.bincount(provider).to(torch.float32)
        return Supply(provider, count / count.sum(), memory, patience)


@dataclass(frozen=True)
class Market:
    """How a market remembers what was clicked, and who supplies it.

    Popularity is a share of attention with mean 1 over the catalogue: 3 means three times the average item.
    After each step, with c_i the market's clicks on item i (and `impression` times its impressions), n items
    and m clicks from outside,

        p_i ← keep · p_i + (1 - keep) · n (c_i + m p⁰_i / n) / (Σ_j c_j + m),

    so the mean stays 1. Without feedback p stays p⁰.

    Attributes:
        start: p⁰, mean 1.
        feedback: whether clicks move popularity.
        keep: share of the old popularity that survives a step, in [0, 1]; the rest decays.
        outside: m, clicks per step from people outside this market, who follow p⁰ among the items that were
            there at the start and still are. It keeps a market of one user from being its own crowd.
        impression: what being shown counts, in clicks.
        floor: added inside the logarithm of `appeal`, so that a forgotten item is not hidden for ever.
        lifecycle: births and deaths, if any.
        supply: who supplies the items, if that matters.
        slots: K; of the items that should leave, as many stay as keep K, the first ones.
    """

    start: Float[Tensor, " item"]
    feedback: bool = False
    keep: float = 1.0
    outside: float = 0.0
    impression: float = 0.0
    floor: float = 0.05
    lifecycle: Lifecycle | None = None
    supply: Supply | None = None
    slots: int = 1

    @property
    def shared(self) -> bool:
        """Whether the users of a market share more than the world: each other's clicks, or its luck."""
        leaving = self.supply is not None and self.supply.patience > 0
        return self.feedback or leaving or self.lifecycle is not None

    def begin(self, first_user: int, seed: Seed) -> MarketState:
        """Return a fresh market; its luck is that of its first user."""
        device = self.start.device
        state = MarketState(self.start, torch.zeros((), dtype=torch.long, device=device))
        if self.supply is not None:
            groups = len(self.supply.share)
            state = replace(
                state,
                standing=torch.ones(groups, device=device),
                present=torch.ones(groups, dtype=torch.bool, device=device),
            )
        if self.lifecycle is not None:
            state = self._born(state, self.lifecycle, first_user, seed)
        if self.lifecycle is not None or (self.supply is not None and self.supply.patience > 0):
            everything = torch.ones(len(self.start), dtype=torch.bool, device=device)
            state = replace(state, available=self._available(state, everything))
        return state

    def _born(self, state: MarketState, life: Lifecycle, first_user: int, seed: Seed) -> MarketState:
        """Draw when each item enters and leaves; an item that is not there yet has no popularity."""
        key = torch.tensor([first_user], device=self.start.device)
        luck = seed.at(key, torch.zeros_like(key)).uniform("market items", 3 * len(self.start))
        which, when, how_long = luck.view(3, -1)
        late = torch.zeros_like(which, dtype=torch.bool)
        late[which.topk(life.unborn).indices] = True
        enters = torch.where(late, 1 + (when * life.until).long(), 0)
        leaves = torch.full_like(enters, NEVER)
        if life.lifetime > 0:
            rate = -math.log1p(-1 / life.lifetime) if life.lifetime > 1 else math.inf
            days = how_long.double().log() / -rate
            leaves = enters + days.ceil().clamp(min=1, max=NEVER // 2).long()
        start = self.start.masked_fill(late, 0.0)
        return replace(state, enters=enters, leaves=leaves, popularity=start / start.mean())

    def _available(self, state: MarketState, before: Bool[Tensor, " item"]) -> Bool[Tensor, " item"]:
        """Return what may be shown now; of what should leave, as much stays as makes K items."""
        now = torch.ones_like(before)
        if state.enters is not None and state.leaves is not None:
            now = (state.enters <= state.time) & (state.time < state.leaves)
        if self.supply is not None and state.present is not None:
            now = now & state.present[self.supply.provider]
        order = torch.arange(len(now), 0, -1, device=now.device) / (2 * len(now))  # of equals the first stay
        stay = (2.0 * now + before + order.double()).topk(self.slots).indices
        return now | torch.zeros_like(now).index_fill(0, stay, True)

    def appeal(self, popularity: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
        """Return log((p + floor) / (1 + floor)): 0 for an average item."""
        return ((popularity + self.floor) / (1 + self.floor)).log()

    def update(
        self,
        state: MarketState,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        active: Bool[Tensor, " user"],
    ) -> MarketState:
        """Return the market after one step of all its users.

        Clicks are counted in whole numbers, so the sum does not depend on its order.

        Args:
            state: the market before the step.
            slate: what each user was shown.
            click: what was clicked.
            active: the users who were there.
        """
        if not self.feedback and state.available is None and state.standing is None:
            return state
        shown = None
        if self.supply is not None or self.impression:
            shown = self._count(slate, active.unsqueeze(1).expand_as(slate).to(click.dtype))
        state = replace(state, time=state.time + 1)
        if self.feedback:
            state = replace(state, popularity=self._heard(state, self._count(slate, click), shown))
        if self.supply is not None and shown is not None:
            state = self._seen(state, self.supply, shown)
        if state.available is not None:
            state = replace(state, available=self._available(state, state.available))
        return state

    def _count(self, slate: Int[Tensor, "user slot"], worth: Float[Tensor, "user slot"]) -> Tensor:
        """Sum a value of each shown slot by item."""
        n = len(self.start)
        count = torch.zeros(n + 1, dtype=worth.dtype, device=worth.device)  # one more for the blank item
        return count.scatter_add_(0, slate.reshape(-1), worth.reshape(-1))[:n]

    def _heard(
        self, state: MarketState, count: Float[Tensor, " item"], shown: Float[Tensor, " item"] | None
    ) -> Float[Tensor, " item"]:
        """Return the popularity after these clicks and impressions."""
        popularity, n = state.popularity, len(self.start)
        if self.impression and shown is not None:
            count = count + self.impression * shown
        start, outside = self.start, torch.full_like(self.start[0], self.outside)
        if state.available is not None:  # nobody outside knows what was born here, or clicks what is gone
            old = state.available if state.enters is None else state.available & (state.enters == 0)
            start = start * old
            outside = outside * (start.sum() > 0)
            start = start / start.mean().clamp(min=1e-12)
        total = count.sum() + outside
        fresh = (count * n + outside * start) / total.clamp(min=1e-12)
        fresh = torch.where(total > 0, fresh, popularity)
        return torch.lerp(fresh, popularity, self.keep)

    def _seen(self, state: MarketState, supply: Supply, shown: Float[Tensor, " item"]) -> MarketState:
        """Return the market after providers have counted their impressions."""
        assert state.standing is not None
        assert state.present is not None
        total = shown.sum()
        mine = torch.zeros_like(supply.share).scatter_add_(0, supply.provider, shown)
        fair = torch.where(total > 0, mine / total.clamp(min=1.0) / supply.share, state.standing)
        standing = torch.lerp(fair, state.standing, supply.memory)
        return replace(state, standing=standing, present=state.present & (standing >= supply.patience))
