"""Each family against its formula, written out slowly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._blocks import ItemTable, UserSide
from simlab.rankers._ncf import NCF
from simlab.rankers.bias import Bias
from simlab.rankers.bpr import BPR
from simlab.rankers.contract import Interactions, Ranker, Sizes
from simlab.rankers.gmf import GMF
from simlab.rankers.mf import MF
from simlab.rankers.mlp import MLP
from simlab.rankers.neumf import NeuMF
from simlab.rankers.popularity import Popularity
from tests.contracts.rankers import SIZES, catalog, context, make, near

HISTORY = (MF, BPR, GMF, MLP, NeuMF)


def of_the_user(side: UserSide, row: int) -> Tensor:
    """Return the user's vector written out: id, mean of what was clicked, features, categories."""
    c = context()
    assert side.history is not None
    assert side.side.features is not None
    assert c.categories is not None
    clicked = [int(i) for i, f in zip(c.history[row], c.feedback[row], strict=True) if i >= 0 and f > 0]
    vector = side.ids.weight[int(c.user[row])]
    vector = vector + torch.stack([side.history.weight[i] for i in clicked]).mean(0)
    vector = vector + side.side.features.weight @ c.features[row]
    for table, value in zip(side.side.categories, c.categories[row].tolist(), strict=True):
        assert isinstance(table, nn.Embedding)
        if value >= 0:
            vector = vector + table.weight[value]
    return vector


def of_the_item(items: ItemTable, i: int) -> Tensor:
    """Return the item's vector written out: id, standardised features, given embedding, brand, genres."""
    known = catalog()
    assert items.from_features is not None
    assert items.from_vectors is not None
    assert known.vectors is not None
    x = known.features
    x = (x - x.mean(0)) / x.std(0, correction=0)
    vector = items.ids.weight[i] + items.from_features.weight @ x[i]
    vector = vector + items.from_vectors.weight @ known.vectors[i]
    for table, field in zip(items.fields, known.fields, strict=True):
        assert isinstance(table, nn.Embedding)
        mine = [int(v) for v in field.values[i] if v >= 0]
        if mine:
            vector = vector + torch.stack([table.weight[v] for v in mine]).mean(0)
    return vector


@pytest.mark.parametrize("family", [MF, BPR])
def test_mf_is_its_equation(family: type[MF]) -> None:
    ranker, c = make(family), context()
    assert isinstance(ranker, MF)
    scores, d = ranker(c), ranker.dim
    for row in (0, 1, 5):
        p = of_the_user(ranker.user, row)
        for column in (0, 6):
            q = of_the_item(ranker.items, int(c.candidates[row, column]))
            near(scores[row, column], ranker.bias + p[d] + q[d] + p[:d] @ q[:d])


def test_bias_is_its_equation() -> None:
    ranker, c = make(Bias), context()
    assert isinstance(ranker, Bias)
    scores = ranker(c)
    for row in (0, 1, 5):
        known = ranker.user.side
        assert known.features is not None
        assert c.categories is not None
        said = ranker.bias + ranker.user.ids.weight[int(c.user[row]), 0]
        said = said + known.features.weight[0] @ c.features[row]
        for table, value in zip(known.categories, c.categories[row].tolist(), strict=True):
            assert isinstance(table, nn.Embedding)
            said = said + (table.weight[value, 0] if value >= 0 else 0.0)
        for column in (0, 6):
            item = of_the_item(ranker.items, int(c.candidates[row, column]))
            near(scores[row, column], said + item[0])


@pytest.mark.parametrize("family", [GMF, MLP, NeuMF])
def test_collaborative_filtering_is_its_equation_with_concatenated_vectors(family: type[NCF]) -> None:
    ranker, c = make(family), context()
    assert isinstance(ranker, NCF)
    scores, d = ranker(c), ranker.width
    assert d == (0 if family is MLP else ranker.spec.dim)
    for row in (0, 1, 5):
        p = of_the_user(ranker.user, row)
        for column in (0, 6):
            q = of_the_item(ranker.items, int(c.candidates[row, column]))
            expected: Tensor = ranker.bias
            if ranker.product is not None:
                expected = expected + ranker.product @ (p[:d] * q[:d])
            if ranker.network is not None:
                net = ranker.network
                both = torch.cat([net.user_half.weight, net.item_half.weight], dim=1)
                hidden = functional.relu(both @ torch.cat([p[d:], q[d:]]) + net.user_half.bias)
                for layer in net.rest:
                    hidden = functional.relu(layer(hidden))
                expected = expected + net.out.weight[0] @ hidden
            near(scores[row, column], expected)


