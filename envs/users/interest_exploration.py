"""Interest exploration: users of hidden types, of whom a minority likes what most people do not."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.multinomial import Multinomial
from envs.market import Market, MarketState
from envs.spec import WorldSpec, setting
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.seeds import Seed


@dataclass(frozen=True)
class InterestExplorationSpec(WorldSpec):
    """Settings of interest exploration, besides those of every world. The defaults are those of v1.

    Attributes:
        topic_share: share of the catalogue that each topic has.
        quality: mean of the log quality of each topic's items.
        quality_noise: standard deviation of an item's log quality.
        type_share: share of the users that are of each hidden type.
        affinity: mean log affinity of each type to each topic: type 0 to all topics, then type 1, …
        affinity_noise: standard deviation of a user's log affinity.
        type_spread: how far the types differ: 1 as they are, 0 all like the average type (of log affinities).
        no_click: logit of clicking nothing.
    """

    slots: int = setting(2, 1)
    horizon: int = setting(100, 1, 10**9)
    candidates: int = setting(10, 0)
    topic_share: tuple[float, ...] = setting((0.5, 0.5), 0, 1)
    quality: tuple[float, ...] = setting((0.8, 0.2), -5, 2)
    quality_noise: float = setting(0.1, 0, 1)
    type_share: tuple[float, ...] = setting((0.3, 0.7), 0, 1)
    affinity: tuple[float, ...] = setting((0.1, 1.1, 1.1, 0.1), -5, 2)
    affinity_noise: float = setting(0.1, 0, 1)
    type_spread: float = setting(1.0, 0, 2)
    no_click: float = setting(5.0, -50, 50)

    def check(self) -> None:
        """Refuse shares that are no distribution, and lists of the wrong length."""
        topics, types = len(self.topic_share), len(self.type_share)
        for name in ("topic_share", "type_share"):
            total = sum(getattr(self, name))
            if abs(total - 1) > 1e-6:
                raise BadInput(f"{name} adds up to {total:g}, but shares add up to 1")
        if len(self.quality) != topics:
            raise BadInput(f"quality has {len(self.quality)} values for {topics} topics")
        if len(self.affinity) != topics * types:
            raise BadInput(f"affinity has {len(self.affinity)} values for {types} types and {topics} topics")


@dataclass(frozen=True)
class InterestExplorationUsers:
    """Users, who do not change.

    Attributes:
        kind: the hidden type.
        affinity: g, the hidden liking of each topic, in logits.
    """

    kind: Int[Tensor, " user"]
    affinity: Float[Tensor, "user topic"]


class InterestExploration(SlateWorld[InterestExplorationUsers]):
    """Users of hidden types, of whom a minority likes what most people do not.

    ## Description
    RecSim's interest exploration (Ie et al. 2019, arXiv:1909.04847; code of recsim 0.2.4). Item d has a topic
    T_d and a quality f_d ~ LogNormal(quality[T_d], 0.1). A user has a hidden type and, for each topic, a
    hidden affinity g_T ~ LogNormal(affinity[type, T], 0.1). Neither changes. Of a slate, one item or none is
    clicked: P(d) = exp(g_T + f_d) / (Σ_j exp(g_Tj + f_j) + e⁵).

    | constant | v0 | v1 |
    |---|---|---|
    | share of items by topic | .2, .8 | .5, .5 |
    | mean log quality by topic | .8, .2 | .8, .2 |
    | share of users by type | .3, .7 | .3, .7 |
    | mean log affinity of type 0 | .1, .7 | .1, 1.1 |
    | mean log affinity of type 1 | .7, .1 | 1.1, .1 |
    | candidates | 5 | 10 |

    RecSim draws new documents at each step; here a user's candidates are drawn at each step, without
    replacement, from a catalogue whose topics and qualities are spread evenly over their distributions.

    **The defect of v0**: topic 0 is so much better made that both types prefer it (mean logits 3.3 : 3.2 of
    type 0, and 4.2 : 2.3 of type 1), so whoever shows what is popular ties with whoever knows each user.

    ## Action
    K different item ids. Their order does not matter.

    ## Observation
    A `Context`. Items: topic (one-hot) and quality. Users: nothing but their history of slates and clicks.

    | feature | what it is | range |
    |---|---|---|
    | 0 | share of the time limit used (RecSim shows no time) | 0 … 1 |

    ## Reward
    The number of clicks, 0 or 1 at each step.

    ## Popularity
    The mean attraction over users of all types, without feedback: what RecSim's greedy agent sorts by.

    ## Episode end
    `truncated` after 100 steps; RecSim's episodes never end.

    ## Version history
    * v0: RecSim's equations and constants, with its defect; `main.py`'s 5 candidates and slates of 2.
    * v1: each type likes its own topic more (mean log affinity 1.1, not .7), so that liking outweighs quality
      and each type prefers another topic; yet the minority still clicks the popular topic more often (.16)
      than the average user clicks the other one (.14), so that a recommender who only follows what it has
      seen has no reason to try it. Topics are equally common, and there are 10 candidates: with the stock's,
      a third of the steps have no item of the popular topic, and everyone is made to explore.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {
        "simlab/InterestExploration-v0": {
            "candidates": 5,
            "topic_share": (0.2, 0.8),
            "affinity": (0.1, 0.7, 0.7, 0.1),
        },
        "simlab/InterestExploration-v1": {},
    }
    Spec: ClassVar[type[InterestExplorationSpec]] = InterestExplorationSpec
    draws: ClassVar[int] = 0
    spec: InterestExplorationSpec

    def build(self) -> None:
        """Lay out items so that topics and qualities fill their distributions evenly."""
        spec, n = self.spec, self.spec.items
        self.feature_bound = 1.0
        # Multiples of the golden ratio mix the topics over the ids; the counts are exact to rounding.
        mixed = (torch.arange(n, dtype=torch.float64) * 0.6180339887498949) % 1
        ends = torch.tensor(spec.topic_share, dtype=torch.float64).cumsum(0)[:-1]
        topic = torch.searchsorted(ends, (_rank(mixed) + 0.5) / n, right=True)
        item = torch.arange(n)
        luck = Seed(spec.world_seed).split("interest exploration items").at(item, torch.zeros_like(item))
        place = torch.empty(n, dtype=torch.float64)  # evenly spread in (0, 1) within each topic
        shuffled = luck.uniform("order", 1).squeeze(1)
        for t in range(len(spec.topic_share)):
            mine = (topic == t).nonzero().squeeze(1)
            place[mine] = _rank(shuffled[mine]).double()
        jitter = luck.uniform("quality", 1).squeeze(1).double()
        size = torch.bincount(topic, minlength=len(spec.topic_share))
        normal = torch.special.ndtri((place + jitter) / size[topic])
        mean = torch.tensor(spec.quality, dtype=torch.float64)[topic]
        quality = (mean + spec.quality_noise * normal).exp().float()

        self.topic, self.quality = topic.to(self.device), quality.to(self.device)
        one_hot = torch.nn.functional.one_hot(topic, len(spec.topic_share)).float()
        self.catalog = Catalog(
            torch.cat([one_hot, quality.unsqueeze(1)], 1).to(self.device),
            feature_names=(*(f"topic_{t}" for t in range(len(spec.topic_share))), "quality"),
        )
        self.clicks = Multinomial.typical(self.slots).to(self.device)
        self.type_share = torch.tensor(spec.type_share, dtype=torch.float64, device=self.device)
        self.mean_affinity = self._mean_affinity()
        self.market = Market(self._popularity())
        # One more for the blank item: a logit that no affinity can lift.
        self._topic = torch.nn.functional.pad(self.topic, (0, 1))
        self._logit = torch.nn.functional.pad(self.quality - spec.no_click, (0, 1), value=-torch.inf)

    def _mean_affinity(self) -> Float[Tensor, "type topic"]:
        """Return the mean log affinity of each type, drawn together as far as `type_spread` is below 1."""
        spec = self.spec
        stated = torch.tensor(spec.affinity, dtype=torch.float64, device=self.device)
        stated = stated.view(len(spec.type_share), -1)
        average = self.type_share @ stated
        return average + spec.type_spread * (stated - average)

    def _popularity(self) -> Float[Tensor, " item"]:
        """Return the mean attraction of each item over users, mean 1: 16 quantiles of each type."""
        quantile = (torch.arange(16, dtype=torch.float64, device=self.device) + 0.5) / 16
        noise = self.spec.affinity_noise * torch.special.ndtri(quantile)
        logit = self.quality.double() - self.spec.no_click
        mean = torch.zeros_like(logit)
        for share, means in zip(self.type_share, self.mean_affinity, strict=True):
            affinity = (means[self.topic].unsqueeze(1) + noise).exp()
            mean += share * (affinity + logit.unsqueeze(1)).sigmoid().mean(1)
        return (mean / mean.mean()).float()

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> InterestExplorationUsers:
        """Draw a type, and an affinity to each topic."""
        topics = len(self.spec.topic_share)
        uniform = seed.at(user, torch.zeros_like(user)).uniform("user", 1 + topics).double()
        kind = torch.searchsorted(self.type_share.cumsum(0)[:-1], uniform[:, 0].contiguous(), right=True)
        noise = self.spec.affinity_noise * torch.special.ndtri(uniform[:, 1:])
        return InterestExplorationUsers(kind, (self.mean_affinity[kind] + noise).exp().float())

    def respond(
        self, users: InterestExplorationUsers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return σ(g_T + f_d - 5), the probability of a click on the item alone."""
        flat = slate.reshape(-1)
        topic = self._topic.index_select(0, flat).view(slate.shape)
        logit = self._logit.index_select(0, flat).view(slate.shape)
        return users.affinity.gather(1, topic).add_(logit).sigmoid_()

    def relevance(self, state: State[InterestExplorationUsers]) -> Float[Tensor, "user item"]:
        """Return σ(g_T + f_d - 5) of every item: sorted by it, a slate earns the most there is."""
        return (state.users.affinity[:, self.topic] + self._logit[:-1]).sigmoid()

    def evolve(
        self,
        users: InterestExplorationUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[InterestExplorationUsers, Bool[Tensor, " user"]]:
        """Change nothing; nobody leaves."""
        return users, torch.zeros(len(slate), dtype=torch.bool, device=slate.device)

    def observe_users(self, state: State[InterestExplorationUsers]) -> Float[Tensor, "user feat"]:
        """Return the share of the time limit used."""
        return (state.step / self.horizon).float().unsqueeze(1)


def _rank(value: Float[Tensor, " item"]) -> Int[Tensor, " item"]:
    """Return the rank of each value, 0 for the smallest."""
    return value.argsort().argsort()


PART = InterestExploration
