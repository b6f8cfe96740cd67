"""Groups: an actor whose items count what stands above them, in learning, acting, files and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO

from agents.actor_critic.a2c import SlateA2C
from agents.actor_critic.ppo import SlatePPO
from agents.actor_critic.reinforce import SlateReinforce
from agents.core.networks import SlateNetwork, build_ranker
from agents.core.policy import SlateActorCriticPolicy, category
from envs.registry import make_world
from envs.sb3 import WorldVecEnv, make_sb3
from simlab.context import Catalog, Context, Field
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import GroupedPlackettLuce, PlackettLuce
from simlab.slates.grouped import STEEPEST

WORLD = "simlab/SlateTopK-Bored-v0"
FACTS: dict[str, Any] = {"ranker": "bilinear", "spec": {"past": 0}, "groups": "main_topic"}


def network(groups: list[int] | None, slots: int = 3) -> SlateNetwork:
    ranker = build_ranker("bilinear", {"past": 0}, 4, 2, Catalog(torch.eye(4)), Seed(1))
    of = None if groups is None else Field("kind", torch.tensor(groups).unsqueeze(1), 2)
    return SlateNetwork(ranker, slots, groups=of, seed=Seed(2))


def seen(rows: int = 5) -> Context:
    features = torch.randn(rows, 2, generator=Seed(3).torch())
    return Context.of(torch.arange(rows), 4, features=features)


def test_it_starts_as_plackett_luce_and_a_penalty_moves_repeats_down() -> None:
    context = seen()
    plain, grouped = network(None), network([0, 1, 0, -1])
    columns = torch.tensor([[0, 2, 1]]).expand(5, -1)
    torch.testing.assert_close(
        grouped.choice(context).log_probs(columns), plain.choice(context).log_probs(columns)
    )
    assert isinstance(plain.choice(context).distribution(), PlackettLuce)
    assert grouped.steps is not None
    with torch.no_grad():
        last = grouped.steps.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.fill_(3.0)
    choice = grouped.choice(context)
    assert isinstance(choice.distribution(), GroupedPlackettLuce)
    assert choice.penalty is not None
    assert choice.group is not None
    # Group 2 is that of items of no category: nothing is ever taken off them.
    first = torch.tensor([0.0, 3.0, 6.0]) * torch.tensor([[1.0], [1.0], [0.0]])
    torch.testing.assert_close(choice.penalty[0], STEEPEST * torch.tanh(first / STEEPEST))
    assert choice.group[0].tolist() == [0, 1, 0, 2]
    after = choice.log_probs(columns)[0]
    before = plain.choice(context).log_probs(columns)[0]
    assert bool((after[:, 1] < before[:, 1]).all())
    torch.testing.assert_close(after[:, 0], before[:, 0])


def test_candidates_that_differ_by_row_keep_their_groups() -> None:
    made = network([0, 1, 0, -1], slots=2)
    items = torch.tensor([[3, 0], [2, 1]])
    context = Context.of(torch.arange(2), 4, features=torch.zeros(2, 2), candidates=items)
    group = made.choice(context).group
    assert group is not None
    assert group.tolist() == [[2, 0], [0, 1]]


@pytest.mark.parametrize("grouped", [False, True])
def test_what_groups_are_for(grouped: bool) -> None:
    """Candidates drawn at each choice, and a second item of the same kind earns nothing: an exact answer.

    The best slate holds the best item and the best of another kind. No logits say that without knowing the
    other candidates: the best that they can do is to show the two best items, and that is what they learn.
    """
    n, luck = 12, Seed(5).torch()
    kind, quality = torch.arange(n) % 2, torch.linspace(0.5, 1.5, n)
    facts = torch.cat([quality.unsqueeze(1) - 1, torch.eye(2)[kind]], 1)
    ranker = build_ranker("bilinear", {"past": 0}, n, 1, Catalog(facts), Seed(1))
    groups = Field("kind", kind.unsqueeze(1), 2) if grouped else None
    made = SlateNetwork(ranker, 2, groups=groups, seed=Seed(2))

    def users(rows: int) -> Context:
        drawn = torch.rand(rows, n, generator=luck).argsort(1)[:, :5]
        return Context.of(torch.zeros(rows).long(), n, features=torch.ones(rows, 1), candidates=drawn)

    def reward(context: Context, columns: torch.Tensor) -> torch.Tensor:
        item = context.slate(columns)
        return quality[item[:, 0]] + quality[item[:, 1]] * (kind[item[:, 0]] != kind[item[:, 1]])

    optimizer = torch.optim.Adam(made.parameters(), 0.03)
    for _ in range(150):
        context = users(256)
        choice = made.choice(context)
        with torch.no_grad():
            columns = choice.draw(luck)
        earned = reward(context, columns)
        loss = -((earned - earned.mean()) * choice.log_probs(columns, entropy=None)[0].sum(1)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    context = users(2000)
    pairs = torch.tensor([[i, j] for i in range(5) for j in range(5) if i != j])
    every = torch.stack([reward(context, pair.expand(2000, -1)) for pair in pairs])
    two = quality[context.candidates].topk(2, dim=1).indices
    best, top = float(every.max(0).values.mean()), float(reward(context, two).mean())
    with torch.no_grad():
        found = float(reward(context, made.choice(context).mode()).mean())
    assert top < 0.9 * best
    assert found > 0.99 * best if grouped else found < top + 0.02


@pytest.mark.parametrize("kind", [SlatePPO, SlateA2C, SlateReinforce])
def test_a_learner_learns_penalties_and_its_file_keeps_them(kind: Any, tmp_path: Path) -> None:
    world = make_world(WORLD)
    model = kind(env=WorldVecEnv(world, 16), n_steps=10, policy_kwargs=FACTS, seed=1, device="cpu")
    model.learn(640)
    head = model.network.steps.layers[-1]
    assert float(head.weight.detach().abs().max()) > 0
    context = world.observe(world.reset(6, Seed(4)))
    first = model.distribution(context, 10)
    model.save(tmp_path / "kept")
    again = kind.load(tmp_path / "kept")
    second = again.distribution(context, 10)
    torch.testing.assert_close(second.penalty, first.penalty)
    assert torch.equal(second.mode(), first.mode())
    drawn = first.sample(Seed(5).torch())
    torch.testing.assert_close(second.log_prob(drawn), first.log_prob(drawn))


def test_stock_ppo_takes_groups_too() -> None:
    model = PPO(
        SlateActorCriticPolicy,
        make_sb3(WORLD, 4),
        n_steps=10,
        batch_size=20,
        policy_kwargs={**FACTS, "catalog": make_world(WORLD).catalog},
        device="cpu",
    )
    model.learn(80)
    policy: Any = model.policy
    assert float(policy.network.steps.layers[-1].weight.detach().abs().max()) > 0


def test_a_grouped_agent_shows_fewer_and_refuses_more() -> None:
    world = make_world(WORLD)
    model = SlatePPO(env=WorldVecEnv(world, 4), policy_kwargs=FACTS, device="cpu")
    context = world.observe(world.reset(2, Seed(4)))
    assert model.distribution(context, 3).mode().shape == (2, 3)
    with pytest.raises(BadInput, match="this agent learned slates of 10 by groups, and 11 are asked for"):
        model.distribution(context, 11)


def test_learning_that_blows_up_gives_the_last_good_weights_back() -> None:
    world = make_world(WORLD)
    model = SlatePPO(
        env=WorldVecEnv(world, 16), n_steps=10, learning_rate=1e30, policy_kwargs=FACTS, device="cpu"
    )
    with pytest.raises(BadInput, match="the last good weights are back"):
        model.learn(2000)
    assert all(bool(p.isfinite().all()) for p in model.policy.parameters())


def test_refusals_are_one_sentence() -> None:
    catalog = Catalog(torch.zeros(2, 0), fields=(Field("brand", torch.tensor([[0, 1], [-1, 1]]), 2),))
    assert category(catalog, "brand") is catalog.fields[0]
    with pytest.raises(BadInput, match="and brnd is none of them: it has brand; did you mean brand"):
        category(catalog, "brnd")
    with pytest.raises(BadInput, match="and brand is none of them: it has none"):
        category(None, "brand")
    empty = Catalog(torch.zeros(2, 0), fields=(Field("brand", torch.zeros(2, 0).long(), 2),))
    with pytest.raises(BadInput, match="groups are of the field brand, which has no values"):
        category(empty, "brand")
    with pytest.raises(BadInput, match='with groups there is the entropy "slots" alone, not first'):
        network([0, 1, 0, -1]).choice(seen()).log_probs(torch.tensor([[0, 1, 2]] * 5), "first")
    with pytest.raises(BadInput, match='credit "top_k" draws each item on its own, so it takes no groups'):
        SlateReinforce(
            env=WorldVecEnv(make_world(WORLD), 4), credit="top_k", policy_kwargs=FACTS, device="cpu"
        )
