"""Splits of a log into training, validation and test, with a stated rule where time does not tell.

Rows that share a time have no order of their own: in MovieLens-100K the last two ratings of 415 of 943 users
carry the same second. Each split therefore takes the rule that breaks ties as an argument, and counts the
users whose parts would change with it:

- `ties="file"`: the earlier row of the log is the earlier one (a stable sort, as `Log.order()` has it);
- `ties="random"`: tied rows are shuffled by the seed, to learn how much a result owes to the file's order.

Time is the log's own order by session and step, whatever the order of its rows. A log without steps is in
the order of its rows, and then all rows of a user count as tied, since only the file orders them. Where the
steps of a session start again from the first, rows and steps cannot both be right: see `warn_if_restarted`.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed

Ties = Literal["file", "random"]


@dataclass(frozen=True, eq=False)
class Split:
    """Which rounds are for what; a round may be in no part, never in two.

    To score held-out rounds with their history, take `log.context(past).rows(split.test)`: the history needs
    the rounds before, so cut the context, not the log. `log.rows(split.train)` is what to fit on.

    Attributes:
        train: rounds to train on.
        valid: rounds to choose by; may be empty.
        test: rounds to judge by.
        ties: users with a row whose part hangs on the tie rule, because a cut falls among rows of one time.
        short: users with too few rows to be split.

    Raises:
        BadInput: for a round in two parts, and if there is nothing to train on or nothing held out.
    """

    train: Bool[Tensor, " round"]
    valid: Bool[Tensor, " round"]
    test: Bool[Tensor, " round"]
    ties: int = 0
    short: int = 0

    def __post_init__(self) -> None:
        twice = (self.train & self.valid) | (self.train & self.test) | (self.valid & self.test)
        if bool(twice.any()):
            raise BadInput(f"round {int(twice.nonzero()[0])} is in two parts of the split")
        if not bool(self.train.any()):
            raise BadInput("no round is left to train on")
        if not bool((self.valid | self.test).any()):
            raise BadInput("no round is held out: users have too few of them, or the shares are too small")


def leave_one_out(
    log: Log,
    *,
    valid: bool = True,
    history: int = 1,
    ties: Ties = "file",
    seed: Seed = Seed(0),
) -> Split:
    """Hold out each user's last round for test and the one before it for validation.

    Args:
        log: the rounds, in any order. Rounds without a click are held out like others: drop them first
            (`log.rows(log.reward > 0)`) where the test is to find what was clicked.
        valid: whether to hold out a round for validation too.
        history: rounds that must be left to train on; a user with fewer stays in training whole.
        ties: what orders rows of one time.
        seed: of `ties="random"`.

    Raises:
        BadInput: if no user has enough rounds.

    Warns:
        UserWarning: as `warn_if_restarted` says.
    """
    held = 2 if valid else 1
    rows = _Sorted.of(log, ties, seed)
    long = rows.count >= max(history, 0) + held
    test = long & (rows.back == 0)
    before = long & (rows.back == 1) if valid else torch.zeros_like(test)
    return rows.split(log, before, test, long)


def user_temporal(
    log: Log,
    *,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    history: int = 1,
    ties: Ties = "file",
    seed: Seed = Seed(0),
) -> Split:
    """Hold out the last share of each user's rounds for test, and the share before it for validation.

    A share of n rounds is the nearest whole number, halves rounded up.

    Args:
        log: the rounds, in any order.
        valid: share for validation.
        test: share for test.
        history: rounds that must be left to train on. A user with fewer, or of whom nothing would be held
            out, stays in training whole.
        ties: what orders rows of one time.
        seed: of `ties="random"`.

    Raises:
        BadInput: for shares that cannot be, and if no user has enough rounds.

    Warns:
        UserWarning: as `warn_if_restarted` says.
    """
    _shares(valid, test)
    rows = _Sorted.of(log, ties, seed)
    n_test, n_valid = _part(rows.count, test), _part(rows.count, valid)
    long = (rows.count - n_test - n_valid >= max(history, 0)) & (n_test + n_valid > 0)
    last = long & (rows.back < n_test)
    before = long & ~last & (rows.back < n_test + n_valid)
    return rows.split(log, before, last, long)


def global_temporal(
    log: Log,
    time: Int[Tensor, " round"] | Float[Tensor, " round"],
    *,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    at: tuple[float | int, float | int] | None = None,
    history: int = 0,
    ties: Ties = "file",
    seed: Seed = Seed(0),
) -> Split:
    """Train on what came before a moment, the same for all users: nothing is learnt from the future.

    Args:
        log: the rounds, in any order.
        time: when each round was, such as a data set's `times()`.
        valid: share of all rounds for validation, before the test.
        test: share of all rounds for test, the latest.
        at: instead of the shares, the moments at which validation and test begin (inclusive). Rows of one
            time are then never parted.
        history: rounds of training that a user must have to be held out; the later rounds of others are in
            no part (to train on them would be to learn from the future) and the users are counted.
        ties: what orders rows of one time at a cut.
        seed: of `ties="random"`.

    Raises:
        BadInput: for times that are missing, for shares that cannot be, for moments outside the log, and
            where a user's time runs backwards though the log's steps go on: its history would hold what
            comes after the cut.
    """
    n = len(log)
    if len(time) != n:
        raise BadInput(f"there are {len(time)} times for {n} rounds")
    if not bool(time.isfinite().all()):
        row = int((~time.isfinite()).nonzero()[0])
        raise BadInput(f"time, row {row}: {float(time[row])} is missing or not finite")
    _forwards(log, time)
    order = _start(n, ties, seed, log.user.device)
    order = order[time[order].argsort(stable=True)]
    if at is not None:
        cuts = [int((time < moment).sum()) for moment in at]
        if not 0 < cuts[0] <= cuts[1] < n:
            raise BadInput(
                f"the moments {at[0]} and {at[1]} leave a part without rounds: time runs from "
                f"{time.min().item()} to {time.max().item()}"
            )
    else:
        _shares(valid, test)
        whole = torch.tensor([n])
        last = n - int(_part(whole, test))
        cuts = [last - int(_part(whole, valid)), last]
    early, middle, late = (torch.zeros(n, dtype=torch.bool, device=order.device) for _ in range(3))
    early[order[: cuts[0]]], middle[order[cuts[0] : cuts[1]]], late[order[cuts[1] :]] = True, True, True
    hang = torch.zeros_like(early)
    for cut in set(cuts):
        if 0 < cut < n and time[order[cut - 1]] == time[order[cut]]:
            hang |= time == time[order[cut]]
    trained = torch.zeros(int(log.user.max()) + 1, dtype=torch.long, device=order.device)
    trained.index_add_(0, log.user.long(), early.long())
    cold = ~early & (trained[log.user.long()] < history)
    short = _users(log.user[cold])
    return Split(early, middle & ~cold, late & ~cold, _users(log.user[hang]), short)


def at_random(
    log: Log,
    *,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    per_user: bool = False,
    history: int = 0,
    seed: Seed = Seed(0),
) -> Split:
    """Hold out rounds by lot; time plays no part, so nothing hangs on ties.

    Args:
        log: the rounds.
        valid: share for validation.
        test: share for test.
        per_user: draw these shares of each user's rounds, not of all.
        history: rounds that must be left to train on; the users with fewer stay in training whole.
        seed: of the lot.

    Raises:
        BadInput: for shares that cannot be, and if nothing is held out.
    """
    _shares(valid, test)
    n, device = len(log), log.user.device
    order = _start(n, "random", seed, device)
    key = log.user if per_user else torch.zeros_like(log.user)
    rows = _Sorted.by(order[key[order].argsort(stable=True)], key)
    n_test, n_valid = _part(rows.count, test), _part(rows.count, valid)
    late = torch.zeros(n, dtype=torch.bool, device=device)
    middle = late.clone()
    late[rows.order] = rows.back < n_test
    middle[rows.order] = (rows.back >= n_test) & (rows.back < n_test + n_valid)
    left = torch.zeros(int(log.user.max()) + 1, dtype=torch.long, device=device)
    user = log.user.long()
    left.index_add_(0, user, (~(late | middle)).long())
    few = left[user] < history
    late, middle = late & ~few, middle & ~few
    return Split(~(late | middle), middle, late, 0, _users(log.user[few]))


def warn_if_restarted(log: Log, stacklevel: int = 2) -> None:
    """Warn of a log in which the steps of a user's session start again, as of two visits laid end to end.

    Rows may be in any order where steps tell it: they are sorted, and nothing is said. But where every step
    back from row to row, of all users, lands on the step of its session's first row, the rows say "later" and
    the steps "at the same time". Sorting would then mix the visits, and what a user did in one would be the
    history of the other. A table that is merely out of order looks so only if it is small and has ties.

    Args:
        log: the rounds.
        stacklevel: whose line the warning names, as in `warnings.warn`; 1 is the caller's.

    Warns:
        UserWarning: naming the first user, the row, the two steps, and the row that had the step before.
    """
    if log.step is None:
        return
    order = torch.arange(len(log), device=log.user.device)
    fresh = torch.zeros(len(log), dtype=torch.bool, device=order.device)
    keys = [key for key in (log.session, log.user) if key is not None]
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    fresh[0] = True
    for key in keys:
        fresh[1:] |= key[order[1:]] != key[order[:-1]]
    step, place = log.step[order], torch.arange(len(log), device=order.device)
    first = torch.where(fresh, place, 0).cummax(0).values
    back = torch.zeros_like(fresh)
    back[1:] = ~fresh[1:] & (step[1:] < step[:-1])
    if not bool(back.any()) or not bool((step == step[first])[back].all()):
        return
    row = order[back].min()
    at = int((order == row).nonzero()[0])
    last, now = int(step[at - 1]), int(step[at])
    warnings.warn(
        f"user {int(log.user[row])}, row {int(row)}: step goes back from {last} to {now}, which row "
        f"{int(order[first[at]])} of the same session has too, so sorting by step mixes two visits: give "
        "each its own session, or steps that go on",
        stacklevel=stacklevel + 1,
    )


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Rows sorted by a key, and within it by time.

    Attributes:
        order: the row of the log at each place.
        back: how many rows of the same key come after it.
        count: how many rows of the same key there are.
        tied: whether it shares key and time with the row before.
    """

    order: Int[Tensor, " round"]
    back: Int[Tensor, " round"]
    count: Int[Tensor, " round"]
    tied: Bool[Tensor, " round"]

    @staticmethod
    def by(order: Tensor, *keys: Tensor | None) -> "_Sorted":
        """Describe an order that sorts by the first key."""
        first = keys[0]
        assert first is not None
        fresh = torch.ones(len(order) + 1, dtype=torch.bool, device=order.device)
        fresh[1:-1] = first[order[1:]] != first[order[:-1]]
        size = fresh.nonzero().squeeze(1).diff()
        end = size.cumsum(0).repeat_interleave(size)
        tied = torch.ones(len(order), dtype=torch.bool, device=order.device)
        tied[0] = False
        for key in keys:
            if key is not None:
                tied[1:] &= key[order[1:]] == key[order[:-1]]
        place = torch.arange(len(order), device=order.device)
        return _Sorted(order, end - 1 - place, size.repeat_interleave(size), tied)

    @staticmethod
    def of(log: Log, ties: Ties, seed: Seed) -> "_Sorted":
        """Sort by user and time."""
        warn_if_restarted(log, stacklevel=3)
        order = _start(len(log), ties, seed, log.user.device)
        for key in (log.step, log.session, log.user):
            if key is not None:
                order = order[key[order].argsort(stable=True)]
        return _Sorted.by(order, log.user, log.session, log.step)

    def split(self, log: Log, valid: Tensor, test: Tensor, long: Tensor) -> Split:
        """Bring parts, given in sorted order, into the order of the log, and count."""
        part = valid.to(torch.int8) + 2 * test.to(torch.int8)
        cut = torch.zeros_like(valid)
        cut[1:] = part[1:] != part[:-1]
        ties = _users(log.user[self.order[cut & self.tied]])
        short = _users(log.user[self.order[~long]])
        rows = torch.empty_like(part)
        rows[self.order] = part
        return Split(rows == 0, rows == 1, rows == 2, ties, short)


