"""Bilinear, written out for one user and one item: what is given of an item is all that counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from simlab.rankers.bilinear import Bilinear
from simlab.seeds import Seed
from tests.contracts.rankers import SIZES, catalog, context


def given(item: int) -> Tensor:
    """Return the standardised numbers, the categories as 0 or 1, and the embedding of an item, in turn."""
    known = catalog()
    parts = [((known.features - known.features.mean(0)) / known.features.std(0, correction=0))[item]]
    for field in known.fields:
        flags = torch.zeros(field.size)
        for value in field.values[item].tolist():
            if value >= 0:
                flags[value] = 1
        parts.append(flags)
    assert known.vectors is not None
    return torch.cat([*parts, known.vectors[item].float()])


def built(**spec: object) -> Bilinear:
    ranker = Bilinear.build(SIZES, {"layers": (12, 7), "dim": 5, **spec}, catalog(), Seed(2))
    assert isinstance(ranker, Bilinear)
    return ranker


def test_a_logit_is_the_users_network_times_what_is_given() -> None:
    ranker, c = built(), context()
    with torch.no_grad():
        ranker.user.ids.weight.normal_(generator=Seed(4).torch())
        scores = ranker(c)
        state = torch.tanh(ranker.user(c))
        for layer in ranker.layers:
            assert isinstance(layer, nn.Linear)
            state = torch.tanh(state @ layer.weight.T + layer.bias)
        for row, column in ((0, 0), (1, 2), (5, 1)):
            wanted = (ranker.head.weight @ state[row]) @ given(int(c.candidates[row, column]))
            assert float(scores[row, column]) == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)


def test_vectors_of_items_give_the_same_logits() -> None:
    ranker, c = built(), context()
    with torch.no_grad():
        found = (ranker.encode(c) @ ranker.item_vectors().T).gather(1, c.candidates)
        torch.testing.assert_close(found, ranker(c), rtol=1e-4, atol=1e-5)


def test_items_that_are_alike_are_scored_alike() -> None:
    """Two items with the same features, categories and embedding: no id tells them apart."""
    known = catalog()
    alike = torch.arange(known.n_items)
    alike[3] = 1
    assert known.vectors is not None
    twins = replace(
        known,
        features=known.features[alike],
        fields=tuple(replace(f, values=f.values[alike]) for f in known.fields),
        vectors=known.vectors[alike],
    )
    ranker = Bilinear.build(SIZES, {}, twins, Seed(1))
    with torch.no_grad():
        scores = ranker.score_all(context())
    assert torch.equal(scores[:, 1], scores[:, 3])
    assert not torch.equal(scores[:, 1], scores[:, 2])


def test_without_a_catalogue_items_have_learned_vectors() -> None:
    ranker = Bilinear.build(SIZES, {"dim": 6}, None, Seed(1))
    assert isinstance(ranker, Bilinear)
    assert ranker.learned is not None
    assert ranker.item_vectors().shape == (SIZES.n_items, 64)
    assert built().learned is None
