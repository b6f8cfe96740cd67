"""What critics count of an episode: what it is, what it may change, and what it is for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO

from agents.actor_critic.a2c import SlateA2C
from agents.actor_critic.ppo import SlatePPO
from agents.actor_critic.reinforce import SlateReinforce
from agents.core.policy import SlateActorCriticPolicy
from agents.core.tally import Tally
from agents.value.slateq import SlateQ
from envs.sb3 import WorldVecEnv, make_sb3
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from tests.agents.scripted import Scripted

BARE: dict[str, Any] = {"spec": {"past": 0}}
TOLD: dict[str, Any] = {"policy_kwargs": {**BARE, "tally": True}, "device": "cpu", "seed": 1}
LATE: dict[str, Any] = {"policy_kwargs": BARE, "options": {"tally": True}, "device": "cpu", "seed": 1}
ON = {"ppo": SlatePPO, "a2c": SlateA2C, "reinforce": SlateReinforce}


def blind(t: int, seen: dict[str, Any]) -> None:
    """Let all users look the same at all times."""
    seen["features"][:] = 0


def steps(tally: torch.Tensor) -> list[int]:
    """Return how many steps were counted."""
    return [round(30 * float(t)) for t in tally[:, 0]]


def feed(users: int, horizon: int = 4) -> WorldVecEnv:
    """Return a small world whose items have features."""
    return make_sb3("Feed-v0", users, items=12, slots=2, horizon=horizon)


def test_a_step_adds_what_was_clicked() -> None:
    """By hand: a thirtieth, a tenth of the reward, a fifteenth of the features of each clicked item."""
    tally = Tally(Catalog(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])))
    context = Context.of(torch.zeros(2, dtype=torch.long), 3, candidates=torch.tensor([[2, 0], [1, 2]]))
    columns, click = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    found = tally.more(context, columns, click, torch.tensor([5.0, -1.0]))
    hand = [[1 / 30, 0.5, 4 / 15, 4 / 15], [1 / 30, -0.1, 0, 2 / 15]]
    torch.testing.assert_close(found, torch.tensor(hand))
    assert tally.start(2).tolist() == [[0.0] * 4] * 2
    assert Tally(None).more(context, columns, click, torch.ones(2)).shape == (2, 2)


@pytest.mark.parametrize("name", ON)
def test_each_user_is_counted(name: str) -> None:
    """From 0 for a new one, on through roll-outs; what was seen after the last slate counts that step too."""
    env = Scripted("...T..", "..L...", reward=lambda t: [1.0, 10.0**t])
    model: Any = ON[name](env=env, n_steps=4, reward_scale=0.5, **TOLD)
    asked, seen = [], []
    values = model.network.values

    def note(context: Context) -> Any:
        assert context.tally is not None
        asked.append(steps(context.tally))
        return values(context)

    model.network.values = note
    train = model.train

    def watched() -> None:
        seen.append(model.rollout.context.tally.view(4, 2, -1))
        train()

    model.train = watched
    model.learn(16)
    assert [steps(t) for t in seen[0]] == [[0, 0], [1, 1], [2, 2], [3, 0]]
    assert [steps(t) for t in seen[1]] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert asked[1:3] == [[0, 1], [3]], "what follows the roll-out, and the second user's time limit"
    earned = torch.tensor([[0, 0], [1, 1], [2, 11], [3, 0]]) * 0.5 / 10
    torch.testing.assert_close(seen[0][:, :, 1], earned)


def test_replay_keeps_the_count() -> None:
    """What follows n steps is n steps later, an end included."""
    env = Scripted("....T", "..L..")
    model = SlateQ(env=env, n_step=2, learning_starts=40, buffer_size=100, batch_size=8, **LATE)
    model.learn(40)
    buffer: Any = model.replay_buffer
    batch = buffer.sample(500, torch.Generator().manual_seed(3), n_step=2, discount=0.5)
    t, user = batch.index // 2, batch.index % 2
    before = torch.where((user == 1) & (t > 2), (t - 3) % 5, t % 5)
    assert steps(batch.context.tally) == before.tolist()
    taken = (batch.discount.log() / torch.tensor(0.5).log()).round().long()
    assert steps(batch.follow.tally) == (before + taken).tolist()
    assert set(taken.tolist()) == {1, 2}


def test_a_critic_learns_what_the_count_says() -> None:
    """A minute a step for seven steps: V = 7 - t with a tally; without one all users look the same."""
    settings: dict[str, Any] = {
        "n_steps": 70, "batch_size": 70, "gamma": 1.0, "gae_lambda": 1.0, "reward_scale": 1.0, "seed": 1,
        "device": "cpu", "learning_rate": 0.02, "final_learning_rate": 1e-3,
    }  # fmt: skip
    found = {}
    for tally in (False, True):
        env = Scripted("......T", "......T", change=blind)
        model = SlatePPO(env=env, policy_kwargs={**BARE, "tally": tally}, **settings)
        model.learn(2800)
        assert model.rollout is not None
        with torch.no_grad():
            found[tally] = model.network.values(model.rollout.context).view(-1, 2)[:7, 0]
    left = 7.0 - torch.arange(7)
    assert float((found[True] - left).abs().max()) < 0.3
    assert float(found[False].std()) < 1e-5
    assert float((found[False] - 4).abs().max()) < 0.5


def test_slateq_learns_what_the_count_says() -> None:
    settings: dict[str, Any] = {
        "learning_starts": 64, "batch_size": 64, "buffer_size": 4000, "gamma": 1.0, "tau": 0.1,
        "target_every": 1, "learning_rate": 0.02, "final_learning_rate": 1e-4,
    }  # fmt: skip
    model = SlateQ(env=Scripted("......T", "......T", change=blind), **(LATE | settings))
    model.learn(1600)
    buffer: Any = model.replay_buffer
    seen = buffer.sample(200, torch.Generator().manual_seed(1)).context
    with torch.no_grad():
        _, null = model.policy.values(seen)
    assert float((null - (7.0 - torch.tensor(steps(seen.tally)))).abs().max()) < 0.3


def test_it_moves_values_and_no_slate() -> None:
    """It is a matter of the critics: slates, propensities and slot values stand still."""
    ppo = SlatePPO(env=feed(16), n_steps=4, batch_size=16, **TOLD)
    slateq = SlateQ(env=feed(16), learning_starts=16, batch_size=16, **LATE)
    for learner in (ppo, slateq):
        learner.learn(160)
    context = ppo.begin(0).reset()
    tally: Any = ppo.policy.tally
    early = replace(context, tally=tally.start(16))
    late = replace(context, tally=tally.start(16) + 0.2)
    with torch.no_grad():
        assert torch.equal(ppo.network.choice(early).logits, ppo.network.choice(late).logits)
        (now, slot), (then, again) = ppo.network.value_parts(early), ppo.network.value_parts(late)
        assert float((now - then).abs().min()) > 0
        assert torch.equal(slot, again)
        policy = slateq.policy
        value, null = policy.values(context)
        odds = policy.log_odds(context)
        best = policy.best(context.mask, value, null, odds)
        for told in (early, late):
            moved, none = policy.values(told)
            shift = none - null
            assert float(shift.abs().min()) > 0
            torch.testing.assert_close(moved - value, shift.unsqueeze(1).expand_as(value), atol=1e-4, rtol=0)
            assert torch.equal(policy.best(told.mask, moved, none, odds), best)
            before, after = policy.value_of(best, value, null, odds), policy.value_of(best, moved, none, odds)
            torch.testing.assert_close(after - before, shift, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "settings"), [(SlatePPO, TOLD), (SlateQ, LATE)])
def test_a_killed_run_goes_on_with_its_sums(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """Users in the middle of an episode keep their sums, and a file keeps what they are counted by."""
    few: dict[str, Any] = {"n_steps": 3} if kind is SlatePPO else {"learning_starts": 16, "buffer_size": 100}
    made = [kind(env=feed(8, horizon=5), batch_size=8, **few, **settings) for _ in range(2)]
    made[0].learn(48)
    made[0].save_run(tmp_path / "half")
    made[1].resume(tmp_path / "half")
    for learner in made:
        assert steps(learner._context.tally) == learner._lengths.tolist()
        assert float(learner._context.tally.std()) > 0
        learner.learn(48, reset_num_timesteps=False)
    ours, theirs = (learner.policy.state_dict() for learner in made)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    made[1].save(tmp_path / "end")
    again = kind.load(tmp_path / "end", env=feed(8), device="cpu")
    assert torch.equal(again.policy.tally.features, made[1].policy.tally.features)
    assert float(again.policy.tally.features.abs().sum()) > 0
    again.learn(16)


def test_who_does_not_count_says_so() -> None:
    settings: Any = {"policy_kwargs": {"tally": True}, "n_steps": 4, "batch_size": 8, "device": "cpu"}
    with pytest.raises(BadInput, match="those of stable-baselines3 do not"):
        PPO(SlateActorCriticPolicy, feed(4), **settings).learn(16)
    with pytest.raises(BadInput, match="needs null"):
        SlateQ(env=feed(4), options={"tally": True, "null": False}, device="cpu")
