"""What every slate world shares: the step, the truth and the bookkeeping.

A world is one file that says what there is (`build`), and how users begin, respond, change and show
themselves (`initial`, `respond`, `evolve`, `observe_users`, `relevance`). This class does the rest: luck,
clicks, candidates, popularity, history, time limits, renewal, the truth.

A world is frozen data. A **State** holds everything that changes, and every method is pure and batched. One
state is one **shard**: the users who share a market. A shard is also the unit of computation: it always has
the same shape, so the same seed gives the same bits, whichever worker runs it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.contract import Privileged, Response
from envs.market import Market, MarketState
from envs.spec import WorldSpec
from simlab.context import PAD, Catalog, Context
from simlab.devices import find_device
from simlab.errors import BadInput
from simlab.seeds import Seed

Users = TypeVar("Users")


@dataclass(frozen=True)
class State(Generic[Users]):
    """Everything that changes, for one shard of users who share a market.

    Attributes:
        user: identity of each row's user: the key of its luck.
        step: slates that the user has seen.
        active: the user is still there.
        users: the user model's own tensors, each with a leading user axis.
        market: what the users share.
        candidates: item ids that may be shown now; None is the whole catalogue.
        recent: the last slates and clicks, newest last; no copy is made per step.
    """

    user: Int[Tensor, " user"]
    step: Int[Tensor, " user"]
    active: Bool[Tensor, " user"]
    users: Users
    market: MarketState
    candidates: Int[Tensor, "user cand"] | None = None
    recent: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def popularity(self) -> Float[Tensor, " item"]:
        """Popularity of each item in this market, mean 1."""
        return self.market.popularity


class SlateWorld(ABC, Generic[Users]):
    """A world of users who see slates. All methods are pure.

    Args:
        spec: the settings; the defaults of `Spec` where nothing is said.
        device: where everything lives.

    Attributes:
        ids: the world's registered ids, oldest version first, each with the settings that it stands for.
        name: the id that `envs.registry.make_world` made it from; its newest id, if made by hand.
        draws: uniforms that `evolve` and `reward` may spend per user and step, besides those of the clicks.
        unit: what the reward counts.
        small: settings of a small variant, for checks.
        slots: K.
        horizon: steps after which an episode is truncated.
        catalog: the items.
        clicks: the click model.
        market: the popularity.
        remember: how many slates the history holds.
        feature_bound: no observed feature is further from zero than this.
    """

    Spec: ClassVar[type[WorldSpec]]
    ids: ClassVar[dict[str, dict[str, Any]]]
    draws: ClassVar[int] = 4
    unit: ClassVar[str] = "clicks"
    small: ClassVar[dict[str, Any]] = {"items": 30, "slots": 4, "horizon": 12}

    name: str
    spec: Any
    slots: int
    horizon: int
    remember: int
    device: torch.device
    catalog: Catalog
    clicks: ClickModel
    market: Market
    feature_bound: float

    def __init__(self, spec: WorldSpec | None = None, device: torch.device | str = "cpu") -> None:
        spec = self.Spec() if spec is None else spec
        self.spec = spec
        self.name = list(self.ids)[-1]
        self.device = find_device(device)
        self.slots, self.horizon, self.remember = spec.slots, spec.horizon, spec.remember
        self.build()

    # What a user model writes ------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Make `catalog`, `clicks`, `market`, `feature_bound` and the world's own tensors from `spec`."""

    @abstractmethod
    def initial(self, user: Int[Tensor, " user"], seed: Seed) -> Users:
        """Return new users, drawn from the luck of their ids."""

    @abstractmethod
    def respond(
        self, users: Users, market: MarketState, slate: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot"]:
        """Return the attraction of each item of the slate; 0 for the blank item."""

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
        """Return the attraction of every item, P(click | examined): the truth that a ranker looks for."""

    # What a user model may write ---------------------------------------------------------------

    def value(self, users: Users, slate: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"] | None:
        """Return the mean reward of a click on each item of the slate; None is 1 everywhere."""
        return None

    def reward(
        self,
        users: Users,
        slate: Int[Tensor, "user slot"],
        click: Float[Tensor, "user slot"],
        luck: Float[Tensor, "user draw"],
    ) -> Float[Tensor, " user"]:
        """Return what the clicks are worth to users as they were before the step: their mean values.

        A world whose reward has noise of its own overrides this; `value` stays its mean.
        """
        value = self.value(users, slate)
        return click.sum(1) if value is None else (click * value).sum(1)

    def luck(
        self, state: State[Users], slate: Int[Tensor, "user slot"], seed: Seed
    ) -> tuple[Float[Tensor, "user draw"], Float[Tensor, "user click_draw"]]:
        """Return the uniforms of `evolve` and `reward`, and those of the click model.

        A world whose clicks hang on the luck of the item, and not of the slot, overrides this.
        """
        luck = seed.at(state.user, state.step).uniform("step", self.draws + self.clicks.draws(self.slots))
        return luck[:, : self.draws], luck[:, self.draws :]

    def unasked(self, users: Users) -> Float[Tensor, " user"] | None:
        """Return the mean reward that comes without any slate; None is nothing."""
        return None

    def myopic(self, state: State[Users]) -> Float[Tensor, "user item"]:
        """Return what the myopic oracle sorts items by: what each would earn at once."""
        return self.relevance(state)

    def foresight(self, state: State[Users]) -> Float[Tensor, "user item"]:
        """Return what the far-sighted oracle sorts items by; the docstring says how it was found."""
        return self.myopic(state)

    # What it gets ------------------------------------------------------------------------------

    @property
    def blank(self) -> int:
        """The id of the empty slot: never clicked."""
        return self.catalog.n_items

    def examination(self) -> Float[Tensor, " slot"]:
        """Return the true position bias θ: P(examined) of each slot.

        Raises:
            BadInput: if the click model has none, because who sees a slot depends on the items above it.
        """
        return self.clicks.theta()

    def reset(self, n: int, seed: Seed, first_user: int = 0) -> State[Users]:
        """Return n new users, with ids first_user … first_user + n - 1, in a fresh market."""
        user = torch.arange(first_user, first_user + n, device=self.device)
        step = torch.zeros(n, dtype=torch.long, device=self.device)
        market = self.market.begin(first_user, seed)
        return State(
            user=user,
            step=step,
            active=torch.ones(n, dtype=torch.bool, device=self.device),
            users=self.initial(user, seed),
            market=market,
            candidates=self._draw(user, step, seed),
        )

    def step(
        self, state: State[Users], slate: Int[Tensor, "user slot"], seed: Seed
    ) -> tuple[State[Users], Response]:
        """Show each user a slate of item ids.

        Args:
            state: where the shard is.
            slate: item ids, top first, without repeats; `blank` leaves a slot empty, and so does an item that
                the market does not have now. Ids are taken as they are (`check_slate` looks at them, and so
                do the faces and twins).
            seed: the run's seed. The same seed, user and step give the same luck, whatever was shown.

        Raises:
            BadInput: for a slate of another shape or type.
        """
        slate = self._open(state, slate)
        mine, theirs = self.luck(state, slate, seed)
        attraction = self.respond(state.users, state.market, slate)
        click = self.clicks.sample(attraction, theirs).mul_(state.active.unsqueeze(1))
        if self.clicks.speaks_unasked:
            click.mul_(slate != self.blank)
        reward = self.reward(state.users, slate, click, mine) * state.active
        users, gone = self.evolve(state.users, slate, click, mine)
        step = state.step + 1
        terminated = gone & state.active
        stays = state.active & ~terminated
        truncated = stays & (step >= self.horizon)
        after = State(
            user=state.user,
            step=step,
            active=stays & ~truncated,
            users=users,
            market=self.market.update(state.market, slate, click, state.active),
            candidates=self._draw(state.user, step, seed),
            recent=(*state.recent[max(0, len(state.recent) - self.remember + 1) :], (slate, click))
            if self.remember
            else (),
        )
        return after, Response(click, reward, terminated, truncated, state.active)

    def observe(self, state: State[Users], past: int | None = None) -> Context:
        """Return what a recommender may see: features, history, candidates, popularity.

        Args:
            state: where the shard is.
            past: how much of the newest history is asked for, in items; as many whole slates as hold them are
                laid out. None is all that the world remembers.
        """
        n, items = len(state.user), self.catalog.n_items
        asked = self.remember if past is None else -(-past // max(self.slots, 1))
        history, feedback = self._history(state, min(asked, self.remember))
        everywhere = state.popularity.expand(n, items)
        few, here = state.candidates, state.market.available
        context = Context.of(
            state.user,
            items,
            features=self.observe_users(state),
            history=history,
            feedback=feedback,
            candidates=few,
            popularity=everywhere if few is None else everywhere.gather(1, few),
        )
        if here is None:
            return context
        return replace(context, mask=here.expand(n, items) if few is None else here[few])

    def privileged(self, state: State[Users]) -> Privileged:
        """Return the context with the whole state in it, for oracles."""
        seen = self.observe(state)
        return Privileged(**{f.name: getattr(seen, f.name) for f in fields(seen)}, state=state)

    def check_slate(self, state: State[Users], slate: Int[Tensor, "user slot"]) -> None:
        """Refuse slates with items that do not exist, repeat or may not be shown; `blank` may.

        Raises:
            BadInput: naming the row, the slot and the item.
        """
        shown, unknown = slate != self.blank, (slate < 0) | (slate > self.blank)
        items = self._open(state, slate.masked_fill(unknown, self.blank))
        wrong = {
            f"is not an item: they run from 0 to {self.blank - 1}": unknown,
            "stands higher up too": ((slate.unsqueeze(2) == slate.unsqueeze(1)).tril(-1).any(2)) & shown,
            "is not there now": (items == self.blank) & shown,
        }
        if state.candidates is not None:
            offered = (slate.unsqueeze(2) == state.candidates.unsqueeze(1)).any(2)
            wrong["is not among the row's candidates"] = shown & ~offered
        for words, where in wrong.items():
            if bool(where.any()):
                row, slot = (int(i) for i in where.nonzero()[0])
                raise BadInput(f"slate, row {row}, slot {slot}: item {int(slate[row, slot])} {words}")

    def _open(self, state: State[Users], slate: Int[Tensor, "user slot"]) -> Int[Tensor, "user slot"]:
        """Leave a slot empty whose item is not there (not born yet, dead, withdrawn).

        Raises:
            BadInput: for a slate of another shape or type; what it holds is not looked at: see `check_slate`.
        """
        wanted = (len(state.user), self.slots)
        if tuple(slate.shape) != wanted or slate.dtype != torch.long:
            kind = str(slate.dtype).removeprefix("torch.")
            raise BadInput(f"a slate is {kind} {list(slate.shape)}, but here it is int64 {list(wanted)}")
        here = state.market.available
        if here is None:
            return slate
        return torch.where(torch.nn.functional.pad(here, (0, 1))[slate], slate, self.blank)

    def _draw(
        self, user: Int[Tensor, " user"], step: Int[Tensor, " user"], seed: Seed
    ) -> Int[Tensor, "user cand"] | None:
        """Draw each user's candidates: a uniform sample without replacement, in random order."""
        if not self.spec.candidates:
            return None
        count, items = self.spec.candidates, self.catalog.n_items
        luck = seed.at(user, step)
        if count > 64:  # the draw below takes count² steps
            return luck.uniform("candidates", items).topk(count, 1).indices
        return sample_without_replacement(luck.uniform("candidates", count), items)

    def _history(
        self, state: State[Users], slates: int
    ) -> tuple[Int[Tensor, "user past"], Float[Tensor, "user past"]]:
        """Lay the newest slates side by side, and hide what an earlier user of the row has seen."""
        n, past = len(state.user), slates * self.slots
        recent = state.recent[max(len(state.recent) - slates, 0) :]
        missing = past - len(recent) * self.slots
        items = torch.full((n, missing), PAD, dtype=torch.long, device=self.device)
        answers = torch.zeros(n, missing, device=self.device)
        if not past:
            return items, answers
        if recent:
            items = torch.cat([items, *(slate for slate, _ in recent)], 1)
            answers = torch.cat([answers, *(click for _, click in recent)], 1)
        age = slates - torch.arange(past, device=self.device) // self.slots  # in slates
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
            candidates=None if state.candidates is None else state.candidates[index],
            recent=tuple((slate[index], click[index]) for slate, click in state.recent),
        )

    def renew(
        self, state: State[Users], done: Bool[Tensor, " user"], stride: int, seed: Seed
    ) -> State[Users]:
        """Replace the users of finished rows by new ones, with ids `stride` higher. The market goes on."""
        rows = done.nonzero().squeeze(1)
        if not len(rows):
            return state
        user = torch.where(done, state.user + stride, state.user)
        step = torch.where(done, 0, state.step)
        fresh = self.initial(user[rows], seed)
        merged = {
            f.name: getattr(state.users, f.name).index_copy(0, rows, getattr(fresh, f.name))
            for f in fields(fresh)  # type: ignore[arg-type]
        }
        candidates = state.candidates
        if candidates is not None:
            drawn = self._draw(user[rows], step[rows], seed)
            assert drawn is not None
            candidates = candidates.index_copy(0, rows, drawn)
        return replace(
            state,
            user=user,
            step=step,
            active=state.active | done,
            users=replace(fresh, **merged),  # type: ignore[type-var]
            candidates=candidates,
        )

    def to(self, device: torch.device | str) -> "SlateWorld[Users]":
        """Return the same world on another device."""
        moved = type(self)(self.spec, device)
        moved.name = self.name
        return moved

    # The truth ---------------------------------------------------------------------------------

    def expected(self, state: State[Users], slate: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the exact click probability of each slot."""
        slate = self._open(state, slate)
        chance = self.clicks.probs(self.respond(state.users, state.market, slate))
        chance = chance * state.active.unsqueeze(1)
        return chance * (slate != self.blank) if self.clicks.speaks_unasked else chance

    def expected_reward(self, state: State[Users], slate: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return the exact expected reward of showing the slate now: the one-step value."""
        slate = self._open(state, slate)
        chance, value = self.expected(state, slate), self.value(state.users, slate)
        total = chance.sum(1) if value is None else (chance * value).sum(1)
        extra = self.unasked(state.users)
        return total if extra is None else total + extra * state.active

    def twin(self, state: State[Users], seed: Seed) -> "Twin[Users]":
        """Return a branch from this state under the luck of this seed; see `Twin`."""
        return Twin(self, state, seed)

    def potential_outcomes(
        self,
        state: State[Users],
        treated: Int[Tensor, "user slot"],
        control: Int[Tensor, "user slot"],
        seed: Seed,
    ) -> tuple[Response, Response]:
        """Return what each user does with either slate under the same luck: both potential outcomes.

        To withhold one item, put `blank` into its slot of `control`.

        Raises:
            BadInput: for a slate that cannot be shown.
        """
        for slate in (treated, control):
            self.check_slate(state, slate)
        return self.step(state, treated, seed)[1], self.step(state, control, seed)[1]


@dataclass
class Twin(Generic[Users]):
    """A branch of history: the same users from the same moment, under the same luck as every other twin.

    Luck is keyed by seed, user and step, so two twins that show the same slates live the same lives, and what
    differs between them was caused by the slates.

    >>> from envs.users.feed import Feed
    >>> world = Feed(Feed.Spec(items=20, slots=2)); seed = Seed(1); state = world.reset(3, seed)
    >>> a, b = world.twin(state, seed), world.twin(state, seed)
    >>> first, other = torch.tensor([[0, 1]] * 3), torch.tensor([[2, 1]] * 3)
    >>> effect = a.step(first).reward - b.step(other).reward    # of item 0 instead of 2 at the top, now
    >>> later = a.step(first).reward - b.step(first).reward     # … and what that does to the next step

    Attributes:
        world: where.
        state: where the branch is now.
        seed: the luck.
    """

    world: SlateWorld[Users]
    state: State[Users]
    seed: Seed

    def step(self, slate: Int[Tensor, "user slot"]) -> Response:
        """Show a slate in this branch, and move on.

        Raises:
            BadInput: for a slate that cannot be shown.
        """
        self.world.check_slate(self.state, slate)
        self.state, response = self.world.step(self.state, slate, self.seed)
        return response

    def twin(self) -> "Twin[Users]":
        """Return another branch from here."""
        return Twin(self.world, self.state, self.seed)


def sample_without_replacement(uniform: Float[Tensor, "user cand"], n_items: int) -> Int[Tensor, "user cand"]:
    """Turn C uniforms a row into C different items of n, every ordered choice equally likely.

    Draw j takes the ⌊u (n - j)⌋-th smallest of the items that are left. Of those taken before, each one at or
    below it pushes it up by one, smallest first; columns are laid out one after the other, as each is read
    as a whole.
    """
    count = uniform.shape[1]
    left = n_items - torch.arange(count, device=uniform.device)
    chosen = (uniform.double() * left).to(torch.int32).T.contiguous()
    taken = torch.empty_like(chosen)  # the items drawn so far, sorted
    for j in range(count):
        item = chosen[j]
        for i in range(j):
            item += taken[i] <= item
        last = item
        for i in range(j):
            taken[i], last = torch.minimum(taken[i], last), torch.maximum(taken[i], last)
        taken[j] = last
    return chosen.T.long()
