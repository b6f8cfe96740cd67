"""stable-baselines3 trains in every world without a wrapper of the user's, and sees the true world."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from envs.faces import make_env, make_vector
from envs.registry import ids
from envs.sb3 import WorldVecEnv, make_sb3
from simlab.errors import BadInput

SIZE: dict[str, Any] = {"items": 20, "slots": 3, "topics": 4, "horizon": 5}
TINY: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
EVERY = pytest.mark.parametrize("name", ids())
# A faithful v0 stays beside v1; Gymnasium says "out of date" of every version but the last.
OLDER = pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
# The features of the candidates are a table [cand feat]; the learner flattens it itself.
TABLE = pytest.mark.filterwarnings("ignore:.*has an unconventional shape:UserWarning")


def feed(num_envs: int = 3, **settings: Any) -> WorldVecEnv:
    return make_sb3("Feed-v0", num_envs, **(SIZE | {"churn": 0.0} | settings))


def weights(learner: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in learner.policy.parameters()])


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# Every world ---------------------------------------------------------------------------------------


@OLDER
@EVERY
def test_ppo_trains_on_every_id(name: str) -> None:
    """Through its own vectoriser, and on the native batch."""
    settings = ids()[name].small
    for env in (gym.make(name, **settings), make_sb3(name, 4, **settings)):
        learner = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, **TINY)
        before = weights(learner)
        learner.learn(16)
        after = weights(learner)
        assert bool(after.isfinite().all())
        assert not torch.equal(before, after)
        assert learner.get_env() is not None
        seen: Any = learner.get_env().reset()  # type: ignore[union-attr]
        action, _ = learner.predict(seen, deterministic=True)
        assert env.action_space.contains(action[0])


@TABLE
@EVERY
def test_every_id_passes_its_checker(name: str) -> None:
    check_env(make_env(name, **ids()[name].small))


@EVERY
def test_the_native_batch_is_the_vector_face(name: str) -> None:
    """The same users, observations, rewards and ends; the infos say what the learner asks for."""
    settings = ids()[name].small
    plain, native = make_vector(name, 3, **settings), make_sb3(name, 3, **settings)
    a, _ = plain.reset(seed=7)
    native.seed(7)
    b: Any = native.reset()
    assert native.observation_space == plain.single_observation_space
    assert native.action_space == plain.single_action_space
    plain.action_space.seed(0)
    earned, lived = np.zeros(3), np.zeros(3, dtype=int)
    ended = 0
    for _ in range(plain.world.horizon + 2):
        assert same(a, b)
        assert {k: v[1] for k, v in b.items()} in native.observation_space
        action = plain.action_space.sample()
        a, reward, terminated, truncated, info = plain.step(action)
        b, given, done, infos = native.step(action)
        np.testing.assert_array_equal(given, reward.astype(np.float32))
        assert given.dtype == np.float32
        np.testing.assert_array_equal(done, terminated | truncated)
        np.testing.assert_array_equal(native.click, info["click"])
        np.testing.assert_array_equal(native.invalid, info["invalid"])
        earned += reward
        lived += 1
        for row in range(3):
            if not done[row]:
                assert infos[row] == {}
                continue
            ended += 1
            assert same(infos[row]["terminal_observation"], info["final_obs"][row])
            assert infos[row]["TimeLimit.truncated"] is bool(truncated[row])
            assert infos[row]["episode"]["r"] == pytest.approx(earned[row])
            assert infos[row]["episode"]["l"] == lived[row]
            assert infos[row]["episode"]["t"] >= 0
            earned[row], lived[row] = 0, 0
    assert ended >= 3
    assert native.get_attr("invalid_actions") == [plain.invalid_actions] * 3


# What learners and wrappers do ---------------------------------------------------------------------


class Rewards(BaseCallback):
    """Keeps what the learner was given, before it adds anything, and the infos themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[Any] = []
        self.infos: list[Any] = []

    def _on_step(self) -> bool:
        self.rewards.append(self.locals["rewards"].copy())
        self.infos.append(self.locals["infos"])
        return True


def test_the_bootstrap_at_a_time_limit_does_not_reach_the_episode() -> None:
    """PPO adds a value to the rewards it is handed where time ran out; the reported return is the world's."""
    env, kept = feed(), Rewards()
    learner = PPO("MultiInputPolicy", env, n_steps=10, batch_size=30, n_epochs=1, **TINY)
    learner.learn(30, callback=kept)
    rewards = np.array(kept.rewards)
    for step in (4, 9):  # every episode lasts five steps
        for row in range(3):
            info = kept.infos[step][row]
            assert info["TimeLimit.truncated"]
            assert info["episode"]["r"] == pytest.approx(rewards[step - 4 : step + 1, row].sum())
    assert len(learner.ep_info_buffer or []) == 6
    given = np.array(learner.rollout_buffer.rewards)
    assert np.array_equal(given[[0, 3, 7]], rewards[[0, 3, 7]])
    assert not np.array_equal(given[4], rewards[4])


def test_ppo_learns_and_repeats_by_seed() -> None:
    def run() -> torch.Tensor:
        learner = PPO("MultiInputPolicy", feed(), n_steps=8, batch_size=24, n_epochs=1, **TINY)
        return weights(learner.learn(48))

    assert torch.equal(run(), run())


