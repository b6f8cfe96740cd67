"""What every world is held to: pure, repeatable, exact in its truth, open to Gymnasium."""

from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from envs.world import SlateWorld, State
from simlab.errors import BadInput
from simlab.seeds import Seed

World = SlateWorld[Any]


def slates(world: World, users: int, seed: int) -> torch.Tensor:
    """Return random slates without repeats, of any items."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(users, world.catalog.n_items, generator=g).topk(world.slots, 1).indices


def offered(world: World, state: State[Any], seed: int) -> torch.Tensor:
    """Return random slates of what may be shown now."""
    context = world.observe(state)
    luck = torch.rand(context.mask.shape, generator=torch.Generator().manual_seed(seed))
    return context.slate((luck * context.mask).topk(world.slots, 1).indices)


def has_position_bias(world: World) -> bool:
    """Tell whether the click model has a position bias of its own."""
    try:
        world.examination()
    except BadInput:
        return False
    return True


def check_reset_is_repeatable(world: World) -> None:
    """The same seed gives the same users; another seed gives others, though that may be hidden."""
    a, b, c = (world.reset(6, Seed(s)) for s in (1, 1, 2))
    assert torch.equal(world.observe(a).features, world.observe(b).features)
    one, same, other = (vars(state.users) for state in (a, b, c))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def check_step_is_pure(world: World) -> None:
    """A step changes nothing that it was given."""
    state = world.reset(6, Seed(0))
    kept = {k: v.clone() for k, v in vars(state.users).items()}
    popularity, slate = state.popularity.clone(), slates(world, 6, 0)
    shown = slate.clone()
    first = world.step(state, slate, Seed(0))[1]
    again = world.step(state, slate, Seed(0))[1]
    assert torch.equal(first.click, again.click)
    assert all(torch.equal(v, getattr(state.users, k)) for k, v in kept.items())
    assert torch.equal(state.popularity, popularity)
    assert torch.equal(slate, shown)


def check_response_is_consistent(world: World) -> None:
    """Rewards are finite, nobody ends twice, and nothing happens to those who are gone."""
    state = world.reset(50, Seed(0))
    ended = torch.zeros(50, dtype=torch.long)
    for t in range(world.horizon + 2):
        before = state.active
        state, response = world.step(state, slates(world, 50, t), Seed(0))
        assert torch.equal(response.active, before)
        assert bool(response.reward.isfinite().all())
        assert float(response.click[~before].abs().sum()) == 0
        assert float(response.reward[~before].abs().sum()) == 0
        assert not bool((response.terminated & response.truncated).any())
        ended += (response.terminated | response.truncated).long()
        assert torch.equal(state.active, before & ~(response.terminated | response.truncated))
    assert ended.tolist() == [1] * 50


def check_expected_is_the_truth(world: World) -> None:
    """Clicks and rewards minus their exact means average to zero along a whole roll-out (a martingale)."""
    state = world.reset(2000, Seed(3))
    clicks, rewards = [], []
    for t in range(min(5, world.horizon)):
        slate = slates(world, 2000, t)
        chance = world.expected(state, slate).double()
        mean = world.expected_reward(state, slate).double()
        assert float(chance.min()) >= 0
        assert float(chance.max()) <= 1 + 1e-6
        state, response = world.step(state, slate, Seed(3))
        clicks.append(response.click.double() - chance)
        rewards.append(response.reward.double() - mean)
    per_user = torch.stack(clicks).sum((0, 2))
    surplus = torch.stack(rewards).sum(0)
    assert float(torch.stack(rewards).abs().max()) > 1e-3, "a constant reward: nothing is checked"
    for gap in (per_user, surplus):
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / 2000**0.5 + 1e-6


def check_relevance_and_click_model_make_the_truth(world: World) -> None:
    """The click model on the relevance of a slate gives what is expected, or θ times the relevance."""
    state = world.reset(20, Seed(0))
    slate = slates(world, 20, 0)
    relevance = world.relevance(state).gather(1, slate)
    if state.market.available is not None:
        relevance = relevance * state.market.available[slate]
    torch.testing.assert_close(world.expected(state, slate), world.clicks.probs(relevance))
    if has_position_bias(world) and not world.clicks.speaks_unasked:
        torch.testing.assert_close(world.expected(state, slate), relevance * world.examination())


def check_slates_that_cannot_be_are_refused(world: World) -> None:
    """A wrong shape at every step; what a slate holds by `check_slate`, and by twins."""
    state = world.reset(6, Seed(0))
    good = offered(world, state, 0)
    world.check_slate(state, good)
    refused: Any = world  # past the run-time check of shapes
    for bad in (good[:, 1:], good.int()):
        with pytest.raises((BadInput, TypeCheckError)):
            refused.step(state, bad, Seed(0))
    for item, words in ((-1, "is not an item"), (world.blank + 1, "is not an item")):
        wrong = good.clone()
        wrong[2, world.slots - 1] = item
        with pytest.raises(BadInput, match=f"row 2, slot {world.slots - 1}: item {item} {words}"):
            world.twin(state, Seed(0)).step(wrong)
    if world.slots > 1:
        wrong = good.clone()
        wrong[3, 1] = wrong[3, 0]
        with pytest.raises(BadInput, match=r"row 3, slot 1: item \d+ stands higher up too"):
            world.check_slate(state, wrong)


def check_candidates_are_a_choice_of_the_catalogue(world: World) -> None:
    """Each user's candidates are different items, the same at every look; another step brings others."""
    state = world.reset(40, Seed(0))
    context = world.observe(state)
    few = world.spec.candidates
    assert context.candidates.shape == (40, few or world.catalog.n_items)
    assert torch.equal(context.candidates, world.observe(state).candidates)
    sorted_ids = context.candidates.sort(1).values
    assert bool((sorted_ids[:, 1:] > sorted_ids[:, :-1]).all())
    assert 0 <= int(sorted_ids.min()) <= int(sorted_ids.max()) < world.catalog.n_items
    after, _ = world.step(state, slates(world, 40, 0), Seed(0))
    same = torch.equal(world.observe(after).candidates, context.candidates)
    assert same == (few == 0)


