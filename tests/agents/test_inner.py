"""Scores as inner products, a few users at a time: the same numbers as by the table of all scores."""

from typing import Any

import pytest
import torch

from agents.actor_critic.ppo import SlatePPO
from agents.core import inner
from agents.core.inner import InnerChoice, Scorer, drawn, is_inner, narrowed
from agents.value import slateq
from agents.value.slateq import SlateQ
from envs.sb3 import make_sb3
from simlab.context import Context

ITEMS, USERS = 60, 50
WORLD: dict[str, Any] = {"items": ITEMS, "slots": 3, "candidates": 0}


def users(order: torch.Tensor | None = None) -> Context:
    luck = torch.Generator().manual_seed(1)
    candidates = (torch.arange(ITEMS) if order is None else order).expand(USERS, ITEMS)
    return Context.of(
        torch.zeros(USERS, dtype=torch.long), ITEMS,
        features=torch.randn(USERS, 20, generator=luck), candidates=candidates,
    )  # fmt: skip


def shaken(module: torch.nn.Module) -> None:
    """Move all weights: heads start at zero."""
    luck = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=luck))


def actor(ranker: str, **spec: Any) -> SlatePPO:
    env = make_sb3("simlab/InterestEvolution-v0", 4, **WORLD)
    model = SlatePPO(env=env, n_steps=4, policy_kwargs={"ranker": ranker, "spec": {"past": 0, **spec}})
    shaken(model.network)
    return model


@pytest.mark.parametrize("ranker", ["two_tower", "bilinear", "mf", "mlp"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_an_actor_is_the_same_with_and_without_a_table(ranker: str, shuffled: bool) -> None:
    network = actor(ranker, **({} if ranker == "mlp" else {"dim": 8})).network
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(3)) if shuffled else None
    context = users(order)
    found = []
    for look in (network, Scorer(network).everything):
        choice, future, slot = look(context)
        assert isinstance(choice, InnerChoice) == (look is not network and ranker != "mlp")
        columns, _ = drawn(network.choice(context), torch.Generator().manual_seed(4))
        log_prob, entropy = choice.log_probs(columns)
        loss = log_prob.square().sum() + entropy.sum() + future.sum() + slot.square().sum()
        grads: Any = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        found.append([log_prob, entropy, future, slot, choice.logits, *[g for g in grads if g is not None]])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=2e-4)


def test_wide_vectors_masks_and_few_candidates_keep_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    network = actor("two_tower").network
    context = users()
    mask = torch.ones(USERS, ITEMS, dtype=torch.bool)
    some = narrowed(context, torch.arange(9).expand(USERS, 9))
    for other in (Context(**{**vars(context), "mask": mask}), some, context.rows(slice(0, 1))):
        assert not is_inner(network.ranker, other)
        torch.testing.assert_close(Scorer(network).choice(other).logits, network.choice(other).logits)
    assert is_inner(network.ranker, context)
    monkeypatch.setattr(inner, "WIDEST", 31)
    assert not isinstance(Scorer(network).choice(context), InnerChoice)


@pytest.mark.parametrize("clicks", ["one", "many"])
@pytest.mark.parametrize("ranker", ["two_tower", "mlp"])
def test_slateq_chooses_and_values_the_same(
    clicks: str, ranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slateq, "AT_ONCE", 7 * ITEMS)
    env = make_sb3("simlab/InterestEvolution-v0", 4, **WORLD)
    model = SlateQ(env=env, options={"clicks": clicks}, policy_kwargs={"ranker": ranker})
    policy, context = model.policy, users()
    context = Context.of(context.user, ITEMS, features=context.features, history=torch.full((USERS, 50), -1))
    shaken(policy)
    with torch.no_grad():
        value, null = policy.values(context)
        odds = policy.log_odds(context)
        columns, whole = policy.best_slates(context), policy.best(context.mask, value, null, odds)
        torch.testing.assert_close(
            policy.value_of(columns, value, null, odds), policy.value_of(whole, value, null, odds)
        )
        shown, none = policy.shown(context, columns)
        torch.testing.assert_close(shown, value.gather(1, columns), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(none, null)
        torch.testing.assert_close(
            policy.shown_odds(context, columns), odds.gather(1, columns), rtol=1e-4, atol=1e-4
        )
        assert (policy.shown(context, columns, target=True)[0] - shown).abs().max() > 0.01


def test_explorers_are_drawn_uniformly_and_others_act_best() -> None:
    env = make_sb3("simlab/InterestEvolution-v0", 4, **WORLD)
    model = SlateQ(env=env, learning_starts=0, explore=(0.25, 0.25, 0.5))
    shaken(model.policy)
    context = users().rows(torch.zeros(4000, dtype=torch.long))
    columns = model.act(context)
    best = model.policy.distribution(context, 3).mode()
    random = (columns != best).any(1)
    assert abs(float(random.float().mean()) - 0.25) < 0.03
    assert set(columns[random].flatten().tolist()) == set(range(ITEMS))
    assert (columns.sort(1).values.diff(dim=1) > 0).all()
