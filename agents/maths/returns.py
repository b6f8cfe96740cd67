"""Targets and returns: pure functions of rewards, values and ends. The time axis comes first.

Two kinds of end: a **terminated** episode has nothing after it; a **truncated** one was cut by the clock, and
goes on behind it, so the value of what was last seen is added. A row that ends begins again with a new user,
whose value is none of the old one's business.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simlab.errors import BadInput


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


def lambda_returns(
    reward: Float[Tensor, "step user"],
    next_value: Float[Tensor, "step user"],
    terminated: Bool[Tensor, "step user"],
    truncated: Bool[Tensor, "step user"],
    discount: float | int,
    lam: float | int,
) -> Float[Tensor, "step user"]:
    """Return G_t = r_t + γ [(1 - λ) V(next_t) + λ G_{t+1}], which is r_t + γ V(next_t) at a cut.

    The last step bootstraps fully, and so does a truncated one; a terminated one has nothing after it. With
    V(next_t) = V(s_{t+1}) inside an episode, G_t is V(s_t) plus the advantage of `gae`.

    Source: Sutton and Barto (2018), "Reinforcement learning", equation 12.3 in its recursive form.
    """
    target = td_target(reward, next_value, terminated, discount)
    goes_on = discount * lam * (~(terminated | truncated)).to(target.dtype)
    out = torch.empty_like(target)
    out[-1] = target[-1]
    for t in range(len(target) - 2, -1, -1):
        out[t] = torch.addcmul(target[t], goes_on[t], out[t + 1] - next_value[t])
    return out


def n_step_returns(
    reward: Float[Tensor, "step user"],
    next_value: Float[Tensor, "step user"],
    terminated: Bool[Tensor, "step user"],
    truncated: Bool[Tensor, "step user"],
    discount: float | int,
    n: int,
) -> Float[Tensor, "step user"]:
    """Return Σ_{j<m} γ^j r_{t+j} + γ^m V, with m = n, or fewer where the episode or the data end before.

    V is that of the last of these steps' next state, 0 if the episode terminated there.

    Source: Sutton and Barto (2018), "Reinforcement learning", equation 7.1.

    Raises:
        BadInput: for n below 1.
    """
    if n < 1:
        raise BadInput(f"n is at least 1 step, not {n}")
    target = td_target(reward, next_value, terminated, discount)
    goes_on = discount * (~(terminated | truncated)).to(target.dtype)
    out = target
    for _ in range(n - 1):  # one step more each time; a cut, or the end of the data, stays as it is
        longer = torch.where(goes_on[:-1] == 0, target[:-1], reward[:-1] + goes_on[:-1] * out[1:])
        out = torch.cat([longer, target[-1:]])
    return out


def discounted_returns(
    reward: Float[Tensor, "step user"],
    terminated: Bool[Tensor, "step user"],
    truncated: Bool[Tensor, "step user"],
    discount: float | int,
) -> Float[Tensor, "step user"]:
    """Return Σ_j γ^j r_{t+j} to the end of the episode or of the data; nothing is added behind a cut."""
    goes_on = discount * (~(terminated | truncated)).to(reward.dtype)
    out = torch.empty_like(reward)
    after = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        after = torch.addcmul(reward[t], goes_on[t], after)
        out[t] = after
    return out


def vtrace(
    log_ratio: Float[Tensor, "step user"],
    reward: Float[Tensor, "step user"],
    value: Float[Tensor, "step user"],
    next_value: Float[Tensor, "step user"],
    terminated: Bool[Tensor, "step user"],
    truncated: Bool[Tensor, "step user"],
    discount: float | int,
    rho_bar: float | int = 1.0,
    c_bar: float | int = 1.0,
) -> tuple[Float[Tensor, "step user"], Float[Tensor, "step user"]]:
    """Return V-trace's targets v_t and the advantages of the policy gradient.

    v_t = V(s_t) + δ_t + γ c_t (v_{t+1} - V(s_{t+1})), δ_t = ρ_t (r_t + γ V(next_t) - V(s_t)), with ρ_t the
    ratio clipped at ρ̄ and c_t at c̄. The advantage is ρ_t (r_t + γ v_{t+1} - V(s_t)), with V(next_t) for
    v_{t+1} where the row is cut.

    Source: Espeholt et al. (2018), "IMPALA: scalable distributed deep-RL with importance weighted
    actor-learner architectures", ICML, equation 1 and remark 1, section 4.2.

    Args:
        log_ratio: log π(a | s) - log μ(a | s), π the learner and μ the actor, of whole slates.
        reward: r.
        value: V(s_t).
        next_value: V of the true next state.
        terminated: true ends.
        truncated: ends by time.
        discount: γ.
        rho_bar: ρ̄, which decides what policy's value it is.
        c_bar: c̄, which decides how fast it gets there.
    """
    ratio = log_ratio.exp()
    rho, trace = ratio.clamp(max=rho_bar), ratio.clamp(max=c_bar)
    delta = rho * (td_target(reward, next_value, terminated, discount) - value)
    inside = ~(terminated | truncated)
    goes_on = discount * trace * inside.to(delta.dtype)
    gap = torch.empty_like(delta)
    after = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        after = torch.addcmul(delta[t], goes_on[t], after)
        gap[t] = after
    target = value + gap
    follow = torch.where(inside[:-1], target[1:], next_value[:-1])
    follow = torch.cat([follow, next_value[-1:]])
    return target, rho * (td_target(reward, follow, terminated, discount) - value)


def check_finite(reward: Float[Tensor, "step user"]) -> None:
    """Refuse rewards that are not finite.

    Raises:
        BadInput: naming the first step and row.
    """
    if not bool(reward.isfinite().all()):
        step, row = (int(i) for i in (~reward.isfinite()).nonzero()[0])
        raise BadInput(
            f"step {step}, row {row}: the reward is {float(reward[step, row])}, which is not finite"
        )
