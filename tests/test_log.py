"""Log: what it refuses, and what a policy may see of the past."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import BadCell, Log, check, joined


def given(slate: list[list[int]], fields: dict[str, Any]) -> dict[str, Any]:
    n = len(slate)
    return {
        "user": torch.zeros(n, dtype=torch.long),
        "slate": torch.tensor(slate),
        "propensity": torch.full((n,), 0.5, dtype=torch.float64),
        "reward": torch.zeros(n, dtype=torch.float64),
        "n_items": 100,
    } | fields


def log_of(slate: list[list[int]], **fields: Any) -> Log:
    return Log(**given(slate, fields))


def refusal_of(slate: list[list[int]], fields: dict[str, Any]) -> BadInput:
    """What `check` says, without the shape checks that only tests have in front of it."""
    log = object.__new__(Log)
    for name, value in given(slate, fields).items():
        object.__setattr__(log, name, value)
    with pytest.raises(BadInput) as caught:
        check(log)
    return caught.value


def past_of(log: Log, row: int, past: int) -> tuple[list[int], list[float]]:
    """The slow twin of `history`: walk over all rounds that come before this one."""

    def key(i: int) -> tuple[int, int, int]:
        session = 0 if log.session is None else int(log.session[i])
        return (session, 0 if log.step is None else int(log.step[i]), i)

    before = [i for i in range(len(log)) if log.user[i] == log.user[row] and key(i) < key(row)]
    items, answers = [-1] * past, [0.0] * past
    for i in sorted(before, key=key):
        items += log.slate[i].tolist()
        answers += [float(log.reward[i])] * log.slots if log.click is None else log.click[i].tolist()
    return items[len(items) - past :], answers[len(answers) - past :]


def test_history_by_hand() -> None:
    """Two users, interleaved, two slots: newest last, and within a slate the last slot is the newest."""
    log = log_of(
        [[1, 2], [11, 12], [3, 4], [13, 14], [5, 6]],
        user=torch.tensor([0, 1, 0, 1, 0]),
        click=torch.tensor([[1.0, 0], [0, 0], [0, 1], [1, 1], [1, 0]]),
    )
    items, answers = log.history(3)
    assert items.tolist() == [[-1, -1, -1], [-1, -1, -1], [-1, 1, 2], [-1, 11, 12], [2, 3, 4]]
    assert answers.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_history_follows_session_and_step_and_not_the_file() -> None:
    """The file is out of order: session 1 comes first in it, and steps run backwards."""
    log = log_of(
        [[40], [30], [20], [10]],
        session=torch.tensor([1, 1, 0, 0]),
        step=torch.tensor([1, 0, 1, 0]),
        reward=torch.tensor([4.0, 3.0, 2.0, 1.0]),
    )
    assert log.order().tolist() == [3, 2, 1, 0]
    items, answers = log.history(2)
    assert items.tolist() == [[20, 30], [10, 20], [-1, 10], [-1, -1]]
    assert answers.tolist() == [[2, 3], [1, 2], [0, 1], [0, 0]]


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("past", [1, 2, 4, 7, 50])
@pytest.mark.parametrize("keys", ["none", "step", "session and step"])
def test_history_equals_its_slow_twin(slots: int, past: int, keys: str) -> None:
    generator = torch.Generator().manual_seed(slots * 100 + past)
    n = 60
    slate = torch.rand(n, 30, generator=generator).argsort(1)[:, :slots]
    times: dict[str, Tensor] = {}
    if keys != "none":  # ties are left in: the file's order decides them
        times["step"] = torch.randint(5, (n,), generator=generator)
    if keys == "session and step":
        times["session"] = torch.randint(3, (n,), generator=generator)
    log = log_of(
        slate.tolist(),
        user=torch.randint(4, (n,), generator=generator),
        click=torch.rand(n, slots, generator=generator),
        **times,
    )
    items, answers = log.history(past)
    for row in range(n):
        wanted, fed_back = past_of(log, row, past)
        assert items[row].tolist() == wanted
        assert answers[row].tolist() == pytest.approx(fed_back)


def test_nothing_of_later_rounds_leaks() -> None:
    """Changing the last round changes no one's history but that of rounds after it: none."""
    generator = torch.Generator().manual_seed(0)
    slate = torch.rand(20, 9, generator=generator).argsort(1)[:, :2]
    user, step = torch.arange(20) % 3, torch.arange(20) // 3
    click = torch.rand(20, 2, generator=generator)
    before = log_of(slate.tolist(), user=user, step=step, click=click).history(5)
    for row in range(20):
        other, fed_back = slate.clone(), click.clone()
        other[row], fed_back[row] = torch.tensor([97, 98]), 9.0
        after = log_of(other.tolist(), user=user, step=step, click=fed_back).history(5)
        later = (user == user[row]) & (step > step[row])
        assert torch.equal(after[0][~later], before[0][~later])
        assert torch.equal(after[1][~later], before[1][~later])
        near = later & (step <= step[row] + 2)  # five items reach three rounds back
        assert (after[0][near] == 97).any(1).all()


