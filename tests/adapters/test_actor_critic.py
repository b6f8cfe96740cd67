"""Actors and critics: gradients that are the enumerated ones, bodies shared or not."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from simlab.adapters._state import full, state_width
from simlab.adapters.actor import Actor
from simlab.adapters.critic import Critic
from simlab.context import PAD
from simlab.errors import BadInput
from simlab.policies.softmax import Softmax
from simlab.policy import Policy
from simlab.seeds import Seed
from tests.adapters.bodies import body, context, families


def test_an_actor_is_the_softmax_policy_with_gradients() -> None:
    ranker, c = body(), context()
    actor, policy = Actor(ranker, 0.5), Softmax(ranker, 0.5)
    assert isinstance(actor, Policy)
    slate = policy.distribution(c, 3).sample(Seed(0).torch())
    mine, theirs = actor.distribution(c, 3).log_prob(slate), policy.distribution(c, 3).log_prob(slate)
    torch.testing.assert_close(
        mine.detach().double(), theirs, rtol=1e-6, atol=1e-6
    )  # float32 with a gradient
    assert mine.requires_grad
    assert not theirs.requires_grad


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_the_gradient_of_a_log_probability_is_the_enumerated_one(slots: int) -> None:
    """Σ over all slates P ∇log P = 0, and ∇ Σ P r = Σ P r ∇log P, also for slates of all candidates."""
    ranker = body().double()
    c = context().rows(slice(0, 1))
    c = replace(
        c, features=c.features.double(), candidates=c.candidates[:, :5], mask=c.mask[:, :5]
    )  # 4 allowed
    allowed = c.mask[0].nonzero().squeeze(1).tolist()
    slates = torch.tensor(list(permutations(allowed, slots)))
    actor = Actor(ranker, 0.7)
    weights = [p for p in actor.parameters() if p.requires_grad]

    def grads(value: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(
            value, weights, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return torch.cat([g.flatten() for g in found])

    d = actor.distribution(c, slots)
    logs = torch.stack([d.log_prob(slate.unsqueeze(0))[0] for slate in slates])
    assert float(logs.detach().exp().sum()) == pytest.approx(1, abs=1e-9)
    assert float(grads((logs.exp().detach() * logs).sum()).abs().max()) < 1e-9
    reward = torch.arange(len(slates)).double().sin()
    # The same probability without the library: a product of softmaxes over what is left.
    logits = actor(c)[0]
    slow = torch.zeros((), dtype=torch.float64)
    for slate, r in zip(slates.tolist(), reward, strict=True):
        p, left = torch.ones((), dtype=torch.float64), list(allowed)
        for column in slate:
            p = p * logits[left].softmax(0)[left.index(column)]
            left.remove(column)
        slow = slow + p * r
    by_score = grads((logs.exp().detach() * reward * logs).sum())
    assert torch.allclose(by_score, grads(slow), atol=1e-9)
    assert float(by_score.abs().max()) > 1e-6


def test_reinforce_finds_the_best_item() -> None:
    """Reward 1 for items below 5: the policy gradient moves nearly all chance there."""
    actor, c = Actor(body()), context(30)
    good = (c.candidates < 5) & c.mask
    some = good.any(1)
    optimizer, generator = torch.optim.Adam(actor.parameters(), lr=0.02), Seed(3).torch()
    for _ in range(150):
        d = actor.distribution(c, 1)
        drawn = d.sample(generator)
        reward = good.gather(1, drawn).float().squeeze(1)
        loss = -((reward - reward.mean()) * d.log_prob(drawn)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    chance = (actor.distribution(c, 1).slot_marginals().detach().squeeze(1) * good).sum(1)
    assert float(chance[some].mean()) > 0.9


@pytest.mark.parametrize("name", families())
def test_every_family_has_a_state_of_one_width(name: str) -> None:
    """Whatever the history: short, long, or none at all; and padding does not matter."""
    ranker = body(name)
    critic, c = Critic(ranker, seed=Seed(2)), context()
    torch.nn.init.normal_(critic.head.layers[-1].weight, std=0.5)  # type: ignore[arg-type]
    assert float(critic(c).detach().std()) > 0
    assert critic.encode(c).shape == (6, state_width(ranker))
    bare = replace(c, history=c.history[:, :0], feedback=c.feedback[:, :0])
    assert bool(critic(bare).isfinite().all())
    pad = torch.full((6, ranker.past + 3), PAD)
    wide = replace(
        c, history=torch.cat([pad, c.history], 1), feedback=torch.cat([pad.float() * 0, c.feedback], 1)
    )
    assert torch.allclose(critic(wide), critic(c), atol=1e-5)
    assert full(wide, ranker.past).history.shape == (6, ranker.past)


def test_bodies_are_shared_detached_or_own() -> None:
    c = context()
    for kind, reached in (("shared", True), ("detached", False), ("own", False)):
        ranker = body()
        critic = Critic(ranker, body=kind)
        assert torch.equal(critic(c), torch.zeros(6))  # a fresh critic adds no noise
        torch.nn.init.ones_(critic.head.layers[-1].weight)  # type: ignore[arg-type]
        critic(c).square().sum().backward()
        assert any(p.grad is not None and bool((p.grad != 0).any()) for p in ranker.parameters()) == reached
        assert (critic.ranker is ranker) == (kind != "own")
    with pytest.raises(BadInput, match="body is shared, detached, own, not share; did you mean shared"):
        Critic(body(), body="share")


def test_actor_and_critic_share_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, c = body(), context()
    actor, critic = Actor(ranker), Critic(ranker)
    logits, value, state = actor(c), critic(c), actor.encode(c)
    monkeypatch.setattr(ranker, "encode", lambda _: pytest.fail("the state was at hand"))
    assert torch.equal(actor(c, state), logits)
    assert torch.equal(critic(c, state), value)


def test_a_critic_learns_the_value_of_a_feature() -> None:
    c = context(20)
    wanted = 5 * c.features[:, 0] + 20
    critic = Critic(body(), seed=Seed(4))
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.03)
    for _ in range(200):
        loss = (critic(c) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05 * float(wanted.var())


def test_first_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, three = (Critic(body(), seed=Seed(s)).head.layers[1].weight for s in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)  # type: ignore[arg-type]
    assert not torch.equal(one, three)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="temperature is above 0, not 0"):
        Actor(body(), 0)
