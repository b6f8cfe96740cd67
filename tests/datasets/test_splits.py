"""Splits: the reference split bit for bit, small ones by hand, and what hangs on ties."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from simlab.datasets.recbole import RecBole
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed
from simlab.splits import (
    Split,
    at_random,
    global_temporal,
    leave_one_out,
    user_temporal,
    warn_if_restarted,
)

SHARED = Path(__file__).parents[2] / "../shared"
ML = SHARED / "data/ml-100k"
REFERENCE = SHARED / "cases/rank/ml100k_loo.parquet"
needs_ml = pytest.mark.skipif(
    not (ML / "ml-100k.inter").is_file() or not REFERENCE.is_file(),
    reason="MovieLens-100K and its reference split are not here",
)


def log_of(user: list[int], step: list[int] | None, **fields: Any) -> Log:
    n = len(user)
    return Log(
        user=torch.tensor(user),
        slate=torch.arange(n).unsqueeze(1),
        propensity=torch.ones(n),
        reward=torch.ones(n),
        n_items=n,
        step=None if step is None else torch.tensor(step),
        **fields,
    )


def rows(split: Split) -> tuple[list[int], list[int], list[int]]:
    return tuple(m.nonzero().squeeze(1).tolist() for m in (split.train, split.valid, split.test))  # type: ignore[return-value]


@needs_ml
def test_leave_one_out_is_the_reference_split_row_by_row() -> None:
    """The reference sorts by user and time and keeps the file's order in ties (columns `pos` and `row`)."""
    log = RecBole(root=ML, sides=False).load()
    wanted = pd.read_parquet(REFERENCE).sort_values("row")["split"].to_numpy()
    split = leave_one_out(log)
    for name in ("train", "valid", "test"):
        assert np.array_equal(getattr(split, name).numpy(), wanted == name)
    assert split.short == 0
    # The 44 % of users whose last two ratings share a second; with the cut before them there are more.
    assert leave_one_out(log, valid=False).ties == 415
    assert split.ties == 599


@needs_ml
def test_ties_counts_exactly_the_users_whose_parts_can_change() -> None:
    """By another route: a user's part can change where rows in different parts share a second."""
    log = RecBole(root=ML, sides=False).load()
    split = leave_one_out(log)
    frame = pd.DataFrame(
        {"user": log.user, "step": log.step, "part": split.valid.int() + 2 * split.test.int()}
    )
    mixed = frame.groupby(["user", "step"])["part"].nunique() > 1
    assert mixed.groupby("user").any().sum() == split.ties
    changed = torch.zeros(943, dtype=torch.bool)
    for seed in range(8):
        other = leave_one_out(log, ties="random", seed=Seed(seed))
        changed[log.user[(other.test != split.test) | (other.valid != split.valid)]] = True
        assert other.ties <= log.user.max() + 1
    assert changed.sum() <= split.ties
    assert changed.sum() >= 0.9 * split.ties  # of 415 pairs, 2⁻⁸ are never swapped


def test_leave_one_out_by_hand() -> None:
    """Rows in any order; user 1 is too short, and user 2's last two share a step."""
    log = log_of([0, 1, 0, 0, 2, 2, 2, 1], [2, 0, 0, 1, 0, 1, 1, 1])
    split = leave_one_out(log)
    assert rows(split) == ([1, 2, 4, 7], [3, 5], [0, 6])
    assert (split.ties, split.short) == (1, 1)
    assert rows(leave_one_out(log, valid=False)) == ([1, 2, 3, 4, 5], [], [0, 6, 7])
    assert leave_one_out(log, valid=False, history=2).short == 1
    assert rows(leave_one_out(log, valid=False, history=0)) == ([1, 2, 3, 4, 5], [], [0, 6, 7])
    other = {tuple(rows(leave_one_out(log, ties="random", seed=Seed(s)))[2]) for s in range(20)}
    assert other == {(0, 5), (0, 6)}
    with pytest.raises(BadInput, match="no round is held out"):
        leave_one_out(log, history=2)


