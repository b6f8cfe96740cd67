"""What happened: what was shown, how likely that was, and what came back.

One row is one **round**: one slate shown to one user. Single-action bandit data is a slate of K = 1 with
an optional `position`. A log refuses nonsense at the door, in one sentence that names column, row and value.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.context import PAD, Context
from simlab.errors import BadInput

VERSION = 1
"""The version of the columns, written into the Parquet schema's metadata."""


@dataclass(frozen=True)
class Log:
    """Logged rounds.

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
        candidates: what could have been shown, where it was not the whole catalogue; -1 pads.
        treatment: arm of an experiment.
        terminated: the user was gone after this round.
        truncated: the round was the last by a time limit.
        policy: name of the logging policy, one for all rounds or one each.
        feature_names: a name for each column of `features`.
        item_names: the owner's item ids, by our id.
        user_names: the owner's user ids, by our id.

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
    version: int = field(default=VERSION)

    def __post_init__(self) -> None:
        check(self)

    def __len__(self) -> int:
        """Return N, the number of rounds."""
        return self.user.shape[0]

    @property
    def slots(self) -> int:
        """K, the length of a slate."""
        return self.slate.shape[1]

    def rows(self, index: Tensor | slice) -> Self:
        """Return some rounds only, in the order of the index."""
        n = len(self)
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        changed: dict[str, object] = {
            f.name: getattr(self, f.name)[index] for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        if len(self.policy) == n and n > 1:
            where = torch.arange(n)[index].tolist()
            changed["policy"] = tuple(self.policy[i] for i in where)
        return replace(self, **changed)  # type: ignore[arg-type]

    def context(self, past: int = 0) -> Context:
        """Return what the logger saw, to ask another policy what it would have shown.

        Args:
            past: H, how many earlier items of the same user to put into `history`. Only rounds before
                this one count, so nothing leaks.
        """
        history, feedback = self.history(past)
        context = Context.of(
            self.user,
            self.n_items,
            features=self.features,
            history=history,
            feedback=feedback,
            candidates=None if self.candidates is None else self.candidates.clamp(min=0),
        )
        if self.candidates is not None:
            context = replace(context, mask=self.candidates != PAD)
        return context

    def history(self, past: int) -> tuple[Int[Tensor, "round past"], Float[Tensor, "round past"]]:
        """Return the last `past` items shown to the user before each round, and their feedback."""
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

    def to(self, device: torch.device | str) -> Self:
        """Return the same log on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in moved.items() if isinstance(v, Tensor)})


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
    _refuse("slate", log.slate, log.slate >= log.n_items, f"is an unknown item: the catalogue has {log.n_items}")
    if log.slots > 1:
        ordered = log.slate.sort(1).values
        twice = ordered[:, 1:] == ordered[:, :-1]
        if bool(twice.any()):
            row, slot = (int(x) for x in twice.nonzero()[0])
            raise BadInput(f"column slate, row {row}: item {int(ordered[row, slot])} is in the slate twice")
    for name in ("propensity", "slot_propensity"):
        value = getattr(log, name)
        if value is not None:
            _refuse(name, value, value.isnan(), "is missing or not a number")
            _refuse(name, value, (value <= 0) | (value > 1), "is not a probability in (0, 1]")
    for name in ("reward", "click", "features"):
        value = getattr(log, name)
        if value is not None:
            _refuse(name, value, ~value.isfinite(), "is missing or not finite")
    if log.position is not None and log.slots != 1:
        raise BadInput(f"column position is for one item a row, but slate has {log.slots} slots")
    if log.features is not None and log.feature_names and len(log.feature_names) != log.features.shape[1]:
        raise BadInput(f"{log.features.shape[1]} features have {len(log.feature_names)} names")
    if log.candidates is not None:
        wrong = (log.candidates < PAD) | (log.candidates >= log.n_items)
        _refuse("candidates", log.candidates, wrong, f"is an unknown item: the catalogue has {log.n_items}")
        there = (log.slate.unsqueeze(2) == log.candidates.unsqueeze(1)).any(2)
        _refuse("slate", log.slate, ~there, "is not among the row's candidates")


def _refuse(name: str, value: Tensor, wrong: Tensor, why: str) -> None:
    """Raise for the first wrong cell."""
    if bool(wrong.any()):
        where = [int(x) for x in wrong.nonzero()[0]]
        cell = value[tuple(where)].item()
        slot = f", slot {where[1]}" if len(where) > 1 else ""
        raise BadInput(f"column {name}, row {where[0]}{slot}: {cell} {why}")
