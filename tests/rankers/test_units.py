"""What a row is, written out slowly: rounds against the catalogue, windows of tokens, whole users, ranks."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers._sequence import SequenceRanker
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.esmm import ESMM
from simlab.rankers.mf import MF
from simlab.seeds import Seed
from simlab.training.examples import Source
from simlab.training.fit import FitSettings, fit
from simlab.training.judge import held_out
from simlab.training.units import Rounds, Tokens, Users

ITEMS = 12


def log_of(clicks: dict[int, list[int]], n_items: int = ITEMS) -> Log:
    """Return one row for each click, in the order of the lists."""
    user = torch.tensor([u for u, items in clicks.items() for _ in items])
    n = len(user)
    return Log(
        user=user,
        slate=torch.tensor([[i] for items in clicks.values() for i in items]),
        propensity=torch.ones(n, dtype=torch.float64),
        reward=torch.ones(n, dtype=torch.float64),
        click=torch.ones(n, 1, dtype=torch.float64),
        step=torch.tensor([t for items in clicks.values() for t in range(len(items))]),
        n_items=n_items,
    )


CLICKS = {0: [1, 2, 3, 4, 5, 6, 7, 8], 1: [3], 2: [9, 1, 9], 5: [0, 11]}


class Summing(SequenceRanker):
    """The state after an item is the sum of the vectors so far: easy to say for every prefix."""

    @dataclass(frozen=True)
    class Spec:
        dim: int = 4
        past: int = 3
        spread: float = 1.0

    name: ClassVar[str] = "summing"

    def hidden(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        found: Tensor = self.items(history).cumsum(1)
        return found


def a_ranker(kind: type[Ranker], log: Log) -> Ranker:
    ranker = kind.build(Sizes.of(log), {}, None, Seed(1))
    with torch.no_grad():
        for p in ranker.parameters():
            p.normal_(generator=Seed(2).torch())
    return ranker


def every(log: Log) -> Tensor:
    return torch.arange(len(log))


def test_every_click_but_the_first_is_a_target_once() -> None:
    log = log_of(CLICKS)
    unit = Tokens(Source(log, 3), FitSettings(unit="token", loss="softmax"), 3)
    assert unit.lay(every(log), Seed(0)) == 7 + 0 + 2 + 1
    targets = [
        (int(log.user[r]), int(log.step[r]) if log.step is not None else 0)
        for r in unit.rounds[unit.is_target].tolist()
    ]
    assert sorted(targets) == [(0, t) for t in range(1, 8)] + [(2, 1), (2, 2), (5, 1)]
    assert unit.items.tolist()[:3] == [[-1, 1, 2, -1][:0] or [-1, -1, 1, 2], [2, 3, 4, 5], [5, 6, 7, 8]]


def test_a_target_per_token_is_the_loss_of_every_prefix() -> None:
    """In a window, each click is predicted from the clicks of the window before it."""
    log = log_of(CLICKS)
    ranker = a_ranker(Summing, log)
    assert isinstance(ranker, Summing)
    weight = torch.rand(len(log), 1, generator=Seed(3).torch())
    source = Source(log, 3, weight=weight)
    unit = Tokens(source, FitSettings(unit="token", loss="softmax"), 3)
    unit.lay(every(log), Seed(0))
    above, below = unit.loss(ranker, torch.arange(len(unit.items)), log.user)
    windows = [[1, 2], [2, 3, 4, 5], [5, 6, 7, 8], [9, 1, 9], [0, 11]]
    rows = [[0, 1], [1, 2, 3, 4], [4, 5, 6, 7], [9, 10, 11], [12, 13]]
    table, total, weights = ranker.item_vectors(), torch.zeros(()), 0.0
    for window, where in zip(windows, rows, strict=True):
        for t in range(1, len(window)):
            logits = table @ table[window[:t]].sum(0)
            w = float(weight[where[t], 0])
            total = total - w * logits.log_softmax(0)[window[t]]
            weights += w
    torch.testing.assert_close(above[0], total)
    assert float(below[0]) == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_batches_of_windows_hold_each_once(rows: int) -> None:
    log = log_of({u: list(range(1 + u % 7)) for u in range(40)})
    unit = Tokens(Source(log, 3), FitSettings(unit="token", loss="softmax"), 3)
    count = unit.lay(every(log), Seed(0))
    batches = unit.order(Seed(1), rows)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(unit.items)))
    assert [b.tolist() for b in batches] == [b.tolist() for b in unit.order(Seed(1), rows)]
    if rows == 3:
        sizes = [int(unit.counts[b].sum()) for b in batches]
        assert sum(sizes) == count
        assert max(sizes) <= 3 + 2  # a window of three targets is not split


@pytest.mark.parametrize("loss", ["softmax", "infonce", "bce", "bpr", "gbce"])
@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
def test_shared_negatives_are_their_formula(loss: str, sampler: str) -> None:
    log = log_of(CLICKS)
    ranker = a_ranker(Summing, log)
    settings = FitSettings(unit="token", loss=loss, negatives=5, sampler=sampler, temperature=2.0)
    unit = Tokens(Source(log, 3), settings, 3)
    unit.lay(every(log), Seed(0))
    drawn, log_q = unit._shared(torch.device("cpu"))
    unit.lay(every(log), Seed(0))
    index = torch.tensor([0, 3])
    above, below = unit.loss(ranker, index, log.user)
    table, total, count = ranker.item_vectors().detach(), torch.zeros(()), 0.0
    for window in ([1, 2], [9, 1, 9]):
        for t in range(1, len(window)):
            state, target = table[window[:t]].sum(0), window[t]
            z = float(state @ table[target])
            others = [
                (float(state @ table[j]), float(q))
                for j, q in zip(drawn.tolist(), log_q, strict=True)
                if j != target
            ]
            if loss in ("softmax", "infonce"):
                shift = math.log(5) if loss == "softmax" else 0.0
                lie = [s / 2 - (q + shift if loss == "softmax" else 0) for s, q in others]
                total = total + torch.tensor([z / 2, *lie]).logsumexp(0) - z / 2
                count += 1
            elif loss == "bpr":
                gaps = torch.tensor([z - s for s, _ in others])
                total = total + functional.softplus(-gaps).sum()
                count += len(others)
            else:
                alpha = 5 / (ITEMS - 1)
                beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha) if loss == "gbce" else 1.0
                total = total + beta * functional.softplus(torch.tensor(-z))
                total = total + functional.softplus(torch.tensor([s for s, _ in others])).sum()
                count += 1
    torch.testing.assert_close(above[0], total)
    assert float(below[0]) == count


def test_the_full_softmax_of_rounds() -> None:
    log = log_of(CLICKS)
    ranker = a_ranker(MF, log)
    source = Source(log, 4)
    unit = Rounds(source, FitSettings(loss="softmax", temperature=0.5))
    assert unit.lay(every(log), Seed(0)) == len(log)
    above, below = unit.loss(ranker, torch.tensor([2, 10]), log.user)
    context = log.context(4)
    logits = ranker.score(context) / 0.5
    expected = -sum(logits[r].log_softmax(0)[int(log.slate[r, 0])] for r in (2, 10))
    torch.testing.assert_close(above[0], torch.as_tensor(expected))
    assert float(below[0]) == 2


@pytest.mark.parametrize("log_q", [True, False])
def test_in_batch_negatives_are_corrected_for_popularity(log_q: bool) -> None:
    log = log_of(CLICKS)
    ranker = a_ranker(MF, log)
    unit = Rounds(Source(log, 4), FitSettings(loss="softmax", sampler="in-batch", log_q=log_q))
    unit.lay(every(log), Seed(0))
    index = torch.tensor([8, 9, 10, 11, 13])  # items 3 9 1 9 11: a 9 is no negative of the other
    above, _ = unit.loss(ranker, index, log.user)
    items = log.slate[index, 0].tolist()
    share = {i: log.slate.flatten().tolist().count(i) / len(log) for i in items}
    context, total = log.context(4), torch.zeros(())
    scores = ranker.score(context)[index]
    for row, item in enumerate(items):
        columns = [j for j, other in enumerate(items) if j == row or other != item]
        z = torch.stack(
            [scores[row, items[j]] - (math.log(share[items[j]]) if log_q else 0) for j in columns]
        )
        total = total - z.log_softmax(0)[columns.index(row)]
    torch.testing.assert_close(above[0], total)


def test_hard_negatives_are_the_best_scored_of_four_times_as_many() -> None:
    log = log_of(CLICKS)
    ranker = a_ranker(MF, log)
    unit = Rounds(Source(log, 4), FitSettings(loss="bpr", negatives=1, sampler="hard"))
    unit.lay(every(log), Seed(0))
    rows = unit.rows.rows(torch.arange(6))
    kept = unit._hardest(ranker, rows, log.user)
    assert rows.items.shape == (6, 5)
    scores = ranker.score(unit.source.context(rows.round, log.user[rows.round], rows.items))
    best = rows.items.gather(1, scores[:, 1:].argmax(1, keepdim=True) + 1)
    assert kept.items.tolist() == torch.cat([rows.items[:, :1], best], 1).tolist()
    assert kept.target.tolist() == [[1.0, 0.0]] * 6


def test_a_user_is_input_and_target() -> None:
    """The history is all of the user's training clicks, and so is the target."""
    log = log_of(CLICKS)
    ranker = a_ranker(MF, log)
    unit = Users(Source(log, 50), FitSettings(unit="user", loss="bce"), 50)
    assert unit.lay(every(log), Seed(0)) == 4
    above, below = unit.loss(ranker, torch.tensor([0, 2]), log.user)
    total = torch.zeros(())
    for user in (0, 2):
        history = torch.tensor([CLICKS[user]])
        context = Context.of(torch.tensor([user]), ITEMS, history=history, feedback=torch.ones(history.shape))
        target = torch.zeros(1, ITEMS)
        target[0, CLICKS[user]] = 1.0
        total = total + functional.binary_cross_entropy_with_logits(ranker(context), target, reduction="sum")
    torch.testing.assert_close(above[0], total)
    assert float(below[0]) == 2