def test_sessions_follow_one_another_and_no_steps_mean_the_files_order() -> None:
    log = log_of([0, 0, 0, 0], [1, 0, 1, 0], session=torch.tensor([1, 1, 0, 0]))
    assert rows(leave_one_out(log)) == ([2, 3], [1], [0])
    assert leave_one_out(log).ties == 0
    bare = leave_one_out(log_of([0, 1, 0, 0, 1], None))
    assert rows(bare) == ([0, 1, 4], [2], [3])
    assert (bare.ties, bare.short) == (1, 1)


def test_user_temporal_by_hand() -> None:
    """Of 10 rows 2 and 3, of 4 rows 1 and 1 (0.8 and 1.2), of 1 row none; halves go up."""
    user = [0] * 10 + [1] * 4 + [2]
    log = log_of(user, [*range(10), *range(4), 0])
    split = user_temporal(log, valid=0.3, test=0.2)
    assert rows(split) == ([*range(5), 10, 11, 14], [5, 6, 7, 12], [8, 9, 13])
    assert (split.ties, split.short) == (0, 1)
    assert rows(user_temporal(log, valid=0, test=0.25))[2] == [7, 8, 9, 13]
    tied = log_of([0] * 4, [0, 1, 1, 2])
    assert user_temporal(tied, valid=0, test=0.5).ties == 1
    assert user_temporal(tied, valid=0, test=0.25).ties == 0


def test_global_temporal_by_hand() -> None:
    log = log_of([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1])
    time = torch.tensor([1, 5, 2, 3, 5, 6])
    split = global_temporal(log, time, valid=1 / 6, test=1 / 3)
    assert rows(split) == ([0, 2, 3], [1], [4, 5])
    assert (split.ties, split.short) == (2, 0)  # users 0 and 2 share the time 5
    other = {
        rows(global_temporal(log, time, valid=1 / 6, test=1 / 3, ties="random", seed=Seed(s)))[1][0]
        for s in range(9)
    }
    assert other == {1, 4}
    assert rows(global_temporal(log, time.double(), at=(3, 5.5))) == ([0, 2], [1, 3, 4], [5])
    warm = global_temporal(log, time, valid=1 / 6, test=1 / 3, history=1)
    assert rows(warm) == ([0, 2, 3], [1], [])
    assert warm.short == 1
    with pytest.raises(BadInput, match=r"moments 0 and 5 leave a part without rounds: time runs from 1 to 6"):
        global_temporal(log, time, at=(0, 5))


def test_no_round_of_training_is_later_than_one_held_out() -> None:
    luck = Seed(3).torch()
    time = torch.randint(40, (300,), generator=luck)
    user = torch.randint(9, (300,), generator=luck)
    log = log_of(user.tolist(), time.tolist())
    for ties in ("file", "random"):
        split = global_temporal(log, time, ties=ties)
        assert time[split.train].max() <= time[split.valid].min()
        assert time[split.valid].max() <= time[split.test].min()
        assert [int(m.sum()) for m in (split.train, split.valid, split.test)] == [240, 30, 30]


def test_a_time_that_contradicts_the_steps_is_refused() -> None:
    log = log_of([1, 0, 1], [0, 0, 1])
    with pytest.raises(
        BadInput, match=r"user 1: time runs backwards from 9.0 at row 0 to 7.0 at row 2, which"
    ):
        global_temporal(log, torch.tensor([9.0, 8, 7]), test=0.4)
    with pytest.raises(BadInput, match="time, row 1: nan is missing or not finite"):
        global_temporal(log, torch.tensor([1.0, torch.nan, 2]))
    with pytest.raises(BadInput, match="there are 2 times for 3 rounds"):
        global_temporal(log, torch.tensor([1.0, 2]))


