"""What every slate world shares: the step, the truth and the bookkeeping.

A world is one file that says how users begin, respond, change and show themselves (`initial`, `respond`,
`evolve`, `observe_users`). This class does the rest: luck, clicks, popularity, history, time limits, renewal.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.contract import ClickModel, Privileged, Response
from envs.popularity import Popularity
from simlab.context import PAD, Catalog, Context
from simlab.errors import BadInput
from simlab.seeds import Seed

Users = TypeVar("Users")

USER_DRAWS = 4
"""Uniforms that a user model may spend per user and step, besides one for each slot."""


@dataclass(frozen=True)
class State(Generic[Users]):
    """Everything that changes, for one shard of users who share a market.

    Attributes:
        user: identity of each row's user: the key of its luck.
        step: slates that the user has seen.
        active: the user is still there.
        users: the user model's own tensors, each with a leading user axis.
        popularity: of each item in this market, mean 1.
        recent: the last slates and clicks, newest last; no copy is made per step.
    """

    user: Int[Tensor, " user"]
    step: Int[Tensor, " user"]
    active: Bool[Tensor, " user"]
    users: Users
    popularity: Float[Tensor, " item"]
    recent: tuple[tuple[Tensor, Tensor], ...] = ()


class SlateWorld(ABC, Generic[Users]):
    """A world of users who see slates. All methods are pure.

    Attributes:
        name: the versioned id.
        slots: K.
        horizon: steps after which an episode is truncated.
        catalog: the items.
        clicks: the click model.
        market: the popularity.
        remember: how many slates the history holds.
        feature_bound: no observed feature is further from zero than this.
    """

    name: ClassVar[str]
    spec: Any
    slots: int
    horizon: int
    catalog: Catalog
    clicks: ClickModel
    market: Popularity
    remember: int
    feature_bound: float
    device: torch.device

    # What a user model writes ------------------------------------------------------------------

    @abstractmethod
    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> Users:
        """Return new users, drawn from the luck of their ids."""

    @abstractmethod
    def respond(
        self, users: Users, popularity: Float[Tensor, " item"], slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return P(click | examined) of each item of the slate; 0 for the blank item."""

    @abstractmethod
    def evolve(
        self,
        users: Users,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> tuple[Users, Bool[Tensor, " user"]]:
        """Return the users after the step, and who is gone for good."""

    @abstractmethod
    def observe_users(self, state: State[Users]) -> Float[Tensor, "user feat"]:
        """Return what a recommender may know of the users, besides their history."""

    @abstractmethod
    def relevance(self, state: State[Users]) -> Float[Tensor, "user item"]:
        """Return P(click | examined) of every item: the truth that a ranker looks for."""

    # What it gets ------------------------------------------------------------------------------

    @property
    def blank(self) -> int:
        """The id of the empty slot: never examined, never clicked."""
        return self.catalog.n_items

    def examination(self) -> Float[Tensor, " slot"]:
        """Return the true position bias θ: P(examined) of each slot.

        Raises:
            BadInput: if the click model has none, because who sees a slot depends on the items above it.
        """
        theta = getattr(self.clicks, "examination", None)
        if theta is None:
            raise BadInput(f"{type(self.clicks).__name__} has no position bias of its own: see `examined`")
        assert isinstance(theta, Tensor)
        return theta

    def reset(self, n: int, seed: Seed, first_user: int = 0) -> State[Users]:
        """Return n new users, with ids first_user … first_user + n - 1, in a fresh market."""
        user = torch.arange(first_user, first_user + n, device=self.device)
        return State(
            user=user,
            step=torch.zeros(n, dtype=torch.long, device=self.device),
            active=torch.ones(n, dtype=torch.bool, device=self.device),
            users=self.initial(user, seed),
            popularity=self.market.start,
        )

    def step(
        self, state: State[Users], slate: Int[Tensor, "user slot"], seed: Seed
    ) -> tuple[State[Users], Response]:
        """Show each user a slate of item ids.

        Args:
            state: where the shard is.
            slate: item ids, top first, without repeats; `blank` leaves a slot empty.
            seed: the run's seed. The same seed, user and step give the same luck, whatever was shown.
        """
        luck = seed.at(state.user, state.step).uniform("step", USER_DRAWS + self.slots)
        attraction = self.respond(state.users, state.popularity, slate)
        click = self.clicks.sample(attraction, luck[:, USER_DRAWS:]).mul_(state.active.unsqueeze(1))
        users, gone = self.evolve(state.users, slate, click, luck[:, :USER_DRAWS])
        step = state.step + 1
        terminated = gone & state.active
        stays = state.active & ~terminated
        truncated = stays & (step >= self.horizon)
        after = State(
            user=state.user,
            step=step,
            active=stays & ~truncated,
            users=users,
            popularity=self.market.update(state.popularity, slate, click),
            recent=(*state.recent[max(0, len(state.recent) - self.remember + 1) :], (slate, click))
            if self.remember
            else (),
        )
        return after, Response(click, click.sum(1), terminated, truncated, state.active)

    def observe(self, state: State[Users]) -> Context:
        """Return what a recommender may see: features, history, candidates, popularity."""
        n, items = len(state.user), self.catalog.n_items
        history, feedback = self._history(state)
        return Context.of(
            state.user,
            items,
            features=self.observe_users(state),
            history=history,
            feedback=feedback,
            popularity=state.popularity.expand(n, items),
        )

    def privileged(self, state: State[Users]) -> Privileged:
        """Return the context with the whole state in it, for oracles."""
        seen = self.observe(state)
        return Privileged(**{f.name: getattr(seen, f.name) for f in fields(seen)}, state=state)

    def _history(self, state: State[Users]) -> tuple[Int[Tensor, "user past"], Float[Tensor, "user past"]]:
        """Lay the remembered slates side by side, and hide what an earlier user of the row has seen."""
        n, past = len(state.user), self.remember * self.slots
        missing = past - len(state.recent) * self.slots
        items = torch.full((n, missing), PAD, dtype=torch.long, device=self.device)
        answers = torch.zeros(n, missing, device=self.device)
        if state.recent:
            items = torch.cat([items, *(slate for slate, _ in state.recent)], 1)
            answers = torch.cat([answers, *(click for _, click in state.recent)], 1)
        age = self.remember - torch.arange(past, device=self.device) // max(self.slots, 1)  # in slates
        hidden = (age > state.step.unsqueeze(1)) | (items == self.blank)
        return items.masked_fill(hidden, PAD), answers.masked_fill(hidden, 0.0)

    def rows(self, state: State[Users], index: Int[Tensor, " row"]) -> State[Users]:
        """Return the state of some users only, in the same market."""
        users: Any = state.users
        few = {f.name: getattr(users, f.name)[index] for f in fields(users)}
        return replace(
            state,
            user=state.user[index],
            step=state.step[index],
            active=state.active[index],
            users=replace(users, **few),
            recent=tuple((slate[index], click[index]) for slate, click in state.recent),
        )

    def expected(self, state: State[Users], slate: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the exact click probability of each slot; their sum is the exact expected reward."""
        attraction = self.respond(state.users, state.popularity, slate)
        return self.clicks.probs(attraction) * state.active.unsqueeze(1)

    def potential_outcomes(
        self,
        state: State[Users],
        treated: Int[Tensor, "user slot"],
        control: Int[Tensor, "user slot"],
        seed: Seed,
    ) -> tuple[Response, Response]:
        """Return what each user does with either slate under the same luck: both potential outcomes.

        To withhold one item, put `blank` into its slot of `control`.
        """
        return self.step(state, treated, seed)[1], self.step(state, control, seed)[1]

    def renew(
        self, state: State[Users], done: Bool[Tensor, " user"], stride: int, seed: Seed
    ) -> State[Users]:
        """Replace the users of finished rows by new ones, with ids `stride` higher. The market goes on."""
        rows = done.nonzero().squeeze(1)
        if not len(rows):
            return state
        user = torch.where(done, state.user + stride, state.user)
        fresh = self.initial(user[rows], seed)
        merged = {
            f.name: getattr(state.users, f.name).index_copy(0, rows, getattr(fresh, f.name))
            for f in fields(fresh)  # type: ignore[arg-type]
        }
        return replace(
            state,
            user=user,
            step=torch.where(done, 0, state.step),
            active=state.active | done,
            users=replace(fresh, **merged),  # type: ignore[type-var]
        )

    @abstractmethod
    def to(self, device: torch.device | str) -> "SlateWorld[Users]":
        """Return the same world on another device."""
