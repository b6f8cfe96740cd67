"""Folds of a log: which rounds a model learns from, and which it scores."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.seeds import Seed

ORDERS = ("random", "time")


@dataclass(frozen=True, eq=False)
class Folds:
    """Which model scores each round, and what that model may learn from.

    - `random`: model k learns from all folds but k.
    - `time`: model k learns from what came before fold k, and from nothing else. The log is cut into K + 1
      blocks of like size. Nothing comes before the first, so no model scores it: it is the burn-in, fold -1.

    Rounds of one time are never parted, so a block may be larger or smaller than others.

    Attributes:
        fold: the fold of each round, from 0; -1 for the burn-in.
        count: K, how many models there are.
        order: one of `ORDERS`.
    """

    fold: Int[Tensor, " round"]
    count: int
    order: str = "random"

    @classmethod
    def deal(
        cls,
        log: Log,
        folds: int,
        seed: Seed,
        group: bool = True,
        *,
        order: str = "random",
        time: Int[Tensor, " round"] | Float[Tensor, " round"] | None = None,
        fold: Int[Tensor, " round"] | None = None,
    ) -> "Folds":
        """Deal the rounds of a log to folds, or check folds that were dealt elsewhere.

        Args:
            log: the rounds.
            folds: K; at least 2, or 1 in time order. Not looked at where `fold` is given.
            seed: of a random order.
            group: with a random order, keep all rounds of a user in one fold.
            order: one of `ORDERS`.
            time: with order time, when each round was; by default the log's `step`, as a clock that all users
                share.
            fold: the caller's own folds, from 0; -1 marks a burn-in, in time order only.

        Raises:
            BadInput: for an unknown order, too few users, rounds or times, a log whose time nobody knows, or
                given folds that leave a user in two or learn from what comes later.
        """
        if order not in ORDERS:
            raise BadInput(f"order is {' or '.join(ORDERS)}, not {order}{nearest(order, ORDERS)}")
        if order == "random":
            if time is not None:
                raise BadInput("time is for folds with order time, and their order is random")
            if fold is None:
                return cls(assign(log, folds, seed, group), folds)
            return cls(fold, _given(log, fold, 0, group), order)
        when = clock(log, time)
        if fold is None:
            return cls(_blocks(when, folds), folds, order)
        count = _given(log, fold, -1, False)
        _refuse_leaks(fold, when)
        return cls(fold, count, order)

    @property
    def scored(self) -> Bool[Tensor, " round"]:
        """The rounds that a model scores: all but a burn-in."""
        return self.fold >= 0

    def train(self, number: int) -> Int[Tensor, " row"]:
        """Return the rounds that a fold's model learns from."""
        kept = self.fold < number if self.order == "time" else self.fold != number
        return kept.nonzero().squeeze(1)

    def unseen(self, log: Log) -> Bool[Tensor, " round"]:
        """Tell which scored rounds show an item that their model's own rounds never do."""
        out = torch.zeros(len(log), dtype=torch.bool, device=log.slate.device)
        for number in range(self.count):
            known = torch.zeros(log.n_items, dtype=torch.bool, device=out.device)
            known[log.slate[self.train(number)].reshape(-1)] = True
            here = self.fold == number
            out[here] = ~known[log.slate[here]].all(1)
        return out


def clock(
    log: Log, time: Int[Tensor, " round"] | Float[Tensor, " round"] | None = None
) -> Int[Tensor, " round"] | Float[Tensor, " round"]:
    """Return when each round was: the given time, or the log's steps where they are a clock.

    Raises:
        BadInput: without either, for steps that start again in each session of a user, or for a time that is
            not a number.
    """
    if time is not None:
        if len(time) != len(log):
            raise BadInput(f"time has {len(time)} rows, but the log has {len(log)}")
        if bool(time.isnan().any()):
            raise BadInput(f"time, row {int(time.isnan().nonzero()[0])}: is not a number")
        return time
    if log.step is None:
        raise BadInput(
            "order is time, but the log has no column step and no time was given, so a fold could learn from "
            "rounds that come after those it scores"
        )
    if log.session is not None:
        pairs = torch.unique(torch.stack([log.user, log.session]), dim=1)[0]
        users, count = torch.unique(pairs, return_counts=True)
        if len(users) < len(pairs):
            raise BadInput(
                f"column step: user {int(users[count > 1][0])} has several sessions and step starts again in "
                "each, so it does not tell which of two rounds came first: give time"
            )
    return log.step


