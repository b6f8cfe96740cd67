"""The learning loop: what is counted, logged and bootstrapped, and how it stops."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from agents.actor_critic.a2c import SlateA2C
from agents.actor_critic.ppo import SlatePPO
from agents.actor_critic.reinforce import SlateReinforce
from agents.core.agent import _Tell
from agents.core.replay import SlateReplay
from agents.core.rows import Step
from agents.value.dqn import SlateDQN
from agents.value.slateq import SlateQ
from envs.sb3 import make_sb3
from simlab.errors import BadInput
from tests.agents.scripted import Scripted

ON: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (SlatePPO, {"n_steps": 5, "batch_size": 6, "n_epochs": 2}),
    "a2c": (SlateA2C, {"n_steps": 5}),
    "reinforce": (SlateReinforce, {"n_steps": 5}),
}
QUICK = {"learning_starts": 8, "batch_size": 8, "buffer_size": 200, "target_every": 5}
OFF: dict[str, tuple[Any, dict[str, Any]]] = {"slateq": (SlateQ, QUICK), "dqn": (SlateDQN, QUICK)}
ALL = ON | OFF


def learner(name: str, env: Any, **more: Any) -> Any:
    kind, settings = ALL[name]
    return kind(env=env, seed=2, device="cpu", **(settings | more))


class Stop(BaseCallback):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.seen = at, list[int]()

    def _on_step(self) -> bool:
        self.seen.append(self.num_timesteps)
        return self.num_timesteps < self.at


@pytest.mark.parametrize("name", ALL)
def test_a_callback_stops_it(name: str) -> None:
    """At that very step, and learning goes on from there when it is asked to."""
    env = Scripted("...T", "..L")
    model, stop = learner(name, env), Stop(26)
    model.learn(1000, callback=stop)
    assert stop.seen == list(range(2, 27, 2))
    assert model.num_timesteps == 26
    assert len(env.shown) == 13
    before = model._n_updates
    model.learn(34, reset_num_timesteps=False)
    assert model.num_timesteps >= 60
    assert model._n_updates > before


@pytest.mark.parametrize("name", ALL)
def test_the_learning_rate_goes_in_a_straight_line(name: str) -> None:
    model = learner(name, Scripted("...T", "..L"), learning_rate=0.01, final_learning_rate=0.002)
    model.learn(40, callback=Stop(36))
    # The last gradient steps are taken after 30 of 40 user-steps on-policy, after 34 off-policy.
    left = 1 - (30 if name in ON else 34) / 40
    rate = model.policy.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(0.002 + 0.008 * left)


class Memory(KVWriter):
    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.kept.append(dict(key_values))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", ALL)
def test_episodes_are_counted_as_by_hand(name: str) -> None:
    """Row 0: four steps of t; row 1: three of -1. Cut or gone, an episode is an episode."""
    env = Scripted("...T", "..L", reward=lambda t: [t, -1.0])
    model, memory = learner(name, env, stats_window_size=3), Memory()
    model.set_logger(Logger(folder=None, output_formats=[memory]))
    steps = 30 if name in ON else 108  # a hundred gradient steps are logged together
    model.learn(2 * steps, log_interval=1)
    info = [(e["r"], e["l"]) for e in model.ep_info_buffer]
    by_hand = []
    for t in range(steps):
        if t % 4 == 3:
            by_hand.append((t + t - 1 + t - 2 + t - 3, 4))
        if t % 3 == 2:
            by_hand.append((-3, 3))
    assert info == by_hand[-3:]
    logged = {k: v for entry in memory.kept for k, v in entry.items()}
    assert logged["time/total_timesteps"] <= 2 * steps
    numbers = {k: v for k, v in logged.items() if isinstance(v, int | float | np.number)}
    assert {"rollout/ep_rew_mean", "train/n_updates"} <= numbers.keys()
    assert not [k for k, v in numbers.items() if not np.isfinite(v)]


@pytest.mark.parametrize("name", ALL)
def test_stock_evaluation_takes_it(name: str) -> None:
    """Rewards that hang on no slate: the mean return is known."""
    env = Scripted("...T", "..L", reward=lambda t: [2.0, 1.0])
    model = learner(name, env)
    mean, spread = evaluate_policy(model, env, n_eval_episodes=4, warn=False)
    assert (mean, spread) == pytest.approx((5.5, 2.5))  # two episodes of each row: 8 and 3
    world = make_sb3("Feed-v0", 4, items=8, slots=2, horizon=3)
    found, _ = evaluate_policy(learner(name, world), world, n_eval_episodes=8)
    assert 0 <= float(np.asarray(found)) <= 6


@pytest.mark.parametrize("name", ALL)
def test_a_reward_that_is_no_number_stops_it(name: str) -> None:
    env = Scripted("...T", "..L", reward=lambda t: [1.0, np.nan if t == 7 else 1.0])
    model = learner(name, env)
    with pytest.raises(BadInput, match=r"the reward of row 1 is (nan|no finite number)"):
        model.learn(200)
    assert all(bool(p.isfinite().all()) for p in model.policy.parameters())


@pytest.mark.parametrize("name", ALL)
def test_an_exploding_loss_stops_it_with_good_weights(name: str) -> None:
    """The weights are those of the last turn whose loss was finite, or the first ones."""
    env = Scripted("...T", "..L", reward=lambda t: [1e30, -1e30], click=lambda t: [[1, 0], [0, 1]])
    model = learner(name, env, learning_rate=1e6, max_grad_norm=1e30, reward_scale=1.0)
    with pytest.raises(BadInput, match=r"the loss is (nan|-?inf) at step \d+, so training stopped"):
        model.learn(4000)
    assert all(bool(v.isfinite().all()) for v in model.policy.state_dict().values())
    assert 0 < model.num_timesteps < 4000


def test_the_last_good_weights_are_those_before_the_turn() -> None:
    """Turn by turn: what a finite loss was measured on is good, what came of its gradient is not known."""
    model = learner("a2c", Scripted("...", "..."))
    model._setup_learn(10, None)
    first = {k: v.clone() for k, v in model.policy.state_dict().items()}

    def shift(by: float) -> None:
        with torch.no_grad():
            for p in model.policy.parameters():
                p.add_(by)

    def is_first(plus: float) -> bool:
        now = model.policy.state_dict()
        return all(torch.allclose(now[k], first[k] + plus) for k in dict(model.policy.named_parameters()))

    shift(1)
    with pytest.raises(BadInput, match="the last good weights are back"):
        model.check_finite(float("nan"))  # in the first turn
    assert is_first(0)
    shift(1)
    model.check_finite(2.0)
    shift(1)
    model.check_finite(2.0)
    shift(float("nan"))
    with pytest.raises(BadInput):
        model.check_finite(float("inf"))
    assert is_first(1)


# What follows an end ----------------------------------------------------------------------------


def critic_that_speaks(model: Any) -> None:
    """Give the critics' last layers weights: they start at zero, where every value is the same."""
    luck = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in (model.network.future, model.network.slot):
            if head is not None:
                for p in head.parameters():
                    p.add_(0.1 * torch.randn(p.shape, generator=luck))


