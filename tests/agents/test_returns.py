"""Returns and targets against loops over single episodes, stable-baselines3, and their limits."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from agents.maths import returns
from simlab.errors import BadInput

GAMMA, LAM = 0.9, 0.7


def data(seed: int, steps: int = 13, users: int = 6) -> dict[str, Tensor]:
    """Rewards and values with both kinds of end; within an episode the next value is the next state's."""
    g = torch.Generator().manual_seed(seed)
    reward, value = (torch.randn(steps, users, generator=g, dtype=torch.float64) for _ in range(2))
    kind = torch.rand(steps, users, generator=g)
    terminated, truncated = kind < 0.15, (kind > 0.15) & (kind < 0.3)
    last = torch.randn(steps, users, generator=g, dtype=torch.float64)
    follow = torch.cat([value[1:], last[-1:]])
    follow = torch.where(terminated | truncated, last, follow)
    ends = {"terminated": terminated, "truncated": truncated}
    return {"reward": reward, "value": value, "next_value": follow, **ends}


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def without_value(d: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in d.items() if k != "value"}


def by_rows(d: dict[str, Tensor], one: Any) -> Tensor:
    """Ask a formula for each step of each row, as plain numbers."""
    steps, users = d["reward"].shape
    out = torch.zeros(steps, users, dtype=torch.float64)
    for u in range(users):
        row = {k: v[:, u].tolist() for k, v in d.items()}
        for t in range(steps):
            out[t, u] = one(row, t, steps)
    return out


def slow_target(row: Any, t: int) -> float:
    after = 0.0 if row["terminated"][t] else row["next_value"][t]
    return float(row["reward"][t] + GAMMA * after)


def cut(row: Any, t: int, steps: int) -> bool:
    return bool(row["terminated"][t] or row["truncated"][t] or t == steps - 1)


def slow_gae(row: Any, t: int, steps: int) -> float:
    total, weight = 0.0, 1.0
    while True:
        total += weight * (slow_target(row, t) - row["value"][t])
        if cut(row, t, steps):
            return float(total)
        weight, t = weight * GAMMA * LAM, t + 1


def slow_n_step(n: int) -> Any:
    def one(row: Any, t: int, steps: int) -> float:
        total, weight = 0.0, 1.0
        for j in range(n):
            if j == n - 1 or cut(row, t, steps):
                return total + weight * slow_target(row, t)
            total += weight * row["reward"][t]
            weight, t = weight * GAMMA, t + 1
        raise AssertionError

    return one


def slow_lambda(row: Any, t: int, steps: int) -> float:
    """The mixture of all n-step returns, with the rest of the weight on the longest."""
    longest = 1
    while not cut(row, t + longest - 1, steps):
        longest += 1
    total = sum((1 - LAM) * LAM ** (n - 1) * slow_n_step(n)(row, t, steps) for n in range(1, longest))
    return float(total + LAM ** (longest - 1) * slow_n_step(longest)(row, t, steps))


def test_the_truth_table_of_the_target() -> None:
    reward, follow = torch.ones(3), torch.full((3,), 10.0)
    terminated = torch.tensor([True, False, False])  # terminated, truncated, running
    target = returns.td_target(reward, follow, terminated, 0.5)
    assert target.tolist() == [1.0, 6.0, 6.0]
    # A value behind a true end is never asked for, not even one that is no number.
    nowhere = torch.tensor([float("nan"), 0.0, 0.0])
    assert returns.td_target(reward, nowhere, terminated, 0.5).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_each_equals_a_loop_over_its_episodes(seed: int) -> None:
    d = data(seed)
    plain = without_value(d)
    found = {
        "gae": (returns.gae(**d, discount=GAMMA, lam=LAM), slow_gae),
        "lambda": (returns.lambda_returns(**plain, discount=GAMMA, lam=LAM), slow_lambda),
        "1": (returns.n_step_returns(**plain, discount=GAMMA, n=1), slow_n_step(1)),
        "3": (returns.n_step_returns(**plain, discount=GAMMA, n=3), slow_n_step(3)),
        "all": (returns.n_step_returns(**plain, discount=GAMMA, n=99), slow_n_step(99)),
    }
    for name, (fast, slow) in found.items():
        torch.testing.assert_close(fast, by_rows(d, slow), atol=1e-12, rtol=0, msg=name)


