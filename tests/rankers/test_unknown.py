"""What every family answers to what it does not know: candidates, users, categories, features."""

from dataclasses import replace

import pytest
import torch

from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.policies.greedy import scores
from simlab.rankers.contract import Ranker, checked
from simlab.seeds import Seed
from tests.contracts.rankers import SIZES, catalog, context, interactions, make, near

FAMILIES = all_parts("ranker")


def a_ranker(name: str) -> Ranker:
    family = FAMILIES[name]
    assert issubclass(family, Ranker)
    return make(family)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_unknown_has_an_answer(name: str) -> None:
    ranker, c = a_ranker(name), context()
    known = scores(ranker, c)
    for wrong in (-1, SIZES.n_items, 10**9):
        candidates, mask = c.candidates.clone(), c.mask.clone()
        candidates[3, 2] = wrong
        with pytest.raises(
            BadInput, match=f"candidate 2 of row 3 is {wrong}, but the catalogue has items 0 to 29"
        ):
            scores(ranker, replace(c, candidates=candidates))
        mask[3, 2] = False  # the padding of a ragged list
        padded = scores(ranker, replace(c, candidates=candidates, mask=mask))
        near(padded[mask], known[mask])
    shared = torch.tensor([4, SIZES.n_items, 2]).expand(8, 3)
    with pytest.raises(BadInput, match="candidate 1 of row 0 is 30"):
        scores(ranker, replace(c, candidates=shared, mask=torch.ones(8, 3, dtype=torch.bool)))
    for bad in (float("nan"), float("inf")):
        features = c.features.clone()
        features[5, 1] = bad
        with pytest.raises(BadInput, match=f"feature 1 of row 5 is {bad}"):
            scores(ranker, replace(c, features=features))
    near(scores(ranker, replace(c, features=c.features.double())), known)
    with pytest.raises(BadInput, match="the context has 3 features, but the ranker was built for 4"):
        scores(ranker, replace(c, features=c.features[:, :3]))
    assert c.categories is not None
    with pytest.raises(BadInput, match="1 columns of categories, but the ranker was built for 2"):
        scores(ranker, replace(c, categories=c.categories[:, :1]))
    nobody = c.rows(slice(0, 0))
    assert scores(ranker, nobody).shape == (0, 7)
    nothing = replace(c, candidates=c.candidates[:, :0], mask=c.mask[:, :0])
    assert scores(ranker, nothing).shape == (8, 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_item_that_was_never_shown_is_scored_and_does_not_touch_the_others(name: str) -> None:
    """It keeps its first vector; what is counted or solved gives it a finite score too."""
    family, c = FAMILIES[name], context()
    assert issubclass(family, Ranker)
    ranker = family.build(SIZES, {}, catalog(), Seed(1))
    first = {
        key: value.clone() for key, value in ranker.state_dict().items() if key.endswith("items.ids.weight")
    }
    seen = interactions()
    ranker.prepare(seen.rows(seen.item != 7))
    found = scores(ranker, replace(c, candidates=torch.full((8, 1), 7), mask=torch.ones(8, 1).bool()))
    assert bool(found.isfinite().all())
    for key, value in first.items():
        assert torch.equal(ranker.state_dict()[key], value)
    cold = replace(c, history=torch.full_like(c.history, 7), feedback=torch.ones_like(c.feedback))
    assert bool(scores(ranker, cold).isfinite().all())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cold_user_is_a_new_user_also_for_a_policy(name: str) -> None:
    ranker, c = a_ranker(name), context()
    new = scores(ranker, replace(c, user=torch.full_like(c.user, SIZES.n_users)))
    for user in (SIZES.n_users + 1, 10**12, -1):
        assert torch.equal(scores(ranker, replace(c, user=torch.full_like(c.user, user))), new)
    half = c.user.clone()
    half[::2] = 10**9  # cold users beside known ones change neither
    mixed = scores(ranker, replace(c, user=half))
    near(mixed[::2], new[::2])
    near(mixed[1::2], scores(ranker, c)[1::2])


def test_a_context_that_may_be_asked_about_is_not_copied() -> None:
    c = context()
    assert checked(c, SIZES) is c
