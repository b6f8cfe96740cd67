"""REINFORCE: its gradients are those of listed slates, its returns those of a slow loop, and it learns."""

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from agents.actor_critic.reinforce import ReinforceAgent, SlateReinforce
from agents.core.choice import Choice
from agents.core.on_policy import Rollout
from agents.core.rows import Step, WorldRows
from agents.maths.plackett_luce import slot_log_probs
from envs.rollout import roll
from envs.sb3 import WorldVecEnv
from envs.users.feed import Feed, FeedSpec
from simlab.context import PAD, Context
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.seeds import Seed

ITEMS, SLOTS = 4, 2
WORLD = Feed(FeedSpec(items=ITEMS, slots=SLOTS, horizon=3))
LOGITS = torch.tensor([0.3, -0.8, 1.1, 0.0], dtype=torch.float64)
WORTH = torch.tensor([0.9, 0.1, 0.4, 0.7], dtype=torch.float64)
GUESS = torch.tensor([0.35, 0.2], dtype=torch.float64)


def learner(credit: str, **settings: object) -> SlateReinforce:
    settings = {"normalize_advantage": False, "n_steps": 4, **settings}
    return SlateReinforce(env=WorldVecEnv(WORLD, 3), credit=credit, device="cpu", **settings)  # type: ignore[arg-type]


def listed(columns: Tensor, log_prob: Tensor, earned: Tensor, advantage: Tensor) -> Rollout:
    """Return one row for each slate that can be drawn."""
    context = Context.of(torch.zeros(len(columns), dtype=torch.long), ITEMS)
    return Rollout(context, columns, log_prob, earned, advantage, advantage)


def gradient(credit: str, rollout: Rollout, chance: Tensor, **settings: object) -> Tensor:
    """Return the expected gradient of the actor's loss with respect to the logits."""
    logits = LOGITS.clone().requires_grad_()
    rows = logits.expand(len(rollout), -1)
    loss, _ = learner(credit, **settings)._actor_loss(
        Choice(rows, rollout.columns.shape[1]), rollout, GUESS.expand(len(rollout), -1)
    )
    return torch.autograd.grad((loss * chance).sum(), logits)[0]


@pytest.mark.parametrize("credit", ["slate", "to_go"])
def test_the_gradient_is_that_of_the_listed_value(credit: str) -> None:
    """Cascade: what slot 2 earns depends on slot 1, and not the other way round."""
    columns = torch.tensor(list(permutations(range(ITEMS), SLOTS)))
    logits = LOGITS.clone().requires_grad_()
    log_prob = slot_log_probs(logits.expand(len(columns), -1), columns, None)[0]
    chance = log_prob.sum(1).exp()
    top, below = WORTH[columns].unbind(1)
    earned = torch.stack([top, (1 - top) * below], 1)
    value = (chance * earned.sum(1)).sum()
    wanted = torch.autograd.grad(value, logits)[0]
    advantage = earned.sum(1) - 0.6  # any baseline that does not see the slate
    rollout = listed(columns, log_prob.detach(), earned, advantage)
    found = gradient(credit, rollout, chance.detach())
    torch.testing.assert_close(-found, wanted, rtol=1e-10, atol=1e-12)


def top_k_rollout(log_prob_of: Tensor) -> tuple[Rollout, Tensor]:
    """Return all K draws with replacement, each with its chance; what is drawn again earns nothing there."""
    columns = torch.tensor(list(product(range(ITEMS), repeat=SLOTS)))
    log_prob = log_prob_of.log_softmax(0)[columns]
    again = columns[:, 0] == columns[:, 1]
    earned = WORTH[columns].clone()
    earned[again, 1] = 0
    # The advantage that leaves nothing beyond what the slots earn, so that R is the item's own worth.
    advantage = (earned - GUESS).sum(1)
    return listed(columns, log_prob, earned, advantage), log_prob.sum(1).exp()


def test_the_top_k_gradient_is_that_of_what_is_shown_at_least_once() -> None:
    """Σ_a R(a) α(a) with α = 1 - (1 - π)^K, also from another policy's draws, if weights are not capped."""
    logits = LOGITS.clone().requires_grad_()
    alpha = 1 - (1 - logits.softmax(0)) ** SLOTS
    wanted = torch.autograd.grad((WORTH * alpha).sum(), logits)[0]
    for logger in (LOGITS, torch.tensor([0.5, 0.5, -0.2, 0.1], dtype=torch.float64)):
        rollout, chance = top_k_rollout(logger)
        found = gradient("top_k", rollout, chance, cap=1e9)
        torch.testing.assert_close(-found, wanted, rtol=1e-9, atol=1e-11)
    capped = gradient("top_k", rollout, chance, cap=0.5)
    assert not torch.allclose(-capped, wanted, rtol=1e-2)


