"""Negatives: never a positive, and evenly over the rest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from simlab.errors import BadInput
from simlab.training.negatives import Negatives


@given(
    n_items=st.integers(2, 12),
    clicks=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 11)), min_size=1, max_size=40),
)
def test_every_rank_is_the_next_item_without_a_click(n_items: int, clicks: list[tuple[int, int]]) -> None:
    clicks = [(7 * u, i) for u, i in clicks if i < n_items] or [(0, 0)]
    positive = {u: {i for v, i in clicks if v == u} for u, _ in clicks}
    if any(len(p) == n_items for p in positive.values()):
        with pytest.raises(BadInput, match="so there is no negative to draw"):
            Negatives(torch.tensor([u for u, _ in clicks]), torch.tensor([i for _, i in clicks]), n_items)
        return
    sampler = Negatives(torch.tensor([u for u, _ in clicks]), torch.tensor([i for _, i in clicks]), n_items)
    for u, p in positive.items():
        free = [i for i in range(n_items) if i not in p]
        # One uniform in the middle of each of the n - m equal parts of [0, 1) must list them all.
        middle = (torch.arange(len(free), dtype=torch.float64) + 0.5) / len(free)
        assert sampler.draw(torch.tensor([u]), middle.unsqueeze(0))[0].tolist() == free


def test_no_positive_is_ever_drawn_and_the_rest_evenly() -> None:
    g = torch.Generator().manual_seed(0)
    user, item = torch.randint(0, 50, (3000,), generator=g), torch.randint(0, 80, (3000,), generator=g)
    sampler = Negatives(user, item, 80)
    asked = torch.arange(50).repeat(400)
    drawn = sampler.draw(asked, torch.rand(len(asked), 20, generator=g, dtype=torch.float64))
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 80
    clicked = user * 80 + item
    assert not bool(torch.isin(asked.unsqueeze(1) * 80 + drawn, clicked).any())
    mine = drawn[asked == 3].reshape(-1)
    count = torch.bincount(mine, minlength=80).double()
    free = torch.ones(80, dtype=torch.bool)
    free[item[user == 3]] = False
    assert chisquare(count[free].numpy()).pvalue > 1e-4


def test_the_largest_uniform_stays_inside() -> None:
    sampler = Negatives(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), 3)
    top = torch.full((2, 1), 1.0, dtype=torch.float64)
    assert sampler.draw(torch.tensor([0, 1]), top).squeeze(1).tolist() == [1, 2]


def test_by_popularity_nothing_clicked_is_drawn_and_the_rest_by_clicks() -> None:
    g = torch.Generator().manual_seed(0)
    user = torch.randint(0, 50, (3000,), generator=g)
    item = (torch.rand(3000, generator=g) ** 2 * 80).long()
    item[item == 7] = 8  # nobody clicked 7
    sampler = Negatives(user, item, 80)
    asked = torch.arange(50).repeat(400)
    drawn = sampler.popular(asked, torch.rand(len(asked), 20, generator=g, dtype=torch.float64))
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 80
    assert not bool(torch.isin(asked.unsqueeze(1) * 80 + drawn, user * 80 + item).any())
    pairs = torch.unique(user * 80 + item) % 80
    mass = torch.bincount(pairs, minlength=80).double().clamp(min=0.5) ** 0.75
    for who in (0, 3, 49):
        free = torch.ones(80, dtype=torch.bool)
        free[item[user == who]] = False
        count = torch.bincount(drawn[asked == who].reshape(-1), minlength=80).double()
        expected = mass * free / (mass * free).sum() * count.sum()
        assert chisquare(count[free].numpy(), expected[free].numpy()).pvalue > 1e-4
        every = torch.arange(80).unsqueeze(0)
        q = sampler.log_q(torch.tensor([who]), every, popular=True)[0].exp().double()
        assert float(q[free].sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(q[free], (expected / count.sum())[free], atol=1e-7, rtol=1e-5)
        even = sampler.log_q(torch.tensor([who]), every, popular=False)[0].exp()
        assert even.tolist() == pytest.approx([1 / int(free.sum())] * 80)


@pytest.mark.parametrize("clicked", [[0], [4], [0, 1], [3, 4], [0, 2, 4], [1, 2, 3], [0, 1, 2, 3]])
def test_by_popularity_the_ends_hold(clicked: list[int]) -> None:
    user = torch.tensor([5] * len(clicked) + [9])
    sampler = Negatives(user, torch.tensor([*clicked, 2]), 5)
    ends = torch.tensor([[0.0, 1e-17, 0.5, 1 - 1e-16, 1.0]], dtype=torch.float64)
    drawn = sampler.popular(torch.tensor([5]), ends)[0].tolist()
    assert not set(drawn) & set(clicked)
    assert drawn == sorted(drawn)
    free = [i for i in range(5) if i not in clicked]
    assert (drawn[0], drawn[-1]) == (free[0], free[-1])