class Table(Ranker):
    """Scores that are given, one row for each user."""

    name: ClassVar[str] = "table"
    past = 2

    def __init__(self, sizes: Sizes, spec: Ranker.Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.table: Tensor
        self.register_buffer("table", torch.zeros(sizes.n_users, sizes.n_items))

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        return self.table[context.user]

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        return (self.encode(context) if state is None else state).gather(1, context.candidates)


def test_ranks_leave_out_what_was_clicked_before_and_share_ties() -> None:
    log = log_of({0: [1, 2, 3], 1: [4, 4], 2: [5, 0]}, n_items=6)
    ranker = Table.build(Sizes.of(log), {}, None, Seed(0))
    assert isinstance(ranker, Table)
    ranker.table.copy_(torch.tensor([[5.0, 9, 9, 2, 2, 3], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]))
    held = torch.tensor([False, False, True, False, True, False, True])
    found = held_out(ranker, log, held)
    assert found.summary().skipped == 1  # user 1 had clicked item 4 before
    assert found.round.tolist() == [2, 4, 6]
    # User 0: items 1 and 2 are left out; 0 and 5 are above item 3, item 4 is equal.
    assert found.better[found.counts].tolist() == [2, 0]
    assert found.tied[found.counts].tolist() == [1, 4]
    first = (1 / math.log2(4) + 1 / math.log2(5)) / 2
    second = sum(1 / math.log2(r + 1) for r in range(1, 6)) / 5
    assert found.ndcg(10).kept.tolist() == pytest.approx([first, second])
    assert found.ndcg(3).kept.tolist()[0] == pytest.approx(1 / math.log2(4) / 2)
    assert found.hit(3).kept.tolist() == pytest.approx([0.5, 0.6])
    assert found.mrr(3).kept.tolist() == pytest.approx([1 / 3 / 2, (1 + 1 / 2 + 1 / 3) / 5])
    assert found.summary().mean == pytest.approx((first + second) / 2)


def test_held_rounds_are_neither_trained_on_nor_prepared_from() -> None:
    log = log_of(CLICKS)
    held = torch.zeros(len(log), dtype=torch.bool)
    held[[7, 11]] = True
    one, two = (a_ranker(MF, log) for _ in range(2))
    settings = FitSettings(epochs=2, loss="bpr", negatives=2, judge="ndcg", min_steps=1)
    done = fit(one, log, seed=Seed(0), settings=settings, held=held)
    assert len(done.validation) == 2
    assert all(0 <= v <= 1 for v in done.validation)
    # What happens in a held round after all others changes no gradient: only the choice of the epoch.
    other = log_of({**CLICKS, 0: [1, 2, 3, 4, 5, 6, 7, 10]})
    fit(two, other, seed=Seed(0), settings=FitSettings(**{**settings.__dict__, "epochs": 1}), held=held)
    three = a_ranker(MF, log)
    fit(three, log, seed=Seed(0), settings=FitSettings(**{**settings.__dict__, "epochs": 1}), held=held)
    for (key, value), again in zip(two.state_dict().items(), three.state_dict().values(), strict=True):
        assert torch.equal(value, again), key
    first = a_ranker(MF, log)
    assert isinstance(first, MF)
    assert isinstance(three, MF)
    assert not torch.equal(first.items.ids.weight, three.items.ids.weight)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "tokens"}, "unit is round, token or user, not tokens; did you mean token?"),
        ({"loss": "gbce"}, "loss gbce needs drawn negatives: set negatives above 0"),
        ({"loss": "listwise", "negatives": 3}, "loss listwise is over a logged slate"),
        ({"sampler": "in-batch"}, "in-batch negatives go with softmax or infonce, not with bce"),
        ({"unit": "token", "loss": "bce"}, "unit token with loss bce needs drawn negatives"),
        ({"unit": "user", "loss": "bpr"}, "unit user takes softmax, bce or mse"),
        ({"clip": 0.0}, "clip is above 0, not 0.0"),
        ({"masked": 1.0}, r"masked is a share in \(0, 1\), not 1.0"),
        ({"calibration": 2.0}, r"calibration is in \[0, 1\], not 2.0"),
        ({"temperature": -1.0}, "temperature is above 0, not -1.0"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FitSettings(**changes)  # type: ignore[arg-type]


def test_held_out_negatives_are_no_clicks_of_training() -> None:
    """Eleven of twelve items were clicked in training or are held out: one is left to draw."""
    log = log_of({0: list(range(11)), 1: [3]})
    source = Source(log, 4)
    held = torch.tensor([10])
    for sampler in ("uniform", "popularity"):
        settings = FitSettings(loss="softmax", negatives=30, sampler=sampler)
        unit = Rounds(source, settings, held=True)
        assert unit.lay(held, Seed(0)) == 1
        assert unit.rows.items[0].tolist() == [10] + 30 * [11]
        training = Rounds(source, settings)
        training.lay(torch.arange(10), Seed(0))
        assert set(training.rows.items[0, 1:].tolist()) == {10, 11}  # what is held out is not known


def test_labels_of_one_class_are_refused() -> None:
    log = log_of(CLICKS)
    for loss, words in (
        ("bce", "every logged item was clicked, so there is no non-click to learn from"),
        ("bpr", "no slate has a click beside a non-click, and loss bpr compares the two"),
        ("listwise", "no slate has a click beside a non-click, and loss listwise"),
    ):
        with pytest.raises(BadInput, match=words):
            fit(a_ranker(MF, log), log, seed=Seed(0), settings=FitSettings(loss=loss))
    never = replace(log, click=torch.zeros(len(log), 1, dtype=torch.float64))
    with pytest.raises(BadInput, match="no logged item was clicked, so there is nothing to learn from"):
        fit(a_ranker(MF, never), never, seed=Seed(0))
    fit(a_ranker(MF, never), never, seed=Seed(0), settings=FitSettings(loss="mse", epochs=1))


def test_a_task_without_an_outcome_is_refused() -> None:
    log = log_of(CLICKS)
    half = replace(log, click=(torch.arange(len(log)) % 2).double().unsqueeze(1))
    with pytest.raises(BadInput, match="esmm has a task convert, and no outcome of that name was given"):
        fit(a_ranker(ESMM, half), half, seed=Seed(0))


def test_refusals() -> None:
    log = log_of(CLICKS)
    with pytest.raises(BadInput, match="unit token is for sequence families, and mf is none"):
        fit(a_ranker(MF, log), log, seed=Seed(0), settings=FitSettings(unit="token", loss="softmax"))
    with pytest.raises(BadInput, match="mf has one head, so it takes no outcomes"):
        fit(a_ranker(MF, log), log, seed=Seed(0), outcomes={"like": torch.ones(len(log), 1)})
    with pytest.raises(BadInput, match="outcome like is"):
        fit(a_ranker(MF, log), log, seed=Seed(0), outcomes={"like": torch.ones(len(log), 2)})
    alone = log_of({0: [1], 1: [2]})
    settings = FitSettings(unit="token", loss="softmax", validation=0.0)
    with pytest.raises(BadInput, match="no user clicked twice"):
        fit(a_ranker(Summing, alone), alone, seed=Seed(0), settings=settings)
    with pytest.raises(BadInput, match="training has no setting epoch; did you mean epochs"):
        FitSettings.of(MF, epoch=3)
    with pytest.raises(BadInput, match="all 14 rounds are held out"):
        fit(a_ranker(MF, log), log, seed=Seed(0), held=torch.ones(len(log), dtype=torch.bool))


def test_a_held_token_is_predicted_from_every_click_before_it() -> None:
    """The inputs of a held-out target are the training clicks; a held-out click alone is enough to judge."""
    log = log_of(CLICKS)
    ranker = a_ranker(Summing, log)
    assert isinstance(ranker, Summing)
    unit = Tokens(Source(log, 3), FitSettings(unit="token", loss="softmax"), 3, held=True)
    assert unit.lay(torch.tensor([7, 11]), Seed(0)) == 2
    above, below = unit.loss(ranker, torch.arange(len(unit.items)), log.user)
    table = ranker.item_vectors()
    # Windows end at the user's newest click and hold three inputs: 5 6 7 | 8 and 9 1 | 9.
    expected = [
        -(table @ table[[5, 6, 7]].sum(0)).log_softmax(0)[8],
        -(table @ table[[9, 1]].sum(0)).log_softmax(0)[9],
    ]
    torch.testing.assert_close(above[0], expected[0] + expected[1])
    assert float(below[0]) == 2


def test_a_held_user_is_judged_on_what_the_others_do_not_show() -> None:
    log = log_of(CLICKS)
    ranker = a_ranker(MF, log)
    unit = Users(Source(log, 50), FitSettings(unit="user", loss="softmax"), 50, held=True)
    held = torch.tensor([7, 8, 11])  # user 0's last click, all of user 1, user 2's last
    assert unit.lay(held, Seed(0)) == 3
    above, below = unit.loss(ranker, torch.arange(3), log.user)
    total = torch.zeros(())
    for user, history, target in ((0, [1, 2, 3, 4, 5, 6, 7], 8), (1, [3], 3), (2, [9, 1], 9)):
        ids = torch.tensor([history])
        context = Context.of(torch.tensor([user]), ITEMS, history=ids, feedback=torch.ones(ids.shape))
        total = total - ranker(context)[0].log_softmax(0)[target]
    torch.testing.assert_close(above[0], total)
    assert float(below[0]) == 3


class Filling(Summing):
    """A family that fills in: what it is shown is kept."""

    name: ClassVar[str] = "filling"
    cloze: ClassVar[bool] = True
    shown: ClassVar[list[Tensor]] = []

    def hidden(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        Filling.shown.append(history)
        return super().hidden(history)


def test_a_cloze_hides_targets_and_says_them() -> None:
    log = log_of(CLICKS)
    ranker = a_ranker(Filling, log)
    assert isinstance(ranker, Filling)
    unit = Tokens(Source(log, 3), FitSettings(unit="token", loss="softmax", masked=0.5), 3)
    unit.lay(every(log), Seed(0))
    index = torch.arange(len(unit.items)).repeat(400)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, below = unit.loss(ranker, index, log.user)
    shown = Filling.shown[-1]
    hidden = shown == ITEMS
    assert int(below[0]) == int(hidden.sum())
    target = unit.is_target[index][:, -3:]
    assert not bool((hidden & ~target).any())
    assert bool(hidden.any(1).all())
    three = target.sum(1) == 3  # half of three; the newest alone in a tenth, or where none is
    share = float(hidden[three].sum(1).float().mean())
    exact = 0.9 * (1.5 + 0.125) + 0.1
    assert share == pytest.approx(exact, abs=0.1)