@pytest.mark.parametrize("name", ["ppo", "a2c"])
@pytest.mark.parametrize("per_slot", [True, False])
def test_advantages_are_those_of_a_slow_loop(name: str, per_slot: bool) -> None:
    """δ and λ by hand: a time limit adds V of what was last seen, a true end adds nothing."""
    luck = np.random.default_rng(3)
    table, clicks = luck.normal(size=(9, 3)).astype(np.float32), luck.integers(0, 2, (9, 3, 2))
    env = Scripted(
        "..T......", "...L..L..", "........L", reward=lambda t: table[t % 9], click=lambda t: clicks[t % 9]
    )
    model = learner(name, env, n_steps=9, gamma=0.8, gae_lambda=0.6, per_slot=per_slot, reward_scale=0.5)
    critic_that_speaks(model)
    steps = list[Step]()
    rows = model.begin(model.network.ranker.past)
    inner = rows.step

    def step(columns: Tensor) -> Step:
        steps.append(inner(columns))
        return steps[-1]

    rows.step = step
    model._rows = rows
    model._setup_learn = lambda *a, **k: _kept(model, *a, **k)
    weights = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(27)
    model.policy.load_state_dict(weights)
    with torch.no_grad():
        value = model.network.values(model.rollout.context).view(9, 3)
        last = torch.stack([model.network.values(s.last) for s in steps])
    assert float((last[6, 1] - value[7, 1]).abs()) > 1e-4, "the next user's value is another"
    found = model.rollout.advantage.view(9, 3)
    kinds = {"T": 0, "L": 0, ".": 0}
    for user in range(3):
        after = 0.0
        for t in range(8, -1, -1):
            mark = env.ends[user][t]
            kinds[mark] += 1
            follow = 0.0 if mark == "T" else float(last[t, user])
            delta = 0.5 * float(table[t, user]) + 0.8 * follow - float(value[t, user])
            after = delta + (0.8 * 0.6 * after if mark == "." else 0.0)
            assert float(found[t, user]) == pytest.approx(after, abs=1e-5), (t, user)
    assert kinds == {"T": 1, "L": 3, ".": 23}
    returns = model.rollout.returns.view(9, 3)
    torch.testing.assert_close(returns, found + value)
    share = torch.as_tensor(clicks).float()
    share = 0.5 * share * torch.as_tensor(table).unsqueeze(2) / share.sum(2, keepdim=True).clamp(min=1)
    torch.testing.assert_close(model.rollout.earned.view(9, 3, 2), share)