def test_the_advantage_is_the_lambda_return_without_the_value() -> None:
    d = data(5)
    whole = returns.lambda_returns(**without_value(d), discount=GAMMA, lam=LAM)
    same(returns.gae(**d, discount=GAMMA, lam=LAM) + d["value"], whole)


def test_limits_of_lambda_and_the_discount() -> None:
    d = data(6)
    plain = without_value(d)
    one = returns.td_target(d["reward"], d["next_value"], d["terminated"], GAMMA)
    same(returns.lambda_returns(**plain, discount=GAMMA, lam=0), one)
    longest = returns.n_step_returns(**plain, discount=GAMMA, n=99)
    same(returns.lambda_returns(**plain, discount=GAMMA, lam=1), longest)
    assert torch.equal(returns.n_step_returns(**plain, discount=0, n=4), d["reward"])
    nothing = {**plain, "next_value": torch.zeros_like(one)}
    sums = returns.discounted_returns(d["reward"], d["terminated"], d["truncated"], GAMMA)
    same(returns.n_step_returns(**nothing, discount=GAMMA, n=99), sums)


def test_the_advantage_equals_stable_baselines() -> None:
    """Where episodes terminate or run on; SB3 adds the value at a time limit to the reward instead."""
    d = data(7, steps=20, users=4)
    ends = d["terminated"] | d["truncated"]
    space = spaces.Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(20, space, space, "cpu", gae_lambda=LAM, gamma=GAMMA, n_envs=4)
    buffer.values, buffer.rewards = (
        d["value"].numpy().astype(np.float32),
        d["reward"].numpy().astype(np.float32),
    )
    buffer.rewards += (GAMMA * d["next_value"] * d["truncated"]).numpy().astype(np.float32)
    starts = torch.cat([torch.zeros(1, 4, dtype=torch.bool), ends[:-1]])
    buffer.episode_starts = starts.numpy().astype(np.float32)
    buffer.compute_returns_and_advantage(d["next_value"][-1].float(), ends[-1].numpy())
    ours = returns.gae(**d, discount=GAMMA, lam=LAM)
    np.testing.assert_allclose(buffer.advantages, ours.numpy(), atol=1e-5)


def slow_vtrace(row: Any, t: int, steps: int) -> float:
    """Equation 1 as the paper has it: a sum of weighted temporal differences."""
    total, weight, start = 0.0, 1.0, t
    while True:
        rho, c = (min(np.exp(row["log_ratio"][t]), bar) for bar in (1.3, 0.9))
        total += weight * rho * (slow_target(row, t) - row["value"][t])
        if cut(row, t, steps):
            return float(row["value"][start] + total)
        weight, t = weight * GAMMA * c, t + 1


def test_vtrace_equals_the_sum_of_the_paper() -> None:
    d = data(8)
    ratio = torch.randn(d["reward"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target, advantage = returns.vtrace(ratio, **d, discount=GAMMA, rho_bar=1.3, c_bar=0.9)
    slow = by_rows({**d, "log_ratio": ratio}, slow_vtrace)
    same(target, slow)

    def slow_advantage(row: Any, t: int, steps: int) -> float:
        rho = min(np.exp(row["log_ratio"][t]), 1.3)
        after = row["next_value"][t] if cut(row, t, steps) else row["target"][t + 1]
        if row["terminated"][t]:
            after = 0.0
        return float(rho * (row["reward"][t] + GAMMA * after - row["value"][t]))

    wanted = by_rows({**d, "log_ratio": ratio, "target": slow}, slow_advantage)
    same(advantage, wanted)


def test_vtrace_of_the_same_policy_is_the_longest_return() -> None:
    d = data(9)
    same_policy = torch.zeros_like(d["reward"])
    target, _ = returns.vtrace(same_policy, **d, discount=GAMMA, rho_bar=1.0, c_bar=1.0)
    longest = returns.n_step_returns(**without_value(d), discount=GAMMA, n=99)
    same(target, longest)


def test_bad_input_is_named() -> None:
    d = data(0)
    with pytest.raises(BadInput, match="n is at least 1 step, not 0"):
        returns.n_step_returns(**without_value(d), discount=GAMMA, n=0)
    reward = torch.zeros(3, 2)
    reward[2, 1] = float("nan")
    with pytest.raises(BadInput, match="step 2, row 1: the reward is nan, which is not finite"):
        returns.check_finite(reward)
