"""Stock learners of stable-baselines3 and sb3-contrib train in our worlds; ours agree with them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger

import agents.core.choice
import agents.core.inner
import agents.core.on_policy
from agents.actor_critic.ppo import SlatePPO
from agents.core.policy import SlateActorCriticPolicy
from agents.core.rows import EnvRows
from agents.maths.plackett_luce import draw_slates, gumbel_top_k
from envs.sb3 import make_sb3

SIZE: dict[str, Any] = {"items": 12, "slots": 3, "topics": 3, "horizon": 6}
SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}
FEW = ["features", "history", "feedback"]
SO_FAR = ["features", "slot", "slate_features"]


def contrib(name: str = "") -> Any:
    return pytest.importorskip(
        f"sb3_contrib{name}", reason="there is no sb3-contrib: pip install sb3-contrib"
    )


def evaluate_with_masks(*args: Any, **kwargs: Any) -> Any:
    return contrib(".common.maskable.evaluation").evaluate_policy(*args, **kwargs)


def easy(n: int = 16, **more: Any) -> Any:
    """A world where nothing but the user's taste matters: a random slate earns 4.2, a good one over 7."""
    return make_sb3("Static-v0", n, **(SIZE | more))


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.policy.parameters()])


def slates(env: Any) -> dict[str, Any]:
    return {"catalog": env.batch.world.catalog}


# Every stock learner -----------------------------------------------------------------------------------


def stock(kind: type[Any], env: Any, **more: Any) -> Any:
    return kind("MultiInputPolicy", env, policy_kwargs={"net_arch": [16]}, **SMALL, **more)


def sac(view: str) -> Any:
    return stock(SAC, easy(view=view, keys=FEW), learning_starts=64, buffer_size=400, batch_size=32)


def masked_ppo() -> Any:
    env = easy(view="slots", keys=SO_FAR)
    return stock(contrib().MaskablePPO, env, n_steps=12, batch_size=96, n_epochs=2, gamma=0.9 ** (1 / 3))


def recurrent_ppo() -> Any:
    kwargs = {"net_arch": [16], "lstm_hidden_size": 8}
    settings = SMALL | {"n_steps": 8, "batch_size": 64, "n_epochs": 1, "policy_kwargs": kwargs}
    return contrib().RecurrentPPO("MultiInputLstmPolicy", easy(keys=FEW), **settings)


def slate_policy(kind: type[Any], **more: Any) -> Any:
    env = easy()
    return kind(SlateActorCriticPolicy, env, policy_kwargs=slates(env), **(SMALL | more))


def slate_policy_by_slots() -> Any:
    env = easy(view="slots")
    batch: dict[str, Any] = {"n_steps": 12, "batch_size": 96, "n_epochs": 2}
    return PPO(SlateActorCriticPolicy, env, policy_kwargs=slates(env), **SMALL, **batch)


BATCH: dict[str, Any] = {"n_steps": 8, "batch_size": 64, "n_epochs": 2}
LEARNERS: dict[str, Callable[[], Any]] = {
    "PPO, slate": lambda: stock(PPO, easy(keys=FEW), **BATCH),
    "A2C, slate": lambda: stock(A2C, easy(keys=FEW)),
    "PPO, slate, ours": lambda: slate_policy(PPO, **BATCH),
    "A2C, slate, ours": lambda: slate_policy(A2C),
    "PPO, slots, ours": slate_policy_by_slots,
    "PPO, scores": lambda: stock(PPO, easy(view="scores", keys=FEW), **BATCH),
    "SAC, scores": lambda: sac("scores"),
    "SAC, protos": lambda: sac("protos"),
    "SAC, proto": lambda: sac("proto"),
    "MaskablePPO, slots": masked_ppo,
    "RecurrentPPO, slate": recurrent_ppo,
}
REPEATS = ("PPO, slate", "A2C, slate", "RecurrentPPO, slate")
"""Learners that draw each slot by itself, so that a slate may show an item twice."""


