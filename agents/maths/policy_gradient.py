"""Policy gradients of slates, as pure functions: losses to minimise, advantages, and PL-Rank.

Losses that end in `_loss` are one number for each row (the learner takes the mean); their gradient is minus
the policy gradient. Unless said otherwise slates are drawn by Plackett–Luce, without repeats, and
`log_prob [user slot]` is log P(a_k | what is above it), as `agents.maths.plackett_luce.slot_log_probs` gives
it. The top-K correction at the end is for slates drawn **with** replacement: do not mix the two.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.maths.plackett_luce import slot_log_probs


def reinforce_loss(
    log_prob: Float[Tensor, "user slot"], reward: Float[Tensor, " user"], baseline: Float[Tensor, " user"]
) -> Float[Tensor, " user"]:
    """Return -(R - b) log P(slate), unbiased for any baseline that does not see the slate (Williams 1992)."""
    return (baseline - reward).detach() * log_prob.sum(1)


def placement_loss(
    log_prob: Float[Tensor, "user slot"],
    earned: Float[Tensor, "user slot"],
    baseline: Float[Tensor, "user slot"],
) -> Float[Tensor, " user"]:
    """Return -Σ_k log P(a_k | above) (Σ_{j≥k} c_j - b_k): a slot answers for itself and those below.

    Unbiased for the reward Σ_k c_k if c_j does not depend on what stands below slot j, and b_k not on slot k
    or those below it. This is the placement policy gradient that Oosterhuis (2021) starts from.

    Args:
        log_prob: of each slot.
        earned: c_k, the reward of each slot.
        baseline: b_k, the guess of what slot k and those below it earn together.
    """
    to_go = earned.flip(1).cumsum(1).flip(1)
    return ((baseline - to_go).detach() * log_prob).sum(1)


def per_slot_advantage(
    advantage: Float[Tensor, " user"],
    earned: Float[Tensor, "user slot"],
    baseline: Float[Tensor, "user slot"],
) -> Float[Tensor, "user slot"]:
    """Return A_k = (c_k - b_k) + (A - Σ_j (c_j - b_j)): own surprise, and the surprise all slots share.

    The rest, A - Σ_j (c_j - b_j), is what the slate did to the future. At one slot A_k is exactly A.
    Dropping the surprise of the slots above is unbiased. Dropping that of the slots below is not: what is
    shown at slot k is gone below, and may draw attention. It is the price of far less variance;
    `to_go_advantage` keeps the slots below.

    Args:
        advantage: A, of the whole slate, future and all, in the same unit as `earned`.
        earned: c_k, the reward of each slot.
        baseline: b_k, a guess of c_k that does not see the slate.
    """
    surprise = earned - baseline
    return advantage.unsqueeze(1) + (surprise - surprise.sum(1, keepdim=True))


def to_go_advantage(
    advantage: Float[Tensor, " user"],
    earned: Float[Tensor, "user slot"],
    baseline: Float[Tensor, "user slot"],
) -> Float[Tensor, "user slot"]:
    """Return A - Σ_{j<k} (c_j - b_j), unbiased if no slot's reward depends on what stands below it."""
    surprise = earned - baseline
    return advantage.unsqueeze(1) - (surprise.cumsum(1) - surprise)


