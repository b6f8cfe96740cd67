"""Ranking metrics against listed orders, scikit-learn and the values of other libraries on the same input."""

import json
from itertools import pairwise, permutations
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

import simlab.metrics.ranking as here
from simlab.errors import BadInput
from simlab.metrics.means import PerUser
from simlab.metrics.ranking import hit, ndcg, ranking
from simlab.metrics.target import target_rank
from simlab.statistics import mean_interval

CASES = Path(__file__).parents[2] / "../shared/cases/rank/metrics"
NAMES = ["precision", "recall", "f1", "hit", "mrr", "map", "ndcg"]


def case(name: str) -> tuple[Tensor, Tensor]:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    found = np.load(CASES / f"{name}.npz")
    return torch.from_numpy(found["scores"]), torch.from_numpy(found["labels"]).float()


def reference(file: str, name: str) -> Any:
    return json.loads((CASES / file).read_text())[name]


def means(scores: Tensor, relevance: Tensor, k: int, **options: Any) -> dict[str, float]:
    return {name: x.summary().mean for name, x in ranking(scores, relevance, k, **options).items()}


def of_order(
    gains: list[float], k: int, *, least: bool = False, exponential: bool = False
) -> dict[str, float]:
    """The metrics of one user whose items stand in this order, written out."""
    worth = [2**g - 1 for g in gains] if exponential else gains
    right = sum(g > 0 for g in gains)
    hits, precisions, first = 0, 0.0, 0.0
    for rank, gain in enumerate(gains[:k], 1):
        if gain > 0:
            hits += 1
            precisions += hits / rank
            first = first or 1 / rank
    p, r = hits / k, hits / right
    best = sorted(worth, reverse=True)
    dcg, ideal = (sum(g / log2(s + 2) for s, g in enumerate(x[:k])) for x in (worth, best))
    return {
        "precision": p,
        "recall": r,
        "f1": 2 * p * r / (p + r) if hits else 0.0,
        "hit": float(hits > 0),
        "mrr": first,
        "map": precisions / (min(k, right) if least else right),
        "ndcg": dcg / ideal,
    }


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize(
    ("scores", "gains"),
    [
        ([1.0, 2.0, 1.0, 1.0, 0.0, 2.0], [1.0, 0.0, 3.0, 0.0, 2.0, 1.0]),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 2.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0, 5.0, 5.0, -9.0], [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        ([3.0, 3.0, 2.0, 2.0, 2.0, -torch.inf], [0.0, 0.0, 0.0, 1.0, 0.5, 1.0]),
        ([3.0, 3.0, 3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_ties_give_the_mean_over_all_orders(
    scores: list[float], gains: list[float], k: int, other: bool
) -> None:
    """Every order of the items that never puts a lower score first, each as likely."""
    listed = [
        of_order([gains[i] for i in order], k, least=other, exponential=other)
        for order in permutations(range(6))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    options = {"map_norm": "min", "gain": "exponential"} if other else {}
    found = ranking(torch.tensor([scores]), torch.tensor([gains]), k, **options)  # type: ignore[arg-type]
    for name in NAMES:
        assert float(found[name].value) == pytest.approx(np.mean([x[name] for x in listed]), abs=1e-12), name


def test_the_order_of_ties_matters_in_that_test() -> None:
    first, last = of_order([1.0, 0.0, 0.0], 2), of_order([0.0, 0.0, 1.0], 2)
    assert all(first[name] - last[name] > 0.4 for name in NAMES)


def world(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 8, (30, 20), generator=g).double()
    relevance = torch.randint(0, 4, (30, 20), generator=g).double() * (
        torch.rand(30, 20, generator=g) < torch.rand(30, 1, generator=g) * 0.5
    )
    return scores, relevance, torch.rand(30, 20, generator=g) < 0.3


def test_what_was_seen_is_as_if_it_were_not_there() -> None:
    scores, relevance, seen = world()
    scores[seen] = 99.0  # would be first
    whole = ranking(scores, relevance, (1, 4, 20), seen=seen)
    for user in range(len(scores)):
        mine, left = slice(user, user + 1), ~seen[user]
        alone = ranking(scores[mine, left], relevance[mine, left], (1, 4, 20))
        for name, value in alone.items():
            torch.testing.assert_close(
                whole[name].value[mine], value.value, equal_nan=True, atol=1e-12, rtol=0
            )


def test_a_relevant_item_with_the_least_score_is_missed_not_forgotten() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 1.0]])
    relevance = torch.tensor([[0.0, 1.0, 0.0]])
    found = ranking(scores, relevance, 3, seen=torch.tensor([[False, False, True]]))
    assert float(found["mrr"].value) == 0.5
    assert found["mrr"].skipped == 0


def test_users_with_nothing_relevant_are_skipped_and_counted() -> None:
    scores, relevance, seen = world()
    relevance[3] = 0.0
    relevance[7] *= seen[7]  # what is relevant to user 7 has been seen
    found = ranking(scores, relevance, 5, seen=seen)["recall"]
    empty = (relevance * ~seen).sum(1) == 0
    assert empty[[3, 7]].all()
    assert found.skipped == int(empty.sum())
    assert torch.equal(found.counts, ~empty)
    assert torch.equal(found.value.isnan(), empty)
    kept = found.value[~empty].numpy()
    mine, plain = found.summary(0.9), mean_interval(kept, 0.9)
    assert (mine.mean, mine.stderr, mine.low, mine.high, mine.n) == pytest.approx(
        (kept.mean(), kept.std(ddof=1) / len(kept) ** 0.5, plain.low, plain.high, len(kept))
    )
    label = torch.arange(30) // 3
    clustered = mean_interval(kept, groups=label[~empty].numpy())
    assert found.summary(groups=label.numpy()).stderr == pytest.approx(clustered.stderr)


def test_a_weighted_mean_and_its_error() -> None:
    """Against the delta method for Σ w x / Σ w, written with the covariance of the two means."""
    g = torch.Generator().manual_seed(2)
    x, w = torch.rand(40, generator=g).double(), 1 + 5 * torch.rand(40, generator=g).double()
    counts = torch.arange(40) > 4
    found = PerUser(x, counts, w).summary()
    a, b = (w * x)[counts].numpy(), w[counts].numpy()
    ratio = a.mean() / b.mean()
    cov = np.cov(a, b) / len(a)
    variance = (cov[0, 0] - 2 * ratio * cov[0, 1] + ratio**2 * cov[1, 1]) / b.mean() ** 2
    assert (found.mean, found.stderr) == pytest.approx((ratio, variance**0.5))


def test_several_k_at_once_and_single_functions_agree() -> None:
    scores, relevance, seen = world(1)
    many = ranking(scores, relevance, (1, 5, 30), seen=seen)
    assert list(many)[:7] == [f"{name}@1" for name in NAMES]
    for k in (1, 5, 30):
        one = ranking(scores, relevance, k, seen=seen)
        assert list(one) == NAMES
        for name in NAMES:
            alone = getattr(here, name)(scores, relevance, k, seen=seen)
            assert torch.equal(one[name].value.nan_to_num(-1), alone.value.nan_to_num(-1))
            assert torch.equal(one[name].value.nan_to_num(-1), many[f"{name}@{k}"].value.nan_to_num(-1))


def test_users_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, relevance, seen = world(2)
    whole = ranking(scores, relevance, 5, seen=seen)
    monkeypatch.setattr(here, "CELLS", 7 * 20)
    pieces = ranking(scores, relevance, 5, seen=seen)
    for name in NAMES:
        assert torch.equal(whole[name].value.nan_to_num(-1), pieces[name].value.nan_to_num(-1))


def test_yes_and_no_is_a_relevance() -> None:
    scores, relevance, seen = world(3)
    logical, number = relevance > 0, (relevance > 0).float()
    for name, value in ranking(scores, logical, 6, seen=seen).items():
        torch.testing.assert_close(
            value.value, ranking(scores, number, 6, seen=seen)[name].value, equal_nan=True, atol=1e-12, rtol=0
        )


def test_one_target_a_user_is_the_same_by_its_rank() -> None:
    scores, _, seen = world(4)
    target = torch.randint(-1, 20, (30,), generator=torch.Generator().manual_seed(5))
    scores[2, target[2]] = -torch.inf
    relevance = torch.zeros(30, 20).scatter_(1, target.clamp(min=0)[:, None], (target >= 0).float()[:, None])
    by_rank = target_rank(scores, target, seen).metrics((1, 4, 25))
    for name, value in ranking(scores, relevance, (1, 4, 25), seen=seen).items():
        torch.testing.assert_close(by_rank[name].value, value.value, equal_nan=True, atol=1e-12, rtol=0)
        assert by_rank[name].skipped == value.skipped > 0


@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_ndcg_is_scikit_learns(k: int) -> None:
    scores, relevance, _ = world(k)
    found = ndcg(scores, relevance, k)
    kept = found.counts.nonzero()[:, 0].tolist()
    theirs = [ndcg_score(relevance[[i]].numpy(), scores[[i]].numpy(), k=min(k, 20)) for i in kept]
    np.testing.assert_allclose(found.value[found.counts].numpy(), theirs, atol=1e-12)


def test_bad_input_is_named() -> None:
    one = torch.ones(2, 2)
    with pytest.raises(BadInput, match="at least one slot, not 0"):
        ndcg(one, one, 0)
    with pytest.raises(BadInput, match="user 1, item 0 is not"):
        hit(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), one, 1)
    with pytest.raises(BadInput, match="user 0, item 1 is -1"):
        hit(one, torch.tensor([[0.0, -1.0], [1.0, 1.0]]), 1)
    with pytest.raises(BadInput, match="relevant or min, not 'hits'"):
        here._check(one, one, (1,), "linear", "hits")
    with pytest.raises(BadInput, match="linear or exponential, not 'cubic'"):
        here._check(one, one, (1,), "cubic", "min")
    with pytest.raises(BadInput, match="at least two"):
        hit(one, torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 1).summary()


# The values of other libraries, on the same scores and labels.

RANX = {
    "precision": "precision",
    "recall": "recall",
    "hit": "hit_rate",
    "mrr": "mrr",
    "map": "map",
    "ndcg": "ndcg",
}
TREC = {"precision": "P", "recall": "recall", "hit": "success", "map": "map_cut", "ndcg": "ndcg_cut"}


@pytest.mark.parametrize("name", ["A_binary", "A1_loo", "B_some_empty", "D_graded"])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_values_of_ranx_and_pytrec_eval(name: str, k: int) -> None:
    """Graded gains are in the NDCG alone; users without anything relevant are skipped by both."""
    scores, labels = case(name)
    mine, theirs = means(scores, labels, k), reference("ref_misc.json", name)
    for ours, word in RANX.items():
        assert mine[ours] == pytest.approx(theirs["ranx"][f"{word}@{k}"], abs=1e-9), ours
    for ours, word in TREC.items():
        if f"{word}_{k}" in theirs["pytrec_eval"]:
            assert mine[ours] == pytest.approx(theirs["pytrec_eval"][f"{word}_{k}"], abs=1e-9), ours
    burges = ndcg(scores, labels, k, gain="exponential").summary().mean
    assert burges == pytest.approx(theirs["ranx"][f"ndcg_burges@{k}"], abs=1e-9)
    everything = means(scores, labels, scores.shape[1])
    whole = (everything["mrr"], everything["map"], everything["ndcg"])
    for them, words in (("ranx", ("mrr", "map")), ("pytrec_eval", ("recip_rank", "map", "ndcg"))):
        assert whole[: len(words)] == pytest.approx([theirs[them][word] for word in words], abs=1e-9)
    assert ndcg(scores, labels, k).summary().n == theirs["pytrec_eval"]["n_users"]


@pytest.mark.parametrize("name", ["A_binary", "A1_loo", "B_some_empty", "D_graded"])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_values_of_torchmetrics(name: str, k: int) -> None:
    """It divides average precision by the hits; by default it gives 0 to users without anything relevant."""
    scores, labels = case(name)
    found, theirs = ranking(scores, labels, k), reference("ref_misc.json", name)["torchmetrics"]
    for ours in ("precision", "recall", "hit", "mrr", "ndcg"):
        mine = found[ours].summary().mean
        assert mine == pytest.approx(theirs[f"{ours}@{k}[skip]"], abs=1e-6), ours
        as_zero = float(found[ours].value.nan_to_num(0.0).mean())
        assert as_zero == pytest.approx(theirs[f"{ours}@{k}[neg]"], abs=1e-6), ours
        assert (found[ours].skipped == 0) == (abs(as_zero - mine) < 1e-6)
    hits = found["precision"].value * k
    right = (labels > 0).sum(1)
    over_hits = (found["map"].value * right / hits.clamp(min=1))[found["map"].counts].mean()
    assert float(over_hits) == pytest.approx(theirs[f"map@{k}[skip]"], abs=1e-6)
    if name != "A1_loo":
        assert abs(found["map"].summary().mean - theirs[f"map@{k}[skip]"]) > 0.1


@pytest.mark.parametrize("name", ["A_binary", "A1_loo"])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_values_of_recbole(name: str, k: int) -> None:
    """It divides average precision by min(k, relevant items)."""
    scores, labels = case(name)
    mine, theirs = means(scores, labels, k, map_norm="min"), reference("ref_recbole.json", name)
    for ours in ("precision", "recall", "hit", "mrr", "map", "ndcg"):
        assert mine[ours] == pytest.approx(theirs[f"{ours}@{k}"], abs=1e-9), ours
    if name == "A_binary" and k < 20:  # where a user has more relevant items than slots, the norm matters
        assert abs(means(scores, labels, k)["map"] - theirs[f"map@{k}"]) > 0.02


@pytest.mark.parametrize("name", ["A_binary", "A1_loo", "B_some_empty"])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_values_of_torch_rechub(name: str, k: int) -> None:
    """Four digits. Users with nothing relevant get 0; its "Hit" is all hits over all relevant items."""
    scores, labels = case(name)
    found = ranking(scores, labels, k)
    theirs = {
        word: float(next(x for x in values if x.startswith(f"{word}@{k}:")).split(": ")[1])
        for word, values in reference("ref_torch_rechub.json", name).items()
    }
    for ours, word in (("ndcg", "NDCG"), ("mrr", "MRR"), ("recall", "Recall"), ("precision", "Precision")):
        assert float(found[ours].value.nan_to_num(0.0).mean()) == pytest.approx(theirs[word], abs=5.1e-5)
    hits = float((found["precision"].value * k).nansum())
    assert hits / float((labels > 0).sum()) == pytest.approx(theirs["Hit"], abs=5.1e-5)
    if name != "A1_loo":
        assert found["hit"].summary().mean - theirs["Hit"] > 0.4


def test_ties_in_other_libraries() -> None:
    """torchmetrics' NDCG is the mean over orders, too. The others take one order, which is one draw of many.

    Ours is the mean over random orders of the ties: each draw is a metric without ties, checked above.
    """
    scores, labels = case("C_ties")
    theirs, ks = reference("ref_misc.json", "C_ties"), (5, 10, 20)
    mine = {name: x.summary().mean for name, x in ranking(scores, labels, ks).items()}
    g = torch.Generator().manual_seed(0)
    draws: dict[str, list[float]] = {name: [] for name in mine}
    for _ in range(200):
        shuffled = torch.rand(scores.shape, generator=g, dtype=torch.float64).argsort(1)
        place = scores.gather(1, shuffled).argsort(dim=1, stable=True).argsort(1)
        broken = torch.zeros_like(place).scatter_(1, shuffled, place).double()
        for name, x in ranking(broken, labels, ks).items():
            draws[name].append(float(x.value.mean()))
    for name, drawn in draws.items():
        assert abs(np.mean(drawn) - mine[name]) < 4 * np.std(drawn) / 200**0.5, name
    for k in ks:
        assert mine[f"ndcg@{k}"] == pytest.approx(theirs["torchmetrics"][f"ndcg@{k}[skip]"], abs=1e-6)
        recbole = reference("ref_recbole.json", "C_ties")
        for name in ("precision", "recall", "hit", "mrr"):
            spread = float(np.std(draws[f"{name}@{k}"]))
            for them in (
                theirs["ranx"][f"{RANX[name]}@{k}"],
                theirs["torchmetrics"][f"{name}@{k}[skip]"],
                recbole[f"{name}@{k}"],
            ):
                assert 1e-6 < abs(them - mine[f"{name}@{k}"]) < 5 * spread, name
