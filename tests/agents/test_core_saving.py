"""Learners on disk: the same predictions, no code in the file, and a killed run ends as if never killed."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents.actor_critic.a2c import SlateA2C
from agents.actor_critic.ppo import SlatePPO
from agents.actor_critic.reinforce import SlateReinforce
from agents.core.agent import SlateAgent
from agents.core.algorithm import KeepRun
from agents.core.rows import EnvRows
from agents.core.saving import filled, flat_tensors, space_json, space_of
from agents.value.dqn import SlateDQN
from agents.value.slateq import SlateQ
from envs.registry import ids, make_world
from envs.sb3 import WorldVecEnv, make_sb3
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed
from simlab.slates import Uniform
from simlab.training.store import read_tensors, write_tensors
from tests.agents.scripted import Scripted

SMALL: dict[str, Any] = {"items": 12, "slots": 2, "horizon": 4, "churn": 0.3}
ALGORITHMS: dict[str, Any] = {
    name: kind.algorithm for name, kind in all_parts("agent").items() if issubclass(kind, SlateAgent)
}
QUICK: dict[str, Any] = {
    "n_steps": 3, "batch_size": 8, "n_epochs": 2, "learning_starts": 16, "buffer_size": 100,
    "target_every": 3, "final_learning_rate": 1e-4,
}  # fmt: skip
HERE = {"ppo": SlatePPO, "a2c": SlateA2C, "reinforce": SlateReinforce, "slateq": SlateQ, "dqn": SlateDQN}


def env(n: int = 8, **more: Any) -> WorldVecEnv:
    return make_sb3("Feed-v0", n, **(SMALL | more))


def learner(kind: Any, where: Any = None, **more: Any) -> Any:
    """Return a small learner; settings that it does not have are left out."""
    quick = {k: v for k, v in QUICK.items() if k in inspect.signature(kind.__init__).parameters}
    return kind(env=env() if where is None else where, seed=3, device="cpu", **(quick | more))


@pytest.fixture(scope="module")
def trained() -> Callable[[str], Any]:
    """Return one trained learner of each name, made once."""
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in made:
            made[name] = learner(ALGORITHMS[name]).learn(48)
        return made[name]

    return of


def weights(model: Any) -> dict[str, Tensor]:
    found = {f"policy.{k}": v for k, v in model.policy.state_dict().items()}
    for name in model.optimizers:
        for number, kept in getattr(model.policy, name).state_dict()["state"].items():
            found |= {f"{name}.{number}.{k}": torch.as_tensor(v) for k, v in kept.items()}
    return found


def assert_same_weights(one: Any, other: Any) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert not [k for k in mine if not torch.equal(mine[k], theirs[k])]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_comes_back_the_same(name: str, trained: Callable[[str], Any], tmp_path: Path) -> None:
    """Predictions, propensities, weights, the optimiser, steps and settings."""
    model = trained(name)
    model.save(tmp_path / "model")
    back = type(model).load(tmp_path / "model.safetensors", device="cpu")
    seen = env(30).reset()
    assert (
        model.predict(seen, deterministic=True)[0].tolist()
        == back.predict(seen, deterministic=True)[0].tolist()
    )
    context = EnvRows(env(30), past=5).reset()
    one, two = (m.distribution(context, 2).slot_marginals() for m in (model, back))
    assert torch.equal(one, two)
    assert_same_weights(model, back)
    assert (back.num_timesteps, back._n_updates) == (model.num_timesteps, model._n_updates)
    for setting, attribute in model.kept.items():
        assert getattr(back, attribute) == getattr(model, attribute), setting
        assert type(getattr(back, attribute)) is type(getattr(model, attribute)), setting


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_in_the_file_is_code(name: str, trained: Callable[[str], Any], tmp_path: Path) -> None:
    """It is a safetensors file: eight bytes of length, a JSON header, and numbers."""
    trained(name).save(tmp_path / "model")
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]
    data = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    facts = json.loads(header.pop("__metadata__")["simlab"])
    assert facts["algorithm"] == type(trained(name)).__name__
    last = max(entry["data_offsets"][1] for entry in header.values())
    assert len(data) == 8 + size + last, "there is nothing behind the numbers"
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(header)


def test_settings_come_back_with_tuples_as_tuples(tmp_path: Path) -> None:
    model = learner(
        SlateQ,
        explore=(0.9, 0.1, 0.25),
        n_step=3,
        priority=0.5,
        options={"optimiser": "greedy", "null": False},
        policy_kwargs={"hidden": (16, 8), "spec": {"layers": (12, 6), "dim": 6}},
    )
    model.save(tmp_path / "q")
    back = SlateQ.load(tmp_path / "q", device="cpu")
    assert back.explore == (0.9, 0.1, 0.25)
    assert back.policy.hidden == (16, 8)
    assert back.policy.spec == {"layers": (12, 6), "dim": 6}
    assert back.policy.options == {"optimiser": "greedy", "null": False}
    assert (back.n_step, back.priority, back.replay_buffer.priority) == (3, 0.5, 0.5)
    back.save(tmp_path / "again")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "q.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["mf", "din", "dcn_v2", "lightgcn"])
def test_other_rankers_come_back_too(family: str, tmp_path: Path) -> None:
    """Some use what is known of the items: of that, only the shapes are in the settings."""
    model = learner(SlatePPO, policy_kwargs={"ranker": family}).learn(24)
    model.save(tmp_path / "model")
    back = SlatePPO.load(tmp_path / "model", device="cpu")
    context = EnvRows(env(6), past=5).reset()
    one, two = (m.distribution(context, 2).slot_marginals() for m in (model, back))
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", [SlateA2C, SlateDQN])
def test_learning_goes_on_after_loading(kind: Any, tmp_path: Path) -> None:
    model = learner(kind).learn(48)
    model.save(tmp_path / "model")
    back = kind.load(tmp_path / "model", env=env(), device="cpu", learning_rate=0.5, final_learning_rate=None)
    before = {k: v.clone() for k, v in weights(back).items()}
    back.learn(48, reset_num_timesteps=False)
    assert back.num_timesteps == 96
    assert back._n_updates > model._n_updates
    assert back.policy.optimizer.param_groups[0]["lr"] == 0.5
    assert any(not torch.equal(v, before[k]) for k, v in weights(back).items())


# What is refused --------------------------------------------------------------------------------


@pytest.fixture
def kept(trained: Callable[[str], Any], tmp_path: Path) -> Path:
    trained("ppo").save(tmp_path / "ppo")
    return tmp_path / "ppo.safetensors"


def test_another_algorithm_is_refused(kept: Path) -> None:
    with pytest.raises(BadInput, match=r"ppo\.safetensors is of a SlatePPO, not of a SlateA2C$"):
        SlateA2C.load(kept)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"items": 13}, "another observation space"),
        ({"slots": 3}, "another observation space"),
        ({"topics": 4}, "another observation space"),
    ],
)
def test_other_spaces_are_refused(kept: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        SlatePPO.load(kept, env=env(**more))


def test_other_actions_are_refused(kept: Path) -> None:
    other = env()
    other.action_space = make_sb3("Feed-v0", 2, **(SMALL | {"items": 13})).action_space
    with pytest.raises(BadInput, match="is of a world with another action space"):
        SlatePPO.load(kept, env=other)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_damaged_files_are_refused(kept: Path, cut: int) -> None:
    data = kept.read_bytes()
    kept.write_bytes(data[:cut])
    with pytest.raises(BadInput, match="is damaged or not a safetensors file"):
        SlatePPO.load(kept)


def test_foreign_files_are_refused(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no file .*nothing"):
        SlatePPO.load(tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"ends in \.zip, but weights are kept as \.safetensors"):
        SlatePPO.load(tmp_path / "model.zip")
    # A callback of stable-baselines3 asks for a .zip; what is written is none, and says so by its name.
    learner(SlatePPO).save(tmp_path / "model.zip")
    assert [f.name for f in tmp_path.glob("model*")] == ["model.safetensors"]
    with pytest.raises(BadInput, match=r"ends in \.pt,"):
        learner(SlatePPO).save(tmp_path / "model.pt")
    write_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"algorithm": "SlatePPO"})
    with pytest.raises(BadInput, match=r"other\.safetensors says nothing of its settings"):
        SlatePPO.load(tmp_path / "other")
    write_tensors(tmp_path / "third.safetensors", {"x": torch.zeros(1)}, {"ranker": "mf"})
    with pytest.raises(BadInput, match=r"third\.safetensors was not written by a learner"):
        SlatePPO.load(tmp_path / "third")


def test_a_schedule_cannot_be_kept(tmp_path: Path) -> None:
    model = learner(SlatePPO)
    model.base_learning_rate = lambda left: 0.01 * left
    with pytest.raises(BadInput, match="setting learning_rate is a function, which is no number or word"):
        model.save(tmp_path / "model")
    model = learner(SlatePPO, policy_kwargs={"optimizer_class": torch.optim.SGD})
    with pytest.raises(BadInput, match="setting optimizer_class is a type, which is no number or word"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_unknown_settings_are_refused_when_loading(kept: Path) -> None:
    with pytest.raises(BadInput, match="SlatePPO has no setting gama; did you mean gamma"):
        SlatePPO.load(kept, gama=0.9)


def test_another_network_is_refused(kept: Path) -> None:
    with pytest.raises(BadInput, match=r"is of another network: .* differs"):
        learner(SlatePPO, policy_kwargs={"hidden": (7,)})._restore(kept, *read_tensors(kept))
    with pytest.raises(BadInput, match=r"is of another network: .* differs"):
        learner(SlatePPO, policy_kwargs={"ranker": "mf"})._restore(kept, *read_tensors(kept))


def test_spaces_come_back_as_they_were() -> None:
    for name in ids():
        world = make_world(name, **ids()[name].small)
        for space in (WorldVecEnv(world).observation_space, WorldVecEnv(world).action_space):
            facts = json.loads(json.dumps(space_json(space)))
            assert space_of(facts) == space
    with pytest.raises(BadInput, match="the file describes a Tuple space, which is no space of slates"):
        space_of({"kind": "Tuple"})
    with pytest.raises(BadInput, match="the file does not describe a space"):
        space_of({"kind": "Box", "low": 0})


# Runs that go on --------------------------------------------------------------------------------


class Killed(Exception):
    pass


class Kill(BaseCallback):
    """Ends the process, so to speak, in the middle of a rollout."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.at:
            raise Killed
        return True


RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (SlatePPO, {}),
    "a2c": (SlateA2C, {}),
    "a2c shared": (SlateA2C, {"policy_kwargs": {"body": "shared"}, "n_steps": 5}),
    "reinforce": (SlateReinforce, {"credit": "top_k"}),
    "slateq": (SlateQ, {}),
    "slateq by priority": (SlateQ, {"priority": 0.6, "n_step": 3, "explore": (1.0, 0.0, 0.9)}),
    "dqn": (SlateDQN, {"options": {"dueling": True}, "train_freq": 2}),
    "dqn, ring full": (SlateDQN, {"buffer_size": 40}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_as_if_it_was_not(name: str, tmp_path: Path) -> None:
    """Bit by bit: weights, the optimiser's memory, and the users themselves."""
    kind, settings = RUNS[name]
    more: dict[str, Any] = {"candidates": 6, "drift": 0.1} if " " in name else {}
    total = 120
    whole = learner(kind, env(**more), **settings).learn(total)
    killed = learner(kind, env(**more), **settings)
    with pytest.raises(Killed):
        killed.learn(total, callback=[KeepRun(tmp_path / "run", every=2), Kill(110)])
    torch.manual_seed(12345)  # another process has other luck
    again = learner(kind, env(**more), **settings).resume(tmp_path / "run")
    assert 0 < again.num_timesteps < 110
    again.learn(total - again.num_timesteps, reset_num_timesteps=False)
    assert again.num_timesteps == whole.num_timesteps >= total
    assert_same_weights(whole, again)
    mine, theirs = (flat_tensors(m._rows.state) for m in (whole, again))
    assert not [k for k in mine if not torch.equal(mine[k], theirs[k])]


@pytest.mark.parametrize("name", ids())
def test_the_users_of_every_world_can_be_kept(name: str, tmp_path: Path) -> None:
    """A state goes to tensors and back into a fresh one, and then lives the same life."""
    world, seed = make_world(name, **ids()[name].small), Seed(5)
    luck = torch.Generator().manual_seed(1)
    state = world.reset(6, seed)

    def move(state: Any) -> Any:
        context = world.observe(state)
        columns = Uniform(context.mask, world.slots).sample(luck)
        after, response = world.step(state, context.slate(columns), seed)
        return world.renew(after, response.terminated | response.truncated, 6, seed)

    for _ in range(4):
        state = move(state)
    back = filled(world.reset(6, seed), {f"state{k}": v for k, v in flat_tensors(state).items()}, "state")
    assert plain(back) == plain(state)
    spot = luck.get_state()
    one = move(state)
    luck.set_state(spot)
    assert plain(move(back)) == plain(one)


def plain(value: Any) -> Any:
    """Return nested dataclasses as lists, to compare all that is in them, tensors or not."""
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), value.tolist()]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(x) for x in value]
    return value