def _start(n: int, ties: Ties, seed: Seed, device: torch.device) -> Int[Tensor, " round"]:
    """Return the order that stable sorts leave to ties."""
    if ties not in ("file", "random"):
        raise BadInput(f"ties is {ties!r}, but it is file or random")
    if ties == "file":
        return torch.arange(n, device=device)
    return torch.randperm(n, generator=seed.torch()).to(device)


def _users(user: Int[Tensor, " some"]) -> int:
    """Return how many different users there are."""
    return int(user.bincount().count_nonzero())


def _shares(valid: float | int, test: float | int) -> None:
    """Refuse shares that cannot be."""
    for name, share in (("valid", valid), ("test", test)):
        if not 0 <= share < 1:
            raise BadInput(f"{name} is {share}, but it is a share from 0 to below 1")
    if not 0 < valid + test < 1:
        raise BadInput(
            f"valid and test are {valid + test} together, but something is held out and something left"
        )


def _part(count: Int[Tensor, " some"], share: float | int) -> Int[Tensor, " some"]:
    """Return a share of each count, the nearest whole number, halves up."""
    return (count.double() * share + 0.5 + 1e-9).floor().long()


def _forwards(log: Log, time: Tensor) -> None:
    """Refuse a user whose time runs backwards in the log's own order."""
    order = log.order()
    user, when = log.user[order], time[order]
    wrong = (user[1:] == user[:-1]) & (when[1:] < when[:-1])
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        one, two = int(order[place]), int(order[place + 1])
        raise BadInput(
            f"user {int(user[place])}: time runs backwards from {when[place].item()} at row {one} to "
            f"{when[place + 1].item()} at row {two}, which comes later by the log's steps, so its history "
            "would hold what a split by time holds out"
        )
