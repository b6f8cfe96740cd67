"""What agents refuse: one sentence that names what is wrong and what is allowed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from agents.actor_critic.a2c import A2CAgent, SlateA2C
from agents.actor_critic.ppo import PPOAgent, SlatePPO
from agents.actor_critic.reinforce import ReinforceAgent
from agents.core.agent import SlateAgent
from agents.core.policy import SlateActorCriticPolicy
from agents.core.rows import EnvRows, context_of, n_items_of, slots_of
from agents.value.dqn import DQNAgent, SlateDQN
from agents.value.slateq import SlateQ, SlateQAgent
from envs.sb3 import WorldVecEnv, make_sb3
from envs.users.feed import Feed, FeedSpec
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed
from tests.agents.scripted import Scripted

WORLD = Feed(FeedSpec(items=12, slots=2, horizon=4))
AGENTS: dict[str, Any] = {k: v for k, v in all_parts("agent").items() if issubclass(v, SlateAgent)}
LEARNERS: dict[str, Any] = {k: v.algorithm for k, v in AGENTS.items()}
HERE: dict[str, Any] = {"ppo": SlatePPO, "a2c": SlateA2C, "slateq": SlateQ, "dqn": SlateDQN}


def refused(words: str, act: Callable[[], Any]) -> None:
    """Hold that it is refused, in one sentence without a line break."""
    with pytest.raises(BadInput) as found:
        act()
    said = str(found.value)
    assert re.search(words, said), said
    assert "\n" not in said
    assert not said.endswith(".")


# Spaces -----------------------------------------------------------------------------------------


def test_spaces_that_are_not_of_slates() -> None:
    see = make_sb3("Feed-v0", 1).observation_space
    pick = spaces.MultiDiscrete([5, 5])
    refused(r"action space is a Box, but a slate is MultiDiscrete", lambda: slots_of(spaces.Box(0, 1)))
    refused(
        r"action space is a MultiDiscrete, but a slate is MultiDiscrete\(\[C\]",
        lambda: slots_of(spaces.MultiDiscrete(np.full((2, 2), 3))),
    )
    refused(
        r"slots of a slate choose from \[4, 5\] columns each", lambda: slots_of(spaces.MultiDiscrete([4, 5]))
    )
    refused(r"there are 2 candidates for a slate of 3 slots", lambda: slots_of(spaces.MultiDiscrete([2] * 3)))
    refused(r"observation space is a Box, but here it is a Dict", lambda: n_items_of(spaces.Box(0, 1), pick))
    refused(
        r"observation space is a Dict, but here it is a Dict with features, history",
        lambda: n_items_of(spaces.Dict({"x": spaces.Box(0, 1)}), pick),
    )
    assert n_items_of(see, pick) == 5
    assert slots_of(spaces.Discrete(4)) == 1


class FewCandidates(Scripted):
    def __init__(self) -> None:
        super().__init__("...", "...", items=5, slots=2)
        self.action_space = spaces.MultiDiscrete([3] * 4)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_refuses_them(name: str) -> None:
    refused(
        "there are 3 candidates for a slate of 4 slots", lambda: LEARNERS[name](env=FewCandidates(), seed=1)
    )


def test_the_stock_learner_refuses_them() -> None:
    refused("3 candidates for a slate of 4 slots", lambda: PPO(SlateActorCriticPolicy, FewCandidates()))


@pytest.mark.parametrize("kind", HERE.values())
def test_ids_that_were_normalised(kind: Any) -> None:
    """`VecNormalize` makes floats of all keys; ids are lost in them."""
    env = VecNormalize(WorldVecEnv(WORLD, 2))
    env.seed(1)
    model = kind(env=env, seed=1, device="cpu")
    refused(r"row \d, history, place \d: .* is no item: .*; if VecNormalize", lambda: model.learn(60))


# What is seen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("when", [0, 4])
def test_all_candidates_masked(name: str, when: int) -> None:
    """At once, or in the middle of a roll-out: row 1 has nothing to show."""

    def mask(t: int) -> Any:
        return np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1] if t < when else [0, 0, 0, 0, 0]])

    class Masked(Scripted):
        def _see(self) -> dict[str, Any]:
            seen = super()._see()
            seen["mask"] = mask(self.t).astype(np.int8)
            return seen

    env = Masked("......", "......", mask=lambda t: [1] * 5)
    model = LEARNERS[name](env=env, seed=1, device="cpu")
    refused("row 1 has 0 candidates, but the slate has 2 slots", lambda: model.learn(40))


@pytest.mark.parametrize("name", HERE)
def test_fewer_candidates_than_slots_left(name: str) -> None:
    env = Scripted("......", "......", mask=lambda t: [1, 0, 0, 0, 0])
    model = HERE[name](env=env, seed=1, device="cpu")
    refused("row 0 has 1 candidates, but the slate has 2 slots", lambda: model.learn(40))
    seen = env.reset()
    refused(
        "row 0 has 1 candidates, but the slate has 2 slots", lambda: model.predict(seen, deterministic=True)
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_an_item_out_of_the_catalogue(name: str) -> None:
    def strange(t: int, seen: dict[str, Any]) -> None:
        if t == 3:
            seen["history"][1, 0] = 77

    model = LEARNERS[name](env=Scripted("......", "......", change=strange), seed=1, device="cpu")
    refused(
        r"row 1, history, place 0: 77 is no item: they run from 0 to 4 \(-1 pads\)", lambda: model.learn(40)
    )


def test_observations_by_hand() -> None:
    one = torch.zeros(2, 3)
    refused(
        "an observation has the keys a, b, and none of features", lambda: context_of({"a": one, "b": one}, 4)
    )
    refused(
        r"row 0, candidates, place 0: -1 is no item: they run from 0 to 3$",
        lambda: context_of({"candidates": one - 1}, 4),
    )
    refused(r"row 1, history, place 2: 4 is no item", lambda: context_of({"history": _at(one, 4)}, 4))
    refused(r"row 1, history, place 2: nan is no item", lambda: context_of({"history": _at(one, "nan")}, 4))
    assert context_of({"history": one - 1, "candidates": one}, 4).history.tolist() == [[-1] * 3] * 2


def _at(one: torch.Tensor, value: Any) -> torch.Tensor:
    found = one.clone()
    found[1, 2] = float(value)
    return found


def test_predictions_for_another_world() -> None:
    model = SlateA2C(env=WorldVecEnv(WORLD, 2), seed=1, device="cpu")
    seen = make_sb3("Feed-v0", 2, items=40, slots=2, horizon=4).reset()
    seen["history"][0, 0] = 30
    refused("30 is no item: they run from 0 to 11", lambda: model.predict(_only(seen), deterministic=True))


def _only(seen: dict[str, Any]) -> dict[str, Any]:
    return seen | {"popularity": seen["popularity"][:, :12]}


def test_a_catalogue_that_is_too_small() -> None:
    few = Catalog.bare(7)
    for kind in HERE.values():
        refused(
            "the catalogue has 7 items, but the spaces speak of 12",
            lambda kind=kind: kind(env=WorldVecEnv(WORLD, 2), seed=1, policy_kwargs={"catalog": few}),  # type: ignore[misc]
        )


# Settings ---------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any]]] = [
    (r"has no setting rankr; did you mean ranker\?", {"policy_kwargs": {"rankr": "mf"}}),
    (r"no ranker.* two_towr.*did you mean two_tower", {"policy_kwargs": {"ranker": "two_towr"}}),
    (r"dimm.*did you mean dim", {"policy_kwargs": {"spec": {"dimm": 8}}}),
    (r"ranker popularity has nothing to train", {"policy_kwargs": {"ranker": "popularity"}}),
]


@pytest.mark.parametrize("kind", HERE.values())
@pytest.mark.parametrize(("words", "settings"), BAD)
def test_bad_settings_of_networks(kind: Any, words: str, settings: dict[str, Any]) -> None:
    refused(words, lambda: kind(env=WorldVecEnv(WORLD, 2), seed=1, **settings))


@pytest.mark.parametrize(
    ("kind", "words", "settings"),
    [
        (
            SlatePPO,
            r"body is own, shared, detached, not shard; did you mean shared\?",
            {"policy_kwargs": {"body": "shard"}},
        ),
        (
            SlateQ,
            r"SlateQPolicy has no option optimizer; did you mean optimiser\?",
            {"options": {"optimizer": "exact"}},
        ),
        (
            SlateQ,
            r"clicks is one or many, not mny; did you mean many\?",
            {"options": {"clicks": "mny"}},
        ),
        (SlateDQN, r"DQNPolicy has no option dueling_; did you mean dueling", {"options": {"dueling_": 1}}),
        (SlateDQN, r"first ε, a last ε and a share, each in .*, not \(1\.0, 0\.1\)", {"explore": (1.0, 0.1)}),
        (SlateDQN, r"each in \[0, 1\], not \(1\.5, 0\.1, 0\.5\)", {"explore": (1.5, 0.1, 0.5)}),
        (SlateDQN, r"each in \[0, 1\], not \(nan, 0\.1, 0\.5\)", {"explore": (float("nan"), 0.1, 0.5)}),
        (SlateDQN, r"n_step is at least 1, not 0", {"n_step": 0}),
        (SlateDQN, r"gradient_steps is at least 1, not -1", {"gradient_steps": -1}),
        (SlateDQN, r"train_freq is at least 1, not 0", {"train_freq": 0}),
        (SlateDQN, r"a replay buffer holds at least 1 user-step, not 0", {"buffer_size": 0}),
    ],
)  # fmt: skip
def test_bad_settings_of_learners(kind: Any, words: str, settings: dict[str, Any]) -> None:
    refused(words, lambda: kind(env=WorldVecEnv(WORLD, 2), seed=1, **settings))


# Agents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_agents_know_their_settings(name: str) -> None:
    kind = AGENTS[name]
    refused(rf"agent {name} has no setting gama; did you mean gamma\?", lambda: kind(gama=0.9))
    refused(rf"agent {name} has no setting nmu_envs; did you mean num_envs\?", lambda: kind(nmu_envs=3))
    refused(rf"agent {name} has no setting seed", lambda: kind(seed=3))
    refused("num_envs is at least 1, not 0", lambda: kind(num_envs=0))
    refused(f"agent {name} has not learned yet", lambda: kind().save(Path("nowhere")))
    for users, steps in ((0, 4), (4, 0)):
        refused(
            f"at least one user and one step, not {users} and {steps}",
            lambda u=users, s=steps: kind().learn(WORLD, u, s, Seed(1)),  # type: ignore[misc]
        )


def test_agents_of_another_kind(tmp_path: Path) -> None:
    agent = A2CAgent(num_envs=4).learn(WORLD, 4, 5, Seed(1))
    agent.save(tmp_path / "one")
    for kind in (PPOAgent, ReinforceAgent, SlateQAgent, DQNAgent):
        refused(
            rf"agent\.json is not of an agent named {kind.name}",
            lambda kind=kind: kind.load(tmp_path / "one"),  # type: ignore[misc]
        )
    facts = (tmp_path / "one" / "agent.json").read_text().replace('"a2c"', '"ppo"')
    (tmp_path / "one" / "agent.json").write_text(facts)
    refused("is of a SlateA2C, not of a SlatePPO", lambda: PPOAgent.load(tmp_path / "one"))
    (tmp_path / "one" / "agent.json").write_text("{")
    refused("is damaged or not JSON", lambda: A2CAgent.load(tmp_path / "one"))
    refused("there is no file", lambda: A2CAgent.load(tmp_path / "two"))


def test_an_agent_in_another_world() -> None:
    """Other features than it learned from, or other items."""
    for kind in (A2CAgent, DQNAgent):
        agent = kind(num_envs=4).learn(WORLD, 4, 5, Seed(1))
        more = EnvRows(make_sb3("Feed-v0", 3, items=30, slots=2), past=5).reset()
        refused(
            "row 0, candidates, place 12: 12 is no item: they run from 0 to 11",
            lambda: agent.distribution(more, 2),  # noqa: B023
        )
        other = EnvRows(make_sb3("Feed-v0", 3, items=12, slots=2, topics=4), past=5).reset()
        refused(
            "7 features are known of each user here, but this was learned from 19",
            lambda: agent.distribution(other, 2),  # noqa: B023
        )


def test_no_users_at_a_time() -> None:
    refused("num_envs is 0, but it is a whole number of at least 1", lambda: WorldVecEnv(WORLD, 0))


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("n_epochs", -1)])
def test_passes_without_rows(name: str, value: int) -> None:
    settings: dict[str, Any] = {name: value}
    refused(
        f"{name} is {value}, but it takes at least 1",
        lambda: SlatePPO(env=make_sb3("Feed-v0", 1), **settings),
    )