def test_the_network_drops_out_in_training_only() -> None:
    ranker, c = MLP.build(SIZES, {"dropout": 0.5}, catalog()), context()
    ranker.eval()
    near(ranker(c), ranker(c))
    ranker.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.allclose(ranker(c), ranker(c), atol=1e-4)


def test_item_features_speak_for_a_new_item_to_a_new_user() -> None:
    """A feature that makes items good is learned as a bias, so it also serves who and what is unknown."""
    g = torch.Generator().manual_seed(0)
    quality = torch.randn(40, 1, generator=g)
    ranker = MF.build(Sizes(0, 40), {"past": 0}, Catalog(quality))
    old = torch.arange(30).expand(64, 30)
    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.05)
    for _ in range(60):
        shown = Context.of(torch.zeros(64, dtype=torch.long), 40, candidates=old)
        click = (torch.rand(64, 30, generator=g) < (2 * quality[:30, 0]).sigmoid()).float()
        loss = functional.binary_cross_entropy_with_logits(ranker(shown), click)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    said = ranker.score_all(Context.of(torch.zeros(1, dtype=torch.long), 40))[0, 30:].detach()
    assert float(torch.corrcoef(torch.stack([said, quality[30:, 0]]))[0, 1]) > 0.95


@pytest.mark.parametrize("family", HISTORY)
def test_history_personalises_a_new_user(family: type[Ranker]) -> None:
    ranker, c = make(family), context()
    new = replace(c, user=torch.full_like(c.user, 99), features=torch.zeros_like(c.features), categories=None)
    same = replace(new, candidates=c.candidates[:1].expand(8, -1), mask=c.mask)
    scores = ranker(same)
    assert not torch.allclose(scores[0], scores[2], atol=1e-4)
    unclicked = replace(same, feedback=torch.zeros_like(c.feedback))
    near(ranker(unclicked)[0], ranker(unclicked)[2])  # what was shown and not clicked says nothing here


@pytest.mark.parametrize("family", HISTORY)
def test_only_the_last_items_count(family: type[Ranker]) -> None:
    ranker = family.build(SIZES, {"past": 2})
    c = context()
    near(ranker(c), ranker(replace(c, history=c.history[:, -2:], feedback=c.feedback[:, -2:])))
    assert not torch.allclose(ranker(c), ranker(replace(c, history=c.history.roll(1, 1))))
    blank = replace(c, history=torch.full_like(c.history, SIZES.n_items))  # an empty slot of a world
    near(ranker(blank), ranker(replace(c, history=torch.full_like(c.history, -1))))
    without = family.build(SIZES, {"past": 0})
    near(without(c), without(replace(c, history=c.history.flip(0))))


def test_popularity_counts() -> None:
    c = context(rows=2, cands=3)
    c = replace(c, candidates=torch.tensor([[4, 7, 9], [7, 4, 1]]))
    seen = Interactions(
        user=torch.tensor([0, 0, 1, 1]),
        item=torch.tensor([4, 7, 7, 1]),
        target=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        weight=torch.tensor([2.0, 1.0, 3.0, 5.0]),
    )
    for by in ("count", "rate"):
        ranker = Popularity.build(SIZES, {"by": by, "smoothing": 0.5})
        assert isinstance(ranker, Popularity)
        ranker.prepare(seen)
        clicks = torch.zeros(SIZES.n_items, dtype=torch.float64)
        shown = clicks.clone()
        clicks[4], clicks[7] = 2, 3
        shown[4], shown[7], shown[1] = 2, 4, 5
        mean = (5 + 1) / (11 + 2)
        truth = (clicks + 0.5) if by == "count" else (clicks + 0.5 * mean) / (shown + 0.5)
        near(ranker.score_all(c)[0], truth.log().float())
        near(ranker(c), truth.log().float()[c.candidates])


def test_refusals() -> None:
    with pytest.raises(BadInput, match="count or rate, not rat; did you mean rate"):
        Popularity.build(SIZES, {"by": "rat"})
    with pytest.raises(BadInput, match=r"^smoothing of popularity is finite and above 0, not 0.0$"):
        Popularity.build(SIZES, {"smoothing": 0.0})
    with pytest.raises(BadInput, match="no setting dims; did you mean dim"):
        MF.build(SIZES, {"dims": 8})
    with pytest.raises(BadInput, match="at least one layer"):
        NeuMF.build(SIZES, {"layers": ()})
    with pytest.raises(BadInput, match="neumf is not an inner product"):
        make(NeuMF).item_vectors()
