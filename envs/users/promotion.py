"""The promotion: people buy anyway, and showing an item makes some of them buy, and puts some of them off."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.position_based import PositionBased
from envs.market import Market, MarketState
from envs.trial import Exposure, Groups, Trial, normal_nodes
from envs.users._promotion_spec import PromotionSpec
from envs.world import SlateWorld, State
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.seeds import Luck, Seed

NEVER = 1e-30
"""A probability below any uniform, and whose inverse is finite."""

FURTHEST = 6.0
"""A uniform has 23 bits: no normal is further from zero."""


@dataclass(frozen=True)
class PromotionUsers:
    """What a user is, and what changes.

    Attributes:
        covariates: x, observed.
        hidden: z, which no recommender sees.
        strength: what is left of each item's effect on the user; no columns without fatigue.
    """

    covariates: Float[Tensor, "user covariate"]
    hidden: Float[Tensor, " user"]
    strength: Float[Tensor, "user item_or_none"]


class Promotion(SlateWorld[PromotionUsers]):
    """A shop whose items sell anyway: showing one makes some people buy it, and puts some off.

    ## Description
    A user has observed covariates x and a hidden one z, all standard normal; an item i has two unit vectors,
    e_i (whom it suits) and m_i (whom its promotion moves), and a popularity q_i. With
    r = σ(sharpness ⟨m_i, x⟩), h = heterogeneity and g = sleeping_dogs, a user belongs to one of four groups
    for an item, anew at each step:

    * persuadables (buy only if shown): a = effect ((1 - h) + 2 h r)
    * sleeping dogs (buy only if not shown): b = g · effect ((1 - h) + 2 h (1 - r))
    * sure things (buy either way): (1 - a - b) σ(base + taste ⟨e_i, x⟩ + popularity q_i + hidden z)
    * lost causes (never buy): the rest

    So p0 = sure + b, p1 = sure + a, and the effect of showing is τ = p1 - p0 = a - b, which says little of
    how likely a purchase is. Its mean over users is effect (1 - g), for every item. One uniform of a user,
    step and item decides the group, and so both potential outcomes: effects on individuals are known too. The
    groups, and not only p0 and p1, are the model: were each outcome a threshold of its own, no covariates
    could have both persuadables and sleeping dogs.

    ## Action
    K different item ids to promote, top first. `blank` promotes nothing at a slot.

    ## Observation
    | features | what |
    |---|---|
    | 0 … d - 1 | the covariates x |
    | d | share of the time limit used |

    A `Context` besides: the last slates with their clicks; `popularity`, which is each item's mean p1 (mean 1
    over the catalogue). The catalogue has e_i, m_i and q_i. z and purchases without a click stay hidden.

    ## Reward
    All purchases of the step, those of items not shown included, less `cost` for every item shown. Slot k is
    examined with probability 1/k^η; an item that is not examined sells as if it were not shown. A **click**
    is a purchase after examination, what attribution would count; many are of people who buy anyway. So
    `relevance` is p1, and who maximises clicks promotes sure things; but the mean reward of a slate,
    Σ_i p0_i + Σ_k (θ_k τ_k - cost), is highest when sorted by τ (`myopic`).

    ## Episode end
    `truncated` at the horizon; nobody leaves. Users stay as they are but for `fatigue`: an examined promotion
    keeps 1 - fatigue of the item's τ for that user, and p0 stays.

    ## Cost
    A step draws and compares one uniform for each user and item: time and memory are [user item].

    ## Version history
    * v0: first version.

    Args:
        spec: the settings.
        device: where everything lives.
    """

    ids: ClassVar[dict[str, dict[str, Any]]] = {"simlab/Promotion-v0": {}}
    Spec: ClassVar[type[PromotionSpec]] = PromotionSpec
    draws: ClassVar[int] = 0  # `luck` draws its own
    unit: ClassVar[str] = "purchases"
    small: ClassVar[dict[str, Any]] = {"items": 20, "slots": 3, "horizon": 8}

    def build(self) -> None:
        """Draw the items: two directions of length 1, and a popularity."""
        spec, d = self.spec, self.spec.covariates
        self.feature_bound = FURTHEST
        item = torch.arange(spec.items)
        luck = Seed(spec.world_seed).split("promotion items").at(item, torch.zeros_like(item))
        suits, moves = _normal(luck, "suits", d), _normal(luck, "moves", d)
        suits, moves = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-12) for v in (suits, moves))
        popularity = _normal(luck, "popularity", 1)
        names = [f"{kind}_{j}" for kind in ("suits", "moves") for j in range(d)]
        self.catalog = Catalog(
            torch.cat([suits, moves, popularity], 1).to(self.device), feature_names=(*names, "popularity")
        )
        self.clicks = PositionBased.power(spec.slots, spec.position_bias).to(self.device)
        # One row more for the blank item, which is masked wherever it matters.
        logit = spec.base + spec.popularity * popularity[:, 0]
        rows = (spec.taste * suits, spec.sharpness * moves, logit.unsqueeze(1))
        self._suits, self._moves, worth = (
            torch.nn.functional.pad(x, (0, 0, 0, 1)).to(self.device) for x in rows
        )
        self._worth = worth[:, 0]
        _, treated = self.averages()
        self.market = Market((treated / treated.mean()).float(), slots=spec.slots)

    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> PromotionUsers:
        """Draw covariates, the hidden one last."""
        drawn = _normal(seed.at(user, torch.zeros_like(user)), "covariates", self.spec.covariates + 1)
        left = torch.ones(len(user), self.spec.items if self.spec.fatigue else 0, device=user.device)
        return PromotionUsers(drawn[:, :-1].contiguous(), drawn[:, -1].contiguous(), left)

    def luck(
        self, state: State[PromotionUsers], slate: Int[Tensor, "user slot"], seed: Seed
    ) -> tuple[Float[Tensor, "user draw"], Float[Tensor, "user click_draw"]]:
        """Draw one uniform for each item (its group) and one for each slot (examined or not).

        A click is drawn as w < θ p1 from w = θ u where the slot is examined, and never elsewhere.
        """
        mine = seed.at(state.user, state.step).uniform("purchase", self.spec.items + self.slots)
        group, sight = self._split(mine)
        theta = self.examination()
        mover = torch.nn.functional.pad(group, (0, 1), value=1.0).gather(1, slate)
        return mine, torch.where(sight < theta, mover * theta, 1.0)

    def _split(
        self, luck: Float[Tensor, "user draw"]
    ) -> tuple[Float[Tensor, "user item"], Float[Tensor, "user slot"]]:
        return luck[:, : self.spec.items], luck[:, self.spec.items :]

    def respond(
        self, users: PromotionUsers, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return p1 of each item of the slate."""
        return self._shown(users, slate).treated.clamp(min=NEVER) * (slate != self.blank)

    def value(self, users: PromotionUsers, slate: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return what a click on each item adds to the mean reward: (τ - cost/θ) / p1.

        Only the share τ/p1 of the clicks was caused; the others would have been purchases anyway.
        """
        shown = self._shown(users, slate)
        gain = shown.cate - self.spec.cost / self.examination()
        # Who never clicks can still be put off: chance · value must stay θ τ - cost.
        value: Tensor = gain / shown.treated.clamp(min=NEVER)
        return value.masked_fill(slate == self.blank, 0.0)

    def unasked(self, users: PromotionUsers) -> Float[Tensor, " user"]:
        """Return Σ_i p0_i: what is bought without any promotion."""
        return self._groups(users).baseline.sum(1)

    def reward(
        self,
        users: PromotionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> Float[Tensor, " user"]:
        """Return all purchases, less the cost of what was shown."""
        group, sight = self._split(luck)
        organic = self._groups(users).untreated(group).float()
        instead = torch.nn.functional.pad(organic, (0, 1)).gather(1, slate)
        bought = organic.sum(1) + ((click - instead) * (sight < self.examination())).sum(1)
        if self.spec.cost:
            bought = bought - self.spec.cost * (slate != self.blank).sum(1)
        return bought

    def evolve(
        self,
        users: PromotionUsers,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[PromotionUsers, Bool[Tensor, " user"]]:
        """Tire of what was examined; nobody leaves."""
        gone = torch.zeros(len(slate), dtype=torch.bool, device=slate.device)
        if not self.spec.fatigue:
            return users, gone
        seen = self._split(luck)[1] < self.examination()
        left = torch.nn.functional.pad(users.strength, (0, 1), value=1.0)
        now = left.gather(1, slate) * torch.where(seen, 1 - self.spec.fatigue, 1.0)
        return replace(users, strength=left.scatter(1, slate, now)[:, :-1]), gone

    def observe_users(self, state: State[PromotionUsers]) -> Float[Tensor, "user feat"]:
        """Return the covariates and the share of the time limit used."""
        time = (state.step / self.horizon).to(torch.float32).unsqueeze(1)
        return torch.cat([state.users.covariates, time], 1)

    # The truth ---------------------------------------------------------------------------------

    def groups(self, state: State[PromotionUsers]) -> Groups:
        """Return the shares of the four groups, [user item]."""
        return self._groups(state.users)

    def relevance(self, state: State[PromotionUsers]) -> Float[Tensor, "user item"]:
        """Return p1: what a recommender that predicts clicks sorts by."""
        return self.treated(state)

    def baseline(self, state: State[PromotionUsers]) -> Float[Tensor, "user item"]:
        """Return p0 = P(purchase | not shown)."""
        return self.groups(state).baseline

    def treated(self, state: State[PromotionUsers]) -> Float[Tensor, "user item"]:
        """Return p1 = P(purchase | shown and examined)."""
        return self.groups(state).treated

    def cate(self, state: State[PromotionUsers]) -> Float[Tensor, "user item"]:
        """Return τ = p1 - p0, the effect of showing each item to each user."""
        return self.groups(state).cate

    def myopic(self, state: State[PromotionUsers]) -> Float[Tensor, "user item"]:
        """Return τ. The slate of the K largest is the best full slate; see `best_policy` for empty slots.

        The far-sighted oracle sorts by it too: users stay as they are, and fatigue is not planned for.
        """
        return self.cate(state)

    def ate(self, state: State[PromotionUsers] | None = None) -> Float[Tensor, " item"]:
        """Return each item's mean effect: over these users, or over all there could be (none of them tired).

        Over all users it is effect (1 - sleeping_dogs) exactly, because the mean of r is ½ by symmetry.
        """
        if state is None:
            spec = self.spec
            return torch.full((spec.items,), spec.effect * (1 - spec.sleeping_dogs), device=self.device)
        return self.cate(state).double().mean(0).float()

    def averages(self, nodes: int = 32) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"]]:
        """Return each item's mean p0 and p1 over all users there could be, by quadrature, in float64.

        ⟨m_i, x⟩ is standard normal; given that, so is what is left of the organic logit. Two Gauss-Hermite
        rules, one within the other: with 32 nodes the error is below 1e-6 at the default settings.
        """
        spec, (node, weight) = self.spec, normal_nodes(nodes)
        features, d = self.catalog.features.double().cpu(), spec.covariates
        suits, moves = features[:, :d], features[:, d : 2 * d]
        same = (suits * moves).sum(1)  # correlation of the two matches
        rest = (spec.taste**2 * (1 - same**2).clamp(min=0) + spec.hidden**2).sqrt()
        worth = self._worth[:-1].double().cpu() + node.unsqueeze(1) * spec.taste * same  # [node item]
        level = torch.zeros_like(worth)
        for x, w in zip(node, weight, strict=True):
            level += w * (worth + x * rest).sigmoid()
        groups = self._mix(level, (spec.sharpness * node).sigmoid().unsqueeze(1).repeat(1, len(same)))
        p0, p1 = ((weight.unsqueeze(1) * p).sum(0).to(self.device) for p in (groups.baseline, groups.treated))
        return p0, p1

    def best_policy(self, state: State[PromotionUsers]) -> Int[Tensor, "user slot"]:
        """Return the slate with the highest expected reward now: the largest τ first, blank where θ τ ≤ cost.

        Exact: each shown item adds θ_k τ - cost, θ never rises with k, so the rearrangement inequality sorts
        the items, and what the n-th adds falls with n. With fatigue it is the best for this step alone.
        """
        gain, few = self.cate(state), state.candidates
        if few is not None:
            gain = gain.gather(1, few)
        gain, column = gain.topk(self.slots)
        slate = column if few is None else few.gather(1, column)
        return slate.masked_fill(gain * self.examination() <= self.spec.cost, self.blank)

    def best_value(self, state: State[PromotionUsers]) -> Float[Tensor, " user"]:
        """Return the exact expected reward of `best_policy` at this step."""
        return self.expected_reward(state, self.best_policy(state))

    def outcomes(
        self, state: State[PromotionUsers], seed: Seed
    ) -> tuple[Bool[Tensor, "user item"], Bool[Tensor, "user item"]]:
        """Return whether each user buys each item at this step if it is not shown (Y0) and if it is (Y1).

        The same luck as `step`: what is not examined sells by Y0, what is by Y1.
        """
        luck = seed.at(state.user, state.step).uniform("purchase", self.spec.items + self.slots)
        return self._groups(state.users).outcomes(self._split(luck)[0])

    def purchases(
        self, state: State[PromotionUsers], slate: Int[Tensor, "user slot"], seed: Seed
    ) -> Bool[Tensor, "user item"]:
        """Return what each user buys at this step when shown a slate, with the same luck as `step`.

        Clicks are a part of it: what is bought after examination. Their sum less the cost is the reward.
        """
        luck = seed.at(state.user, state.step).uniform("purchase", self.spec.items + self.slots)
        group, sight = self._split(luck)
        y0, y1 = self._groups(state.users).outcomes(group)
        seen = torch.zeros(len(slate), self.spec.items + 1, dtype=torch.bool, device=slate.device)
        seen = seen.scatter(1, slate, sight < self.examination())[:, :-1]
        return torch.where(seen, y1, y0)

    def trial(
        self,
        n: int,
        seed: Seed,
        *,
        item: int | None = 0,
        treated: float | int = 0.5,
        confounding: float | int = 0.0,
        hidden: float | int = 0.0,
        overlap: float | int = 0.02,
        first_user: int = 0,
    ) -> Trial:
        """Offer one item or not to each of n users: the users of `reset`, and their luck of its first step.

        The logit of being shown the item rises with that of buying it anyway: by confounding · taste
        ⟨e_i, x⟩, which can be seen, and by hidden · spec.hidden · z, which cannot. Without both it is an
        experiment.

        Args:
            n: how many users.
            seed: of users and luck. Whatever the exposure, the potential outcomes are the same.
            item: the item at stake; None draws one for each row, and adds its features to X.
            treated: P(shown) of an average user, in (overlap, 1 - overlap).
            confounding: logits of exposure per logit of observed inclination.
            hidden: logits of exposure per logit of hidden inclination.
            overlap: P(shown) is always between this and 1 - this, in (0, 0.5); near 0, overlap is poor.
            first_user: id of the first user.

        Raises:
            BadInput: for an argument outside its range.
        """
        if n < 1:
            raise BadInput(f"n is {n}, but a trial has at least one user")
        if item is not None and not 0 <= item < self.spec.items:
            raise BadInput(f"item is {item}, but items run from 0 to {self.spec.items - 1}")
        if abs(hidden * self.spec.hidden) > 5:  # beyond, the quadrature behind `visible` errs by over 1e-5
            raise BadInput(f"hidden is {hidden}, but times the spec's {self.spec.hidden} it is at most 5")
        how = Exposure(treated, confounding, hidden, overlap)
        last = first_user + n
        chunks = [
            self._offered(torch.arange(i, min(i + CHUNK, last), device=self.device), seed, item, how)
            for i in range(first_user, last, CHUNK)
        ]
        names = [f"x_{j}" for j in range(self.spec.covariates)]
        names += list(self.catalog.feature_names) if item is None else []
        columns: dict[str, Any] = {name: torch.cat([c[name] for c in chunks]).cpu() for name in chunks[0]}
        return Trial(**columns, n_items=self.spec.items, feature_names=tuple(names))

    def _offered(
        self, user: Int[Tensor, " user"], seed: Seed, item: int | None, how: Exposure
    ) -> dict[str, Tensor]:
        """Return some rows of a trial, by the name of the column."""
        spec, users = self.spec, self.initial(user, seed)
        luck = seed.at(user, torch.zeros_like(user))
        if item is None:
            slate, width = (luck.uniform("trial item", 1).double() * spec.items).long(), spec.items
        else:  # column j of the luck is the same, however many are drawn beyond the first two
            slate, width = torch.full_like(user, item).unsqueeze(1), item + 1
        groups = self._shown(users, slate)
        group = luck.uniform("purchase", max(width, 2)).gather(1, slate)
        y0, y1 = (y[:, 0].double() for y in groups.outcomes(group))
        seen = (self._suits[slate[:, 0]].double() * users.covariates).sum(1)
        propensity, visible = how.chances(seen, spec.hidden * users.hidden.double(), spec.hidden)
        arm = luck.uniform("trial arm", 1)[:, 0] < propensity
        known = [users.covariates] + ([self.catalog.features[slate[:, 0]]] if item is None else [])
        return {
            "user": user, "item": slate[:, 0], "X": torch.cat(known, 1).double(), "T": arm.long(),
            "Y": torch.where(arm, y1, y0), "Y0": y0, "Y1": y1, "propensity": propensity, "visible": visible,
            "baseline": groups.baseline[:, 0].double(), "cate": groups.cate[:, 0].double(),
            "hidden": users.hidden.double(),
        }  # fmt: skip

    def _groups(self, users: PromotionUsers) -> Groups:
        """Return the groups of every user and item."""
        organic = torch.addmm(self._worth[:-1], users.covariates, self._suits[:-1].T)
        organic.add_(users.hidden.unsqueeze(1), alpha=self.spec.hidden)
        moved = users.covariates @ self._moves[:-1].T
        return self._mix(organic.sigmoid_(), moved.sigmoid_(), users.strength if self.spec.fatigue else None)

    def _shown(self, users: PromotionUsers, slate: Int[Tensor, "user slot"]) -> Groups:
        """Return the groups of each user for the items of a slate; those of the blank item mean nothing."""
        x = users.covariates.unsqueeze(2)
        organic = torch.bmm(self._suits[slate], x).squeeze(2) + self._worth[slate]
        organic = organic + self.spec.hidden * users.hidden.unsqueeze(1)
        moved = torch.bmm(self._moves[slate], x).squeeze(2)
        left = None
        if self.spec.fatigue:
            left = torch.nn.functional.pad(users.strength, (0, 1), value=1.0).gather(1, slate)
        return self._mix(organic.sigmoid(), moved.sigmoid(), left)

    def _mix(
        self,
        inclined: Float[Tensor, "user item"],
        moved: Float[Tensor, "user item"],
        left: Float[Tensor, "user item"] | None = None,
    ) -> Groups:
        """Return the groups from σ(organic logit), r (both used up) and what is left of the effect."""
        spec = self.spec
        same, apart = spec.effect * (1 - spec.heterogeneity), 2 * spec.effect * spec.heterogeneity
        persuadable = moved.mul_(apart)
        dog = torch.sub(same + apart, persuadable).mul_(spec.sleeping_dogs)
        persuadable.add_(same)
        sure = inclined.addcmul_(inclined, persuadable + dog, value=-1)
        if left is None:
            return Groups(persuadable, sure, dog)
        # Who no longer reacts does what he would do unshown: tired persuadables are lost, tired dogs sure.
        return Groups(persuadable * left, sure + dog * (1 - left), dog * left)


CHUNK = 1 << 16
"""Rows of a trial that are drawn at once: the luck of all items would not fit into memory."""


def _normal(luck: Luck, purpose: str, columns: int) -> Float[Tensor, "user column"]:
    """Draw standard normals."""
    normal: Tensor = torch.special.ndtri(luck.uniform(purpose, columns).double())
    return normal.float()


PART = Promotion
