"""Users as rows: the way without copies, the way through arrays, and a script say the same."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from torch import Tensor

from agents.actor_critic.a2c import SlateA2C
from agents.core.rows import EnvRows, Step, WorldRows, lean, rows_of, stacked, world_of
from envs.faces import WorldEnv
from envs.registry import make_world
from envs.sb3 import WorldVecEnv
from envs.spaces import columns_of
from envs.world import SlateWorld
from simlab.context import Context
from simlab.seeds import Seed
from simlab.slates import Uniform
from tests.agents.scripted import Scripted

SEEN = ("features", "history", "feedback", "candidates", "mask")
WORLDS: dict[str, dict[str, Any]] = {
    "Feed-v0": {"churn": 0.4, "comeback": 0.3},
    "Return-v0": {"budget": 2.0, "remember": 3},
    "ColdStart-v0": {"lifetime": 4.0},  # a mask
    "Drift-v0": {"candidates": 6},
    "InterestEvolution-v0": {},
}


def world_named(name: str) -> SlateWorld[Any]:
    small = {"horizon": 5} | ({"items": 14, "slots": 3} if name != "InterestEvolution-v0" else {})
    return make_world(name, **(small | WORLDS[name]))


def assert_same(one: Context, other: Context) -> None:
    for name in SEEN:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, msg=name)


def drawn(context: Context, slots: int, luck: torch.Generator) -> Tensor:
    return Uniform(context.mask, slots).sample(luck)


@pytest.mark.parametrize("name", WORLDS)
def test_tensors_and_arrays_say_the_same(name: str) -> None:
    """The same world, seed and slates: bit by bit the same, over ends, renewals and markets that change."""
    world = world_named(name)
    env = WorldVecEnv(world, 7)
    env.seed(3)
    arrays = EnvRows(env, past=6)
    first = arrays.reset()
    assert env.batch._seed is not None
    tensors = WorldRows(world, 7, env.batch._seed, past=6)
    assert_same(tensors.reset(), first)
    context, luck, ends = first, torch.Generator().manual_seed(1), torch.zeros(2)
    for _ in range(12):
        columns = drawn(context, world.slots, luck)
        one, other = tensors.step(columns), arrays.step(columns)
        for what in ("reward", "click", "terminated", "truncated", "done", "earned"):
            torch.testing.assert_close(getattr(one, what), getattr(other, what), rtol=0, atol=0, msg=what)
        assert_same(one.context, other.context)
        assert_same(one.last, other.last)
        assert (one.last is one.context) == (not bool(one.done.any()))
        ends += torch.stack([one.terminated.sum(), one.truncated.sum()])
        context = one.context
    assert bool(ends[1] > 0) or name == "Return-v0"
    assert bool(ends[0] > 0) or name not in ("Feed-v0", "Return-v0")


def test_what_the_rows_test_needs_is_there() -> None:
    """Drawn candidates are fewer than the items, and come and going items make a mask with gaps."""
    few = WorldRows(world_named("Drift-v0"), 4, Seed(1), 6).reset()
    assert few.candidates.shape == (4, 6)
    assert columns_of(world_named("Drift-v0")) == 6
    some = WorldRows(world_named("ColdStart-v0"), 4, Seed(1), 6).reset()
    assert 3 <= int(some.mask[0].sum()) < 14


def test_a_step_is_that_of_a_hand_stepped_world() -> None:
    world, seed = world_named("Feed-v0"), Seed(8)
    rows = WorldRows(world, 5, seed, past=3)
    state = world.reset(5, seed)
    context, luck = rows.reset(), torch.Generator().manual_seed(2)
    for _ in range(10):
        assert_same(context, lean(world.observe(state), 3))
        columns = drawn(context, 3, luck)
        state, response = world.step(state, columns, seed)
        step = rows.step(columns)
        assert_same(step.last, lean(world.observe(state), 3))
        state = world.renew(state, response.terminated | response.truncated, 5, seed)
        assert torch.equal(step.reward, response.reward)
        context = step.context


def test_rows_of_single_users() -> None:
    """`DummyVecEnv` of one-user environments: what each of them says when it is stepped by hand."""
    world = world_named("Feed-v0")
    rows = EnvRows(DummyVecEnv([lambda: WorldEnv(world) for _ in range(3)]), past=3)
    rows.env.seed(5)
    hand = [WorldEnv(world) for _ in range(3)]
    now = [one.reset(seed=5 + i)[0] for i, one in enumerate(hand)]
    context, luck = rows.reset(), torch.Generator().manual_seed(1)
    for _ in range(12):
        assert_same(context, lean(read(world, now), 3))
        columns = drawn(context, 3, luck)
        found = [one.step(c) for one, c in zip(hand, columns.numpy(), strict=True)]
        step = rows.step(columns)
        assert_same(step.last, lean(read(world, [f[0] for f in found]), 3))
        assert step.reward.tolist() == pytest.approx([f[1] for f in found])
        assert step.terminated.tolist() == [f[2] for f in found]
        assert step.truncated.tolist() == [f[3] for f in found]
        assert step.click.tolist() == [f[4]["click"].tolist() for f in found]
        now = [one.reset()[0] if f[2] or f[3] else f[0] for one, f in zip(hand, found, strict=True)]
        context = step.context


def read(world: SlateWorld[Any], seen: list[dict[str, Any]]) -> Context:
    one = {k: torch.as_tensor(np.stack([s[k] for s in seen])) for k in ("features", "history", "feedback")}
    return Context.of(torch.zeros(len(seen), dtype=torch.long), world.catalog.n_items, **one)


def test_a_script_is_read_as_it_stands() -> None:
    """Ends of both kinds, what was last seen, and the next user's first look."""
    env = Scripted("..T", ".L", reward=lambda t: [t, -t], click=lambda t: [[1, 0], [t % 2, 1]])
    rows = EnvRows(env, past=2)
    assert rows.reset().features.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    step = rows.step(torch.tensor([[1, 2], [3, 4]]))
    assert step.context.history.tolist() == [[1, 2], [3, 4]]
    assert step.click.tolist() == [[1, 0], [0, 1]]
    step = rows.step(torch.tensor([[0, 4], [2, 1]]))
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([False, False], [False, True])
    assert step.last.features.tolist() == [[0, 0, 2, 2], [1, 0, 2, 2]]
    assert step.context.features.tolist() == [[0, 0, 2, 2], [1, 1, 0, 2]]
    assert step.last.history.tolist() == [[0, 4], [2, 1]]
    assert step.context.history.tolist() == [[0, 4], [-1, -1]]
    assert step.click.tolist() == [[1, 0], [1, 1]], "clicks of the user who left"
    assert step.reward.tolist() == [1, -1]
    step = rows.step(torch.tensor([[0, 4], [2, 1]]))
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([True, False], [False, False])


