"""Organic and bandit sessions: what users look at by themselves says what they will click on."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.position_based import PositionBased
from envs.market import Market, MarketState
from envs.users._organic_bandit_spec import OrganicBanditSpec
from envs.users._organic_views import Products, draw_views, room
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.seeds import Seed


@dataclass(frozen=True)
class Shoppers:
    """What changes in a user.

    Attributes:
        taste: ω.
        viewed: the last organic views, product ids in a ring; -1 where none yet.
        total: how many views were put into the ring.
        fresh: how many of them since the last recommendation.
        time: events so far, views and recommendations.
    """

    taste: Float[Tensor, "user dim"]
    viewed: Int[Tensor, "user ring"]
    total: Int[Tensor, " user"]
    fresh: Int[Tensor, " user"]
    time: Float[Tensor, " user"]


class OrganicBandit(SlateWorld[Shoppers]):
    """Shoppers who view products by themselves between recommendations.

    ## Description
    After RecoGym 0.1.3 (`reco-gym-v1`; Rohde et al. 2018, arXiv:1808.00720). Product i has a latent
    vector Γ_i ~ N(0, I_K) and a popularity μ_i ~ N(0, σ_μ²), K = 5. A user has a taste ω, at first ~
    N(0, σ_ω0² I), and is in one of three states:

    * organic: views a product, drawn from softmax(Γω + μ)
    * bandit: is shown a recommendation a, and clicks with probability ff(β_a·ω + ν_a), where
      ff(x) = σ(5 σ(2 σ(0.3 x) - 2) - 6) lies between 0.45 % and 2.9 %
    * gone

    | from | to organic | to bandit | gone |
    |---|---|---|---|
    | organic | the rest | 0.25 | 0.01 |
    | bandit, not clicked | 0.05 | the rest | 0.01 |
    | bandit, clicked | 1 | 0 | 0 |

    A user starts organic. Before each view that follows another event, ω ← ω + N(0, σ_ω² I), σ_ω = 0.1.
    (β, ν) = (Γ, μ), except that `flips` pairs of the most similar products trade theirs, most similar
    first. `organic_signal` ρ is ours: (β, ν) ← ρ (β, ν) + √(1-ρ²) · an independent copy; at 0 views say
    nothing of clicks.

    One step is one bandit event, and `reset` and `step` run on to the next. A session's length is
    geometric. Its views are drawn one by one, each with the taste of its moment. Of a session with more
    than `views` views (50: three sessions in ten million) the first are never seen, so their steps of
    taste are drawn in one. What is drawn is exact, but for float32, 23 bits of luck, and a chance below
    1e-9 a step that the views of a whole shard need more room than they have
    (`envs.users._organic_views`).

    Users who leave before their first recommendation (1 in 26) are nobody's users: there is no row for
    them. So is the last session of a user who leaves in it.

    ## Action
    K product ids, top first; 1 in RecoGym. Slates are an extension of ours: slot k is examined with
    probability 1/k^η, clicks are independent, and one click or more counts as a click.

    ## Observation
    `features`, with P products; nothing is known of the products but their ids.

    | columns | what |
    |---|---|
    | 0 … P-1 | share of each product among the user's last 50 organic views |
    | P … 2P-1 | share among those since the last recommendation; 0 if there were none |
    | 2P | log(1 + views since the last recommendation, at most 50) |
    | 2P+1 | log(1 + events so far), RecoGym's clock |

    `popularity` is the mean click-through rate of a product over new users, relative to the mean
    product.

    ## Reward
    The number of clicks.

    ## Episode end
    `terminated` when the user leaves; `truncated` at the horizon. RecoGym has no time limit: v0's, 1,000
    events, is reached by a few users in a million. v1 stops at 200.

    ## Version history
    * v0: RecoGym's equations at its defaults, 10 products, with what is odd there. A click cancels
      leaving, which was drawn before. Entering the shop by a click moves no taste, unless the cancelled
      draw was to enter. `prob_leave_bandit` is never read: `leave_organic` serves in both states.
      Flipped products are the most similar ones, so the more products, the less a flip hides; use
      `organic_signal`. Popularity is so strong (σ_μ = 3) that knowing a user is worth about a tenth more
      clicks than knowing what is popular. RecoGym's logs end with one event more per user, a
      recommendation to somebody gone, never clicked; there is none here.
    * v1: σ_μ = 1, where taste matters (30 %); `leave_bandit` is read; every entry into the shop moves
      the taste; a horizon of 200.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {
        "simlab/OrganicBandit-v0": {
            "popularity_spread": 3.0,
            "leave_bandit": None,
            "click_drifts": False,
            "horizon": 1000,
        },
        "simlab/OrganicBandit-v1": {},
    }
    Spec: ClassVar[type[OrganicBanditSpec]] = OrganicBanditSpec
    draws: ClassVar[int] = 5

    def build(self) -> None:
        """Draw the products, and say how popular each is with new users."""
        spec = self.spec
        gamma, mu, beta, nu = _products(spec)
        self.products = Products(gamma.to(self.device), mu.to(self.device))
        self.gamma, self.mu = gamma.to(self.device), mu.to(self.device)
        self.beta, self.nu = beta.to(self.device), nu.to(self.device)
        # One row more for the blank item, which is nothing to anybody.
        self._rows = torch.nn.functional.pad(torch.cat([self.beta, self.nu.unsqueeze(1)], 1), (0, 0, 0, 1))
        self.catalog = Catalog.bare(spec.items).to(self.device)
        self.clicks = PositionBased.power(spec.slots, spec.position_bias).to(self.device)
        # β·ω + ν is normal over new users: its mean rate by Gauss-Hermite quadrature.
        node, weight = (torch.from_numpy(x).float() for x in np.polynomial.hermite_e.hermegauss(32))
        rate = self._rate(nu.unsqueeze(1) + spec.taste_spread * beta.norm(dim=1, keepdim=True) * node)
        mean = rate @ (weight / weight.sum())
        self.market = Market((mean / mean.mean()).to(self.device), slots=spec.slots)
        # A uniform has 23 bits, so the longest session is that of u = 2⁻²⁴.
        self._log_stay = math.log(spec.stay) if spec.stay else -math.inf
        longest = math.ceil(24 * math.log(2) / -self._log_stay) + 1
        self._most = min(spec.views, longest)
        best = float(self._rate(torch.tensor(1e9)))
        silent = math.prod(1 - best * theta for theta in self.clicks.theta().tolist())
        self._chance = 1 - (1 - spec.bandit_to_organic) * silent  # the largest chance of a session
        self.feature_bound = max(1.0, math.log1p(spec.views), math.log1p((spec.horizon + 2) * (1 + longest)))

    def _rate(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the click-through rate ff(x)."""
        a, b, c, d, e = self.spec.link
        x = (x * c).sigmoid_().mul_(b).sub_(d)
        return x.sigmoid_().mul_(a).sub_(e).sigmoid_()

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> Shoppers:
        """Draw tastes, and the first organic session, which ends in a bandit event."""
        spec, n, dims = self.spec, len(user), self.spec.dims
        luck = seed.at(user, torch.zeros_like(user)).uniform("shopper", dims + 3)
        taste = (torch.special.ndtri(luck[:, :dims].double()) * spec.taste_spread).float()
        nobody = Shoppers(
            taste,
            torch.full((n, spec.views), -1, dtype=torch.int32, device=user.device),
            torch.zeros_like(user),
            torch.zeros_like(user),
            torch.zeros(n, device=user.device),
        )
        length = self._length(luck[:, dims])
        return self._shop(nobody, length, torch.zeros_like(length), luck[:, dims + 1 :], 1.0)

    def _length(self, luck: Float[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return a geometric number of views, at least one."""
        return (luck.log() / self._log_stay).ceil_().clamp_(min=1.0).long()

    def _shop(
        self,
        users: Shoppers,
        length: Int[Tensor, " user"],
        moves: Int[Tensor, " user"],
        luck: Float[Tensor, "user 2"],
        chance: float,
    ) -> Shoppers:
        """Return the users after an organic session of this length, 0 for none.

        Args:
            users: before it.
            length: how many views.
            moves: 1 where taste moves before the first view too.
            luck: two uniforms, the key of the session's luck.
            chance: the largest probability of a session.
        """
        spec, n = self.spec, len(length)
        bits = (luck * 2.0**23).long()
        taste, owner, number, product = draw_views(
            users.taste,
            length,
            moves,
            (bits[:, 0] << 23) | bits[:, 1],
            products=self.products,
            drift=spec.drift,
            size=room(n, chance, spec.stay, self._most),
            most=self._most,
        )
        kept = length.clamp(max=self._most)
        place = (users.total[owner.clamp(max=n - 1)] + number).remainder(spec.views)
        place = torch.where(owner < n, owner * spec.views + place, n * spec.views)  # one place for nobody's
        ring = torch.nn.functional.pad(users.viewed.reshape(-1), (0, 1)).scatter_(0, place, product.int())
        viewed = ring[:-1].view(n, spec.views)
        return Shoppers(taste, viewed, users.total + kept, kept, users.time + length)

    def respond(
        self, users: Shoppers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return ff(β_a·ω + ν_a)."""
        row = self._rows.index_select(0, slate.reshape(-1)).view(*slate.shape, -1)
        taste = torch.nn.functional.pad(users.taste, (0, 1), value=1.0)  # times ν
        score = torch.bmm(row, taste.unsqueeze(2)).squeeze(2)
        return self._rate(score).mul_(slate != self.blank)

    def relevance(self, state: State[Shoppers]) -> Float[Tensor, "user item"]:
        """Return the click-through rate of every product for every user."""
        return self._rate(torch.addmm(self.nu, state.users.taste, self.beta.T))

    def foresight(self, state: State[Shoppers]) -> Float[Tensor, "user item"]:
        """Return the myopic index, which for one slot is also the far-sighted one.

        What is shown changes the future only through whether it is clicked, so the best item has the
        highest or the lowest click-through rate: the highest as long as a click earns more than it
        costs. It costs life, because users leave a session in the shop (1 in 26) sooner than a
        recommendation (1 in 100): 0.027 of what a user has still to give, which is less than 3 clicks.
        """
        return self.myopic(state)

    def evolve(
        self,
        users: Shoppers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[Shoppers, Bool[Tensor, " user"]]:
        """Run the chain to the next bandit event, or to the end."""
        spec = self.spec
        chain, exits = luck[:, 0], luck[:, 1]
        clicked = click.any(1)
        enters = chain < spec.bandit_to_organic
        shops = enters | clicked
        gone = ~shops & (chain < spec.bandit_to_organic + spec.leave)
        gone |= shops & (exits * (spec.leave_organic + spec.organic_to_bandit) < spec.leave_organic)
        length = self._length(luck[:, 2]) * (shops & ~gone)
        moves = torch.ones_like(length) if spec.click_drifts else enters.long()
        after = self._shop(users, length, moves, luck[:, 3:5], self._chance)
        return Shoppers(after.taste, after.viewed, after.total, after.fresh, after.time + 1), gone

    def observe_users(self, state: State[Shoppers]) -> Float[Tensor, "user feat"]:
        """Return shares of views, all and fresh, their number and the time."""
        users, spec = state.users, self.spec
        n = len(users.time)
        known, product = users.viewed >= 0, users.viewed.clamp(min=0).long()
        age = (users.total.unsqueeze(1) - 1 - torch.arange(spec.views, device=self.device)) % spec.views
        new = known & (age < users.fresh.unsqueeze(1))
        out = torch.zeros(n, 2 * spec.items + 2, device=self.device)
        for seen, first in ((known, 0), (new, spec.items)):
            share = seen / seen.sum(1, keepdim=True).clamp(min=1)
            out.scatter_add_(1, product + first, share)
        out[:, -2] = users.fresh.to(out.dtype).log1p()
        out[:, -1] = users.time.log1p()
        return out


def _products(spec: OrganicBanditSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw Γ, μ, β and ν."""
    item = torch.arange(spec.items)
    luck = Seed(spec.world_seed).split("organic bandit products").at(item, torch.zeros_like(item))

    def draw(purpose: str) -> tuple[Tensor, Tensor]:
        normal = torch.special.ndtri(luck.uniform(purpose, spec.dims + 1).double()).float()
        return normal[:, :-1], normal[:, -1] * spec.popularity_spread

    (gamma, mu), (other, apart) = draw("organic"), draw("bandit")
    index = _flipped(gamma, spec.flips)
    signal, noise = spec.organic_signal, math.sqrt(1 - spec.organic_signal**2)
    return gamma, mu, signal * gamma[index] + noise * other, signal * mu[index] + noise * apart


def _flipped(gamma: Float[Tensor, "item dim"], flips: int) -> Int[Tensor, " item"]:
    """Pair the most similar products, by Γ_i·Γ_j, each at most once, and let the pairs trade places.

    As RecoGym has it, a product counts as similar by 0 to itself: once only dissimilar ones are left,
    products trade with themselves.
    """
    items = len(gamma)
    index = torch.arange(items)
    if not flips:
        return index
    similar = (gamma.double() @ gamma.double().T).fill_diagonal_(0.0)
    used: set[int] = set()
    done = 0
    for place in similar.flatten().argsort(descending=True).tolist():
        i, j = divmod(place, items)
        if i in used or j in used:
            continue
        index[i], index[j] = j, i
        used |= {i, j}
        done += 1
        if done == flips:
            break
    return index


__all__ = ["OrganicBandit", "OrganicBanditSpec", "Shoppers"]

PART = OrganicBandit