def test_steps_that_start_again_are_named() -> None:
    """Two visits laid end to end, each with steps from 0, and nothing that tells them apart."""
    user = [5, 3, 3, 5, 3, 5, 3, 3, 3]
    step = [0, 0, 1, 1, 2, 2, 0, 1, 2]
    sentence = (
        "user 3, row 6: step goes back from 2 to 0, which row 1 of the same session has too, so sorting by "
        "step mixes two visits: give each its own session, or steps that go on"
    )
    log = log_of(user, step)
    for cut in (warn_if_restarted, leave_one_out, user_temporal):
        with pytest.warns(UserWarning, match="goes back") as caught:
            cut(log)
        assert [str(w.message) for w in caught] == [sentence]
    with pytest.warns(UserWarning, match="^user 3, row 6: ") as caught:
        leave_one_out(log_of(user, step, session=torch.tensor([0, 0, 0, 1, 0, 1, 0, 0, 0])))
    # Sessions of their own, steps that go on, and no steps: nothing to say. Warnings are errors here.
    leave_one_out(log_of(user, step, session=torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])))
    leave_one_out(log_of(user, [0, 0, 1, 1, 2, 2, 3, 4, 5]))
    leave_one_out(log_of(user, None))


def test_rows_in_any_order_are_sorted_without_a_warning() -> None:
    """Also with ties; the split is that of the rows in order."""
    g = Seed(3).torch()
    user, step = torch.arange(20).repeat_interleave(6), torch.tensor([0, 1, 1, 2, 3, 4]).repeat(20)
    wanted = leave_one_out(log_of(user.tolist(), step.tolist()))
    order = torch.randperm(len(user), generator=g)
    mixed = leave_one_out(log_of(user[order].tolist(), step[order].tolist()))
    assert torch.equal(mixed.test, wanted.test[order])
    back = leave_one_out(log_of(user.tolist(), step.flip(0).tolist()))
    assert rows(back)[2] == [6 * u for u in range(20)]


def test_at_random() -> None:
    log = log_of([0] * 95 + [1] * 4 + [2], None)
    split = at_random(log, valid=0.2, test=0.1, seed=Seed(1))
    assert [int(m.sum()) for m in (split.train, split.valid, split.test)] == [70, 20, 10]
    assert rows(at_random(log, valid=0.2, test=0.1, seed=Seed(1))) == rows(split)
    assert rows(at_random(log, valid=0.2, test=0.1, seed=Seed(2))) != rows(split)
    each = at_random(log, valid=0.25, test=0.25, per_user=True, history=1, seed=Seed(1))
    assert [[int(m[log.user == u].sum()) for u in range(3)] for m in (each.valid, each.test)] == [
        [24, 1, 0]
    ] * 2
    alone = [at_random(log, valid=0, test=0.9, history=1, seed=Seed(s)) for s in range(20)]
    assert all(bool(s.train[99]) for s in alone)  # held out, it would leave user 2 nothing to train on
    assert any(s.short for s in alone)
    share = torch.stack([at_random(log, valid=0, test=0.3, seed=Seed(s)).test for s in range(400)]).double()
    assert (share.mean(0) - 0.3).abs().max() < 4.5 * (0.21 / 400) ** 0.5  # every round is as likely


@pytest.mark.parametrize(
    "shares", [{"valid": -0.1}, {"test": 1.0}, {"valid": 0.5, "test": 0.5}, {"valid": 0, "test": 0}]
)
def test_shares_that_cannot_be_are_refused(shares: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"is a share from 0 to below 1|together, but something is"):
        user_temporal(log_of([0] * 9, None), **shares)


def test_a_split_is_whole() -> None:
    yes, no = torch.tensor([True, False]), torch.tensor([False, True])
    with pytest.raises(BadInput, match="round 0 is in two parts"):
        Split(yes, yes, no)
    with pytest.raises(BadInput, match="no round is left to train on"):
        Split(yes & no, yes, no)
    with pytest.raises(BadInput, match="no round is held out"):
        Split(yes | no, yes & no, yes & no)
