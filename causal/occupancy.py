"""Marginal ratios: how much likelier the target is to be in a state than the logger was.

`by_counts` is for few discrete states, step by step; `minimax` for features of states and actions, over the
discounted occupancy. Both estimate from the trajectories that they weigh.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput


def by_counts(
    state: Int[Tensor, "round step"],
    ratio: Float[Tensor, "round step"],
    valid: Bool[Tensor, "round step"],
    weight: Float[Tensor, " round"] | None = None,
) -> Float[Tensor, "round step"]:
    """Return d̂_π,t(s_t) / d̂_0,t(s_t) by counts; where padded, the ratio of having finished.

    The target's share of a state is carried forward from the states before it,
    d̂_π,t+1(s') = Σ_s d̂_π,t(s) P̂_π(s'|s), with P̂_π(s'|s) the mean of ρ_t 1(s_{t+1} = s') over the visits
    of s. In ratios that is short: the ratio of a state at t+1 is the mean, over the trajectories that are
    there, of (ratio · ρ) at t. "Finished" is one more state. Exact on a population; consistent where every
    state and step is visited often.

    With ρ_t = π(a_t|s_t) / π̂_0(a_t|s_t), π̂_0 of `counted_propensity`, the value of `mis` is that of the
    target in the model that the counts make, which is more efficient (Yin and Wang 2020, "Asymptotically
    efficient off-policy evaluation for tabular reinforcement learning", AISTATS).

    Source: Xie, Ma and Wang (2019), "Towards optimal off-policy evaluation for reinforcement learning with
    marginalized importance sampling", NeurIPS.

    Args:
        state: id of the state at each step, at least 0; not looked at where padded.
        ratio: ρ_t.
        valid: whether there was such a step.
        weight: how many times each trajectory counts; by default once.

    Raises:
        BadInput: for a negative state, naming trajectory and step.
    """
    ids = _checked(state, valid)
    count = torch.ones_like(ratio[:, 0]) if weight is None else weight.double()
    total = int(ids.max()) + 1
    out = torch.ones_like(ratio)
    for t in range(1, ratio.shape[1]):
        carried = out[:, t - 1] * ratio[:, t - 1]
        out[:, t] = _mean(carried, ids[:, t], count, total)
    return out


def finished(
    ratio: Float[Tensor, "round step"],
    valid: Bool[Tensor, "round step"],
    weight: Float[Tensor, " round"] | None = None,
) -> Float[Tensor, " step"]:
    """Return the ratio of having finished before each step: the mean weight of the finished; 1 if none is.

    Args:
        ratio: ρ_t; 1 where padded.
        valid: whether there was such a step.
        weight: how many times each trajectory counts; by default once.
    """
    gone = (~valid).double()
    if weight is not None:
        gone = gone * weight.double().unsqueeze(1)
    number = gone.sum(0)
    mean = (gone * ratio.prod(1, keepdim=True)).sum(0) / number.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(number > 0, mean, 1.0)


def counted_propensity(
    state: Int[Tensor, "round step"],
    action: Int[Tensor, "round step"],
    valid: Bool[Tensor, "round step"],
    weight: Float[Tensor, " round"] | None = None,
) -> Float[Tensor, "round step"]:
    """Return π̂_0,t(a_t|s_t) = n_t(s_t, a_t) / n_t(s_t), the share that the logger gave; 1 where padded.

    Args:
        state: id of the state at each step.
        action: id of the action.
        valid: whether there was such a step.
        weight: how many times each trajectory counts; by default once.

    Raises:
        BadInput: for a negative state or action.
    """
    ids, actions = _checked(state, valid), _checked(action, valid, "action")
    width = int(actions.max()) + 1
    count = torch.ones(len(ids), dtype=torch.float64, device=ids.device) if weight is None else weight
    out = torch.ones(ids.shape, dtype=torch.float64, device=ids.device)
    for t in range(ids.shape[1]):
        pair = ids[:, t] * width + actions[:, t]
        out[:, t] = _count(pair, count.double()) / _count(ids[:, t], count.double())
    return torch.where(valid, out, 1.0)


def minimax(
    feature: Float[Tensor, "round step feat"],
    aimed: Float[Tensor, "round step feat"],
    valid: Bool[Tensor, "round step"],
    discount: float,
    ridge: float = 0.0,
) -> Float[Tensor, "round step"]:
    """Return w(s_t, a_t) = d_π(s, a) / d_0(s, a) of the discounted occupancies, with w linear in features.

    w makes the loss mean(Σ_t γ^t w_t (γ f(s_{t+1}, π) - f(s_t, a_t))) + mean(f(s_0, π)) zero for every f
    that is linear in the features: α of w = φᵀα solves Aᵀα = b with A = mean(Σ_t γ^t φ_t (φ_t - γ
    φ̄_{t+1})ᵀ) and b = mean(φ̄_0). The value of `sa_mis` with it is that of least-squares temporal
    differences (LSTD-Q) with the same features. With an indicator for every state and action it is exact;
    with random Fourier features it is the kernel form, nearly. It may be negative. Trajectories that were
    cut are taken to end, so cut ones should be long against 1 / (1 - γ). It is a ratio of whole occupancies,
    so it is not for `sn_mis` or `sn_sa_mis`.

    Source: Uehara, Huang and Jiang (2020), "Minimax weight and Q-function learning for off-policy
    evaluation", ICML (minimax weight learning; its linear case).

    Args:
        feature: φ(s_t, a_t); not looked at where padded.
        aimed: φ̄(s_t) = Σ_a π(a|s_t) φ(s_t, a).
        valid: whether there was such a step.
        discount: γ.
        ridge: added to the diagonal of A, as a share of its mean diagonal.

    Raises:
        BadInput: if the features are linearly dependent and there is no ridge.
    """
    phi = torch.where(valid.unsqueeze(2), feature.double(), 0.0)
    bar = torch.where(valid.unsqueeze(2), aimed.double(), 0.0)
    following = torch.cat([bar[:, 1:], torch.zeros_like(bar[:, :1])], dim=1)
    power = discount ** torch.arange(phi.shape[1], dtype=torch.float64, device=phi.device)
    a = torch.einsum("t,ntf,ntg->fg", power, phi, phi - discount * following) / len(phi)
    a = a + ridge * a.diagonal().mean() * torch.eye(len(a), dtype=torch.float64, device=a.device)
    if int(torch.linalg.matrix_rank(a)) < len(a):
        raise BadInput("the features of states and actions are linearly dependent: drop some or give a ridge")
    alpha = torch.linalg.solve(a.T, bar[:, 0].mean(0))
    return torch.where(valid, phi @ alpha, 1.0)


def _checked(
    ids: Int[Tensor, "round step"], valid: Bool[Tensor, "round step"], what: str = "state"
) -> Int[Tensor, "round step"]:
    """Number what is there from 1 without gaps; 0 is "finished"."""
    wrong = (ids < 0) & valid
    if bool(wrong.any()):
        row, step = (int(x) for x in wrong.nonzero()[0])
        raise BadInput(
            f"trajectory {row}, step {step}: {what} {int(ids[row, step])} is negative, but ids count from 0"
        )
    _, dense = torch.unique(torch.where(valid, ids, -1), return_inverse=True)
    numbers: Tensor = dense + int(valid.all())
    return numbers


def _count(ids: Int[Tensor, " round"], count: Float[Tensor, " round"]) -> Float[Tensor, " round"]:
    """Return how often each row's id is there."""
    total = torch.zeros(int(ids.max()) + 1, dtype=torch.float64, device=ids.device)
    total.index_add_(0, ids, count)
    return total[ids]


def _mean(
    x: Float[Tensor, " round"], ids: Int[Tensor, " round"], count: Float[Tensor, " round"], total: int
) -> Float[Tensor, " round"]:
    """Return the mean of x over the rows that share each row's id."""
    below, above = torch.zeros(2, total, dtype=torch.float64, device=x.device).unbind(0)
    below.index_add_(0, ids, count)
    above.index_add_(0, ids, count * x)
    mean = above / below
    return mean[ids]
