"""Targets and returns: pure functions of rewards, values and ends. The time axis comes first.

Two kinds of end: a **terminated** episode has nothing after it; a **truncated** one was cut by the clock, and
goes on behind it, so the value of what was last seen is added. A row that ends begins again with a new user,
whose value is none of the old one's business.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def td_target(
    reward: Float[Tensor, "*row"],
    next_value: Float[Tensor, "*row"],
    terminated: Bool[Tensor, "*row"],
    discount: Float[Tensor, "*row"] | float | int,
) -> Float[Tensor, "*row"]:
    """Return r + γ (1 - terminated) V(next): the one target that all learners share.

    `next_value` is of the true next state: of what was last seen by the user who saw the slate, also where
    the row begins again. So a time limit bootstraps, and a true end does not.

    >>> td_target(torch.tensor([1.0]), torch.tensor([10.0]), torch.tensor([False]), 0.5)
    tensor([6.])
    """
    return reward + discount * torch.where(terminated, 0.0, next_value)


def gae(
    reward: Float[Tensor, "step user"],
    value: Float[Tensor, "step user"],
    next_value: Float[Tensor, "step user"],
    terminated: Bool[Tensor, "step user"],
    truncated: Bool[Tensor, "step user"],
    discount: float | int,
    lam: float | int,
) -> Float[Tensor, "step user"]:
    """Return advantages A_t = δ_t + γ λ A_{t+1}, cut at both kinds of end.

    δ_t = r_t + γ (1 - terminated_t) V(next_t) - V(s_t), with `next_value` of the true next state.

    Source: Schulman et al. (2016), "High-dimensional continuous control using generalized advantage
    estimation", equations 11, 12 and 16.
    """
    delta = td_target(reward, next_value, terminated, discount) - value
    goes_on = discount * lam * (~(terminated | truncated)).to(delta.dtype)
    advantage = torch.empty_like(delta)
    after = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        after = torch.addcmul(delta[t], goes_on[t], after)
        advantage[t] = after
    return advantage
