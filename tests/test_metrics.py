"""Metrics against their definitions, listed orders and scikit-learn."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score

from simlab.errors import BadInput
from simlab.metrics.exposure import coverage, drift, exposure, gini, per_provider
from simlab.metrics.ranking import auc, ndcg

CASES = Path(__file__).parents[1] / "../shared/cases/rank/metrics"


def test_exposure_counts_items() -> None:
    shown = exposure(torch.tensor([[0, 2], [2, 3], [2, 0]]), 5)
    assert shown.tolist() == [2, 0, 3, 1, 0]
    assert coverage(shown) == pytest.approx(3 / 5)


def test_gini_is_half_the_relative_mean_difference() -> None:
    x = torch.tensor([5.0, 0.0, 1.0, 2.5, 2.5, 7.0], dtype=torch.float64)
    difference = (x.unsqueeze(0) - x.unsqueeze(1)).abs().mean()
    assert gini(x) == pytest.approx(float(difference / (2 * x.mean())), abs=1e-12)


@pytest.mark.parametrize(
    ("amount", "value"),
    [([3.0] * 7, 0.0), ([0.0] * 9 + [4.0], 0.9), ([1.0], 0.0), ([0.0, 1.0], 0.5), ([1.0, 3.0], 0.25)],
)
def test_gini_known_values(amount: list[float], value: float) -> None:
    assert gini(torch.tensor(amount)) == pytest.approx(value, abs=1e-12)
    assert gini(10 * torch.tensor(amount)) == pytest.approx(value, abs=1e-12)


def test_gini_refuses() -> None:
    with pytest.raises(BadInput, match="no item was shown"):
        gini(torch.zeros(3))
    with pytest.raises(BadInput, match="not -1"):
        gini(torch.tensor([2.0, -1.0]))


def test_drift_is_total_variation() -> None:
    a, b = torch.tensor([2.0, 2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 1.0])
    assert drift(a, b) == pytest.approx(0.75)  # shares ½ ½ 0 0 and 0 ¼ ½ ¼
    assert drift(a, 7 * a) == 0
    assert drift(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 9.0])) == 1
    with pytest.raises(BadInput, match="popularity after has no shares"):
        drift(a, torch.zeros(4))


def test_ndcg_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5]])
    relevance = torch.tensor([[0.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    discount = 1 / np.log2([2, 3, 4])
    expected = (2 * discount[1] + 3 * discount[2]) / (3 * discount[0] + 2 * discount[1])
    assert ndcg(scores, relevance, 3).tolist() == pytest.approx([expected, 0.0])
    at_two = 2 * discount[1] / (3 * discount[0] + 2 * discount[1])
    assert float(ndcg(scores, relevance, 2)[0]) == pytest.approx(at_two)


def test_ndcg_with_ties_is_the_mean_over_orders() -> None:
    scores = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0])
    relevance = torch.tensor([1.0, 0.0, 3.0, 0.5, 2.0])
    values = []
    for order in permutations((0, 2, 3)):
        broken = scores.clone()
        broken[list(order)] += torch.tensor([0.3, 0.2, 0.1])
        values.append(float(ndcg(broken.unsqueeze(0), relevance.unsqueeze(0), 3)[0]))
    assert max(values) - min(values) > 0.1  # the order of ties matters, so a mean says something
    tied = float(ndcg(scores.unsqueeze(0), relevance.unsqueeze(0), 3)[0])
    assert tied == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_ndcg_is_scikit_learns(k: int) -> None:
    g = torch.Generator().manual_seed(k)
    scores = torch.randint(0, 8, (30, 20), generator=g).double()  # many ties
    relevance = torch.randint(0, 4, (30, 20), generator=g).double()
    theirs = [
        ndcg_score(relevance[i : i + 1].numpy(), scores[i : i + 1].numpy(), k=min(k, 20)) for i in range(30)
    ]
    np.testing.assert_allclose(ndcg(scores, relevance, k).numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("k", [5, 10, 20])
def test_ndcg_is_that_of_ranx(k: int) -> None:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    case = np.load(CASES / "A_binary.npz")
    theirs = json.loads((CASES / "ref_misc.json").read_text())["A_binary"]["ranx"][f"ndcg@{k}"]
    mine = ndcg(torch.from_numpy(case["scores"]), torch.from_numpy(case["labels"]).float(), k)
    assert float(mine.mean()) == pytest.approx(theirs, abs=1e-9)


def test_ndcg_refuses() -> None:
    one = torch.ones(1, 2)
    with pytest.raises(BadInput, match="at least one slot, not 0"):
        ndcg(one, one, 0)
    with pytest.raises(BadInput, match="scores that are numbers"):
        ndcg(one * torch.nan, one, 1)


def test_auc_is_scikit_learns() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 30, (500,), generator=g).double()
    positive = torch.rand(500, generator=g) < scores / 40
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive.numpy(), scores.numpy()), abs=1e-12)
    assert auc(torch.tensor([1.0, 2.0]), torch.tensor([False, True])) == 1
    assert auc(torch.tensor([1.0, 1.0]), torch.tensor([False, True])) == 0.5
    with pytest.raises(BadInput, match="both classes"):
        auc(scores, torch.ones(500, dtype=torch.bool))


def test_exposure_per_provider_is_in_fair_shares() -> None:
    """Provider 0 has one item of four and 6 of 12 impressions: twice its share."""
    shown = torch.tensor([6.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    got = per_provider(shown, torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(got, torch.tensor([2.0, 0.5 / 0.75], dtype=torch.float64))
    with pytest.raises(BadInput, match="provider 1 has no items"):
        per_provider(shown, torch.tensor([0, 0, 2, 2]))
    with pytest.raises(BadInput, match="no item was shown"):
        per_provider(torch.zeros(2), torch.tensor([0, 1]))
