"""Families that count or solve: each against its definition written out slowly, or another library."""

from collections.abc import Mapping
from dataclasses import replace
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Interactions, Ranker, Sizes
from simlab.rankers.ease import EASE
from simlab.rankers.item_knn import ItemKNN
from simlab.rankers.markov import Markov
from simlab.rankers.user_knn import UserKNN
from simlab.seeds import Seed
from simlab.training.store import load_ranker, save_ranker

USERS, ITEMS = 40, 25
FAMILIES: tuple[type[Ranker], ...] = (EASE, ItemKNN, UserKNN, Markov)


def examples(seed: int = 0, users: int = USERS, items: int = ITEMS, each: int = 9) -> Interactions:
    """Return weighted examples with repeats and non-clicks; the last five users have no id of their own."""
    g = torch.Generator().manual_seed(seed)
    taste = torch.randn(users, 3, generator=g) @ torch.randn(3, items, generator=g)
    item = torch.multinomial(taste.exp(), each, replacement=True, generator=g).flatten()
    n = len(item)
    return Interactions(
        torch.arange(users).repeat_interleave(each),
        item,
        (torch.rand(n, generator=g) < 0.8).float(),
        torch.randint(0, 4, (n,), generator=g) / 2,
    )


def plain(seen: Interactions) -> Interactions:
    """Return the same examples with weights of 1."""
    return replace(seen, weight=torch.ones(len(seen)))


def matrix(seen: Interactions, users: int = USERS, items: int = ITEMS) -> np.ndarray:
    """Return r_vi, by a loop."""
    r = np.zeros((users, items))
    columns = (seen.user, seen.item, seen.target, seen.weight)
    for v, i, y, w in zip(*(c.tolist() for c in columns), strict=True):
        r[v, i] = max(r[v, i], y * w)
    return r


def ready(family: type[Ranker], seen: Interactions, **spec: Any) -> Ranker:
    """Return a prepared ranker; five of the users have no id."""
    ranker = family.build(Sizes(USERS - 5, ITEMS), spec)
    ranker.prepare(seen)
    return ranker.eval()


def asked(clicked: Mapping[int, list[int]], items: int = ITEMS) -> Context:
    """Return users (id: what they clicked), with unclicked and padded items between."""
    width = 2 * max(len(c) for c in clicked.values()) + 1
    history = torch.full((len(clicked), width), -1)
    feedback = torch.zeros(len(clicked), width)
    for row, mine in enumerate(clicked.values()):
        for place, i in enumerate(mine):
            history[row, width - 2 * len(mine) + 2 * place] = i
            feedback[row, width - 2 * len(mine) + 2 * place] = 1.0
            history[row, width - 2 * len(mine) + 2 * place - 1] = (i + 7) % items  # shown, not clicked
    return Context.of(torch.tensor(list(clicked)), items, history=history, feedback=feedback)


ASKED = {3: [4, 9, 1], 38: [0, 4, 4, 12], 100: [20], 7: []}


def close(found: Tensor, expected: np.ndarray | list[list[float]]) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(weighted: bool) -> None:
    seen = examples() if weighted else plain(examples())
    r, scores = matrix(seen), ready(EASE, seen, regularisation=3.0).score_all(asked(ASKED))
    weights = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        others = [j for j in range(ITEMS) if j != i]
        fitted = Ridge(alpha=3.0, fit_intercept=False).fit(r[:, others], r[:, i])
        weights[others, i] = fitted.coef_
    close(scores, [[sum(weights[j, i] for j in set(c)) for i in range(ITEMS)] for c in ASKED.values()])


@pytest.mark.parametrize(
    ("k", "shrinkage", "damping"), [(25, 0.0, 0.0), (25, 2.5, 0.0), (4, 0.7, 0.0), (400, 1.0, 0.5)]
)
def test_item_knn_is_its_definition(k: int, shrinkage: float, damping: float) -> None:
    seen = examples(1)
    r = matrix(seen)
    n = r.T @ r
    scores = ready(ItemKNN, seen, neighbours=k, shrinkage=shrinkage, damping=damping).score_all(asked(ASKED))
    expected = []
    for c in ASKED.values():
        row = []
        for i in range(ITEMS):
            others = [j for j in range(ITEMS) if j != i and n[i, j] > 0]
            alike = {j: n[i, j] / (sqrt(n[i, i] * n[j, j]) + shrinkage) for j in others}
            near = sorted(alike, key=lambda j: -alike[j])[:k]
            row.append(n[i, i] ** -damping * sum(alike[j] for j in near if j in c))
        expected.append(row)
    close(scores, expected)