def test_to_go_and_slot_leave_out_what_they_say() -> None:
    """Two slots, one row: the coefficients of ∂ log π are A_k by hand."""
    columns, logits = torch.tensor([[2, 0]]), LOGITS.unsqueeze(0)
    log_prob = slot_log_probs(logits, columns, None)[0]
    earned, advantage = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0.9]).double()
    by_hand = {
        "slate": (0.9, 0.9),
        "to_go": (0.9, 0.9 - (1 - 0.35)),
        "slot": (0.9 - (0 - 0.2), 0.9 - (1 - 0.35)),
    }
    for credit, (one, two) in by_hand.items():
        rollout = listed(columns, log_prob, earned, advantage)
        loss, _ = learner(credit)._actor_loss(
            Choice(logits, rollout.columns.shape[1]), rollout, GUESS.unsqueeze(0)
        )
        torch.testing.assert_close(loss, -(one * log_prob[:, 0] + two * log_prob[:, 1]))


def watched(model: SlateReinforce) -> list[Step]:
    """Return a list that fills with what happens."""
    rows, steps = model.begin(model.network.ranker.past), list[Step]()
    inner = rows.step

    def step(columns: Tensor) -> Step:
        steps.append(inner(columns))
        return steps[-1]

    rows.step = step
    return steps


@pytest.mark.parametrize("bootstrap", [True, False])
def test_returns_are_those_of_a_slow_loop(bootstrap: bool) -> None:
    """Discounted sums up to the episode's end; where it is cut, V of what was last seen, or nothing."""
    model = learner("slate", bootstrap=bootstrap, gamma=0.8, n_steps=5, reward_scale=0.5)
    with torch.no_grad():  # a critic that says something: its last layer starts at zero
        for p in model.network.future.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    steps = watched(model)
    weights = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(15)
    model.policy.load_state_dict(weights)
    assert model.rollout is not None
    found = model.rollout.returns.view(5, 3)
    with torch.no_grad():
        last = torch.stack([model.network.values(s.last) for s in steps])
    assert float(last.abs().min()) > 1e-5
    assert bool(torch.stack([s.truncated for s in steps]).any())
    for user in range(3):
        for t in range(5):
            total, power, j = 0.0, 1.0, t
            while True:
                total += power * 0.5 * float(steps[j].reward[user])
                power *= 0.8
                over = bool(steps[j].done[user])
                if over or j == 4:
                    if bootstrap and not bool(steps[j].terminated[user]):
                        total += power * float(last[j, user])
                    break
                j += 1
            assert abs(float(found[t, user]) - total) < 1e-5, (t, user)


def test_what_is_drawn_again_leaves_its_slot_empty() -> None:
    world = Feed(FeedSpec(items=6, slots=3, horizon=5, examination=(1.0, 1.0, 1.0), base=30.0))
    rows = WorldRows(world, 2, Seed(1), past=3)
    rows.repeats = True
    rows.reset()
    step = rows.step(torch.tensor([[4, 4, 1], [0, 1, 2]]))  # all that is seen is clicked
    assert step.click.tolist() == [[1, 0, 1], [1, 1, 1]]
    assert step.context.history.tolist() == [[4, PAD, 1], [0, 1, 2]]


def test_top_k_draws_with_replacement() -> None:
    """A third of the pairs repeat where one of 4 items has most of the mass; without top_k none does."""
    logits = LOGITS.float().expand(20_000, -1)
    columns, log_prob = learner("top_k").draw(Choice(logits, 2))
    pi = LOGITS.float().softmax(0)
    same = float((columns[:, 0] == columns[:, 1]).float().mean())
    assert abs(same - float(pi.square().sum())) < 0.015  # over four standard errors
    torch.testing.assert_close(log_prob.exp(), pi[columns])
    columns, _ = learner("slate").draw(Choice(logits, 2))
    assert not bool((columns[:, 0] == columns[:, 1]).any())


@pytest.mark.parametrize("credit", ["slate", "to_go", "slot", "top_k"])
def test_it_learns(credit: str) -> None:
    """Everybody likes one item best, so nearly every slate ends with it."""
    world = Feed(FeedSpec(items=12, slots=2, horizon=4, slope=0.0, quality=4.0, conformity=0.0, churn=0.0))
    agent = ReinforceAgent(credit=credit, n_steps=4, num_envs=256, learning_rate=0.01)
    agent.learn(world, 256, 60, Seed(1))
    best = int(world.quality.argmax())
    context = world.observe(world.reset(200, Seed(2), first_user=10**6))
    chance = agent.distribution(context, 2).slot_marginals()[:, :, best].sum(1).mean()
    assert float(chance) > 0.7  # 1/6 by luck
    clicks = [roll(world, p, 500, Seed(3), first_user=10**6).reward.sum() for p in (agent, Random())]
    assert float(clicks[0]) > 1.5 * float(clicks[1])


def test_unknown_credit_is_refused() -> None:
    with pytest.raises(
        BadInput, match=r"credit is slate, to_go, slot, top_k, not togo; did you mean to_go\?"
    ):
        learner("togo")
    with pytest.raises(BadInput, match="n_epochs is at least 1, not 0"):
        learner("slate", n_epochs=0)