def test_context_masks_the_padding_and_finds_what_was_shown() -> None:
    log = log_of([[0], [7]], candidates=torch.tensor([[5, 0, -1], [7, 3, 2]]), features=torch.ones(2, 4))
    context = log.context(past=1)
    assert context.mask.tolist() == [[True, True, False], [True, True, True]]
    columns = context.columns(log.slate)
    assert columns.tolist() == [[1], [0]]
    assert context.mask.gather(1, columns).all()
    assert context.features.shape == (2, 4)
    assert context.history.tolist() == [[-1], [0]]


def test_context_without_candidates_offers_the_catalogue() -> None:
    context = log_of([[3], [4]], n_items=6).context()
    assert context.candidates.tolist() == [list(range(6))] * 2
    assert context.history.shape == (2, 0)


def test_rows_keep_every_column_together() -> None:
    log = log_of(
        [[1, 2], [3, 4], [5, 6]],
        user=torch.tensor([7, 8, 9]),
        reward=torch.tensor([1.0, 2.0, 3.0]),
        policy=("a", "b", "c"),
    )
    cases: list[tuple[Tensor | slice, list[int]]] = [
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (slice(1, None), [1, 2]),
    ]
    for index, order in cases:
        part = log.rows(index)
        assert part.user.tolist() == [[7, 8, 9][i] for i in order]
        assert part.slate.tolist() == [[[1, 2], [3, 4], [5, 6]][i] for i in order]
        assert part.reward.tolist() == [[1.0, 2.0, 3.0][i] for i in order]
        assert part.policy == tuple("abc"[i] for i in order)
    assert log_of([[1], [2]], policy=("one",)).rows(torch.tensor([1])).policy == ("one",)
    with pytest.raises(BadInput, match="the log is empty"):
        log.rows(torch.tensor([False, False, False]))


def test_equality_is_of_values_shapes_and_dtypes() -> None:
    log = log_of([[1], [2]])
    assert log == log_of([[1], [2]])
    assert log == log_of([[1], [2]], policy=("unknown", "unknown"))
    assert log != log_of([[1], [3]])
    assert log != log_of([[1], [2]], policy=("unknown", "other"))
    assert log != log_of([[1], [2]], reward=torch.zeros(2))
    assert log != log_of([[1], [2]], step=torch.zeros(2, dtype=torch.long))
    assert log_of([[1], [2]], step=torch.zeros(2, dtype=torch.long)) != log
    assert log != log_of([[1], [2]], n_items=99)
    assert log != "log"


