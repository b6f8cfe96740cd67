"""Long-term satisfaction: clickbait pays at once, and wears the user down."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.cascade import Cascade
from envs.market import Market, MarketState
from envs.spec import WorldSpec, setting
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.seeds import Seed


@dataclass(frozen=True)
class LongTermSatisfactionSpec(WorldSpec):
    """Settings of long-term satisfaction, besides those of every world. The defaults are those of v1.

    Attributes:
        sensitivity: how much satisfaction depends on exposure; 0 turns the long term off.
        memory: share of the exposure that survives a step.
        innovation: standard deviation of the exposure's noise.
        choc: mean log engagement of a satisfied user with pure clickbait.
        kale: the same with no clickbait at all.
        noise: standard deviation of the log engagement.
        limit: the largest engagement that is observed.
        clip_reward: the reward has the same limit.
    """

    slots: int = setting(1, 1)
    horizon: int = setting(60, 1, 10**9)
    candidates: int = setting(10, 0)
    sensitivity: float = setting(0.25, 0)
    memory: float = setting(0.7, 0, 0.99)
    innovation: float = setting(0.05, 0)
    choc: float = setting(5.0, -10, 10)
    kale: float = setting(4.0, -10, 10)
    noise: float = setting(1.0, 0, 3, open_low=True)
    limit: float = setting(100.0, 0, open_low=True)
    clip_reward: bool = setting(True)


@dataclass(frozen=True)
class LongTermSatisfactionUsers:
    """What changes in a user.

    Attributes:
        exposure: NPE, the net positive exposure; hidden.
        engagement: with the last slate, as observed.
    """

    exposure: Float[Tensor, " user"]
    engagement: Float[Tensor, " user"]


class LongTermSatisfaction(SlateWorld[LongTermSatisfactionUsers]):
    """Clickbait pays at once, and wears the user down.

    ## Description
    RecSim's long-term satisfaction, "choc or kale" (Ie et al. 2019, arXiv:1909.04847; code of recsim 0.2.4).
    Item d has a clickbait score c_d, spread evenly over [0, 1]. A user has a hidden net positive exposure NPE
    and a satisfaction SAT = σ(sensitivity · NPE). The top item is always clicked, the others never. Then

    * engagement = exp(SAT · (5c + 4(1 - c)) + N(0, 1)), with the satisfaction before the click
    * NPE ← 0.7 NPE - 2(c - ½) + N(0, 0.05)

    from NPE₀ ~ U(-½, ½) / 0.3. (RecSim's docstring adds 2(c - ½); its code subtracts it, and so do we. The
    second arguments are standard deviations.) RecSim draws new documents at each step; here a user's 10
    candidates are drawn at each step, without replacement, from a fixed catalogue.

    **The defect of v0**: at RecSim's sensitivity of 0.01 satisfaction hardly moves (from .49 to .51), so that
    showing the most clickbait always earns more (about 1117 an episode) than the least (786).

    ## Action
    K different item ids, top first. Only the top one is consumed.

    ## Observation
    A `Context`; the items' clickbait scores; the clicks of the history. NPE is hidden.

    | feature | what it is | range |
    |---|---|---|
    | 0 | engagement with the last slate, at most 100; 0 at the start | 0 … 100 |
    | 1 | share of the time limit used (RecSim shows no time) | 0 … 1 |

    ## Reward
    The engagement: in v0 without a limit, though what is observed has one; in v1 the one observed.

    ## Popularity
    The mean reward with a user of NPE 0, without feedback: who follows it shows the most clickbait.

    ## Episode end
    `truncated` after 60 steps, when RecSim says terminated.

    ## Version history
    * v0: RecSim's equations and constants, with its defect.
    * v1: sensitivity 0.25, so that satisfaction matters; and the reward is the observed engagement, at most
      100. Without that limit 7 % of the far-sighted return lies beyond what a recommender observes.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {
        "simlab/LongTermSatisfaction-v0": {"sensitivity": 0.01, "clip_reward": False},
        "simlab/LongTermSatisfaction-v1": {},
    }
    Spec: ClassVar[type[LongTermSatisfactionSpec]] = LongTermSatisfactionSpec
    draws: ClassVar[int] = 2
    unit: ClassVar[str] = "engagement"
    spec: LongTermSatisfactionSpec

    def build(self) -> None:
        """Spread the clickbait scores evenly over (0, 1), in random order."""
        spec, n = self.spec, self.spec.items
        self.feature_bound = max(spec.limit, 1.0)
        item = torch.arange(n)
        luck = Seed(spec.world_seed).split("long-term satisfaction items").at(item, torch.zeros_like(item))
        order, jitter = luck.uniform("clickbait", 2).double().unbind(1)
        self.clickbait = ((order.argsort().argsort() + jitter) / n).float().to(self.device)
        self.catalog = Catalog(self.clickbait.unsqueeze(1), feature_names=("clickbait",))
        self.clicks = Cascade.typical(self.slots).to(self.device)
        worth = self._worth(torch.zeros(1, device=self.device), self.clickbait)
        self.market = Market(worth / worth.mean())
        self._clickbait = torch.nn.functional.pad(self.clickbait, (0, 1))

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> LongTermSatisfactionUsers:
        """Draw NPE₀ ~ U(-½, ½) / (1 - memory)."""
        uniform = seed.at(user, torch.zeros_like(user)).uniform("exposure", 1).squeeze(1)
        exposure = (uniform - 0.5) / (1 - self.spec.memory)
        return LongTermSatisfactionUsers(exposure, torch.zeros_like(exposure))

    def respond(
        self, users: LongTermSatisfactionUsers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return 1: whatever is seen is clicked."""
        return (slate != self.blank).to(users.exposure.dtype)

    def relevance(self, state: State[LongTermSatisfactionUsers]) -> Float[Tensor, "user item"]:
        """Return 1 for every item: the items differ in what a click is worth."""
        return torch.ones(len(state.user), self.catalog.n_items, device=self.device)

    def _mean(
        self, exposure: Float[Tensor, "*shape"], clickbait: Float[Tensor, "*other"]
    ) -> Float[Tensor, "*both"]:
        """Return the mean log engagement, SAT · (5c + 4(1 - c))."""
        spec = self.spec
        satisfaction = (spec.sensitivity * exposure).sigmoid()
        return satisfaction * torch.add(clickbait * (spec.choc - spec.kale), spec.kale)

    def _worth(
        self, exposure: Float[Tensor, "*shape"], clickbait: Float[Tensor, "*other"]
    ) -> Float[Tensor, "*both"]:
        """Return the exact mean reward: e^{m + s²/2}, or the mean of a log-normal that is cut off at L.

        With Φ the normal distribution function, E min(e^{m + sZ}, L) =
        e^{m + s²/2} Φ((log L - m)/s - s) + L Φ((m - log L)/s).
        """
        spec = self.spec
        mean = self._mean(exposure, clickbait)
        whole = (mean + spec.noise**2 / 2).exp()
        if not spec.clip_reward:
            return whole
        room = (math.log(spec.limit) - mean) / spec.noise
        below: Tensor = whole * torch.special.ndtr(room - spec.noise)
        return torch.add(below, torch.special.ndtr(-room), alpha=spec.limit)

    def value(self, users: LongTermSatisfactionUsers, slate: Int[Tensor, "user slot"]) -> Tensor:
        """Return the exact mean reward of a click on each item, [user slot]."""
        return self._worth(users.exposure.unsqueeze(1), self._clickbait[slate])

    def _consumed(
        self, slate: Int[Tensor, "user slot"], click: Float[Tensor, "user slot"]
    ) -> Float[Tensor, " user"]:
        """Return the clickbait score of the clicked item, 0 where there is none."""
        clickbait = self._clickbait.index_select(0, slate.reshape(-1)).view(slate.shape)
        return (clickbait * click).sum(1)

    def _engagement(
        self,
        users: LongTermSatisfactionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> Float[Tensor, " user"]:
        """Return the engagement, 0 where nothing was clicked; its noise is the first normal of the pair."""
        normal = (luck[:, 0].log() * -2).sqrt_() * (luck[:, 1] * (2 * math.pi)).cos_()
        mean = self._mean(users.exposure, self._consumed(slate, click))
        return torch.add(mean, normal, alpha=self.spec.noise).exp_() * click.sum(1)

    def reward(
        self,
        users: LongTermSatisfactionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> Float[Tensor, " user"]:
        """Return the engagement, with its noise."""
        engagement = self._engagement(users, slate, click, luck)
        return engagement.clamp_(max=self.spec.limit) if self.spec.clip_reward else engagement

    def evolve(
        self,
        users: LongTermSatisfactionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[LongTermSatisfactionUsers, Bool[Tensor, " user"]]:
        """Move the exposure where something was clicked; the noise is the second normal of the pair."""
        spec = self.spec
        normal = (luck[:, 0].log() * -2).sqrt_() * (luck[:, 1] * (2 * math.pi)).sin_()
        moved = torch.add(users.exposure * spec.memory, self._consumed(slate, click) - 0.5, alpha=-2)
        moved = moved.add_(normal, alpha=spec.innovation)
        exposure = torch.where(click.sum(1) > 0, moved, users.exposure)
        engagement = self._engagement(users, slate, click, luck).clamp_(max=spec.limit)
        gone = torch.zeros(len(slate), dtype=torch.bool, device=slate.device)
        return LongTermSatisfactionUsers(exposure, engagement), gone

    def observe_users(self, state: State[LongTermSatisfactionUsers]) -> Float[Tensor, "user feat"]:
        """Return the last engagement and the share of the time limit used."""
        time = (state.step / self.horizon).to(state.users.engagement.dtype)
        return torch.stack([state.users.engagement, time], 1)

    # The oracles -------------------------------------------------------------------------------

    def myopic(self, state: State[LongTermSatisfactionUsers]) -> Float[Tensor, "user item"]:
        """Return the mean reward of each item now: the more clickbait, the more."""
        return self._worth(state.users.exposure.unsqueeze(1), self.clickbait)

    def foresight(self, state: State[LongTermSatisfactionUsers]) -> Float[Tensor, "user item"]:
        """Return the mean reward of each item now, plus the mean return from there on.

        The latter was found by a dynamic programme over NPE (`_ahead`), exact but for its grid of 401
        points, 128 quantiles of the clickbait scores, three points for the noise, and candidates drawn as if
        one item could come twice. It feeds the user kale,
        and turns to clickbait for the last steps, when little is left to lose.
        """
        exposure = state.users.exposure.unsqueeze(1)
        onward = self.spec.memory * exposure - 2 * (self.clickbait - 0.5)
        low, part = self._between(onward)
        place = low + GRID * (state.step + 1).clamp(max=self.horizon).unsqueeze(1)
        ahead = torch.lerp(self._ahead.take(place), self._ahead.take(place + 1), part)
        return self._worth(exposure, self.clickbait).add_(ahead)

    @property
    def _reach(self) -> float:
        """Return a bound of |NPE|, but for noise beyond six standard deviations."""
        return 1 / (1 - self.spec.memory) + 6 * self.spec.innovation / math.sqrt(1 - self.spec.memory**2)

    def _between(self, exposure: Float[Tensor, "*shape"]) -> tuple[Tensor, Tensor]:
        """Return the grid point below each exposure, and how far it is on to the next."""
        place = ((exposure / self._reach + 1) * (GRID // 2)).clamp(0, GRID - 1)
        low = place.long().clamp(max=GRID - 2)
        return low, place - low

    @cached_property
    def _ahead(self) -> Float[Tensor, "time grid"]:
        """Return the best mean return from step t on, by the mean of NPE_t before its noise.

        Backward from the end: V_t(x) = E max_c [r(x, c) + W_{t+1}(0.7x - 2(c - ½))], and W_t(y) =
        E V_t(y + noise). The maximum is over the step's candidates, m of n at random: the j-th best of n is
        the best of them with probability ((n - j + 1)/n)^m - ((n - j)/n)^m, as if drawn with replacement.
        """
        spec, device = self.spec, self.device
        grid = torch.linspace(-self._reach, self._reach, GRID, dtype=torch.float64, device=device)
        some = torch.linspace(0, spec.items - 1, min(spec.items, 128), device=device).round().long()
        clickbait = self.clickbait.double().sort().values[some]
        worth = self._worth(grid.unsqueeze(1), clickbait)
        low, part = self._between(spec.memory * grid.unsqueeze(1) - 2 * (clickbait - 0.5))
        beside = [self._between(grid + z * spec.innovation) for z in (-math.sqrt(3), math.sqrt(3))]
        share = torch.linspace(0, 1, len(some) + 1, dtype=torch.float64, device=device)
        best = (share**spec.candidates).diff()
        ahead = torch.zeros(self.horizon + 1, GRID, dtype=torch.float64, device=device)
        for t in range(self.horizon - 1, -1, -1):
            onward = ahead[t + 1]
            total = worth + torch.lerp(onward[low], onward[low + 1], part)
            value = total.sort(1).values @ best if spec.candidates else total.amax(1)
            ahead[t] = 2 / 3 * value + sum(torch.lerp(value[i], value[i + 1], p) / 6 for i, p in beside)
        return ahead.float()


GRID = 401
"""Points of NPE in the dynamic programme; odd, so that 0 is one of them."""

PART = LongTermSatisfaction
