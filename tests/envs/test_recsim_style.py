"""Agents and loops written for RecSim run in every world."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from envs.recsim_style import RecSimStyle, make_recsim_style
from envs.registry import ids, make_world
from simlab.errors import BadInput
from simlab.seeds import Seed

SIZE: dict[str, Any] = {"items": 20, "slots": 3, "topics": 4, "horizon": 5, "churn": 0.0}
EVERY = pytest.mark.parametrize("name", ids())


class RandomAgent:
    """RecSim's RandomAgent, without its logging: K of the documents, in random order."""

    def __init__(self, action_space: Any, random_seed: int = 0) -> None:
        self._slate_size = action_space.nvec.shape[0]
        self._rng = np.random.RandomState(random_seed)
        self.ended: list[float] = []

    def begin_episode(self, observation: Any = None) -> Any:
        return self.step(0, observation)

    def step(self, reward: float | int, observation: Any) -> Any:
        doc_ids = list(range(len(observation["doc"])))
        self._rng.shuffle(doc_ids)
        return doc_ids[: self._slate_size]

    def end_episode(self, reward: float | int, observation: Any = None) -> None:
        self.ended.append(reward)


class ClickedAgent(RandomAgent):
    """An agent that reads what RecSim's agents read: documents by id, and responses by slot."""

    def __init__(self, action_space: Any, random_seed: int = 0) -> None:
        super().__init__(action_space, random_seed)
        self.clicks: dict[str, int] = {}
        self._shown: list[str] = []

    def step(self, reward: float | int, observation: Any) -> Any:
        if observation["response"] is not None:
            for doc_id, response in zip(self._shown, observation["response"], strict=True):
                self.clicks[doc_id] = self.clicks.get(doc_id, 0) + response["click"]
        slate = super().step(reward, observation)
        self._shown = [list(observation["doc"])[place] for place in slate]
        return slate


def run_one_episode(env: Any, agent: Any, max_steps: int = 1000) -> tuple[int, float]:
    """RecSim's Runner._run_one_episode (recsim/simulator/runner_lib.py), without its logs."""
    step_number, total_reward = 0, 0.0
    observation = env.reset()
    action = agent.begin_episode(observation)
    while True:
        observation, reward, done, info = env.step(action)
        env.update_metrics(observation["response"], info)
        total_reward += reward
        step_number += 1
        if done or step_number == max_steps:
            break
        action = agent.step(reward, observation)
    agent.end_episode(reward, observation)
    return step_number, total_reward


@EVERY
def test_a_loop_of_recsim_runs_to_the_end_of_episodes(name: str) -> None:
    env = make_recsim_style(name, seed=1, **ids()[name].small)
    agent = ClickedAgent(env.action_space)
    played = run_one_episode(env, agent)
    assert len(agent.ended) == 1
    assert 1 <= played[0] <= env.world.horizon
    assert {int(doc_id) for doc_id in agent.clicks} <= set(range(env.world.catalog.n_items))
    env.reset_sampler()
    again = ClickedAgent(env.action_space)
    assert run_one_episode(env, again) == played
    assert again.clicks == agent.clicks


@EVERY
def test_it_is_the_world_itself(name: str) -> None:
    """Places in `doc` are the items shown; rewards, clicks and features are those of a step of the world."""
    settings = ids()[name].small
    env, world, seed = make_recsim_style(name, seed=5, **settings), make_world(name, **settings), Seed(5)
    seen, state = env.reset(), world.reset(1, seed)
    rng = np.random.default_rng(0)
    assert seen["response"] is None
    for _ in range(world.horizon):
        context = world.observe(state)
        there = context.candidates[0][context.mask[0]].tolist()
        assert isinstance(seen["doc"], OrderedDict)
        assert list(seen["doc"]) == [str(item) for item in there]
        for item, known in seen["doc"].items():
            np.testing.assert_array_equal(known, world.catalog.features[int(item)].numpy())
        np.testing.assert_array_equal(seen["user"], context.features[0].numpy())
        places = rng.permutation(len(there))[: world.slots]
        state, response = world.step(state, torch.tensor([[there[p] for p in places]]), seed)
        seen, reward, done, info = env.step(places)
        assert reward == float(response.reward)
        assert seen["response"] == tuple({"click": int(c)} for c in response.click[0])
        assert done == bool(response.terminated | response.truncated)
        assert info["truncated"] == bool(response.truncated)
        if done:
            break
    assert done


def test_an_observation_lies_in_its_space() -> None:
    env = make_recsim_style("Feed-v0", **SIZE)
    env.reset()
    seen, *_ = env.step([3, 1, 2])
    space = env.observation_space
    assert space["user"].contains(seen["user"])
    assert len(space["doc"]) == 20  # type: ignore[arg-type]
    for document, known in zip(space["doc"].values(), seen["doc"].values(), strict=True):  # type: ignore[attr-defined]
        assert document.contains(known)
    assert space["response"].contains(seen["response"])
    assert env.action_space.nvec.tolist() == [20] * 3  # type: ignore[union-attr]


def test_a_short_slate_leaves_slots_empty() -> None:
    env = make_recsim_style("Feed-v0", **SIZE)
    env.reset()
    seen, reward, *_ = env.step([4, 2])
    assert len(seen["response"]) == 2
    assert reward == sum(response["click"] for response in seen["response"])
    seen, reward, *_ = env.step([])
    assert seen["response"] == ()
    assert reward == 0


def test_what_may_not_be_shown_is_no_document() -> None:
    env = make_recsim_style("Feed-v0", **(SIZE | {"unborn": 0.5}))
    seen = env.reset()
    assert len(seen["doc"]) == 10
    with pytest.raises(BadInput, match=r"slot 0: place 10 is outside 0..9"):
        env.step([10, 0, 1])


@pytest.mark.parametrize(
    ("slate", "words"),
    [
        ([0, 1, 20], r"slot 2: place 20 is outside 0..19"),
        ([-1, 1, 2], "slot 0: place -1 is outside"),
        ([0, 1, 1], "slot 2: place 1 stands higher up already"),
        ([0, 1, 2, 3], "4 places, but at most 3"),
        ([0.5, 1.0, 2.0], "whole numbers"),
    ],
)
def test_slates_that_cannot_be_are_refused(slate: list[Any], words: str) -> None:
    env = make_recsim_style("Feed-v0", **SIZE)
    env.reset()
    with pytest.raises(BadInput, match=words):
        env.step(slate)


def test_a_step_before_reset_and_after_the_end_is_refused() -> None:
    env = make_recsim_style("Feed-v0", **SIZE)
    with pytest.raises(BadInput, match="call reset"):
        env.step([0, 1, 2])
    run_one_episode(env, RandomAgent(env.action_space))
    with pytest.raises(BadInput, match="call reset"):
        env.step([0, 1, 2])


def test_a_seed_fixes_a_run() -> None:
    def run(env: RecSimStyle) -> list[Any]:
        return [run_one_episode(env, RandomAgent(env.action_space)) for _ in range(5)]

    env = make_recsim_style("Feed-v0", seed=3, **SIZE)
    first = run(env)
    env.seed(3)
    assert run(env) == first
    env.seed(4)
    assert run(env) != first
