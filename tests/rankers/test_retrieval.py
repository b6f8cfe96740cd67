"""Two towers and YouTube's network, written out for one user and one item."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from simlab.errors import BadInput
from simlab.rankers._blocks import ItemTable
from simlab.rankers.two_tower import TwoTower
from simlab.rankers.youtube_dnn import YouTubeDNN
from simlab.seeds import Seed
from tests.contracts.rankers import SIZES, catalog, context, make, near
from tests.rankers.test_ml100k import judge, trained


def item_vector(table: ItemTable, item: int) -> Tensor:
    """Return e_i + F x_i + the means of its categories + P g_i, one term after the other."""
    known = catalog()
    x = (known.features - known.features.mean(0)) / known.features.std(0, correction=0)
    assert known.vectors is not None
    assert table.from_features is not None
    assert table.from_vectors is not None
    vector = table.ids.weight[item] + table.from_features.weight @ x[item]
    vector = vector + table.from_vectors.weight @ known.vectors[item]
    for embedding, field in zip(table.fields, known.fields, strict=True):
        assert isinstance(embedding, nn.Embedding)
        values = [int(v) for v in field.values[item] if v >= 0]
        if values:
            vector = vector + torch.stack([embedding.weight[v] for v in values]).mean(0)
    return vector


def clicked(table: Tensor, row: int) -> Tensor:
    c = context()
    items = [int(i) for i, f in zip(c.history[row], c.feedback[row], strict=True) if i >= 0 and f > 0]
    return torch.stack([table[i] for i in items]).mean(0)


@pytest.mark.parametrize("unit", [True, False])
def test_two_towers(unit: bool) -> None:
    ranker = TwoTower.build(SIZES, {"layers": (12, 6), "unit": unit, "temperature": 0.5}, catalog(), Seed(2))
    assert isinstance(ranker, TwoTower)
    with torch.no_grad():
        ranker.user.ids.weight.normal_(generator=Seed(4).torch())
    c = context()
    scores = ranker(c)
    table = ranker.user.history
    assert table is not None
    side = ranker.user.side
    assert side.features is not None
    for row in (0, 1, 5):
        p = ranker.user.ids.weight[int(c.user[row])] + clicked(table.weight, row)
        p = p + side.features.weight @ c.features[row]
        assert c.categories is not None
        for column, embedding in enumerate(side.categories):
            assert isinstance(embedding, nn.Embedding)
            value = int(c.categories[row, column])
            if value >= 0:
                p = p + embedding.weight[value]
        for candidate in (0, 6):
            q = item_vector(ranker.items, int(c.candidates[row, candidate]))
            ends = []
            for x, tower in ((p, ranker.user_tower), (q, ranker.item_tower)):
                first, second = tower.layers
                y = second(functional.relu(first(x)))
                ends.append(y / y.norm() if unit else y)
            near(scores[row, candidate], (ends[0] @ ends[1]) / 0.5)


def test_youtube_dnn() -> None:
    ranker, c = make(YouTubeDNN), context()
    assert isinstance(ranker, YouTubeDNN)
    scores = ranker(c)
    watched = torch.stack([item_vector(ranker.watched, i) for i in range(SIZES.n_items)])
    for row in (0, 1, 5):
        side = ranker.users.weight[int(c.user[row])]
        side = (
            side
            + ranker.side(
                c.features[row : row + 1], None if c.categories is None else c.categories[row : row + 1]
            )[0]
        )
        first, second = ranker.tower.layers
        f = second(functional.relu(first(torch.cat([clicked(watched, row), side]))))
        for candidate in (0, 6):
            v = item_vector(ranker.items, int(c.candidates[row, candidate]))
            near(scores[row, candidate], f @ v[:-1] + v[-1])


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"^temperature of two_tower is finite and above 0, not 0.0$"):
        TwoTower.build(SIZES, {"temperature": 0.0})
    with pytest.raises(
        BadInput, match=r"^layers of youtube_dnn is a list, each of which is at least 1, not \(0,\)$"
    ):
        YouTubeDNN.build(SIZES, {"layers": (0,)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_tower", "youtube_dnn"])
def test_towers_beat_what_knows_no_order_on_ml100k(name: str) -> None:
    """NDCG@10 by recipe, leave one out; EASE has 0.071, and the error of the mean is 0.007."""
    assert judge(trained(name)).ndcg(10).mean() >= 0.08
