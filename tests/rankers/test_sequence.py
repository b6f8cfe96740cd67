"""Sequence families against their equations, written out slowly; and what holds for all of them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers._sequence import PIECE, ForwardRanker, SequenceRanker
from simlab.rankers._transformer import Block, thin
from simlab.rankers.bert4rec import BERT4Rec
from simlab.rankers.contract import Sizes
from simlab.rankers.gru4rec import GRU4Rec
from simlab.rankers.lstm import LSTM
from simlab.rankers.sasrec import SASRec
from simlab.seeds import Seed
from simlab.training.fit import FitSettings, fit
from simlab.training.judge import held_out
from tests.contracts.rankers import catalog, near

N, PAST = 30, 7
SIZES = Sizes(0, N)
SMALL: dict[str, Any] = {"dim": 8, "past": PAST, "spread": 0.5}
FORWARD: list[type[ForwardRanker]] = [SASRec, GRU4Rec, LSTM]
FAMILIES: list[type[SequenceRanker]] = [*FORWARD, BERT4Rec]


def make(family: type[SequenceRanker], settings: Mapping[str, Any] = SMALL) -> Any:
    """Return a small ranker in eval mode, in float64, no weight of which is zero or one."""
    ranker = family.build(SIZES, settings, catalog(), Seed(2)).double()
    with torch.no_grad():
        g = torch.Generator().manual_seed(4)
        for p in ranker.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return ranker.eval()


def histories(rows: int = 5, width: int = PAST, seed: int = 3) -> Tensor:
    """Return histories of all lengths from 0 on, padded on the left."""
    g = torch.Generator().manual_seed(seed)
    history = torch.randint(0, N, (rows, width), generator=g)
    pads = width - torch.arange(rows) % (width + 1)
    return history.masked_fill(torch.arange(width) < pads.unsqueeze(1), -1)


def seen_by(history: Tensor) -> Context:
    """Return contexts in which all of the history was clicked."""
    return Context.of(
        torch.zeros(len(history), dtype=torch.long), N, history=history, feedback=history.ge(0) * 1.0
    )


# Slow twins: float64, one row, loops over heads and positions.


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def attention(block: Block, x: list[Tensor], sees: list[list[int]]) -> list[Tensor]:
    """Return what each position is told, where position t sees the positions in sees[t]."""
    d = len(x[0])
    width = d // block.heads
    w_q, w_k, w_v = torch.split(block.qkv.weight, d)
    found = []
    for t in range(len(x)):
        parts = []
        for head in range(block.heads):
            own = slice(head * width, (head + 1) * width)
            q = w_q[own] @ x[t]
            worth = torch.stack([(q @ (w_k[own] @ x[s]) / math.sqrt(width)).exp() for s in sees[t]])
            values = [w_v[own] @ x[s] for s in sees[t]]
            parts.append(
                sum((a * v for a, v in zip(worth / worth.sum(), values, strict=True)), torch.zeros(width))
            )
        found.append(block.out.weight @ torch.cat(parts) + block.out.bias)
    return found


def block_twin(block: Block, x: list[Tensor], sees: list[list[int]]) -> list[Tensor]:
    told = attention(block, [norm(block.norm_attention, each) for each in x], sees)
    x = [each + more for each, more in zip(x, told, strict=True)]
    found = []
    for each in x:
        inner = block.widen.weight @ norm(block.norm_network, each) + block.widen.bias
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))) if block.gelu else inner.clamp(min=0)
        found.append(each + block.narrow.weight @ inner + block.narrow.bias)
    return found


def transformer_twin(ranker: SASRec | BERT4Rec, x: list[Tensor], sees: list[list[int]]) -> Tensor:
    for block in ranker.body.blocks:
        assert isinstance(block, Block)
        x = block_twin(block, x, sees)
    return torch.stack([norm(ranker.body.norm, each) for each in x])


@pytest.mark.parametrize("gelu", [False, True])
def test_a_block_is_its_equations(gelu: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = Block(dim=6, heads=3, inner=5, dropout=0.5, gelu=gelu).double().eval()
        x = torch.randn(2, 4, 6, dtype=torch.float64)
    causal = block(x, None)
    sees = torch.tensor([[True, False, True, True], [False, True, True, False]])
    both = block(x, sees[:, None, None, :])
    for row in range(2):
        alone = list(x[row])
        near(causal[row], torch.stack(block_twin(block, alone, [list(range(t + 1)) for t in range(4)])))
        these = [s for s in range(4) if sees[row, s]]
        near(both[row], torch.stack(block_twin(block, alone, [these] * 4)))


def test_sasrec_is_its_equation() -> None:
    ranker, history = make(SASRec), histories()
    hidden, table = ranker.hidden(history), ranker.item_vectors()
    for row in (1, 3, 4):
        items = [int(i) for i in history[row] if i >= 0]
        x = [math.sqrt(8) * table[i] + ranker.places.weight[t] for t, i in enumerate(items)]
        states = transformer_twin(ranker, x, [list(range(t + 1)) for t in range(len(x))])
        near(hidden[row, -len(items) :], states)
        near(ranker.score_all(seen_by(history))[row], table @ states[-1])


def test_bert4rec_is_its_equation_and_asks_the_mask_at_the_end() -> None:
    ranker = make(BERT4Rec)
    history = histories(PAST + 1)  # the last row has no padding: its oldest item gives way to the mask
    table, scores = ranker.item_vectors(), ranker.score_all(seen_by(history))
    for row in range(len(history)):
        items = [int(i) for i in history[row] if i >= 0][-(PAST - 1) :]
        vectors = [*(table[i] for i in items), ranker.mask]
        n = len(vectors)
        x = [math.sqrt(8) * v + ranker.places.weight[n - 1 - t] for t, v in enumerate(vectors)]
        states = transformer_twin(ranker, x, [list(range(n))] * n)
        near(scores[row], table @ states[-1])
        window = torch.tensor([[-1, *items[: PAST - 1], N]])
        near(ranker.hidden(window[:, -PAST:])[0, -n:], states)


def test_bert4rec_looks_both_ways_and_cannot_see_what_is_masked() -> None:
    ranker = make(BERT4Rec)
    window = torch.tensor([[-1, 3, N, 5, 6]])
    before = ranker.hidden(window)
    after = ranker.hidden(window.masked_fill(window == 6, 7))
    assert float((after - before)[0, 1:].abs().amax(1).min().detach()) > 1e-4
    fewer = ranker.hidden(window.masked_fill(window == N, 3))
    assert float((fewer - before)[0, 2].abs().max().detach()) > 1e-4


@pytest.mark.parametrize("layers", [1, 2])
def test_gru4rec_is_its_cell_in_a_loop(layers: int) -> None:
    ranker, history = make(GRU4Rec, {**SMALL, "inner": 5, "layers": layers}), histories()
    hidden, table = ranker.hidden(history), ranker.item_vectors()
    for row in (1, 3, 4):
        items = [int(i) for i in history[row] if i >= 0]
        inputs = [table[i] for i in items]
        for layer in range(layers):
            w, u, b, c = (
                getattr(ranker.cells, f"{n}_l{layer}")
                for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, outputs = torch.zeros(5, dtype=torch.float64), []
            for x in inputs:
                (w_r, w_z, w_n), (u_r, u_z, u_n) = (w @ x + b).split(5), (u @ h + c).split(5)
                r, z = (w_r + u_r).sigmoid(), (w_z + u_z).sigmoid()
                h = (1 - z) * (w_n + r * u_n).tanh() + z * h
                outputs.append(h)
            inputs = outputs
        for t, h in enumerate(inputs):
            near(hidden[row, PAST - len(items) + t], ranker.out.weight @ h + ranker.out.bias)


def test_lstm_is_its_cell_in_a_loop() -> None:
    ranker, history = make(LSTM, {**SMALL, "inner": 5}), histories()
    hidden, table, cells = ranker.hidden(history), ranker.item_vectors(), ranker.cells
    for row in (1, 3, 4):
        items = [int(i) for i in history[row] if i >= 0]
        h, c = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
        for t, item in enumerate(items):
            gates = (
                cells.weight_ih_l0 @ table[item]
                + cells.bias_ih_l0
                + cells.weight_hh_l0 @ h
                + cells.bias_hh_l0
            )
            i, f, g, o = gates.split(5)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            near(hidden[row, PAST - len(items) + t], ranker.out.weight @ h + ranker.out.bias)


# What holds for all.


@pytest.mark.parametrize("family", FORWARD)
def test_a_later_item_never_changes_an_earlier_state(family: type[ForwardRanker]) -> None:
    ranker, history = make(family), histories(PAST + 1)
    before = ranker.hidden(history)
    for column in range(PAST):
        other = history.clone()
        other[:, column] = torch.where(history[:, column] >= 0, (history[:, column] + 1) % N, -1)
        after = ranker.hidden(other)
        known = history >= 0
        earlier = known.clone()
        earlier[:, column:] = False
        near(after[earlier], before[earlier])
        moved = (after - before).abs().amax(2)[known[:, column], column:]
        assert float(moved.min().detach()) > 1e-6  # and all later ones do change


@pytest.mark.parametrize("family", FORWARD)
def test_serving_is_the_last_state_of_training_at_every_prefix(family: type[ForwardRanker]) -> None:
    ranker, window = make(family), histories(PAST + 1)
    hidden = ranker.hidden(window)
    for column in range(PAST):
        state = ranker.encode(seen_by(window[:, : column + 1]))
        known = window[:, column] >= 0
        near(state[known], hidden[known, column])
        near(state[~known], torch.zeros_like(state[~known]))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_blanks_and_what_was_not_clicked_never_matter(family: type[SequenceRanker]) -> None:
    ranker, history = make(family), histories()
    state, hidden = ranker.encode(seen_by(history)), ranker.hidden(history)
    known = history >= 0
    assert bool(hidden.isfinite().all())
    width = int(known.sum(1).max())
    near(ranker.hidden(history[:, -width:])[known[:, -width:]], hidden[known])
    for pads in (1, 4):
        wide = torch.cat([torch.full((len(history), pads), -1), history], dim=1)
        near(ranker.encode(seen_by(wide)), state)
    # Of the newest `past` slots of the log, the clicked ones: the rows that fit say the same as without.
    few = histories(3)
    few[:, : PAST - 2] = -1
    loose = torch.stack([few, torch.full_like(few, N), torch.full_like(few, 3)], 2).flatten(1)[:, -PAST:]
    marks = torch.tensor([1.0, 1.0, 0.0]).repeat(PAST)[-PAST:].expand(3, -1)
    near(ranker.encode(replace(seen_by(loose), feedback=marks)), ranker.encode(seen_by(few)))


@pytest.mark.parametrize("family", FAMILIES)
def test_many_histories_are_read_in_pieces(family: type[SequenceRanker]) -> None:
    ranker = make(family)
    history = histories(2 * PIECE + 9)[
        torch.randperm(2 * PIECE + 9, generator=torch.Generator().manual_seed(1))
    ]
    together = ranker.encode(seen_by(history))
    for i in range(0, len(history), 9):
        near(together[i : i + 1], ranker.encode(seen_by(history[i : i + 1])))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_newest_past_items_count(family: type[SequenceRanker]) -> None:
    ranker, long = make(family), torch.randint(0, N, (4, 20), generator=torch.Generator().manual_seed(0))
    kept = PAST - 1 if ranker.cloze else PAST
    near(ranker.encode(seen_by(long)), ranker.encode(seen_by(long[:, -kept:])))
    other = long.clone()
    other[:, -kept] = (long[:, -kept] + 1) % N
    moved = (ranker.encode(seen_by(other)) - ranker.encode(seen_by(long))).abs().amax(1)
    assert float(moved.min().detach()) > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_near(family: type[SequenceRanker]) -> None:
    ranker, history = make(family).float(), histories()
    exact = ranker.hidden(history)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ranker.hidden(history).float()
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_thin_keeps_the_mean_and_the_share() -> None:
    x = torch.ones(1000, 999)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        thinned, again = thin(x, 0.2, True), thin(x, 0.2, True)
    out = 51 / 256  # the nearest to 0.2
    kept = thinned != 0
    assert float(thinned.max()) == pytest.approx(1 / (1 - out), abs=1e-6)
    assert float(kept.float().mean()) == pytest.approx(1 - out, abs=2e-3)  # 5 standard errors
    assert float(thinned.mean()) == pytest.approx(1, abs=2.5e-3)
    both = float((kept & (again != 0)).float().mean())
    assert both == pytest.approx((1 - out) ** 2, abs=2.5e-3)
    beside = float((kept[:, 1:] & kept[:, :-1]).float().mean())
    assert beside == pytest.approx((1 - out) ** 2, abs=2.5e-3)  # the eight bytes of a word are apart
    assert thin(x, 0.2, False) is x
    assert thin(x, 0.0, True) is x


def cycles(users: int = 200, length: int = 12) -> Log:
    """Return users who click 0, 1, 2, … around the catalogue, each from an item of their own."""
    g = torch.Generator().manual_seed(0)
    start = torch.randint(0, N, (users, 1), generator=g)
    n = users * length
    return Log(
        user=torch.arange(users).repeat_interleave(length),
        slate=((start + torch.arange(length)) % N).reshape(-1, 1),
        propensity=torch.ones(n, dtype=torch.float64),
        reward=torch.ones(n, dtype=torch.float64),
        click=torch.ones(n, 1, dtype=torch.float64),
        step=torch.arange(length).repeat(users),
        n_items=N,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_order_is_learned(family: type[SequenceRanker]) -> None:
    log = cycles()
    held = torch.arange(12).repeat(200) == 11
    ranker = family.build(SIZES, {"dim": 16, "past": 10, "dropout": 0.0, "spread": 0.2}, None, Seed(0))
    epochs = 25 if ranker.cloze else 5  # the cloze hears of fewer tokens, and seldom of the newest alone
    how = FitSettings.of(
        ranker,
        epochs=epochs,
        patience=epochs,
        learning_rate=0.01,
        batch_size=256,
        min_steps=1,
        masked=0.3,
        judge="ndcg",
    )
    fit(ranker, log, seed=Seed(0), held=held, settings=how)
    assert held_out(ranker, log, held).hit(1).mean() > 0.8  # chance is 1 / 30


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"^heads of sasrec divides dim, which is 8, so it is not 3$"):
        SASRec.build(SIZES, {"dim": 8, "heads": 3})
    with pytest.raises(BadInput, match=r"^dropout of bert4rec is a share in \[0, 1\), not 1.0$"):
        BERT4Rec.build(SIZES, {"dropout": 1.0})
    with pytest.raises(BadInput, match=r"^dropout of lstm is a share in \[0, 1\), not -0.1$"):
        LSTM.build(SIZES, {"dropout": -0.1})
    with pytest.raises(BadInput, match=r"^past of gru4rec is at least 1, not 0$"):
        GRU4Rec.build(SIZES, {"past": 0})
    for family in (SASRec, BERT4Rec):
        with pytest.raises(BadInput, match="positions for 7 items of history, not for 9: set past"):
            make(family).hidden(torch.zeros(1, 9, dtype=torch.long))