def test_item_knn_of_few_candidates_is_that_of_all() -> None:
    ranker = ready(ItemKNN, examples(1), neighbours=4)
    c = asked(ASKED)
    everything = ranker.score_all(c)
    for few in (torch.tensor([[3, 8], [4, 0], [24, 2], [7, 11]]), torch.tensor([6, 2]).expand(4, 2)):
        some = replace(c, candidates=few, mask=torch.ones_like(few).bool())
        close(ranker(some), everything.gather(1, few).numpy())


@pytest.mark.parametrize("k", [3, 40])
def test_user_knn_adds_up_the_clicks_of_scikit_learns_neighbours(k: int) -> None:
    seen = examples(2)
    # No two are equally near.
    seen = replace(seen, weight=torch.rand(len(seen), generator=Seed(1).torch()))
    r = matrix(seen)
    scores = ready(UserKNN, seen, neighbours=k).score_all(asked(ASKED))
    expected = []
    for who, c in ASKED.items():
        mine = np.zeros((1, ITEMS))
        mine[0, c] = 1
        # A user with an id is no neighbour of their own; 38 and 100 have none.
        rows = [v for v in range(USERS) if v != who or who >= USERS - 5]
        search = NearestNeighbors(metric="cosine", algorithm="brute").fit(r[rows])
        distance, near = (x[0] for x in search.kneighbors(mine, min(k, len(rows))))
        expected.append(sum((1 - d) * r[rows[v]] for d, v in zip(distance, near, strict=True)))
    close(scores, np.array(expected))


def test_of_equally_near_users_all_stay() -> None:
    seen = Interactions(
        torch.tensor([0, 0, 1, 1, 2]), torch.tensor([4, 1, 4, 2, 3]), torch.ones(5), torch.ones(5)
    )
    scores = ready(UserKNN, seen, neighbours=1).score_all(asked({100: [4]}))[0]
    expected = torch.zeros(ITEMS)
    expected[[1, 2]] = sqrt(0.5)
    expected[4] = 2 * sqrt(0.5)
    close(scores, expected.numpy())


def test_user_knn_shrinks_what_rests_on_little() -> None:
    seen = examples(2)
    r = matrix(seen)
    scores = ready(UserKNN, seen, neighbours=40, shrinkage=1.5).score_all(asked({100: [4, 9]}))
    alike = r[:, [4, 9]].sum(1) / (sqrt(2) * np.linalg.norm(r, axis=1) + 1.5)
    close(scores, (alike @ r)[None])


@pytest.mark.parametrize("smoothing", [1.0, 0.3])
def test_markov_counts_steps(smoothing: float) -> None:
    seen = examples(3)
    steps, clicks = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    last: dict[int, int] = {}
    columns = (seen.user, seen.item, seen.target, seen.weight)
    for v, i, y, w in zip(*(c.tolist() for c in columns), strict=True):
        if y * w == 0:
            continue  # neither a click, nor in the way between two
        clicks[i] += w
        if v in last:
            steps[last[v], i] += w
        last[v] = i
    share = (clicks + 1) / (clicks.sum() + ITEMS)
    expected = []
    for c in ASKED.values():
        counts = steps[c[-1]] if c else np.zeros(ITEMS)
        row = [log((counts[i] + smoothing * share[i]) / (counts.sum() + smoothing)) for i in range(ITEMS)]
        expected.append(row)
    scores = ready(Markov, seen, smoothing=smoothing).score_all(asked(ASKED))
    close(scores, expected)
    near_one = scores.exp().sum(1)
    close(near_one, np.ones(len(ASKED)))  # a distribution over the catalogue


