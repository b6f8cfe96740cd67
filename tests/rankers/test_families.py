"""Each family against its formula, written out slowly."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from simlab.errors import BadInput
from simlab.rankers.contract import Interactions
from simlab.rankers.mf import MF
from simlab.rankers.neumf import NeuMF
from simlab.rankers.popularity import Popularity
from tests.contracts.rankers import SIZES, context, make, near


def history_mean(table: torch.Tensor, row: int) -> torch.Tensor:
    c = context()
    clicked = [int(i) for i, f in zip(c.history[row], c.feedback[row], strict=True) if i >= 0 and f > 0]
    return torch.stack([table[i] for i in clicked]).mean(0)


def test_mf_is_its_equation() -> None:
    ranker, c = make(MF), context()
    assert isinstance(ranker, MF)
    assert ranker.implicit is not None
    assert ranker.features is not None
    scores = ranker(c)
    for row in (0, 1, 5):
        u = int(c.user[row])
        p = ranker.users.weight[u] + history_mean(ranker.implicit.weight, row)
        p = p + ranker.features.weight @ c.features[row]
        for column in (0, 6):
            i = int(c.candidates[row, column])
            bias = ranker.bias + ranker.user_bias.weight[u, 0] + ranker.item_bias.weight[i, 0]
            near(scores[row, column], bias + p @ ranker.items.weight[i])


def test_neumf_is_its_equation_with_concatenated_vectors() -> None:
    ranker, c = make(NeuMF), context()
    assert isinstance(ranker, NeuMF)
    assert ranker.implicit is not None
    assert ranker.features is not None
    scores, d = ranker(c), ranker.dim
    for row in (0, 1, 5):
        p = ranker.users.weight[int(c.user[row])] + history_mean(ranker.implicit.weight, row)
        p = p + ranker.features.weight @ c.features[row]
        for column in (0, 6):
            q = ranker.items.weight[int(c.candidates[row, column])]
            product = ranker.out_product.weight[0] @ (p[:d] * q[:d])
            both = torch.cat([ranker.user_half.weight, ranker.item_half.weight], dim=1)
            hidden = functional.relu(both @ torch.cat([p[d:], q[d:]]) + ranker.user_half.bias)
            for layer in ranker.rest:
                hidden = functional.relu(layer(hidden))
            near(scores[row, column], product + ranker.out_network(hidden)[0])


@pytest.mark.parametrize("family", [MF, NeuMF])
def test_history_personalises_a_new_user(family: type[MF] | type[NeuMF]) -> None:
    ranker, c = make(family), context()
    new = replace(c, user=torch.full_like(c.user, 99), features=torch.zeros_like(c.features))
    same = replace(new, candidates=c.candidates[:1].expand(8, -1), mask=c.mask)
    scores = ranker(same)
    assert not torch.allclose(scores[0], scores[2], atol=1e-4)
    unclicked = replace(same, feedback=torch.zeros_like(c.feedback))
    near(ranker(unclicked)[0], ranker(unclicked)[2])  # what was shown and not clicked says nothing here


@pytest.mark.parametrize("family", [MF, NeuMF])
def test_only_the_last_items_count(family: type[MF] | type[NeuMF]) -> None:
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
    with pytest.raises(BadInput, match="smoothing is above 0, not 0"):
        Popularity.build(SIZES, {"smoothing": 0.0})
    with pytest.raises(BadInput, match="no setting dims; did you mean dim"):
        MF.build(SIZES, {"dims": 8})
    with pytest.raises(BadInput, match="at least one layer"):
        NeuMF.build(SIZES, {"layers": ()})
    with pytest.raises(BadInput, match="neumf is not an inner product"):
        make(NeuMF).item_vectors()
