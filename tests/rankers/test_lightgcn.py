"""LightGCN against powers of the adjacency matrix, a graph by hand, and folding in."""

import math

import pytest
import torch
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.rankers.contract import Interactions, Sizes
from simlab.rankers.lightgcn import LightGCN
from simlab.seeds import Seed
from tests.contracts.rankers import SIZES, catalog, context, interactions, make, near


def edges(pairs: list[tuple[int, int]]) -> Interactions:
    user, item = (torch.tensor(x) for x in zip(*pairs, strict=True))
    return Interactions(user, item, torch.ones(len(pairs)), torch.ones(len(pairs)))


def adjacency(seen: Interactions, users: int, items: int) -> Tensor:
    """Return D^-1/2 A D^-1/2 over users, then items, float64."""
    a = torch.zeros(users + items, users + items, dtype=torch.float64)
    for u, i, y, w in zip(seen.user.tolist(), seen.item.tolist(), seen.target, seen.weight, strict=True):
        if u < users and y > 0 and w > 0:
            a[u, users + i] = a[users + i, u] = 1.0
    degree = a.sum(1)
    root = torch.where(degree > 0, degree.rsqrt(), 0.0)
    return root.unsqueeze(1) * a * root


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scores_are_those_of_the_powers_of_the_adjacency(layers: int) -> None:
    seen = interactions()
    ranker = LightGCN.build(SIZES, {"layers": layers}, catalog(), Seed(1))
    assert isinstance(ranker, LightGCN)
    ranker.prepare(seen)
    ranker.eval()
    hop = adjacency(seen, SIZES.n_users, SIZES.n_items)
    first = torch.cat([ranker.users.weight, ranker.items.all()]).detach().double()
    total, current = first.clone(), first
    for _ in range(layers):
        current = hop @ current
        total = total + current
    mean = (total / (layers + 1)).float()
    c = context()
    expected = mean[: SIZES.n_users][c.user] @ mean[SIZES.n_users :].T
    near(ranker.score_all(c), expected)
    near(ranker.train().score_all(c), expected)


def test_a_graph_by_hand() -> None:
    """User 0 clicked items 0 and 1, user 1 item 1, user 2 nothing; item 2 was never clicked."""
    ranker = LightGCN.build(Sizes(3, 3), {"layers": 1, "dim": 1}, None, Seed(0))
    assert isinstance(ranker, LightGCN)
    ranker.prepare(edges([(0, 0), (0, 1), (1, 1), (1, 1)]))
    with torch.no_grad():
        ranker.users.weight.copy_(torch.tensor([[1.0], [2.0], [4.0]]))
        ranker.items.ids.weight.copy_(torch.tensor([[8.0], [16.0], [32.0]]))
    ranker.eval()
    users, items, below = ranker.walk()
    user = [(1 + 8 / math.sqrt(2) + 16 / 2) / 2, (2 + 16 / math.sqrt(2)) / 2, 2.0]
    item = [(8 + 1 / math.sqrt(2)) / 2, (16 + 1 / 2 + 2 / math.sqrt(2)) / 2, 16.0]
    near(users[:, 0], torch.tensor(user))
    near(items[:, 0], torch.tensor(item))
    near(below[:, 0], torch.tensor([8 / 2, 16 / math.sqrt(2) / 2, 32 / 2]))


def test_gradients_are_those_of_dense_products() -> None:
    seen = interactions()
    ranker = LightGCN.build(SIZES, {"layers": 2, "dim": 5}, None, Seed(1))
    assert isinstance(ranker, LightGCN)
    ranker.prepare(seen)
    users, items, _ = ranker.train().walk()
    g = torch.Generator().manual_seed(0)
    by_user, by_item = torch.randn(users.shape, generator=g), torch.randn(items.shape, generator=g)
    torch.autograd.backward((users * by_user).sum() + (items * by_item).sum())
    hop = adjacency(seen, SIZES.n_users, SIZES.n_items).float()
    back = torch.cat([by_user, by_item])
    expected = (back + hop.T @ back + hop.T @ (hop.T @ back)) / 3
    assert ranker.users.weight.grad is not None
    assert ranker.items.ids.weight.grad is not None
    near(ranker.users.weight.grad, expected[: SIZES.n_users])
    near(ranker.items.ids.weight.grad, expected[SIZES.n_users :])