def check_twins_share_their_luck(world: World) -> None:
    """Two branches that show the same live the same life."""
    state = world.reset(200, Seed(4))
    a, b = world.twin(state, Seed(4)), world.twin(state, Seed(4))
    for t in range(3):
        slate = offered(world, a.state, t)
        one, other = a.step(slate), b.step(slate)
        assert torch.equal(one.click, other.click)
        assert torch.equal(one.reward, other.reward)
    assert all(torch.equal(v, getattr(b.state.users, k)) for k, v in vars(a.state.users).items())


def check_device_and_copy_keep_the_world(world: World) -> None:
    """`to` gives the same world: the same id, items and lives."""
    copy = world.to("cpu")
    assert copy.name == world.name
    assert torch.equal(copy.catalog.features, world.catalog.features)
    slate = slates(world, 6, 0)
    one, other = (w.step(w.reset(6, Seed(0)), slate, Seed(0))[1] for w in (world, copy))
    assert torch.equal(one.reward, other.reward)


def check_blank_is_never_clicked(world: World) -> None:
    """An empty slot stays silent."""
    state = world.reset(500, Seed(0))
    slate = slates(world, 500, 0)
    slate[:, 0] = world.blank
    assert float(world.expected(state, slate)[:, 0].max()) == 0
    assert float(world.step(state, slate, Seed(0))[1].click[:, 0].max()) == 0


def check_observation_keeps_its_bounds(world: World) -> None:
    """Features stay within the declared bound, and the history has its declared length."""
    state = world.reset(200, Seed(0))
    for t in range(world.horizon):
        context = world.observe(state)
        assert float(context.features.abs().max()) <= world.feature_bound
        assert context.history.shape == (200, world.remember * world.slots)
        state, _ = world.step(state, slates(world, 200, t), Seed(0))


def check_renewal_gives_a_new_user(world: World) -> None:
    """A renewed row is the user that a reset with its new id would give; the others go on."""
    state = world.reset(4, Seed(0))
    state, _ = world.step(state, slates(world, 4, 0), Seed(0))
    done = torch.tensor([False, True, False, True])
    after = world.renew(state, done, 4, Seed(0))
    fresh = world.reset(8, Seed(0))
    for name, value in vars(after.users).items():
        assert torch.equal(value[done], getattr(fresh.users, name)[4:][done])
        assert torch.equal(value[~done], getattr(state.users, name)[~done])
    assert after.step.tolist() == [1, 0, 1, 0]


CHECKS = tuple(v for k, v in list(globals().items()) if k.startswith("check_"))
EDGES = (
    check_step_is_pure,
    check_response_is_consistent,
    check_relevance_and_click_model_make_the_truth,
    check_slates_that_cannot_be_are_refused,
)
"""Checks that are also run on the smallest and the fullest slate."""
