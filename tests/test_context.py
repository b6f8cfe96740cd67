"""Contexts: items to columns and back, rows, devices."""

from dataclasses import replace

import pytest
import torch

from simlab.context import Catalog, Context
from simlab.errors import BadInput


def small() -> Context:
    return Context.of(
        torch.tensor([7, 8]),
        10,
        features=torch.tensor([[1.0], [2.0]]),
        history=torch.tensor([[-1, 3], [4, 5]]),
        feedback=torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        candidates=torch.tensor([[5, 9, 0], [2, 5, 7]]),
        popularity=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    )


def test_columns_and_items_are_each_others_inverse() -> None:
    c = small()
    columns = torch.tensor([[2, 0], [1, 2]])
    slate = c.slate(columns)
    assert slate.tolist() == [[0, 5], [5, 7]]
    assert torch.equal(c.columns(slate), columns)


def test_an_item_that_is_no_candidate_is_named() -> None:
    with pytest.raises(BadInput, match="row 1: item 9 at slot 1 is not a candidate"):
        small().columns(torch.tensor([[5, 9], [5, 9]]))


def test_the_whole_catalogue_needs_no_search() -> None:
    c = Context.of(torch.arange(3), 6)
    assert c.candidates.stride(0) == 0  # one list, not three copies
    slate = torch.tensor([[5, 0], [1, 2], [3, 4]])
    assert torch.equal(c.columns(slate), slate)
    for wrong in (6, -1):
        with pytest.raises(BadInput, match=r"outside 0\.\.5"):
            c.columns(torch.tensor([[0, wrong], [1, 2], [3, 4]]))


def test_shared_candidates_in_another_order_are_searched() -> None:
    shared = torch.tensor([2, 0, 1]).expand(2, 3)
    c = Context.of(torch.arange(2), 3, candidates=shared)
    assert c.columns(torch.tensor([[0, 2], [1, 0]])).tolist() == [[1, 0], [2, 1]]


def test_rows_take_every_tensor_along() -> None:
    c = small()
    for index in (slice(1, 2), torch.tensor([1]), torch.tensor([False, True])):
        one = c.rows(index)
        assert len(one) == 1
        assert one.user.tolist() == [8]
        assert one.features.tolist() == [[2.0]]
        assert one.history.tolist() == [[4, 5]]
        assert one.feedback.tolist() == [[1.0, 0.0]]
        assert one.candidates.tolist() == [[2, 5, 7]]
        assert one.mask.tolist() == [[True] * 3]
        assert one.popularity is not None
        assert one.popularity.tolist() == [[4.0, 5.0, 6.0]]


def test_what_is_left_out_is_empty() -> None:
    c = Context.of(torch.arange(2), 4)
    assert c.features.shape == (2, 0)
    assert c.history.shape == c.feedback.shape == (2, 0)
    assert bool(c.mask.all())
    assert c.popularity is None
    assert c.rows(slice(0, 1)).popularity is None
    assert c.to("cpu").device == torch.device("cpu")


def test_a_bare_catalogue_knows_its_size() -> None:
    catalog = Catalog.bare(5)
    assert catalog.n_items == 5
    assert catalog.features.shape == (5, 0)
    assert catalog.to("cpu").n_items == 5


def test_a_masked_candidate_has_no_column() -> None:
    """A padding slot that happens to hold the item's id is not the item; a masked item is refused."""
    context = Context.of(torch.tensor([0]), 9, candidates=torch.tensor([[4, 7, 4]]))
    context = replace(context, mask=torch.tensor([[False, True, True]]))
    assert context.columns(torch.tensor([[4, 7]])).tolist() == [[2, 1]]
    context = replace(context, mask=torch.tensor([[False, True, False]]))
    with pytest.raises(BadInput, match="row 0: item 4 at slot 1 is not a candidate"):
        context.columns(torch.tensor([[7, 4]]))


@pytest.mark.parametrize("candidates", [None, torch.tensor([[4, 7, 1]]).expand(2, -1)])
def test_no_rows_have_no_columns(candidates: torch.Tensor | None) -> None:
    context = Context.of(torch.arange(2), 9, candidates=candidates).rows(torch.zeros(0, dtype=torch.long))
    assert context.columns(torch.zeros(0, 1, dtype=torch.long)).shape == (0, 1)
