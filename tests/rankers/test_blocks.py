"""The shared blocks: an item's vector row by row and all at once."""

import torch

from simlab.context import Context
from simlab.rankers._blocks import FEW, ItemTable, dot, standardised
from tests.contracts.rankers import SIZES, catalog, near


def test_some_items_have_the_vectors_that_all_have() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = ItemTable(SIZES.n_items, 5, catalog(), 0.5)
    whole = table.all()
    few = torch.tensor([[3, 4, -1], [29, 30, 3]])  # item 3 has no genre, 4 one; -1 and 30 are no items
    many = torch.arange(-2, 60).clamp(max=40).unsqueeze(0)
    assert few.numel() < SIZES.n_items <= many.numel()
    for items in (few, many):
        found = table(items)
        for row, column in ((0, 0), (0, 2), (1, 1), (0, -1)):
            if column >= items.shape[1] or row >= len(items):
                continue
            item = int(items[row, column])
            inside = 0 <= item < SIZES.n_items
            near(found[row, column], whole[item] if inside else torch.zeros(5))
    back = torch.autograd.grad(table(few).sum(), list(table.parameters()), allow_unused=True)
    assert all(g is not None for g in back)


def test_columns_are_standardised_and_constants_become_zero() -> None:
    x = torch.tensor([[1.0, 7.0, 1e6], [3.0, 7.0, 1e6 + 1e-3]])
    found = standardised(x)
    near(found, torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert standardised(torch.zeros(4, 0)).shape == (4, 0)


def test_few_candidates_have_the_products_and_gradients_of_many() -> None:
    g = torch.Generator().manual_seed(0)
    state, vectors = torch.randn(9, 6, generator=g), torch.randn(11, 6, generator=g)
    candidates = torch.randint(0, 11, (9, 3), generator=g)
    wide = torch.cat([candidates, candidates, candidates], dim=1)
    assert candidates.shape[1] <= FEW < wide.shape[1]
    weight = torch.randn(9, 3, generator=g)
    found = []
    for items, by in ((candidates, weight), (wide, torch.cat([weight, 0 * weight, 0 * weight], 1))):
        s, v = state.clone().requires_grad_(), vectors.clone().requires_grad_()
        scores = dot(s, v, Context.of(torch.arange(9), 11, candidates=items))
        torch.autograd.backward((scores * by).sum())
        assert s.grad is not None
        assert v.grad is not None
        found.append((scores[:, :3].detach(), s.grad, v.grad))
    for few, many in zip(*found, strict=True):
        near(few, many)
    near(found[0][0][4, 1], state[4] @ vectors[candidates[4, 1]])
