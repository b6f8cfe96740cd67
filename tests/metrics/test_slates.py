"""What is shown beyond accuracy, against formulas written out slowly and RecBole."""

import json
import math
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.exposure import coverage, entropy, exposure, gini, tail
from simlab.metrics.slates import (
    average_popularity,
    category_entropy,
    ild,
    ild_of,
    novelty,
    serendipity,
    tail_share,
)
from simlab.statistics import mean_interval

CASES = Path(__file__).parents[2] / "../shared/cases/rank/metrics"
USERS, ITEMS, SLOTS = 9, 13, 4


def shown(seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(USERS, ITEMS, generator=g).argsort(1)[:, :SLOTS]


def test_ild_is_the_mean_over_pairs() -> None:
    g = torch.Generator().manual_seed(1)
    slate, vectors = shown(), torch.randn(ITEMS, 5, generator=g)
    vectors[int(slate[0, 0])] = 0.0  # has cosine 0 with all
    distance = torch.rand(ITEMS, ITEMS, generator=g)
    distance = distance + distance.T
    found, given = ild(slate, vectors), ild_of(slate, distance)
    for user in range(USERS):
        pairs = list(combinations(slate[user].tolist(), 2))
        cosine = [torch.cosine_similarity(vectors[[a]].double(), vectors[[b]].double()) for a, b in pairs]
        assert float(found.value[user]) == pytest.approx(1 - float(torch.cat(cosine).mean()), abs=1e-12)
        by_hand = np.mean([float(distance[a, b]) for a, b in pairs])
        assert float(given.value[user]) == pytest.approx(by_hand, abs=1e-7)
    mine, plain = found.summary(), mean_interval(found.value.numpy())
    assert (mine.mean, mine.stderr, mine.skipped) == (plain.mean, plain.stderr, 0)


def test_ild_known_values() -> None:
    slate = torch.tensor([[0, 1]])
    for vectors, value in (
        ([[1.0, 0.0], [9.0, 0.0]], 0.0),
        ([[1.0, 0.0], [0.0, 2.0]], 1.0),
        ([[1.0, 0.0], [-1.0, 0.0]], 2.0),
    ):
        assert float(ild(slate, torch.tensor(vectors)).value) == pytest.approx(value, abs=1e-12)


def test_category_entropy_of_labels() -> None:
    """Item 0: label 0; item 1: labels 0 and 1; item 2: label 2; item 3: none."""
    category = torch.tensor([[0, -1], [1, 0], [-1, 2], [-1, -1]])
    slate = torch.tensor([[0, 1], [0, 2], [0, 3], [3, 3]])
    found = category_entropy(slate, category)
    expected = [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2), 0.0]
    assert found.value[:3].tolist() == pytest.approx(expected, abs=1e-12)
    assert found.counts.tolist() == [True, True, True, False]
    assert found.skipped == 1
    assert found.value[3].isnan()


def test_category_entropy_counts() -> None:
    g = torch.Generator().manual_seed(2)
    slate, label = shown(), torch.randint(0, 3, (ITEMS, 1), generator=g)
    for user, value in enumerate(category_entropy(slate, label).value.tolist()):
        share = np.array(list(Counter(label[slate[user], 0].tolist()).values())) / SLOTS
        assert value == pytest.approx(-(share * np.log(share)).sum(), abs=1e-12)


def test_novelty_in_bits() -> None:
    users = torch.tensor([8.0, 4.0, 1.0, 0.0])
    found = novelty(torch.tensor([[0, 1], [2, 3], [1, 2]]), users, 8)
    assert found.value.tolist() == pytest.approx([0.5, 3.0, 2.0])  # nobody's item counts as one user's
    with pytest.raises(BadInput, match=r"item 0 has 8\.0 users of 7"):
        novelty(torch.tensor([[0]]), users, 7)


def test_serendipity_is_useful_and_not_obvious() -> None:
    slate = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 0, 1]])
    relevant = torch.zeros(3, 6, dtype=torch.bool)
    relevant[0, [0, 1, 4]] = True  # item 0 is obvious, 4 not shown: item 1 is left
    relevant[2, [4, 5, 1]] = True
    obvious = torch.tensor([[0, 4]] * 3)
    found = serendipity(slate, relevant, obvious)
    assert found.value[[0, 2]].tolist() == [0.25, 0.5]
    assert found.counts.tolist() == [True, False, True]