def test_infos_belong_to_their_row_and_step() -> None:
    """What a wrapper writes into one row's info is seen in no other row, and at no other step."""
    env = feed()
    env.reset()
    action = np.tile(np.arange(3), (3, 1))
    *_, infos = env.step(action)
    infos[0]["mine"] = 1
    *_, later = env.step(action)
    assert infos[1:] == [{}, {}]
    assert later == [{}, {}, {}]
    assert copy.deepcopy(infos) == infos


def test_its_wrappers_take_the_batch() -> None:
    """Normalisation writes into the infos of ended rows; a monitor finds the same returns."""
    env = feed()
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):  # so it need not be
        wrapped = VecMonitor(VecNormalize(env, norm_obs_keys=["features", "popularity"]))
    seen: Any = wrapped.reset()
    action = np.tile(np.arange(3), (3, 1))
    for _ in range(5):
        seen, _, done, infos = wrapped.step(action)
    assert done.all()
    for name in seen:
        assert np.isfinite(seen[name]).all()
        assert infos[0]["terminal_observation"][name].shape == seen[name][0].shape
    assert infos[0]["episode"]["l"] == 5


def test_evaluation_needs_no_monitor() -> None:
    """Without a warning, which would be an error here; and it counts whole episodes."""
    env = feed()
    learner = PPO("MultiInputPolicy", env, n_steps=8, batch_size=24, n_epochs=1, **TINY)
    returns, lengths = evaluate_policy(learner, env, n_eval_episodes=6, return_episode_rewards=True)
    assert lengths == [5] * 6
    assert np.isfinite(returns).all()


@pytest.mark.parametrize("native", [True, False])
def test_dqn_trains_on_slates_of_one_item(native: bool) -> None:
    size = SIZE | {"slots": 1, "candidates": 6}
    env: Any = make_sb3("Feed-v0", 2, flat=True, **size) if native else make_env("Feed-v0", flat=True, **size)
    assert env.action_space == gym.spaces.Discrete(6)
    learner = DQN("MultiInputPolicy", env, buffer_size=200, learning_starts=4, train_freq=1, **TINY)
    before = weights(learner)
    learner.learn(24)
    assert not torch.equal(before, weights(learner))


# The contract of a VecEnv --------------------------------------------------------------------------


def test_observations_can_be_written_to_and_change_nothing() -> None:
    """torch warns of arrays that cannot be written to; the world does not see what is written."""
    env, twin = feed(lifetime=5.0), feed(lifetime=5.0)
    for e in (env, twin):
        e.seed(1)
    seen: Any = env.reset()
    other: Any = twin.reset()
    assert {"popularity", "mask"} <= seen.keys()
    action = np.tile(np.arange(3), (3, 1))
    for _ in range(7):
        assert same(seen, other)
        for value in seen.values():
            assert torch.as_tensor(value).shape == value.shape
            value[...] = 0
        seen, *_ = env.step(action)
        other, *_ = twin.step(action)


def test_seeds_and_options_hold_for_the_next_reset_only() -> None:
    env = feed()
    env.seed(4)
    first: Any = env.reset()
    unseeded: Any = env.reset()
    env.seed(4)
    again: Any = env.reset()
    assert same(first, again)
    assert not same(first, unseeded)
    env.seed(4)
    env.set_options({"user": 1})
    moved: Any = env.reset()
    np.testing.assert_array_equal(moved["features"][:2], first["features"][1:])
    env.set_options([{"user": 1}, {"user": 2}, {"user": 3}])
    with pytest.raises(BadInput, match="the same options"):
        env.reset()


def test_a_reset_in_the_middle_forgets_the_running_episode() -> None:
    env = feed()
    action = np.tile(np.arange(3), (3, 1))
    env.reset()
    env.step(action)
    env.reset()
    for _ in range(5):
        *_, infos = env.step(action)
    assert [info["episode"]["l"] for info in infos] == [5, 5, 5]


def test_attributes_and_methods_are_those_of_the_batch() -> None:
    env = feed()
    assert env.render_mode is None
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("strict", indices=[0, 2]) == [False, False]
    assert env.has_attr("world")
    assert not env.has_attr("nothing_of_the_kind")
    env.set_attr("strict", True)
    assert env.get_attr("strict", indices=1) == [True]
    assert env.env_method("close") == [None] * 3
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, indices=[0]) == [False]
    with pytest.raises(BadInput, match="the attribute strict belongs to the whole batch"):
        env.set_attr("strict", False, indices=[0])
    with pytest.raises(BadInput, match="the method close belongs to the whole batch"):
        env.env_method("close", indices=0)
    with pytest.raises(BadInput, match="call reset on the whole batch"):
        env.env_method("reset")
    with pytest.raises(BadInput, match="row 3 is not there"):
        env.get_attr("strict", indices=3)
    env.close()


def test_strict_refuses_and_the_default_counts() -> None:
    bad = np.array([[0, 1, 2], [3, 4, 3], [0, 1, 2]])
    strict, loose = feed(strict=True), feed()
    strict.reset()
    loose.reset()
    with pytest.raises(BadInput, match="row 1, slot 2: item 3 stands higher up already"):
        strict.step(bad)
    loose.step(bad)
    assert loose.invalid.tolist() == [0, 1, 0]
    with pytest.raises(BadInput, match="3 rows of 3 slots"):
        loose.step(bad[:2])
