"""The faces of Feed-v0 keep Gymnasium's contracts, and show one and the same world."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.faces import WorldEnv, WorldVectorEnv
from envs.users.feed import Feed
from simlab.errors import BadInput

SIZE: dict[str, Any] = {"items": 30, "slots": 4, "topics": 5}


def FeedEnv(**settings: Any) -> WorldEnv:  # noqa: N802
    return WorldEnv(Feed(Feed.Spec.of(**settings)))


def FeedVectorEnv(num_envs: int = 1, *, tensors: bool = False, **settings: Any) -> WorldVectorEnv:  # noqa: N802
    return WorldVectorEnv(Feed(Feed.Spec.of(**settings)), num_envs, tensors=tensors)


def test_registered_and_passes_check_env() -> None:
    assert envs.__doc__
    env = gym.make("simlab/Feed-v0", **SIZE)
    check_env(env.unwrapped)  # warnings are errors here


def test_vector_face_is_made_by_gymnasium_and_declares_its_autoreset() -> None:
    vector = gym.make_vec("simlab/Feed-v0", num_envs=6, **SIZE)
    assert isinstance(vector.unwrapped, WorldVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vector.observation_space == gym.vector.utils.batch_space(vector.single_observation_space, 6)
    assert vector.action_space == gym.vector.utils.batch_space(vector.single_action_space, 6)


def test_vector_face_keeps_its_spaces_and_repeats_by_seed() -> None:
    """The vector equivalent of `check_env`: spaces, types, determinism, no reused memory."""

    def run(seed: int) -> list[Any]:
        vector = FeedVectorEnv(5, horizon=4, **SIZE)
        seen, info = vector.reset(seed=seed)
        assert info == {}
        vector.action_space.seed(1)
        kept: list[Any] = [seen]
        for _ in range(9):
            action = vector.action_space.sample()
            seen, reward, terminated, truncated, info = vector.step(action)
            assert seen in vector.observation_space
            assert reward.shape == terminated.shape == truncated.shape == (5,)
            assert reward.dtype == np.float64
            assert terminated.dtype == truncated.dtype == np.bool_
            kept.append((seen, reward, terminated, truncated))
        return kept

    first, again, other = run(3), run(3), run(4)
    for a, b in zip(first[1:], again[1:], strict=True):
        for x, y in zip(a[1:], b[1:], strict=True):
            np.testing.assert_array_equal(x, y)
        for name in a[0]:
            np.testing.assert_array_equal(a[0][name], b[0][name])
    assert any(
        (a[0]["features"] != b[0]["features"]).any() for a, b in zip(first[1:], other[1:], strict=True)
    )
    # An observation handed out is not written to by a later step.
    assert not np.array_equal(first[1][0]["history"], first[2][0]["history"])


def test_same_step_autoreset_gives_the_last_and_the_first_observation() -> None:
    vector = FeedVectorEnv(3, horizon=2, churn=0.0, **SIZE)
    vector.reset(seed=0)
    slates = np.tile(np.arange(4), (3, 1))
    vector.step(slates)
    seen, _, terminated, truncated, info = vector.step(slates + 4)
    assert truncated.all()
    assert not terminated.any()
    assert info["_final_obs"].all()
    assert (seen["history"] == -1).all()  # the next user has seen nothing
    for row in range(3):
        last = info["final_obs"][row]
        assert last in vector.single_observation_space
        assert (last["history"][-8:] >= 0).all()  # the last user saw two slates
    assert len({tuple(f) for f in seen["features"].tolist()}) == 3


def test_a_row_of_the_batch_is_the_single_environment() -> None:
    """Without a shared market, row i of the vector is the single environment at its user i."""
    settings = SIZE | {"popularity_feedback": 0.0, "churn": 0.0}
    vector = FeedVectorEnv(4, **settings)
    vector.reset(seed=9)
    singles = []
    for row in range(4):
        env = FeedEnv(**settings)
        env.reset(seed=9)
        for _ in range(row):
            env.reset()
        singles.append(env)
    vector.action_space.seed(0)
    for _ in range(6):
        action = vector.action_space.sample()
        seen, reward, *_ = vector.step(action)
        for row, env in enumerate(singles):
            alone, one, *_ = env.step(action[row])
            assert one == reward[row]
            for name in alone:
                np.testing.assert_array_equal(alone[name], seen[name][row])


def test_gymnasiums_own_vectoriser_and_wrappers_take_the_faces() -> None:
    sync = SyncVectorEnv([lambda: FeedEnv(horizon=3, **SIZE) for _ in range(2)])
    sync.reset(seed=0)
    counted = gym.wrappers.vector.RecordEpisodeStatistics(FeedVectorEnv(4, horizon=3, churn=0.0, **SIZE))
    counted.reset(seed=0)
    for _ in range(2):
        sync.step(sync.action_space.sample())
        counted.step(counted.action_space.sample())
    *_, info = counted.step(counted.action_space.sample())
    assert info["episode"]["l"].tolist() == [3, 3, 3, 3]


def test_tensor_face_gives_the_same_numbers_as_the_numpy_face() -> None:
    plain, tensors = FeedVectorEnv(3, horizon=3, **SIZE), FeedVectorEnv(3, horizon=3, tensors=True, **SIZE)
    a, _ = plain.reset(seed=1)
    b, _ = tensors.reset(seed=1)
    plain.action_space.seed(5)
    for _ in range(7):
        np.testing.assert_array_equal(a["features"], b["features"].numpy())
        action = plain.action_space.sample()
        a, reward, *_ = plain.step(action)
        b, same, *_ = tensors.step(torch.as_tensor(action))
        assert isinstance(same, torch.Tensor)
        np.testing.assert_array_equal(reward, same.numpy())


def test_a_repeated_item_can_be_clicked_only_once() -> None:
    env = FeedEnv(**(SIZE | {"base": 20.0, "position_bias": 0.0, "slope": 0.0}))
    env.reset(seed=0)
    *_, info = env.step(np.array([7, 7, 3, 7]))
    assert info["click"].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("action", "words"), [([0, 1, 2, 30], "item 30"), ([0, -1, 2, 3], "item -1"), ([0, 1], "2 items")]
)
def test_actions_that_cannot_be_are_refused(action: list[int], words: str) -> None:
    env = FeedEnv(**SIZE)
    env.reset(seed=0)
    with pytest.raises(BadInput, match=words):
        env.step(np.array(action))


def test_a_step_before_reset_and_a_typo_are_refused() -> None:
    with pytest.raises(BadInput, match="reset"):
        FeedEnv(**SIZE).step(np.zeros(4, dtype=int))
    with pytest.raises(BadInput, match="did you mean boredom"):
        FeedEnv(bordom=1.0)


def test_stable_baselines3_takes_the_single_face() -> None:
    """Its own checker passes, and PPO runs on the Dict observation as it is."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env = FeedEnv(horizon=5, **SIZE)
    check_for_sb3(env)
    learner = PPO("MultiInputPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu")
    learner.learn(32)
    action, _ = learner.predict(env.reset(seed=1)[0], deterministic=True)
    assert env.action_space.contains(action)