def ppo_loss(
    log_prob: Float[Tensor, "user *slot"],
    old_log_prob: Float[Tensor, "user *slot"],
    advantage: Float[Tensor, "user *slot"],
    clip: float | int,
) -> Float[Tensor, ""]:
    """Return the clipped surrogate of PPO, mean of all ratios (Schulman et al. 2017, equation 7).

    On `[user]` a ratio is that of whole slates, on `[user slot]` that of single slots. The product of ten
    ratios leaves the trust region long before any one does, so the joint form learns slowly. With one slot
    both are the loss of stable-baselines3.

    Args:
        log_prob: under the policy that learns.
        old_log_prob: under the policy that acted.
        advantage: of each ratio.
        clip: ε.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -torch.min(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip)).mean()


def pl_rank(
    logits: Float[Tensor, "user cand"],
    columns: Int[Tensor, "user slot"],
    worth: Float[Tensor, "user cand"],
    exposure: Float[Tensor, "#user slot"],
    baseline: Float[Tensor, " user"] | None = None,
) -> Float[Tensor, "user cand"]:
    """Return PL-Rank: an unbiased gradient of E[Σ_k θ_k w_{a_k}] with respect to the logits.

    With rank(i) the slot of candidate i (K if it is not shown),

        ∂/∂ℓ_i = E[ Σ_{k>rank(i)} θ_k w_{a_k} + Σ_{k≤rank(i)} p_k(i) (θ_k w_i - Σ_{x≥k} θ_x w_{a_x}) ],

    where the first sum is there for shown candidates only (PL-Rank, Oosterhuis 2021; in O(cand + slot) as
    PL-Rank-3, Oosterhuis 2022). It needs the worth of every candidate, and in return uses what each of them
    would have earned, not only what was shown.

    Where we differ: a baseline is taken off every worth, which changes the objective by a constant. Without
    it a slate of good items pushes all shown logits around together, and the variance is that of the level.

    Args:
        logits: scores, -inf where masked; the gradient there is zero.
        columns: slates drawn from these logits.
        worth: w, the expected reward of each candidate once it is examined; finite where masked, too.
        exposure: θ, the chance that a slot is examined.
        baseline: taken off every worth. The mean worth under the first slot's softmax if None; zeros give
            the estimator of the paper.
    """
    logits = logits.detach()
    if baseline is None:
        baseline = torch.linalg.vecdot(logits.softmax(1), worth)
    worth = worth - baseline.unsqueeze(1)
    own = slot_log_probs(logits, columns, None)[0]
    left = logits.gather(1, columns) - own  # log Σ exp ℓ over what is left at each slot
    shown = worth.gather(1, columns)
    earned = exposure * shown
    below = earned.flip(1).cumsum(1).flip(1)
    stay = torch.cat([torch.zeros_like(left[:, :1]), (left[:, 1:] - left[:, :-1]).exp()], 1)
    # Σ_{k≤j} e^{-left_k} x_k, in units of e^{-left_j}: every factor is at most one.
    seen, paid = exposure.expand_as(below).clone(), below.clone()
    for k in range(1, columns.shape[1]):
        seen[:, k] += stay[:, k] * seen[:, k - 1]
        paid[:, k] += stay[:, k] * paid[:, k - 1]
    out = (logits - left[:, -1:]).exp_().mul_(worth * seen[:, -1:] - paid[:, -1:])
    return out.scatter_(1, columns, below - earned + own.exp() * (shown * seen - paid))


def inclusion_with_replacement(log_prob: Float[Tensor, "*batch"], slots: int) -> Float[Tensor, "*batch"]:
    """Return α = 1 - (1 - π)^K: the chance that K draws with replacement show an item at least once.

    Not the inclusion probability of Plackett–Luce, whose draws are without replacement.
    """
    return -torch.expm1(slots * torch.log1p(-log_prob.exp()))


def top_k_multiplier(log_prob: Float[Tensor, "*batch"], slots: int) -> Float[Tensor, "*batch"]:
    """Return λ_K = ∂α/∂π = K (1 - π)^{K-1} (Chen et al. 2019, section 4.3)."""
    return slots * (-torch.expm1(log_prob)) ** (slots - 1)


def top_k_off_policy_loss(
    log_prob: Float[Tensor, " user"],
    old_log_prob: Float[Tensor, " user"],
    reward: Float[Tensor, " user"],
    slots: int,
    cap: float | int = torch.inf,
) -> Float[Tensor, " user"]:
    """Return -min(π/β, cap) λ_K R log π: top-K off-policy REINFORCE (Chen et al. 2019, section 4.3).

    Rows are single logged items. Without a cap the expected gradient is that of Σ_a R(a) α(a), the reward of
    K draws with replacement and repeats removed, if items are worth the same at any place. A cap trades
    variance for bias. For one slot it is the plain off-policy correction.

    Slates of Plackett–Luce are drawn without replacement: there P(a is shown) is not α, so neither is λ_K the
    right factor. Use the ratio of `slot_log_probs` instead.

    Args:
        log_prob: log π(a) of the logged item, the softmax over all candidates.
        old_log_prob: log β(a) of the policy that logged it.
        reward: R, of the item, later rewards included; less a baseline if you like.
        slots: K.
        cap: the largest importance weight.
    """
    with torch.no_grad():
        weight = (log_prob - old_log_prob).exp().clamp_max(cap) * top_k_multiplier(log_prob, slots) * reward
    return -weight * log_prob