def _kept(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Set `learn` up without forgetting the rows that are watched."""
    rows = model._rows
    found = type(model)._setup_learn(model, *args, **kwargs)
    model._rows = rows
    return found


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("end", ["T", "L"])
def test_a_chain_has_its_known_value(end: str, n_step: int) -> None:
    """Reward 1 a step, an end after three: 1 + γ + γ² = 1.75 at a true end, 1/(1 - γ) = 2 at a time limit."""

    def only_age(t: int, seen: dict[str, Any]) -> None:
        seen["features"][:, [0, 1, 3]] = 0

    env = Scripted(*[".." + end] * 4, slots=0, items=2, change=only_age)
    model = learner(
        "dqn", env, gamma=0.5, n_step=n_step, learning_starts=100, batch_size=64, learning_rate=5e-3,
        target_every=20, policy_kwargs={"spec": {"dim": 8, "layers": (16,)}},
    )  # fmt: skip
    model.learn(1600)
    batch = model.replay_buffer.sample(200, torch.Generator().manual_seed(1))
    with torch.no_grad():
        best = model.policy.q(batch.context).max(1).values
    age = batch.context.features[:, 2].long()
    wanted = torch.tensor([1.75, 1.5, 1.0] if end == "T" else [2.0, 2.0, 2.0])
    for step in range(3):
        assert float(best[age == step].mean()) == pytest.approx(float(wanted[step]), abs=0.15)


@pytest.mark.parametrize("name", OFF)
def test_the_buffer_knows_both_ends(name: str) -> None:
    env = Scripted("..T", "..L", reward=lambda t: [t, -t])
    model = learner(name, env)
    model.learn(12)
    buffer: SlateReplay = model.replay_buffer
    assert buffer.kept["terminated"][:6].tolist() == [[t % 3 == 2, False] for t in range(6)]
    assert buffer.kept["done"][:6].tolist() == [[t % 3 == 2] * 2 for t in range(6)]
    assert buffer.kept["reward"][:6].tolist() == [[t, -t] for t in range(6)]
    # What was last seen is of the same user; what is seen next, where an episode ended, of the next one.
    assert buffer.kept["next.features"][2].tolist() == [[0, 0, 3, 3], [1, 0, 3, 3]]
    assert buffer.kept["features"][3].tolist() == [[0, 1, 0, 3], [1, 1, 0, 3]]


# Exploration and targets ------------------------------------------------------------------------


def test_exploration_falls_in_a_straight_line() -> None:
    model = learner("dqn", Scripted("...", "..."), explore=(0.8, 0.2, 0.5))
    for gone, rate in [(0, 0.8), (0.25, 0.5), (0.5, 0.2), (0.9, 0.2)]:
        model._current_progress_remaining = 1 - gone
        assert model.exploring() == pytest.approx(rate)


def test_a_share_of_the_slates_is_uniform() -> None:
    """All of them before learning starts; then the best one with probability 1 - ε + ε / 20."""
    model = learner("dqn", Scripted(*["..."] * 4000), explore=(0.3, 0.3, 0.0), learning_starts=10)
    model._setup_learn(100, None)
    context = model.begin(5).reset()
    best = model.policy.distribution(context, 2).mode()
    for steps, chance in [(0, 1 / 20), (50, 0.7 + 0.3 / 20)]:
        model.num_timesteps = steps
        same = (model.act(context) == best).all(1).float().mean()
        assert abs(float(same) - chance) < 4.5 * (chance * (1 - chance) / 4000) ** 0.5


@pytest.mark.parametrize("name", OFF)
def test_targets_move_when_they_should(name: str) -> None:
    """Every fifth gradient step the target becomes the online network, and stays between."""
    model = learner(name, Scripted("...T", "..L", click=lambda t: [[1, 0], [0, 0]]))

    def same() -> bool:
        one, two = model.policy.q.state_dict(), model.policy.q_target.state_dict()
        return all(torch.equal(one[k], two[k]) for k in one)

    seen = []

    class Look(BaseCallback):
        def _on_rollout_start(self) -> None:
            if model._n_updates:
                seen.append((model._n_updates % 5 == 0, same()))

        def _on_step(self) -> bool:
            return True

    model.learn(60, callback=Look())
    assert len(seen) > 15
    assert all(should == did for should, did in seen)


def test_progress_without_an_episode_says_so() -> None:
    """A mean of no episodes is no number, and "nan" is no news."""
    told: list[str] = []
    learner("a2c", Scripted("." * 40)).learn(10, callback=_Tell(told.append, 10))
    assert told
    assert all("no episode has ended" in line and "nan" not in line for line in told)