def test_flat_actions_are_one_number_a_row() -> None:
    env = Scripted("...", "...", slots=0)
    EnvRows(env, past=1).step(torch.tensor([[3], [1]]))
    assert env.shown[-1].tolist() == [[3], [1]]


def test_what_slots_earn_is_the_reward() -> None:
    """Wherever something was clicked, the slots' shares add up to the reward; elsewhere they are zero."""
    luck = torch.Generator().manual_seed(4)
    click = (torch.rand(500, 4, generator=luck) < 0.3).float()
    reward = 5 * torch.randn(500, generator=luck)
    nobody = torch.zeros(500, dtype=torch.bool)
    context = Context.of(torch.zeros(500, dtype=torch.long), 6)
    earned = Step(context, context, reward, click, nobody, nobody).earned
    some = click.any(1)
    torch.testing.assert_close(earned.sum(1)[some], reward[some])
    assert not bool(earned[~some].any())
    assert not bool(earned[click == 0].any())
    pair = click.sum(1) == 2
    torch.testing.assert_close(earned[pair].max(1).values.abs() + earned[pair].min(1).values.abs(),
                               (reward[pair] / 2).abs())  # fmt: skip


def test_wrapped_environments_go_through_arrays() -> None:
    """`VecNormalize` changes rewards, and they are what is learned from; the world stays known."""
    world = world_named("Feed-v0")
    plain = rows_of(WorldVecEnv(world, 4), Seed(1), 3, "cpu")
    assert isinstance(plain, WorldRows)
    assert isinstance(rows_of(WorldVecEnv(world, 4), Seed(1), 3, "cpu", tensors=False), EnvRows)
    with pytest.warns(UserWarning, match="already wrapped"):
        wrapped = VecNormalize(VecMonitor(WorldVecEnv(world, 4)), norm_obs=False)
    rows = rows_of(wrapped, Seed(1), 3, "cpu")
    assert isinstance(rows, EnvRows)
    assert world_of(wrapped) is world
    assert world_of(None) is None
    wrapped.seed(1)
    rows.reset()
    changed = False
    for _ in range(4):
        step = rows.step(torch.tensor([[0, 1, 2]] * 4))
        raw = torch.as_tensor(wrapped.get_original_reward())
        scale = float(np.sqrt(wrapped.ret_rms.var + wrapped.epsilon))
        torch.testing.assert_close(step.reward, raw / scale)
        changed = changed or not torch.equal(step.reward, raw)
    assert changed
    model = SlateA2C(env=wrapped, n_steps=3, seed=1, device="cpu").learn(24)
    assert isinstance(model._rows, EnvRows)
    assert model._n_updates == 2


