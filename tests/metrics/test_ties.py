"""Equal scores: every order of small rankings, large groups, and what other libraries make of them."""

import json
from itertools import pairwise, permutations
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from torch import Tensor

from simlab.metrics.ranking import ranking
from simlab.metrics.target import target_rank

CASES = Path(__file__).parents[2] / "../shared/cases/rank/metrics"


def listed(scores: list[int], gains: list[int], k: int) -> dict[str, float]:
    """The mean of each metric over the orders that never put a lower score first."""
    n, found = sum(g > 0 for g in gains), []
    ideal = sum(g / log2(s + 2) for s, g in enumerate(sorted(gains, reverse=True)[:k]))
    for order in permutations(range(len(scores))):
        row = [scores[i] for i in order]
        if row != sorted(row, reverse=True):
            continue
        top = [gains[i] for i in order][:k]
        hits = np.cumsum([g > 0 for g in top])
        rank = np.arange(1, len(top) + 1)
        relevant = np.array(top) > 0
        found.append(
            [
                hits[-1] / k,
                hits[-1] / n,
                2 * hits[-1] / (k + n),
                float(hits[-1] > 0),
                float((relevant / rank).max()),
                float((relevant * hits / rank).sum() / n),
                float((np.array(top) / np.log2(rank + 1)).sum() / ideal),
            ]
        )
    return dict(
        zip(("precision", "recall", "f1", "hit", "mrr", "map", "ndcg"), np.mean(found, 0), strict=True)
    )


RANKINGS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
        st.lists(st.integers(0, 2), min_size=n, max_size=n).filter(any),
        st.integers(1, n + 2),
    )
)


@settings(max_examples=60)
@given(RANKINGS)
def test_any_small_ranking_is_its_mean_over_orders(case: tuple[list[int], list[int], int]) -> None:
    scores, gains, k = case
    mine = ranking(torch.tensor([scores]).float(), torch.tensor([gains]), k)
    for name, value in listed(scores, gains, k).items():
        assert float(mine[name].value) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("relevant", [1, 3, 400])
def test_a_catalogue_of_equal_scores_is_hypergeometric(relevant: int) -> None:
    items, k = 100_000, 20
    wanted = torch.zeros(1, items, dtype=torch.bool)
    wanted[0, torch.arange(relevant) * 7] = True
    found = ranking(torch.zeros(1, items), wanted, k)
    none = [float(hypergeom.pmf(0, items, relevant, slots)) for slots in range(k + 1)]
    assert float(found["hit"].value) == pytest.approx(1 - none[k], rel=1e-8)
    first = sum((a - b) / rank for rank, (a, b) in enumerate(pairwise(none), 1))
    assert float(found["mrr"].value) == pytest.approx(first, rel=1e-8)
    pairs = [(1 + s * (relevant - 1) / (items - 1)) / (s + 1) for s in range(k)]
    assert float(found["map"].value) == pytest.approx(sum(pairs) / items, rel=1e-9)
    if relevant == 1:
        by_rank = target_rank(torch.zeros(1, items), torch.tensor([0])).metrics((k,))
        for name in found:
            same = float(by_rank[f"{name}@{k}"].value)
            assert float(found[name].value) == pytest.approx(same, rel=1e-9), name


def tied() -> tuple[Tensor, Tensor, Any, Any]:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    case = np.load(CASES / "C_ties.npz")
    scores, labels = torch.from_numpy(case["scores"]), torch.from_numpy(case["labels"])
    misc = json.loads((CASES / "ref_misc.json").read_text())["C_ties"]
    return scores, labels > 0, misc, json.loads((CASES / "ref_recbole.json").read_text())["C_ties"]


def broken(scores: Tensor, first: Tensor) -> Tensor:
    """The places of the items, ties broken by who is higher in `first`."""
    by = first.expand(scores.shape).argsort(dim=1, stable=True)
    order = by.gather(1, scores.gather(1, by).sort(dim=1, stable=True).indices)
    places = torch.arange(scores.shape[1]).expand(scores.shape)
    return torch.zeros(scores.shape, dtype=torch.float64).scatter_(1, order, places.double())


@pytest.mark.parametrize("k", [5, 10, 20])
def test_pytrec_eval_puts_the_last_item_first(k: int) -> None:
    """Given its order of equal scores, we have its numbers; ours are not those of any one order."""
    scores, labels, theirs, _ = tied()
    found = ranking(broken(scores, torch.arange(200)), labels, k)
    mine = ranking(scores, labels, k)
    words = {"precision": "P", "recall": "recall", "map": "map_cut", "ndcg": "ndcg_cut"}
    for name, word in words.items():
        value = theirs["pytrec_eval"][f"{word}_{k}"]
        assert found[name].mean() == pytest.approx(value, abs=1e-9), name
        assert abs(mine[name].mean() - value) > 1e-4, name


@pytest.mark.parametrize("k", [5, 10, 20])
def test_one_order_may_be_lucky(k: int) -> None:
    """Every library is between the worst and the best order; half of NDCG lies between the two."""
    scores, labels, misc, recbole = tied()
    best, worst = (
        ranking(broken(scores, sign * labels.float()), labels, k, map_norm="min") for sign in (1, -1)
    )
    mine = ranking(scores, labels, k, map_norm="min")
    words = {"precision": "precision", "recall": "recall", "hit": "hit_rate", "mrr": "mrr", "ndcg": "ndcg"}
    for name, word in words.items():
        low, high = worst[name].mean(), best[name].mean()
        theirs = [
            misc["ranx"][f"{word}@{k}"],
            recbole[f"{name}@{k}"],
            misc["torchmetrics"][f"{name}@{k}[skip]"],
        ]
        assert all(low - 1e-6 <= value <= high + 1e-6 for value in (*theirs, mine[name].mean())), name
    assert best["ndcg"].mean() - worst["ndcg"].mean() > 0.5 * mine["ndcg"].mean()
    assert worst["map"].mean() <= recbole[f"map@{k}"] <= best["map"].mean()
