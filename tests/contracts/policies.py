"""What every policy is held to. `test_policies.py` runs each check on every policy."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from itertools import permutations
from typing import Any

import pytest
import torch

from simlab.context import Context
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.rankers.mf import MF
from simlab.seeds import Seed
from tests.contracts.rankers import context, make

SLOTS = 3

Check = Callable[[Policy], None]


def scene() -> Context:
    """Return users with five candidates each, one of them masked in the first rows, and popularity."""
    c = context(cands=5)
    mask = c.mask.clone()
    mask[:3, 1] = False
    g = torch.Generator().manual_seed(8)
    popularity = torch.rand(c.candidates.shape, generator=g)
    popularity[4] = 0.0
    popularity[5, :2] = popularity[5, 2]  # a tie
    return replace(c, mask=mask, popularity=popularity)


def build(kind: type) -> Policy:
    """Build a policy with a ranker or a base policy where its class has such a field."""
    known: dict[str, Any] = {"ranker": make(MF), "base": Random()}
    given = {f.name: known[f.name] for f in fields(kind) if f.name in known}
    policy = kind(**given)
    assert isinstance(policy, Policy)
    return policy


def slates(c: Context) -> torch.Tensor:
    """Return every ordered slate of columns."""
    return torch.tensor(list(permutations(range(c.candidates.shape[1]), SLOTS)))


def propensities_sum_to_one(policy: Policy) -> None:
    """Over all slates, for every user."""
    c = scene()
    d = policy.distribution(c, SLOTS)
    total = sum(d.log_prob(s.expand(len(c), -1)).double().exp() for s in slates(c))
    torch.testing.assert_close(total, torch.ones(len(c), dtype=torch.float64), atol=1e-5, rtol=0)


def what_is_masked_is_never_shown(policy: Policy) -> None:
    """Neither drawn, nor likely, nor in the mode."""
    c = scene()
    d = policy.distribution(c, SLOTS)
    for shown in (d.sample(Seed(1).torch()), d.sample(Seed(2).torch()), d.mode()):
        assert bool(c.mask.gather(1, shown).all())
        assert bool((shown.sort(1).values.diff(dim=1) > 0).all())  # no repeats
    masked = torch.tensor([[1, 0, 2]]).expand(len(c), 3)
    assert bool((d.log_prob(masked)[:3] == -torch.inf).all())


def what_is_drawn_is_possible(policy: Policy) -> None:
    """Propensities of what was drawn are above zero, for the slate and for each slot."""
    c = scene()
    d = policy.distribution(c, SLOTS)
    for seed in range(20):
        shown = d.sample(Seed(seed).torch())
        assert bool((d.log_prob(shown) > -torch.inf).all())
        assert bool((d.marginals(shown) > 0).all())


def the_same_seed_draws_the_same(policy: Policy) -> None:
    """With keyed luck a row's slate depends on its user and step, not on the batch it is in."""
    c, user = scene(), torch.arange(8) * 11
    luck = Seed(3).at(user, torch.full((8,), 2))
    d = policy.distribution(c, SLOTS)
    shown = d.sample(luck)
    assert torch.equal(shown, d.sample(luck))
    for i in range(8):
        alone = policy.distribution(c.rows(slice(i, i + 1)), SLOTS)
        one = Seed(3).at(user[i : i + 1], torch.full((1,), 2))
        assert torch.equal(alone.sample(one)[0], shown[i])


def candidate_order_never_matters(policy: Policy) -> None:
    """A slate of items is as likely when the candidates are listed in another order."""
    c = scene()
    order = torch.tensor([4, 2, 0, 3, 1])
    assert c.popularity is not None
    other = replace(
        c,
        candidates=c.candidates[:, order],
        mask=c.mask[:, order],
        popularity=c.popularity[:, order],
    )
    here, there = policy.distribution(c, SLOTS), policy.distribution(other, SLOTS)
    for s in slates(c)[::7]:
        moved = order.argsort()[s].expand(len(c), -1)
        assert torch.equal(other.slate(moved), c.slate(s.expand(len(c), -1)))
        torch.testing.assert_close(
            there.log_prob(moved).double(),
            here.log_prob(s.expand(len(c), -1)).double(),
            atol=1e-5,
            rtol=1e-5,
        )


def a_policy_is_frozen_and_named(policy: Policy) -> None:
    """Settings cannot change under a log that names the policy."""
    assert policy.name
    with pytest.raises(FrozenInstanceError):
        policy.name = "another"  # type: ignore[misc]
    other: Policy = replace(policy, name="mine")  # type: ignore[type-var]
    assert other.name == "mine"


def no_gradient_leaks(policy: Policy) -> None:
    """Acting builds no graph."""
    d = policy.distribution(scene(), SLOTS)
    assert not d.log_prob(d.mode()).requires_grad


CHECKS: tuple[Check, ...] = (
    propensities_sum_to_one,
    what_is_masked_is_never_shown,
    what_is_drawn_is_possible,
    the_same_seed_draws_the_same,
    candidate_order_never_matters,
    a_policy_is_frozen_and_named,
    no_gradient_leaks,
)