def test_learning_again_begins_with_the_users_that_are_there() -> None:
    """`learn` resets an environment; what was seen of the users before that is not acted on."""
    env = Scripted("....", "....")
    model = SlateA2C(env=env, n_steps=3, seed=1, device="cpu").learn(6)
    model.learn(6)
    assert model.rollout is not None
    assert model.rollout.context.features[:, 3].tolist() == [0, 0, 1, 1, 2, 2]
    model.learn(6, reset_num_timesteps=False)
    assert model.rollout.context.features[:, 3].tolist() == [3, 3, 4, 4, 5, 5]


def test_another_environment_is_learned_from_once_it_is_set() -> None:
    one, other = (
        Scripted("....", "....", reward=lambda t: 1.0),
        Scripted("....", "....", reward=lambda t: 7.0),
    )
    model = SlateA2C(env=one, n_steps=3, seed=1, device="cpu").learn(6)
    model.set_env(other)
    model.learn(6)
    assert len(other.shown) == 3
    assert len(one.shown) == 3


def test_stacked_contexts_are_below_one_another() -> None:
    """What all rows share stays one row of memory; what differs by step is kept."""
    for name in ("Feed-v0", "Drift-v0", "ColdStart-v0"):
        rows, luck = WorldRows(world_named(name), 4, Seed(3), past=3), torch.Generator().manual_seed(1)
        seen = [rows.reset()]
        for _ in range(3):
            seen.append(rows.step(drawn(seen[-1], 3, luck)).context)
        whole = stacked(seen)
        assert len(whole) == 16
        for field in fields(Context):
            parts = [getattr(c, field.name) for c in seen]
            if parts[0] is not None:
                assert torch.equal(getattr(whole, field.name), torch.cat(parts)), (name, field.name)
        assert (whole.candidates.stride(0) == 0) == (name != "Drift-v0")


def test_the_history_is_the_newest_part() -> None:
    context = Context.of(
        torch.zeros(1, dtype=torch.long), 9, history=torch.tensor([[3, 4, 5]]), popularity=torch.ones(1, 9)
    )
    assert lean(context, 2).history.tolist() == [[4, 5]]
    assert lean(context, 0).history.shape == (1, 0)
    assert lean(context, 5).history.tolist() == [[3, 4, 5]]
    assert lean(context, 5).popularity is None