half = 0.5
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"slate": torch.tensor([[1, 2], [3, 3]])}, "column slate, row 1, slot 1: 3 is in the slate twice"),
    (
        {"slate": torch.tensor([[1, 2], [3, -4]])},
        "column slate, row 1, slot 1: -4 is negative, but ids count",
    ),
    (
        {"slate": torch.tensor([[1, 2], [100, 3]])},
        "column slate, row 1, slot 0: 100 is an unknown item: the cat",
    ),
    ({"slate": torch.zeros(2, 0, dtype=torch.long)}, "column slate, row 0: the slate is empty"),
    ({"user": torch.tensor([0, -1])}, "column user, row 1: -1 is negative"),
    ({"step": torch.tensor([-3, 0])}, "column step, row 0: -3 is negative"),
    (
        {"propensity": torch.tensor([half, 0.0])},
        "column propensity, row 1: 0.0 is not a probability in (0, 1]",
    ),
    ({"propensity": torch.tensor([half, -half])}, "column propensity, row 1: -0.5 is not a probability"),
    (
        {"propensity": torch.tensor([half, torch.nan])},
        "column propensity, row 1: nan is missing or not a number",
    ),
    ({"propensity": torch.tensor([torch.inf, half])}, "column propensity, row 0: inf is not a probability"),
    (
        {"propensity": torch.tensor([25.0, 50.0])},
        "row 0: 25.0 is not a probability in (0, 1]; if these are per cent",
    ),
    (
        {"slot_propensity": torch.tensor([[1.0, half], [half, 2]])},
        "column slot_propensity, row 1, slot 1: 2.0 is",
    ),
    ({"slot_propensity": torch.ones(2, 1)}, "column slot_propensity has 1 slots, but slate has 2"),
    ({"click": torch.ones(2, 3)}, "column click has 3 slots, but slate has 2"),
    (
        {"click": torch.tensor([[0.0, torch.nan], [0, 0]])},
        "column click, row 0, slot 1: nan is missing or not fin",
    ),
    ({"reward": torch.tensor([0.0, torch.inf])}, "column reward, row 1: inf is missing or not finite"),
    ({"features": torch.tensor([[0.0], [torch.nan]])}, "column features, row 1, slot 0: nan is missing"),
    ({"features": torch.zeros(2, 3), "feature_names": ("a",)}, "3 features have 1 names"),
    ({"position": torch.tensor([0, 1])}, "column position is for one item a row, but slate has 2 slots"),
    ({"session": torch.zeros(3, dtype=torch.long)}, "column session has 3 rows, but user has 2"),
    ({"policy": ("a", "b", "c")}, "column policy has 3 names; give one, or one for each of 2 rows"),
    ({"n_items": 0}, "n_items is 0, but a catalogue has at least one item"),
    ({"item_names": ("a", "b")}, "item 4 has no name: there are 2 item names"),
    ({"user_names": ("a",), "user": torch.tensor([0, 1])}, "user 1 has no name: there are 1 user names"),
    ({"n_items": 5, "item_names": tuple("abcdef")}, "5 items have 6 names"),
    (
        {"candidates": torch.tensor([[1, 2], [3, 5]])},
        "column slate, row 1, slot 1: 4 is not among the row's cand",
    ),
    (
        {"candidates": torch.tensor([[1, 2, 3], [3, 4, 100]])},
        "column candidates, row 1, slot 2: 100 is an unknown",
    ),
    (
        {"candidates": torch.tensor([[1, 2, -2], [3, 4, 5]])},
        "column candidates, row 0, slot 2: -2 is an unknown",
    ),
    (
        {"candidates": torch.tensor([[1, 2, 3], [-1, 3, 4]])},
        "column candidates, row 1, slot 0: -1 pads the row bef",
    ),
    (
        {"candidates": torch.tensor([[1, 2, 1], [3, 4, -1]])},
        "column candidates, row 0, slot 2: 1 is a candidate tw",
    ),
]


@pytest.mark.parametrize(("fields", "sentence"), REFUSED, ids=[s[:60] for _, s in REFUSED])
def test_a_log_that_cannot_have_happened_is_refused(fields: dict[str, Any], sentence: str) -> None:
    said = str(refusal_of([[1, 2], [3, 4]], fields))
    assert sentence in said
    assert "\n" not in said


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(BadInput, match="the log is empty: it has no rows"):
        log_of([[1]]).rows(slice(0, 0))


def test_a_refused_cell_keeps_its_place() -> None:
    with pytest.raises(BadCell) as caught:
        log_of([[1, 2], [3, 3]])
    bad = caught.value
    assert (bad.column, bad.row, bad.slot, bad.value) == ("slate", 1, 1, 3)
    there = pickle.loads(pickle.dumps(bad))  # as a worker process hands it back
    assert str(there) == str(bad)


def test_padding_may_repeat_at_the_end() -> None:
    log = log_of([[1], [2]], candidates=torch.tensor([[1, -1, -1], [4, 2, -1]]))
    assert log.context().mask.sum(1).tolist() == [1, 2]


def test_joined_logs_are_one_after_the_other() -> None:
    """Rows keep their order, and the name of who logged them where names differ."""
    one = Log(
        user=torch.tensor([0, 1]),
        slate=torch.tensor([[2], [0]]),
        propensity=torch.tensor([0.5, 0.25]),
        reward=torch.tensor([1.0, 0.0]),
        n_items=3,
        policy=("a",),
    )
    other = replace(one, user=torch.tensor([2, 3]), policy=("b",))
    both = joined([one, other])
    assert both.rows(slice(0, 2)) == replace(one, policy=("a", "a"))
    assert both.rows(slice(2, 4)) == replace(other, policy=("b", "b"))
    assert joined([one, one]).policy == ("a",)
    assert joined([both, one]).policy == ("a", "a", "b", "b", "a", "a")
