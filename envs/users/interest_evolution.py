"""Interest evolution: users with a budget of time, whose interests move with what they watch."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.proportional import Proportional
from envs.market import Market, MarketState
from envs.spec import WorldSpec, setting
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.seeds import Seed

TOPICS = 20
TRASHY = 14
"""Topics of low quality, the first ones; the other six are the good ones."""


@dataclass(frozen=True)
class InterestEvolutionSpec(WorldSpec):
    """Settings of interest evolution, besides those of every world. The defaults are those of v1.

    Attributes:
        sharpness: power of the odds of a click in the interest; 1 is RecSim's.
        acquired: the highest first interest in a good topic; below 1, good things are an acquired taste.
        evolution: a click moves the interest by evolution · (1 - |u|) (1 - u); 0 keeps all interests.
        polarising: whether the click moves it away with probability (1 - u) / 2, and not always up.
        ladder: mean quality of the best topic, and minus that of the worst.
        quality_noise: standard deviation of quality within a topic.
        budget: time that a user has at first.
        length: of every video.
        refund: share of the time watched that comes back per unit of quality.
        penalty: time lost when nothing is clicked.
    """

    slots: int = setting(3, 1)
    horizon: int = setting(500, 1, 10**9)
    sharpness: float = setting(5.0, 0, 20)
    acquired: float = setting(0.0, -1, 1)
    evolution: float = setting(0.3, 0, 0.5)
    polarising: bool = setting(False)
    ladder: float = setting(3.0, 0, 3)
    quality_noise: float = setting(0.1, 0, 0.1)
    budget: float = setting(200.0, 0, 10_000, open_low=True)
    length: float = setting(4.0, 0, 100, open_low=True)
    refund: float = setting(0.9 / 3.4, 0, 0.9 / 3.4)
    penalty: float = setting(0.5, 0, 100, open_low=True)


@dataclass(frozen=True)
class InterestEvolutionUsers:
    """What changes in a user.

    Attributes:
        interest: u in each topic, -1 … 1. The last column is the blank item's, always -1: never clicked.
        budget: B, the time that is left.
    """

    interest: Float[Tensor, "user topic_and_blank"]
    budget: Float[Tensor, " user"]


class InterestEvolution(SlateWorld[InterestEvolutionUsers]):
    """Users with a budget of time, whose interests move with what they watch.

    ## Description
    RecSim's interest evolution (Ie et al. 2019, arXiv:1905.12767 and 1909.04847; code of recsim 0.2.4). There
    are 20 topics. An item has one topic c, length 4 and quality q ~ N(μ_c, 0.1); μ climbs from -3 to 0 over
    topics 0 … 13, and from 0 to 3 over topics 14 … 19, the good ones. A user has an interest u_c in each
    topic and a budget B of time, 200 at first. Of a slate, one item or none is chosen, with odds
    o_i = ((u_c + 1) / 2)^s:

        P(i) = o_i / (1 + Σ_j o_j),    P(none) = 1 / (1 + Σ_j o_j).

    A chosen item is watched for w = min(B, 4), and then

        B ← B - w + (0.9 / 3.4) w q,    u_c ← u_c ± 0.3 (1 - |u_c|) (1 - u_c),

    so good items give back nearly all the time that they take, and bad ones take up to twice that. Without a
    choice, B ← B - 0.5. The order of a slate does not matter.

    | | v0 | v1 |
    |---|---|---|
    | s, `sharpness` | 1 | 5 |
    | first interests | U[-1, 1] | U[-1, 1]; U[-1, 0] in good topics (`acquired`) |
    | the sign ± | + with probability (u_c + 1) / 2 (`polarising`) | + |
    | candidates | 10, drawn at each step | the whole catalogue |

    RecSim draws new documents at each step; here a user's candidates are drawn without replacement from a
    catalogue with as many items of each topic. RecSim's responses also show the quality of every item of the
    slate, clicked or not; it is hidden here in all versions.

    **The defects of v0**: interests move the odds of a click by little (from ½ to 1 as u goes from 0 to 1),
    quality is the same for everybody, and a click in a topic that is not liked lowers the interest more often
    than not. So the rule "show the highest topics", which does not look at the user, earns half as much again
    as sorting by the true click probabilities (265 : 168 minutes), and planning ahead (278) pays just as well
    where interests stand still (282).

    ## Action
    K different item ids.

    ## Observation
    A `Context`. Items: the topic, one-hot. Users, besides their history of slates and clicks:

    | feature | what it is | range |
    |---|---|---|
    | 0 … 19 | interest in each topic, as it is now | -1 … 1 |

    The budget is hidden, as in RecSim.

    ## Reward
    Time watched: min(B, 4) for a click.

    ## Popularity
    The mean attraction over new users, without feedback.

    ## Episode end
    `terminated` when B ≤ 0. A step takes at least 0.5 until B < 4 (no quality is above 3.3 by much), so an
    episode has some 400 steps at most; `truncated` after 500, which hardly happens. RecSim has no time limit.

    ## Version history
    * v0: RecSim's equations and constants, with their defects; SlateQ's 10 candidates and slates of 3.
    * v1: interest decides what is clicked, good things are an acquired taste, and a click always moves the
      interest up. Far-sighted recommenders can steer each user to the good topic that is nearest; nobody can
      where interests stand still (`evolution=0`). All may be shown: of 10 random candidates the topic that a
      user is steered to is mostly not one. Minutes (1000 items, 1000 users of seed 1, 99 % intervals):
      far-sighted 552 ± 24, topic 19 for all 409 ± 34, myopic 142 ± 2, popularity 120 ± 1, random 112 ± 1;
      without evolution 172 ± 2, 25 ± 3, 141 ± 2, 115 ± 1, 106 ± 1.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {
        "simlab/InterestEvolution-v0": {
            "candidates": 10,
            "sharpness": 1.0,
            "acquired": 1.0,
            "polarising": True,
        },
        "simlab/InterestEvolution-v1": {},
    }
    Spec: ClassVar[type[InterestEvolutionSpec]] = InterestEvolutionSpec
    draws: ClassVar[int] = 1
    unit: ClassVar[str] = "minutes"
    small: ClassVar[dict[str, Any]] = {"items": 40, "slots": 4, "horizon": 12}
    spec: InterestEvolutionSpec

    def build(self) -> None:
        """Lay out items, as many of each topic, with topics mixed over the ids by construction."""
        spec, device = self.spec, self.device
        self.feature_bound = 1.0
        self.mean_quality = torch.cat(
            [torch.linspace(-spec.ladder, 0, TRASHY), torch.linspace(0, spec.ladder, TOPICS - TRASHY)]
        ).to(device)
        item = torch.arange(spec.items)
        luck = Seed(spec.world_seed).split("interest evolution items").at(item, torch.zeros_like(item))
        noise = torch.special.ndtri(luck.uniform("quality", 1).squeeze(1).double()).float()
        self.topic = (item % TOPICS).to(device)
        self.quality = self.mean_quality[self.topic] + spec.quality_noise * noise.to(device)
        self.catalog = Catalog(
            torch.nn.functional.one_hot(self.topic, TOPICS).float(),
            feature_names=tuple(f"topic_{t}" for t in range(TOPICS)),
        )
        self.clicks = Proportional.typical(self.slots).to(device)
        # First interests are uniform from -1 to a ceiling.
        self._ceiling = torch.where(torch.arange(TOPICS, device=device) < TRASHY, 1.0, spec.acquired)
        # One more for the blank item: a column of its own, and no quality.
        self._topic = torch.nn.functional.pad(self.topic, (0, 1), value=TOPICS)
        self._quality = torch.nn.functional.pad(self.quality, (0, 1))
        place = torch.arange(self.slots, device=device, dtype=torch.float32)
        self._which = torch.stack([place, torch.ones_like(place)], 1)
        self.market = Market(self._popularity())

    def _popularity(self) -> Float[Tensor, " item"]:
        """Return the mean attraction of each item over new users, mean 1: 256 quantiles of the interest."""
        quantile = (torch.arange(256, device=self.device) + 0.5) / 256
        mean = self._attraction(quantile.unsqueeze(1) * (self._ceiling + 1) - 1).mean(0)[self.topic]
        return mean / mean.mean()

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> InterestEvolutionUsers:
        """Draw interests, uniform from -1 to 1, or to `acquired` in good topics."""
        uniform = seed.at(user, torch.zeros_like(user)).uniform("interest", TOPICS)
        interest = torch.nn.functional.pad(uniform * (self._ceiling + 1) - 1, (0, 1), value=-1.0)
        return InterestEvolutionUsers(interest, torch.full_like(interest[:, 0], self.spec.budget))

    def _odds(self, interest: Float[Tensor, "user any"]) -> Float[Tensor, "user any"]:
        """Return ((u + 1) / 2)^s."""
        odds = torch.add(0.5, interest, alpha=0.5)
        return odds if self.spec.sharpness == 1 else odds.pow_(self.spec.sharpness)

    def _attraction(self, interest: Float[Tensor, "user any"]) -> Float[Tensor, "user any"]:
        """Return o / (1 + o), the probability of a click on an item of that interest alone."""
        odds = self._odds(interest)
        return odds / (odds + 1)

    def respond(
        self, users: InterestEvolutionUsers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return the attraction of each item: its topic's."""
        topic = self._topic.index_select(0, slate.reshape(-1)).view(slate.shape)
        return self._attraction(users.interest.gather(1, topic))

    def relevance(self, state: State[InterestEvolutionUsers]) -> Float[Tensor, "user item"]:
        """Return the attraction of every item; sorted by it, a slate has the best chance of a click."""
        return self._attraction(state.users.interest).index_select(1, self.topic)

    def value(
        self, users: InterestEvolutionUsers, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return min(B, 4): what a click is watched for."""
        return users.budget.clamp(max=self.spec.length).unsqueeze(1).expand(slate.shape)

    def reward(
        self,
        users: InterestEvolutionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> Float[Tensor, " user"]:
        """Return min(B, 4) for a click, as `value` does, without a value for each slot."""
        return (click @ self._which[:, 1]).mul_(users.budget.clamp(max=self.spec.length))

    def evolve(
        self,
        users: InterestEvolutionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[InterestEvolutionUsers, Bool[Tensor, " user"]]:
        """Spend time, and move the interest in the topic that was watched; at most one item is."""
        spec = self.spec
        slot, watched = (click @ self._which).unbind(1)
        item = torch.where(watched > 0, slate.gather(1, slot.long().unsqueeze(1)).squeeze(1), self.blank)
        time = users.budget.clamp(max=spec.length)
        share = self._quality.index_select(0, item).mul_(spec.refund).sub_(1)
        change = torch.where(watched > 0, share.mul_(time), -spec.penalty)
        budget = users.budget + change
        interest = users.interest
        if spec.evolution:
            topic = self._topic.index_select(0, item).unsqueeze(1)
            u = interest.gather(1, topic)
            # The blank item's column stays -1: there 1 - |u| is 0. No move leaves [-1, 1].
            move = (1 - u).mul_(1 - u.abs()).mul_(spec.evolution)
            if spec.polarising:
                up = torch.add(0.5, u, alpha=0.5)
                move = torch.where(luck < up, move, -move)
            interest = interest.scatter(1, topic, u + move)
        return InterestEvolutionUsers(interest, budget), budget <= 0

    def observe_users(self, state: State[InterestEvolutionUsers]) -> Float[Tensor, "user feat"]:
        """Return the interests; the budget is hidden."""
        return state.users.interest[:, :-1]

    def foresight(
        self, state: State[InterestEvolutionUsers], price: float = 1.2, toll: float = 0.7, clicks: int = 20
    ) -> Float[Tensor, "user item"]:
        """Return the long-term value of each item, in one of two ways. Both are heuristics.

        With few candidates, drawn anew at each step, and clicks that polarise (v0): the odds of a click times
        its worth in the long run, o_i (4 + price · (0.9/3.4 · 4 q_i - 4 + 0.5) - toll), a minute of budget
        buying `price` minutes of watching; all but the first 4 shrinks with the refund. Of a slate that earns
        r_i on a click, the best is that with the highest o_i (r_i - toll), toll being its value. Found by
        search over price {0.8, 1, 1.2, 1.4, 1.6, 2} and toll {0, 0.5, 0.7, 1, 1.6, 2} in v0, where it is flat
        around the best.

        Else, the minutes that the budget buys if from now on slates hold the topic of the item only, its
        interest moving as expected: a click takes C = 4 - 4 · 0.9/3.4 · μ_c + 0.5 / (K o) of the budget on
        average, with the steps before it, and the plan takes clicks until the budget is used up.

        Args:
            state: where the shard is.
            price: minutes that a minute of budget buys.
            toll: value of the slate that an item competes with.
            clicks: steps of the plan after which the interest is taken to stand still.
        """
        spec, users = self.spec, state.users
        interest = users.interest[:, :-1]
        back = spec.refund * spec.length
        if spec.candidates and spec.polarising:
            # Without a refund the budget buys no choice worth planning for.
            lasting = spec.refund / (0.9 / 3.4)
            later = price * (back * self.quality - spec.length + spec.penalty) - toll
            worth = spec.length + lasting * later
            index: Tensor = self._odds(interest).index_select(1, self.topic) * worth
            return index
        left = users.budget.unsqueeze(1).expand_as(interest)
        taken = torch.zeros_like(interest)
        net = spec.length - back * self.mean_quality
        for t in range(clicks):
            cost = net + spec.penalty / (self.slots * (0.5 + interest / 2) ** spec.sharpness).clamp(min=1e-9)
            now = (left / cost).clamp(max=1.0) if t < clicks - 1 else left / cost
            taken = taken + now
            left = left - now * cost
            move = spec.evolution * (1 - interest.abs()) * (1 - interest)
            interest = interest + (move * interest if spec.polarising else move)
        minutes: Tensor = taken.index_select(1, self.topic) * spec.length
        best = back * (self.quality - self.mean_quality[self.topic])  # within the topic, the best first
        total: Tensor = minutes + best
        return total


PART = InterestEvolution