def assign(log: Log, folds: int, seed: Seed, group: bool) -> Int[Tensor, " round"]:
    """Deal users (or rounds) to folds at random, the busiest users first, so that folds are of like size.

    Raises:
        BadInput: for fewer than 2 folds, or more folds than users (or rounds).
    """
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    key = log.user if group else torch.arange(len(log), device=log.user.device)
    names, where, count = torch.unique(key, return_inverse=True, return_counts=True)
    if len(names) < folds:
        what = "users" if group else "rounds"
        raise BadInput(f"the log has {len(names)} {what}, too few for {folds} folds")
    return evenly(where, count, folds, seed)


def evenly(
    where: Int[Tensor, " round"], count: Int[Tensor, " unit"], folds: int, seed: Seed
) -> Int[Tensor, " round"]:
    """Deal units to folds at random, the largest first, so that folds are of like size.

    Args:
        where: the unit of each row, from 0.
        count: rows of each unit.
        folds: how many.
        seed: of the order of units of one size.
    """
    mixed = torch.randperm(len(count), generator=seed.torch()).to(count.device)
    order = mixed[count[mixed].argsort(descending=True, stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(count), device=order.device) % folds
    return fold[where]


def _blocks(when: Tensor, folds: int) -> Int[Tensor, " round"]:
    """Cut the rounds into folds + 1 blocks by time, and number them from -1."""
    if folds < 1:
        raise BadInput(f"folds is {folds}, but at least 1 must be scored")
    times, where, count = torch.unique(when, return_inverse=True, return_counts=True)
    before = count.cumsum(0) - count
    block = before * (folds + 1) // len(when)
    found: Tensor = torch.unique(block, return_inverse=True)[1]
    if int(found.max()) < folds:
        raise BadInput(
            f"{len(when)} rounds at {len(times)} times, of which one has {int(count.max())}, cannot be cut "
            f"into {folds} folds and a burn-in of like size"
        )
    number: Tensor = found[where] - 1
    return number


def _given(log: Log, fold: Int[Tensor, " round"], least: int, group: bool) -> int:
    """Check folds that a caller gives, and return how many there are."""
    if len(fold) != len(log):
        raise BadInput(f"fold has {len(fold)} rows, but the log has {len(log)}")
    if int(fold.min()) < least:
        row = int(fold.argmin())
        raise BadInput(f"fold, row {row}: {int(fold[row])} is below {least}")
    count = int(fold.max()) + 1
    names = torch.unique(fold)
    empty = [k for k in range(least, count) if k not in names.tolist()]
    if empty or count - least < 2:
        name = "the burn-in, fold -1," if empty[:1] == [-1] else f"fold {empty[0]}" if empty else ""
        what = f"{name} has no rounds" if empty else "there is one fold only"
        raise BadInput(f"{what}, so there is nothing to learn from or nothing to score")
    if group:
        pairs = torch.unique(torch.stack([log.user, fold]), dim=1)[0]
        users, each = torch.unique(pairs, return_counts=True)
        if bool((each > 1).any()):
            raise BadInput(
                f"user {int(users[each > 1][0])} is in two folds, so a model scores a user that it has "
                "learned from: deal users whole, or say group=False"
            )
    return count


def _refuse_leaks(fold: Int[Tensor, " round"], when: Tensor) -> None:
    """Refuse folds of which a later one has a round that is not later."""
    number = int(fold.max())
    for k in range(int(fold.min()), number):
        early, late = (fold <= k).nonzero().squeeze(1), (fold > k).nonzero().squeeze(1)
        a, b = early[when[early].argmax()], late[when[late].argmin()]
        if float(when[a]) >= float(when[b]):
            raise BadInput(
                f"time leaks between folds: row {int(a)} of fold {int(fold[a])} is of time "
                f"{float(when[a]):g}, and row {int(b)} of fold {int(fold[b])}, which learns from it, of time "
                f"{float(when[b]):g}"
            )
