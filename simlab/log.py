"""What happened: what was shown, how likely that was, and what came back.

One row is one **round**: one slate shown to one user. Single-action bandit data is a slate of K = 1 with
an optional `position`. A log refuses nonsense at the door, in one sentence that names column, row and value.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.context import PAD, Context
from simlab.errors import BadInput

VERSION = 1
"""The version of the columns, written into the Parquet schema's metadata."""


class BadCell(BadInput):
    """A refusal of one cell. It keeps its place, so that a reader can name the file's own column and row.

    Attributes:
        column: name of the column.
        row: row of the log, from 0.
        why: the rest of the sentence, after the value.
        value: what the cell holds.
        slot: place within the row, from 0, or None.
    """

    def __init__(self, column: str, row: int, why: str, value: object, slot: int | None = None) -> None:
        at = "" if slot is None else f", slot {slot}"
        super().__init__(f"column {column}, row {row}{at}: {value} {why}")
        self.column, self.row, self.why, self.value, self.slot = column, row, why, value, slot

    def __reduce__(self) -> tuple[type["BadCell"], tuple[object, ...]]:
        """Travel between processes."""
        return type(self), (self.column, self.row, self.why, self.value, self.slot)


@dataclass(frozen=True, eq=False)
class Log:
    """Logged rounds. Two logs are equal if every value and every dtype is.

    Attributes:
        user: user id, from 0.
        slate: item ids, slot 0 = top. No repeats.
        propensity: probability of the **whole slate** when it was logged, in (0, 1].
        reward: what the round was worth.
        n_items: size of the catalogue; item ids are below it.
        session: session id within the user.
        step: order within the user's session, from 0.
        features: context features.
        slot_propensity: probability of each item at its slot, in (0, 1].
        click: feedback per slot, 0 or 1 (or any finite number, such as a dwell time).
        position: for K = 1, the slot of the page at which the item was shown, from 0.
        candidates: what could have been shown, where it was not the whole catalogue; no repeats; -1 pads
            the end of a row.
        treatment: arm of an experiment.
        terminated: the user was gone after this round.
        truncated: the round was the last by a time limit.
        policy: name of the logging policy, one for all rounds or one each.
        feature_names: a name for each column of `features`.
        item_names: the owner's item ids, by our id, or empty.
        user_names: the owner's user ids, by our id, or empty.
        categories: context features that are categories, ids from 0, -1 where unknown.
        category_names: a name for each column of `categories`.
        category_sizes: how many categories each column of `categories` has; what the rows show by default.

    Raises:
        BadInput: naming the column, the row and the value that cannot be.
    """

    user: Int[Tensor, " round"]
    slate: Int[Tensor, "round slot"]
    propensity: Float[Tensor, " round"]
    reward: Float[Tensor, " round"]
    n_items: int
    session: Int[Tensor, " round"] | None = None
    step: Int[Tensor, " round"] | None = None
    features: Float[Tensor, "round feat"] | None = None
    slot_propensity: Float[Tensor, "round slot"] | None = None
    click: Float[Tensor, "round slot"] | None = None
    position: Int[Tensor, " round"] | None = None
    candidates: Int[Tensor, "round cand"] | None = None
    treatment: Int[Tensor, " round"] | None = None
    terminated: Bool[Tensor, " round"] | None = None
    truncated: Bool[Tensor, " round"] | None = None
    policy: tuple[str, ...] = ("unknown",)
    feature_names: tuple[str, ...] = ()
    item_names: tuple[str, ...] = ()
    user_names: tuple[str, ...] = ()
    categories: Int[Tensor, "round field"] | None = None
    category_names: tuple[str, ...] = ()
    category_sizes: tuple[int, ...] = ()
    version: int = field(default=VERSION)

    def __post_init__(self) -> None:
        if self.categories is not None and not self.category_sizes and len(self.categories):
            shown = tuple(int(x) + 1 for x in self.categories.amax(0))
            object.__setattr__(self, "category_sizes", shown)
        check(self)

    def __len__(self) -> int:
        """Return N, the number of rounds."""
        return self.user.shape[0]

    def __eq__(self, other: object) -> bool:
        """Compare values, shapes and dtypes; one policy for all rounds equals the same policy in each."""
        if not isinstance(other, Log):
            return NotImplemented
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
                if mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
                    return False
            elif f.name == "policy":
                if _spread(mine, len(self)) != _spread(theirs, len(other)):
                    return False
            elif isinstance(mine, Tensor) or isinstance(theirs, Tensor) or mine != theirs:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]

    @property
    def slots(self) -> int:
        """K, the length of a slate."""
        return self.slate.shape[1]

    def rows(self, index: Tensor | slice) -> "Log":
        """Return some rounds only, in the order of the index."""
        n = len(self)
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: v[index] for k, v in values.items() if isinstance(v, Tensor)}
        if len(self.policy) == n and n > 1:
            at = index.cpu() if isinstance(index, Tensor) else index
            where = torch.arange(n)[at].tolist()
            changed["policy"] = tuple(self.policy[i] for i in where)
        return replace(self, **changed)

    def context(self, past: int = 0) -> Context:
        """Return what the logger saw, to ask another policy what it would have shown; features are float32.

        Args:
            past: H, how many earlier items of the same user to put into `history`. Only rounds before
                this one in `order()` count, so nothing leaks.
        """
        history, feedback = self.history(past)
        context = Context.of(
            self.user,
            self.n_items,
            features=None if self.features is None else self.features.float(),
            history=history,
            feedback=feedback,
            candidates=None if self.candidates is None else self.candidates.clamp(min=0),
            categories=self.categories,
        )
        if self.candidates is not None:
            context = replace(context, mask=self.candidates != PAD)
        return context

    def history(self, past: int) -> tuple[Int[Tensor, "round past"], Float[Tensor, "round past"]]:
        """Return the last `past` items shown to the user before each round, and their feedback.

        A user's sessions follow one another. Within a slate the newest is the last slot. The feedback is
        the click, or the round's reward for each of its items where there are no clicks.
        """
        n, k, device = len(self), self.slots, self.user.device
        items = torch.full((n, past), PAD, dtype=torch.long, device=device)
        answers = torch.zeros(n, past, dtype=torch.float32, device=device)
        if past == 0 or n == 0:
            return items, answers
        order = self.order()
        user = self.user[order]
        click = self.click if self.click is not None else self.reward.unsqueeze(1).expand(-1, k)
        place = torch.arange(n, device=device)
        fresh = torch.ones(n, dtype=torch.bool, device=device)
        fresh[1:] = user[1:] != user[:-1]
        start = torch.where(fresh, place, 0).cummax(0).values
        rounds = -(-past // k)
        for back in range(1, rounds + 1):
            source = place - back
            known = source >= start
            row = order[source.clamp(min=0)]
            # Slot 0 was seen first, so within a slate the newest is the last slot.
            end = past - (back - 1) * k
            width = min(k, end)
            target = order[known]
            items[target, end - width : end] = self.slate[row[known], k - width :]
            answers[target, end - width : end] = click[row[known], k - width :].to(answers.dtype)
        return items, answers

    def order(self) -> Int[Tensor, " round"]:
        """Return the rounds' order by user, session, step; a stable sort keeps the file's order in ties."""
        order = torch.arange(len(self), device=self.user.device)
        for key in (self.step, self.session, self.user):
            if key is not None:
                order = order[key[order].argsort(stable=True)]
        return order

    def to(self, device: torch.device | str) -> "Log":
        """Return the same log on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def joined(logs: Sequence[Log]) -> Log:
    """Lay logs with the same columns and catalogue one after the other; ids stay as they are."""
    first = logs[0]
    policy = first.policy
    if len({log.category_sizes for log in logs}) > 1:  # the sizes that the rows of one log happen to show
        sizes = tuple(max(each) for each in zip(*(log.category_sizes for log in logs), strict=True))
        first = replace(first, category_sizes=sizes)
    if len(policy) > 1 or len({log.policy for log in logs}) > 1:
        each = (log.policy * (len(log) if len(log.policy) == 1 else 1) for log in logs)
        policy = tuple(name for names in each for name in names)
    columns: dict[str, Any] = {
        f.name: torch.cat([getattr(log, f.name) for log in logs])
        for f in fields(first)
        if isinstance(getattr(first, f.name), Tensor)
    }
    return replace(first, policy=policy, **columns)


def check(log: Log) -> None:
    """Refuse a log that cannot have happened.

    Raises:
        BadInput: one sentence with the column, the row and the value.
    """
    n = log.user.shape[0]
    if n == 0:
        raise BadInput("the log is empty: it has no rows")
    if log.n_items < 1:
        raise BadInput(f"n_items is {log.n_items}, but a catalogue has at least one item")
    for f in fields(log):
        value = getattr(log, f.name)
        if isinstance(value, Tensor) and value.shape[0] != n:
            raise BadInput(f"column {f.name} has {value.shape[0]} rows, but user has {n}")
    if len(log.policy) not in (1, n):
        raise BadInput(f"column policy has {len(log.policy)} names; give one, or one for each of {n} rows")
    if log.slate.shape[1] == 0:
        raise BadInput("column slate, row 0: the slate is empty")
    for name in ("slot_propensity", "click"):
        value = getattr(log, name)
        if value is not None and value.shape[1] != log.slots:
            raise BadInput(f"column {name} has {value.shape[1]} slots, but slate has {log.slots}")
    for name in ("user", "slate", "position", "session", "step"):
        value = getattr(log, name)
        if value is not None:
            _refuse(name, value, value < 0, "is negative, but ids count from 0")
    unknown = f"is an unknown item: the catalogue has {log.n_items}"
    _refuse("slate", log.slate, log.slate >= log.n_items, unknown)
    _refuse_repeats("slate", log.slate, "is in the slate twice")
    for name in ("propensity", "slot_propensity"):
        value = getattr(log, name)
        if value is not None:
            _refuse(name, value, value.isnan(), "is missing or not a number")
            cents = 2 <= float(value.max()) <= 100 and float(value.min()) > 0
            hint = "; if these are per cent, divide by 100" if cents else ""
            _refuse(name, value, (value <= 0) | (value > 1), f"is not a probability in (0, 1]{hint}")
    for name in ("reward", "click", "features"):
        value = getattr(log, name)
        if value is not None:
            _refuse(name, value, ~value.isfinite(), "is missing or not finite")
    if log.position is not None and log.slots != 1:
        raise BadInput(f"column position is for one item a row, but slate has {log.slots} slots")
    if log.candidates is not None:
        _check_candidates(log.candidates, log.slate, log.n_items)
    _check_names(log)


def _check_candidates(
    candidates: Int[Tensor, "round cand"], slate: Int[Tensor, "round slot"], n_items: int
) -> None:
    """Refuse unknown or repeated candidates, padding inside a row, and slates of something else."""
    wrong = (candidates < PAD) | (candidates >= n_items)
    _refuse("candidates", candidates, wrong, f"is an unknown item: the catalogue has {n_items}")
    if candidates.shape[1] > 1:
        padded = candidates == PAD
        # A pad inside a row would become item 0 in a context, in front of the true item 0.
        inside = padded[:, :-1] & ~padded[:, 1:]
        _refuse("candidates", candidates, inside, "pads the row before its end")
        _refuse_repeats("candidates", candidates, "is a candidate twice")
    for slot in range(slate.shape[1]):  # one slot at a time: [round slot cand] may not fit
        there = (slate[:, slot : slot + 1] == candidates).any(1)
        if not bool(there.all()):
            row = int((~there).nonzero()[0])
            raise BadCell("slate", row, "is not among the row's candidates", int(slate[row, slot]), slot)


def _check_names(log: Log) -> None:
    """Refuse names that do not fit the ids."""
    if log.features is not None and log.feature_names and len(log.feature_names) != log.features.shape[1]:
        raise BadInput(f"{log.features.shape[1]} features have {len(log.feature_names)} names")
    for name, names, ids in (("item", log.item_names, log.slate), ("user", log.user_names, log.user)):
        if names and int(ids.max()) >= len(names):
            raise BadInput(f"{name} {int(ids.max())} has no name: there are {len(names)} {name} names")
    _check_categories(log)
    if len(log.item_names) > log.n_items:
        raise BadInput(f"{log.n_items} items have {len(log.item_names)} names")


def _check_categories(log: Log) -> None:
    """Refuse categories outside their sizes."""
    width = 0 if log.categories is None else log.categories.shape[1]
    for name, words in (("names", log.category_names), ("sizes", log.category_sizes)):
        if len(words) != width and (words or name == "sizes"):
            raise BadInput(f"{width} columns of categories have {len(words)} {name}")
    if log.categories is not None:
        sizes = torch.tensor(log.category_sizes, device=log.categories.device)
        wrong = (log.categories < PAD) | (log.categories >= sizes)
        _refuse("categories", log.categories, wrong, f"is no category: the sizes are {log.category_sizes}")


def _spread(policy: tuple[str, ...], rows: int) -> tuple[str, ...]:
    """Return one policy name for each row."""
    return policy * rows if len(policy) == 1 else policy


def _refuse_repeats(name: str, ids: Int[Tensor, "round slot"], why: str) -> None:
    """Raise for the first row that holds an id twice; -1 may repeat."""
    if ids.shape[1] < 2:
        return
    ordered = ids.sort(1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PAD)
    if bool(twice.any()):
        row, place = (int(x) for x in twice.nonzero()[0])
        item = int(ordered[row, place])
        raise BadCell(name, row, why, item, int((ids[row] == item).nonzero()[1]))


def _refuse(name: str, value: Tensor, wrong: Tensor, why: str) -> None:
    """Raise for the first wrong cell."""
    if bool(wrong.any()):
        where = [int(x) for x in wrong.nonzero()[0]]
        raise BadCell(name, where[0], why, value[tuple(where)].item(), where[1] if len(where) > 1 else None)