def test_tail_is_the_mean_over_orders_of_ties() -> None:
    popularity = torch.tensor([5.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    cut = 3  # 0, 1, and one of the three with 2
    total = np.zeros(6)
    for order in permutations(range(6)):
        total[sorted(order, key=lambda item: float(popularity[item]))[:cut]] += 1
    np.testing.assert_allclose(tail(popularity, 0.5).numpy(), total / math.factorial(6), atol=1e-12)
    assert tail(popularity, 1).tolist() == [1.0] * 6
    assert tail(popularity, 0.01).tolist() == [0, 0, 0, 0, 0, 1]  # at least one
    assert tail_share(torch.tensor([[0, 5], [1, 5]]), tail(popularity, 0.5)).value.tolist() == [0.5, 1.0]
    with pytest.raises(BadInput, match=r"not 1\.5"):
        tail(popularity, 1.5)


def test_entropy_of_exposure() -> None:
    assert entropy(torch.full((8,), 3.0)) == pytest.approx(math.log(8))
    assert entropy(torch.tensor([0.0, 5.0])) == 0
    assert entropy(torch.tensor([1.0, 3.0])) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    for bad in ([0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(BadInput, match="at least 0"):
            entropy(torch.tensor(bad))


def test_exposure_by_attention() -> None:
    attention = torch.tensor([1.0, 0.5, 0.25, 0.125])
    slate = shown()
    expected = np.zeros(ITEMS)
    for row in slate.tolist():
        for slot, item in enumerate(row):
            expected[item] += float(attention[slot])
    np.testing.assert_allclose(exposure(slate, ITEMS, attention).numpy(), expected)


@pytest.mark.parametrize("wrong", [-1, ITEMS])
def test_unknown_items_are_refused(wrong: int) -> None:
    slate = shown()
    slate[2, 1] = wrong
    sentence = f"user 2 is shown item {wrong} at slot 1, and there are {ITEMS}"
    with pytest.raises(BadInput, match=sentence):
        ild(slate, torch.ones(ITEMS, 2))
    with pytest.raises(BadInput, match=sentence):
        category_entropy(slate, torch.zeros(ITEMS, 1, dtype=torch.long))
    with pytest.raises(BadInput, match=sentence):
        novelty(slate, torch.ones(ITEMS), 2)
    with pytest.raises(BadInput, match=sentence):
        average_popularity(slate, torch.ones(ITEMS))
    with pytest.raises(BadInput, match="at least two slots, not 1"):
        ild(slate[:, :1], torch.ones(ITEMS, 2))


@pytest.mark.parametrize("name", ["A_binary", "A1_loo"])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_values_of_recbole(name: str, k: int) -> None:
    """RecBole counts a padding item: 201 of 200. It divides the entropy by the number of items shown."""
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    theirs = json.loads((CASES / "ref_recbole.json").read_text())[name]
    scores = torch.from_numpy(np.load(CASES / f"{name}.npz")["scores"])
    popularity = torch.from_numpy(np.random.default_rng(3).integers(1, 500, 200)).double()
    slate = scores.topk(k).indices
    amount = exposure(slate, 200)
    assert coverage(amount) * 200 / 201 == pytest.approx(theirs[f"itemcoverage@{k}"], abs=1e-9)
    assert gini(torch.cat([amount, torch.zeros(1)])) == pytest.approx(theirs[f"giniindex@{k}"], abs=1e-9)
    assert gini(amount) < theirs[f"giniindex@{k}"] - 1e-3
    different = int((amount > 0).sum())
    assert entropy(amount) / different == pytest.approx(theirs[f"shannonentropy@{k}"], abs=1e-9)
    mean = average_popularity(slate, popularity).mean()
    assert mean == pytest.approx(theirs[f"averagepopularity@{k}"], abs=1e-6)
    share = tail_share(slate, tail(popularity, 0.1)).mean()
    assert share == pytest.approx(theirs[f"tailpercentage@{k}"], abs=1e-9)