def test_a_folded_in_user_lacks_the_own_vector_alone() -> None:
    """With all of a training user's clicks as history, a new user has that user's vector but for layer 0."""
    seen = interactions()
    ranker = LightGCN.build(SIZES, {}, catalog(), Seed(1))
    assert isinstance(ranker, LightGCN)
    ranker.prepare(seen)
    ranker.eval()
    clicks = seen.clicks()
    for user in (0, 7):
        mine = torch.unique(clicks.item[clicks.user == user])
        both = Context.of(
            torch.tensor([user, 99]),
            SIZES.n_items,
            features=torch.zeros(2, SIZES.n_features),
            history=torch.cat([mine, mine[:2]]).expand(2, -1),  # clicked again: one edge, as in the graph
            feedback=torch.ones(2, len(mine) + 2),
        )
        known, folded = ranker.encode(both)
        near(known - folded, ranker.users.weight[user] / (ranker.layers + 1))
        near(ranker.encode(both.rows(slice(0, 1)))[0], known)  # nobody to fold in


def test_without_ids_a_user_is_the_clicks() -> None:
    """Then there is no graph: e_i is e_i^(0) / (L + 1), and e_u is Σ e_i / √|N_u| / (L + 1)."""
    ranker = LightGCN.build(Sizes(0, 6), {"layers": 2, "dim": 4}, None, Seed(3))
    assert isinstance(ranker, LightGCN)
    ranker.prepare(edges([(0, 0), (1, 2)]))
    assert ranker.spec.edges == 0
    history = torch.tensor([[-1, 2, 5, 1], [-1, -1, -1, -1]])
    feedback = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    c = Context.of(torch.tensor([0, 1]), 6, history=history, feedback=feedback)
    e = ranker.items.ids.weight
    near(ranker.item_vectors(), e / 3)
    near(ranker.encode(c), torch.stack([(e[2] + e[5]) / math.sqrt(2) / 3, torch.zeros(4)]))


def test_what_nobody_clicked_keeps_its_first_layer() -> None:
    """Users and items without edges, and clicks that do not count, meet no neighbours."""
    ranker = LightGCN.build(Sizes(4, 5), {"layers": 3, "dim": 2}, None, Seed(3))
    assert isinstance(ranker, LightGCN)
    target, weight = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])
    ranker.prepare(Interactions(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), target, weight))
    assert (ranker.user.tolist(), ranker.item.tolist()) == ([0], [0])
    walk = ranker.eval().walk()
    near(walk.users[1:], ranker.users.weight[1:] / 4)
    near(walk.items[1:], ranker.items.ids.weight[1:] / 4)
    near(walk.users[0], (ranker.users.weight[0] + ranker.items.ids.weight[0]) / 2)  # two of each


def test_the_walk_is_kept_until_the_weights_may_change() -> None:
    ranker, c = make(LightGCN), context()
    assert isinstance(ranker, LightGCN)
    with torch.no_grad():
        before = ranker(c)
        assert ranker._kept is not None
        state = {k: v.clone() for k, v in ranker.state_dict().items()}
        state["users.weight"] += 1.0
        ranker.load_state_dict(state)
        after = ranker(c)
        assert not torch.allclose(before, after)
        ranker.prepare(edges([(0, 0)]))
        assert not torch.allclose(ranker(c), after)
        ranker.train().eval()
        assert ranker._kept is None
        before = ranker(c)
        ranker.users.weight.mul_(2)  # a target network follows in eval mode
        assert not torch.allclose(ranker(c), before)
        ranker.double()
        exact = ranker.encode(c)
        assert exact.dtype == torch.float64
        near(exact.float(), ranker.float().encode(c))


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"^layers of lightgcn is at least 1, not 0$"):
        LightGCN.build(SIZES, {"layers": 0})


def test_a_user_with_an_id_and_no_click_is_a_new_user() -> None:
    ranker = LightGCN.build(Sizes(4, 3), {}, None, Seed(0))
    assert isinstance(ranker, LightGCN)
    ranker.prepare(edges([(0, 0), (0, 1), (1, 1)]))
    ranker.eval()
    history = torch.tensor([[0, 2]] * 3)
    three = Context.of(torch.tensor([3, 99, 0]), 3, history=history, feedback=torch.ones(3, 2))
    scores = ranker.score_all(three)
    near(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])