def test_markov_adds_up_over_logs_and_the_others_start_over() -> None:
    seen, more, c = examples(3), examples(4), asked(ASKED)
    apart = replace(more, user=more.user + USERS)
    both = Interactions(
        *(torch.cat([getattr(x, f) for x in (seen, apart)]) for f in ("user", "item", "target", "weight"))
    )
    for family in FAMILIES:
        ranker = ready(family, seen)
        ranker.prepare(apart)
        close(ranker(c).detach(), ready(family, both if family is Markov else apart)(c).numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_only_clicks_that_weigh_something_count(family: type[Ranker]) -> None:
    seen, c = examples(5), asked(ASKED)
    counted = (seen.target > 0) & (seen.weight > 0)
    assert 0 < int(counted.sum()) < len(seen)
    close(ready(family, seen)(c), ready(family, seen.rows(counted))(c).numpy())
    assert not torch.allclose(ready(family, seen)(c), ready(family, plain(seen))(c), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_last_items_of_the_history_count(family: type[Ranker]) -> None:
    seen, c = examples(6), asked({1: [4, 9, 1], 2: [8, 5, 0]})
    # The history ends with a click, after an item that was not clicked: a past of 2 holds the click alone.
    ends = replace(c, history=c.history[:, :-1], feedback=c.feedback[:, :-1])
    close(ready(family, seen, past=2)(ends), ready(family, seen)(asked({1: [1], 2: [0]})).numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_was_clicked(family: type[Ranker]) -> None:
    seen = examples(7)
    nothing = replace(seen, target=torch.zeros(len(seen)))
    scores = ready(family, nothing)(asked(ASKED))
    assert bool(scores.isfinite().all())
    close(scores, scores[:1].expand(4, -1).numpy())  # there is nothing to tell users apart by


def test_many_items_are_solved_a_few_columns_at_a_time() -> None:
    seen = plain(examples(8, users=60, items=1500, each=30))
    r, c = matrix(seen, 60, 1500), asked({1: [4, 1400, 1100], 2: [1023, 1024]}, 1500)
    sizes = Sizes(60, 1500)
    ease = EASE.build(sizes, {"regularisation": 5.0})
    ease.prepare(seen)
    p = np.linalg.inv(r.T @ r + 5.0 * np.eye(1500))
    b = np.eye(1500) - p / np.diag(p)
    mine = np.zeros((2, 1500))
    mine[0, [4, 1400, 1100]] = mine[1, [1023, 1024]] = 1
    close(ease.score_all(c), mine @ b)
    knn = ItemKNN.build(sizes, {"neighbours": 1500, "shrinkage": 1.0})
    knn.prepare(seen)
    n = r.T @ r
    alike = n / (np.sqrt(np.outer(np.diag(n), np.diag(n))) + 1.0)
    np.fill_diagonal(alike, 0)
    close(knn.score_all(c), mine @ alike)


def test_the_table_of_users_is_saved_with_the_ranker(tmp_path: Path) -> None:
    ranker, c = ready(UserKNN, examples(9)), asked(ASKED)
    save_ranker(ranker, tmp_path)
    again = load_ranker(tmp_path)
    assert torch.equal(again(c), ranker(c))
    assert again.spec.kept == len(again.state_dict()["item"]) > 0


def test_the_planted_pattern_is_found() -> None:
    """Users click within one of five groups of items, in a circle: all find the group, the chain the next."""
    g = Seed(0).torch()
    user = torch.arange(USERS).repeat_interleave(4)
    start = torch.randint(0, 5, (USERS,), generator=g).repeat_interleave(4)
    item = 5 * (user % 5) + (start + torch.arange(4).repeat(USERS)) % 5
    seen = Interactions(user, item, torch.ones(len(user)), torch.ones(len(user)))
    c = asked({100 + group: [5 * group + 1, 5 * group + 2] for group in range(5)})
    for family in FAMILIES:
        scores = ready(family, seen, **({"regularisation": 1.0} if family is EASE else {})).score_all(c)
        for group, row in enumerate(scores):
            row[[5 * group + 1, 5 * group + 2]] = -torch.inf
            assert int(row.argmax()) // 5 == group, family
            if family is Markov:
                assert int(row.argmax()) == 5 * group + 3


@pytest.mark.parametrize(
    ("family", "spec", "sentence"),
    [
        (EASE, {"regularisation": 0.0}, "regularisation of ease is finite and above 0, not 0.0"),
        (EASE, {"past": 0}, "past of ease is at least 1, not 0"),
        (ItemKNN, {"neighbours": 0}, "neighbours of item_knn is at least 1, not 0"),
        (ItemKNN, {"shrinkage": -1.0}, "shrinkage of item_knn is finite and at least 0, not -1.0"),
        (ItemKNN, {"past": 0}, "past of item_knn is at least 1, not 0"),
        (UserKNN, {"neighbours": 0}, "neighbours of user_knn is at least 1, not 0"),
        (UserKNN, {"shrinkage": float("nan")}, "shrinkage of user_knn is finite and at least 0, not nan"),
        (Markov, {"smoothing": 0.0}, "smoothing of markov is finite and above 0, not 0.0"),
        (Markov, {"past": -2}, "past of markov is at least 1, not -2"),
    ],
)
def test_refusals(family: type[Ranker], spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        family.build(Sizes(USERS, ITEMS), spec)
    assert str(caught.value) == sentence