class Repeats(BaseCallback):
    """Counts repeated items in what a learner does; only for actions that are slates of columns."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def _on_step(self) -> bool:
        action = np.asarray(self.locals["actions"])
        if action.ndim == 2 and action.dtype.kind == "i":
            self.count += sum(len(row) - len(set(row)) for row in action.tolist())
        return True


def tally(env: Any) -> tuple[list[float], list[int]]:
    """Count clicks and slates of each finished user inside the world's own step."""
    step, running, lived = env.batch.step, np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=int)
    returns: list[float] = []
    lengths: list[int] = []

    def counted(actions: Any) -> Any:
        nonlocal running, lived
        out = step(actions)
        running, lived = running + out[4]["click"].sum(1), lived + 1
        for row in (out[2] | out[3]).nonzero()[0]:
            returns.append(running[row])
            lengths.append(int(lived[row]))
            running[row], lived[row] = 0, 0
        return out

    env.batch.step = counted
    return returns, lengths


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stock_learner_trains_is_evaluated_and_kept(name: str, tmp_path: Path) -> None:
    """Weights move and stay finite, invalid slots and returns are counted right, and a file gives it back."""
    model, seen = LEARNERS[name](), Repeats()
    env, before = model.get_env(), weights(model)
    model.learn(288, callback=seen)
    after = weights(model)
    assert bool(after.isfinite().all())
    assert not torch.equal(before, after)
    invalid = env.get_attr("invalid_actions")[0]
    if name in REPEATS:
        assert invalid == seen.count > 0
    else:
        assert invalid == seen.count == 0

    returns, lengths = tally(env)
    evaluate = evaluate_with_masks if name == "MaskablePPO, slots" else evaluate_policy
    mine: Any
    mine, lived = evaluate(model, env, n_eval_episodes=32, return_episode_rewards=True)
    assert sorted(mine) == sorted(returns)[: len(mine)] == sorted(returns)
    sub_steps = 3 if "slots" in name else 1
    assert lived == [sub_steps * n for n in lengths] == [sub_steps * 6] * 32

    observation = env.reset()
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", device="cpu")
    for deterministic in (True, False):
        actions = []
        for one in (model, again):
            torch.manual_seed(5)
            actions.append(one.predict(observation, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*actions)
        assert env.action_space.contains(actions[0][0])
    torch.testing.assert_close(weights(again), after, rtol=0, atol=0)


# They learn --------------------------------------------------------------------------------------------


def random_returns() -> Any:
    """Returns of random slates for the users that `learned` meets."""
    env, luck, found = easy(128), np.random.default_rng(0), []
    env.seed(5)
    env.reset()
    for _ in range(12):
        *_, infos = env.step(luck.permuted(np.tile(np.arange(12), (128, 1)), axis=1)[:, :3])
        found += [info["episode"]["r"] for info in infos if info]
    return np.array(found)


def margin(returns: list[float]) -> float:
    """Return by how much the same users earned more than from random slates, less 3 standard errors."""
    more = np.array(returns) - random_returns()
    assert len(more) == 256
    return float(more.mean() - 3 * more.std(ddof=1) / 16)


def test_plackett_luce_learns_under_stock_ppo() -> None:
    env, later = easy(64), easy(128)
    settings: dict[str, Any] = {
        "n_steps": 8,
        "batch_size": 128,
        "n_epochs": 4,
        "learning_rate": 3e-3,
        "gamma": 0.9,
    }
    model = PPO(SlateActorCriticPolicy, env, policy_kwargs=slates(env), **SMALL, **settings)
    model.learn(64 * 8 * 5)
    later.seed(5)
    returns, _ = evaluate_policy(model, later, 256, return_episode_rewards=True)
    assert isinstance(returns, list)
    assert margin(returns) > 1
    assert env.batch.invalid_actions == later.batch.invalid_actions == 0


def test_maskable_ppo_learns_slot_by_slot() -> None:
    kind = contrib().MaskablePPO
    env, later = (easy(n, view="slots", keys=SO_FAR) for n in (64, 128))
    settings: dict[str, Any] = {"n_steps": 24, "batch_size": 256, "n_epochs": 4, "learning_rate": 3e-3}
    model = kind("MultiInputPolicy", env, gamma=0.9 ** (1 / 3), **SMALL, **settings)
    model.learn(64 * 24 * 5)
    later.seed(5)
    returns, _ = evaluate_with_masks(model, later, 256, return_episode_rewards=True)
    assert margin(returns) > 1
    assert env.batch.invalid_actions == later.batch.invalid_actions == 0


# Ours and stock agree ----------------------------------------------------------------------------------


@pytest.fixture
def one_luck(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Let both learners draw their slates from one generator; the function starts it again."""
    luck = torch.Generator()

    def draw(logits: Any, slots: int, generator: Any = None) -> Any:
        return gumbel_top_k(logits, slots, luck)

    def draw_both(logits: Any, slots: int, generator: Any = None) -> Any:
        return draw_slates(logits, slots, luck)

    monkeypatch.setattr(agents.core.choice, "gumbel_top_k", draw)
    monkeypatch.setattr(agents.core.inner, "draw_slates", draw_both)
    return lambda: torch.Generator.manual_seed(luck, 3)


SAME: dict[str, Any] = {
    "n_steps": 14,
    "n_epochs": 3,
    "batch_size": 8 * 14,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "learning_rate": 1e-3,
    "ent_coef": 0.01,
}


def world(**more: Any) -> Any:
    """Users who leave for good, and users whose time runs out, within one roll-out."""
    return make_sb3("Feed-v0", 8, **(SIZE | {"churn": 0.3, "comeback": 0.3, "horizon": 5} | more))


def both(env: Callable[[], Any], slot_values: bool) -> tuple[Any, Any]:
    """Return stock PPO and ours with the same first weights, and values that are not all zero."""
    made = []
    for kind in (PPO, SlatePPO):
        one = env()
        kwargs = slates(one) | {"slot_values": slot_values, "network_seed": 0}
        ours: dict[str, Any] = {"tensors": False, "reward_scale": 1.0} if kind is SlatePPO else {}
        learner: Any = kind
        made.append(learner(SlateActorCriticPolicy, one, policy_kwargs=kwargs, **SMALL, **SAME, **ours))
        luck = torch.Generator().manual_seed(1)
        for name, parameter in made[-1].policy.named_parameters():
            if name.startswith(("network.future", "network.slot")):  # their last layers begin at zero
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=luck)
    assert torch.equal(weights(made[0]), weights(made[1]))
    return made[0], made[1]


def begin(model: Any, steps: int) -> Any:
    """Start learning with the users of seed 7; return a function that collects a roll-out."""
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(steps)
    env = model.env
    env.seed(7)
    if isinstance(model, SlatePPO):
        model.begin(model.policy.network.ranker.past)
    else:
        model._last_obs = env.reset()
    return lambda: model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_roll_out_is_stock_s(slots: int, one_luck: Callable[[], Any]) -> None:
    """Advantages and returns too, over true ends, time limits and the end of the roll-out."""
    stock, ours = both(lambda: world(slots=slots), slots > 1)
    for model in (stock, ours):
        one_luck()
        assert begin(model, 200)()
    kept, mine = stock.rollout_buffer, ours.rollout
    flat = {k: torch.from_numpy(v).flatten(0, 1) for k, v in kept.observations.items()}
    past = mine.context.history.shape[1]
    torch.testing.assert_close(mine.context.features, flat["features"])
    torch.testing.assert_close(mine.context.history, flat["history"][:, -past:].long())
    np.testing.assert_array_equal(mine.columns, kept.actions.reshape(-1, slots))
    for name, value in (
        ("log_probs", mine.log_prob.sum(1)),
        ("advantages", mine.advantage),
        ("returns", mine.returns),
    ):
        wanted = torch.from_numpy(getattr(kept, name)).flatten()
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=2e-6, msg=lambda m: f"{name}: {m}")  # noqa: B023
    assert kept.values.std() > 0.1
    # Both kinds of ends were there, or the test says little.
    assert len({e["l"] for e in stock.ep_info_buffer}) > 1
    assert {e["l"] for e in stock.ep_info_buffer} >= {5}


@pytest.mark.parametrize("flat", [True, False])
def test_one_slot_is_stock_ppo(flat: bool, one_luck: Callable[[], Any]) -> None:
    """Three roll-outs, three passes over each: the same weights after every roll-out."""
    stock, ours = both(lambda: world(slots=1, flat=flat), False)
    found: list[list[torch.Tensor]] = []
    for model in (stock, ours):
        one_luck()
        collect = begin(model, 1000)
        found.append([])
        for _ in range(3):
            assert collect()
            model.train()
            found[-1].append(weights(model))
    for step, (a, b) in enumerate(zip(*found, strict=True)):
        assert float((a - b).abs().max()) < 1e-6, step
    assert float((found[0][0] - found[0][2]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "more", [{}, {"candidates": 7}, {"lifetime": 4.0, "unborn": 0.3}], ids=["all", "candidates", "mask"]
)
def test_both_paths_see_the_same(more: dict[str, Any]) -> None:
    """Given the same users, roll-outs on tensors and through arrays are the same bits."""
    found = []
    for tensors in (True, False):
        env = world(**more)
        kwargs = slates(env)
        model = SlatePPO(env=env, policy_kwargs=kwargs, tensors=tensors, **SMALL, **SAME)
        _, callback = model._setup_learn(200)
        past = int(model.network.ranker.past)
        rows = model.begin(past)
        assert isinstance(rows, EnvRows) is not tensors
        if not tensors:  # the same users as the path on tensors has
            env.batch._seed = model.users_seed()
            env.batch._state = env.batch.world.reset(8, env.batch._seed)
            seen = env.batch._see(env.batch._state)
            model._context = rows._see({key: value.copy() for key, value in seen.items()})
        assert model.collect_rollouts(env, callback, None, 14)
        found.append(model.rollout)
    fast, slow = found
    assert fast is not None
    assert slow is not None
    for name in ("columns", "log_prob", "earned", "advantage", "returns"):
        assert torch.equal(getattr(fast, name), getattr(slow, name)), name
    for name in ("features", "history", "feedback", "candidates", "mask"):
        a, b = getattr(fast.context, name), getattr(slow.context, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name
    assert float(fast.earned.sum()) > 0
    assert bool(fast.context.mask.gather(1, fast.columns).all())
    assert ("unborn" in more) is not bool(fast.context.mask.all())


# The page ----------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "sb3.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_page_runs_as_it_is_written(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a fresh folder, in a fresh namespace; what it prints is what the comment beside it promises."""
    block = BLOCKS[number]
    if "sb3_contrib" in block:
        contrib()
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"docs/sb3.md, block {number}", "exec"), {})
    said = capsys.readouterr().out
    for line in re.findall(r"print\(.*\)  # (.+)", block):
        assert line in said


def test_the_first_block_of_the_page_is_ten_lines() -> None:
    assert len(BLOCKS[0].splitlines()) <= 12
    assert len(BLOCKS) >= 3