def test_runs_of_another_kind_are_not_resumed(tmp_path: Path) -> None:
    model = learner(SlateA2C).learn(24)
    model.save_run(tmp_path / "run")
    with pytest.raises(BadInput, match="is of a SlateA2C, not of a SlatePPO"):
        learner(SlatePPO).resume(tmp_path / "run")
    with pytest.raises(BadInput, match=r"is of a run in simlab/Feed-v0 with other settings"):
        learner(SlateA2C, env(drift=0.2)).resume(tmp_path / "run")
    with pytest.raises(BadInput, match=r"is of a run in simlab/Feed-v0, not in this simlab/Drift-v0"):
        learner(SlateA2C, make_sb3("Drift-v0", 8, **SMALL)).resume(tmp_path / "run")
    with pytest.raises(BadInput, match="is of a world with other spaces"):
        learner(SlateA2C, env(items=13)).resume(tmp_path / "run")
    with pytest.raises(BadInput, match="is of a run of 8 users at a time, not of 4"):
        learner(SlateA2C, env(4)).resume(tmp_path / "run")
    with pytest.raises(BadInput, match=r"is of another network: .* differs"):
        learner(SlateA2C, policy_kwargs={"ranker": "mf"}).resume(tmp_path / "run")
    model.save(tmp_path / "weights")
    with pytest.raises(BadInput, match="holds weights alone, and no run: use load"):
        learner(SlateA2C).resume(tmp_path / "weights")
    with pytest.raises(BadInput, match="only a world's own batch"):
        learner(SlateA2C, Scripted("...", "...")).save_run(tmp_path / "script")
    with pytest.raises(BadInput, match="every is at least 1 rollout, not 0"):
        KeepRun(tmp_path / "run", every=0)


def test_a_run_that_was_kept_before_it_began_looks_at_the_history(tmp_path: Path) -> None:
    """Keeping a run must not decide how much of the history the networks see."""
    one, other = learner(SlateA2C), learner(SlateA2C)
    one.save_run(tmp_path / "run")
    assert_same_weights(one.learn(48), other.learn(48))
