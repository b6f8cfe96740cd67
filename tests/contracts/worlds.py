"""What every world is held to: pure, repeatable, exact in its truth, open to Gymnasium."""

from typing import Any

import torch

from envs.world import SlateWorld
from simlab.seeds import Seed

World = SlateWorld[Any]


def slates(world: World, users: int, seed: int) -> torch.Tensor:
    """Return random slates without repeats."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(users, world.catalog.n_items, generator=g).topk(world.slots, 1).indices


def check_reset_is_repeatable(world: World) -> None:
    """The same seed gives the same users; another seed gives others."""
    a, b, c = (world.observe(world.reset(6, Seed(s))).features for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


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
    """Clicks minus their exact probabilities average to zero along a whole roll-out (a martingale)."""
    state = world.reset(2000, Seed(3))
    total = variance = 0.0
    for t in range(5):
        slate = slates(world, 2000, t)
        chance = world.expected(state, slate).double()
        assert float(chance.min()) >= 0
        assert float(chance.max()) <= 1
        state, response = world.step(state, slate, Seed(3))
        total += float((response.click.double() - chance).sum())
        variance += float((chance * (1 - chance)).sum())
    assert variance > 10, "almost nothing is ever clicked, so the check sees nothing"
    assert abs(total) < 4 * variance**0.5


def check_position_bias_is_the_truth(world: World) -> None:
    """The probability of a click is examination times relevance."""
    state = world.reset(20, Seed(0))
    slate = slates(world, 20, 0)
    truth = world.relevance(state).gather(1, slate) * world.examination()
    torch.testing.assert_close(world.expected(state, slate), truth)


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
